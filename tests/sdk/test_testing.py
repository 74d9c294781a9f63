import polars as pl
import pytest

from tests.sdk.examples import CountParams, Inputs, Outputs, make_inputs, run
from verglas.sdk import Context, Params, Ports, protocol, spec_of
from verglas.sdk.testing import LocalContext, check_protocol, check_resume


def unstable(rows, task):
    return rows.select("item_id", score=pl.Series([float(id(rows))] * rows.height))


class None_(Params):
    """No parameters."""


def declare(run, label="Label"):
    return protocol("items.do_it", version=1, label=label)(run)


def test_example_keeps_the_contract():
    assert check_protocol(run) is spec_of(run)


def test_example_runs_in_process(tmp_path):
    context = LocalContext(tmp_path)
    outputs = run(context, CountParams(), make_inputs(tmp_path))
    assert outputs.counted.rows(["item_id", "score"]).rows() == [(30, 112.5), (10, 112.5)]
    assert context.metrics == {"scale": 30.0**2}


def test_equal_seeds_give_equal_files(tmp_path):
    def texts(name, seed):
        context = LocalContext(tmp_path / name, seed=seed)
        run(context, CountParams(n_rounds=0), make_inputs(tmp_path / name))
        return [path.read_text() for path in sorted(context.files.rglob("[0-9]*.txt"))]

    # folders are named after chunk keys, which the seed enters: compare the contents
    assert texts("a", 1) == texts("b", 1)
    assert sorted(texts("c", 2)) != sorted(texts("a", 1))


def test_resumed_run_equals_one_in_one_go(tmp_path):
    check_resume(run, make_inputs, CountParams(), tmp_path)


def test_run_that_differs_after_resuming_is_caught(tmp_path):
    n_runs = []

    def changing(ctx: Context, params: None_, inputs: Inputs) -> Outputs:
        n_runs.append(1)
        scores = ctx.map(unstable, inputs.micrographs, chunk=2)
        scores = scores.with_columns(score=pl.lit(float(len(n_runs))))
        return Outputs(counted=inputs.micrographs.with_columns(scores))

    with pytest.raises(AssertionError, match="output counted 0 differs after resuming"):
        check_resume(declare(changing), make_inputs, None_(), tmp_path)


def test_run_that_computes_again_after_resuming_is_caught(tmp_path):
    n_runs = []

    def forgetful(ctx: Context, params: None_, inputs: Inputs) -> Outputs:
        n_runs.append(1)
        ids = inputs.micrographs.rows(["item_id"])
        ctx.map(unstable, ids.with_columns(score=pl.lit(float(len(n_runs)))), chunk=2)
        return Outputs(counted=inputs.micrographs.with_columns(ids.with_columns(score=pl.lit(1.0))))

    with pytest.raises(AssertionError, match=r"1 chunks before and 3 after .* expected 3 in all"):
        check_resume(declare(forgetful), make_inputs, None_(), tmp_path)


def test_protocol_without_help_page_is_caught(monkeypatch):
    def bare(ctx: Context, params: None_, inputs: Inputs) -> Outputs:
        raise NotImplementedError

    monkeypatch.setattr("tests.sdk.test_testing.__doc__", "no sentence")
    with pytest.raises(AssertionError, match="help page must begin with a sentence"):
        check_protocol(declare(bare))
    with pytest.raises(AssertionError, match="has no label"):
        check_protocol(declare(bare, label=""))


def test_protocol_without_output_is_caught(monkeypatch):
    class Nothing(Ports):
        """No output."""

    def bare(ctx: Context, params: None_, inputs: Inputs) -> Nothing:
        raise NotImplementedError

    monkeypatch.setattr("tests.sdk.test_testing.__doc__", "A sentence.")
    with pytest.raises(AssertionError, match="has no output"):
        check_protocol(declare(bare))


def test_progress_beyond_its_total_is_caught(tmp_path):
    with pytest.raises(ValueError, match="must not pass its total"):
        LocalContext(tmp_path).progress(3, 2)
