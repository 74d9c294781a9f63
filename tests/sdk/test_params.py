import json
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError, model_validator

from tests.sdk.examples import CountParams
from verglas.core.errors import ParamsError
from verglas.sdk import Params, changed_params, json_schema, param


def message_of(**values):
    with pytest.raises(ParamsError) as caught:
        CountParams(**values)
    return str(caught.value)


def test_defaults_hold_without_arguments():
    params = CountParams()
    assert (params.dose_e_per_angst2, params.mode, params.threshold) == (50.0, "all", None)


def test_parameters_never_change():
    with pytest.raises(ValidationError, match="frozen"):
        CountParams().mode = "bright"


def test_unknown_parameter_gets_the_nearest_name():
    assert message_of(dose=1) == (
        "micrographs.count_electrons has no parameter 'dose'; did you mean 'dose_e_per_angst2'?"
    )
    assert message_of(zzz=1).endswith(
        "its parameters are dose_e_per_angst2, mode, n_rounds, threshold"
    )
    assert message_of(dose_per_angst2=1).endswith("did you mean 'dose_e_per_angst2'?")


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"dose_e_per_angst2": -3}, "dose_e_per_angst2: got -3 e/Å², expected > 0"),
        ({"dose_e_per_angst2": 501}, "got 501 e/Å², expected <= 500"),
        ({"n_rounds": -1}, "n_rounds: got -1, expected >= 0"),
        ({"n_rounds": 1.5}, "n_rounds: got 1.5, expected a valid integer"),
        ({"mode": "dark"}, "mode: got 'dark', expected 'all' or 'bright'"),
        ({"threshold": float("nan")}, "threshold: got nan, expected a finite number"),
        ({"dose_e_per_angst2": "much"}, "got 'much' e/Å², expected a valid number"),
    ],
)
def test_message_says_what_got_expected(values, expected):
    assert expected in message_of(**values)


def test_all_problems_are_told_at_once():
    message = message_of(mode="dark", n_rounds=-1)
    assert "mode" in message
    assert "n_rounds" in message


def test_text_from_the_command_line_is_read():
    assert CountParams(n_rounds="4", dose_e_per_angst2="1e1").n_rounds == 4


def test_validating_data_raises_the_same_error():
    with pytest.raises(ParamsError, match="has no parameter 'x'"):
        CountParams.model_validate({"x": 1})


def test_check_across_fields_is_told_in_words():
    class Range(Params):
        low_angst: float = param(10.0, help="Low.")
        high_angst: float = param(20.0, help="High.")

        @model_validator(mode="after")
        def ascend(self):
            if self.low_angst >= self.high_angst:
                raise ValueError(f"low_angst must be < high_angst: got {self.low_angst} Å")
            return self

    with pytest.raises(ParamsError, match=r"^Range: low_angst must be < high_angst: got 30"):
        Range(low_angst=30)


def test_parameter_without_default_must_be_given():
    class Needy(Params):
        diameter_angst: float = param(help="Diameter.", gt=0)

    with pytest.raises(ParamsError, match="Needy needs diameter_angst: got nothing"):
        Needy()
    assert json_schema(Needy)["required"] == ["diameter_angst"]


def test_schema_has_what_a_form_needs():
    entries = json_schema(CountParams)["properties"]
    assert entries["dose_e_per_angst2"] == {
        "type": "number",
        "title": "Dose E Per Angst2",
        "description": "Exposure of a micrograph.",
        "default": 50.0,
        "exclusiveMinimum": 0,
        "maximum": 500,
        "unit": "e/Å²",
        "advanced": False,
    }
    assert entries["mode"]["enum"] == ["all", "bright"]
    assert entries["n_rounds"]["advanced"] is True
    assert entries["threshold"]["type"] == ["number", "null"]
    assert entries["threshold"]["show_if"] == {"mode": "bright"}
    json.dumps(entries)


def test_protocol_without_parameters_has_an_empty_schema():
    class Nothing(Params):
        """No parameters."""

    assert json_schema(Nothing)["properties"] == {}


def test_choice_that_may_be_left_empty_keeps_its_values():
    class Choice(Params):
        hand: Literal["left", "right"] | None = param(None, help="Hand.")
        only: Literal["one"] = param("one", help="Only.")

    entries = json_schema(Choice)["properties"]
    assert entries["hand"]["enum"] == ["left", "right", None]
    assert entries["hand"]["type"] == ["string", "null"]
    assert entries["only"]["enum"] == ["one"]


def test_parameter_without_help_is_refused():
    with pytest.raises(TypeError, match=r"Bare.size_px has no help"):

        class Bare(Params):
            size_px: int = 3


def test_condition_on_an_unknown_parameter_is_refused():
    with pytest.raises(TypeError, match=r"Bad.a is shown by unknown \['mod'\]"):

        class Bad(Params):
            a: int = param(1, help="A.", show_if={"mod": 1})


def test_changed_parameters_are_those_that_differ():
    assert changed_params(CountParams(mode="all", n_rounds=3)) == {"n_rounds": 3}


@given(
    st.builds(
        CountParams,
        dose_e_per_angst2=st.floats(1e-3, 500),
        mode=st.sampled_from(["all", "bright"]),
        n_rounds=st.integers(0, 100),
        threshold=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    )
)
def test_changed_parameters_make_the_same_again(params):
    stored = json.loads(json.dumps(changed_params(params)))
    assert CountParams(**stored) == params
