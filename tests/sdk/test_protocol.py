import pytest

from tests.sdk import examples
from tests.sdk.examples import CountParams, Inputs, Outputs, run
from verglas.sdk import Context, protocol, spec_of


def declare(run, protocol_id="items.count_all"):
    return protocol(protocol_id, version=1, label="Count")(run)


def test_spec_holds_what_the_function_says():
    spec = spec_of(run)
    assert (spec.id, spec.version, spec.label) == (
        "micrographs.count_electrons",
        3,
        "Count electrons",
    )
    assert (spec.params, spec.inputs, spec.outputs) == (CountParams, Inputs, Outputs)
    assert (spec.module, spec.run) == ("tests.sdk.examples", run)
    assert spec.summary == "Count the electrons on each micrograph."
    assert spec.doc == examples.__doc__.strip()
    assert list(spec.output_ports()) == ["counted"]
    assert list(spec.input_ports()) == ["micrographs", "reference", "others"]


def test_function_stays_what_it_is():
    def plain(ctx: Context, params: CountParams, inputs: Inputs) -> Outputs:
        raise NotImplementedError

    assert declare(plain) is plain


def test_malformed_id_is_refused():
    def plain(ctx: Context, params: CountParams, inputs: Inputs) -> Outputs:
        raise NotImplementedError

    with pytest.raises(ValueError, match="protocol id"):
        declare(plain, "Count")


def test_wrong_signature_is_refused():
    def without_inputs(ctx: Context, params: CountParams) -> Outputs:
        raise NotImplementedError

    def without_annotation(ctx, params, inputs):
        raise NotImplementedError

    with pytest.raises(TypeError, match=r"must take \(ctx, params, inputs\)"):
        declare(without_inputs)
    with pytest.raises(TypeError, match="annotated with a Params class"):
        declare(without_annotation)


def test_plain_function_has_no_spec():
    with pytest.raises(TypeError, match="is not a protocol"):
        spec_of(len)
