import numpy as np
import polars as pl
import pytest

from tests.model.frames import micrographs
from verglas.core.errors import PortError, ToolError, UserError
from verglas.model import CURVES, MICROGRAPHS, open_dataset
from verglas.sdk import Command, Context, JobCancelled, Ports, Tool, port
from verglas.sdk.job_context import store_outputs
from verglas.sdk.testing import LocalContext


def keep_bright(rows, task, *, least):
    """Return rows of another schema when nothing is left."""
    kept = rows.filter(pl.col("item_id") >= least).select("item_id", score=pl.lit(1.0))
    return kept if kept.height else pl.DataFrame({"item_id": [], "score": []})


def skip_all(rows, task):
    for item_id in rows["item_id"]:
        task.skip(item_id, "no defocus")
    return rows.select("item_id").head(0)


def total(rows, task):
    ids = rows["item_id"].to_numpy().astype(np.float32)
    return rows.select("item_id"), {"sum": np.array([ids.sum()]), "n": np.array(len(ids))}


def report(rows, task):
    task.progress(1, 2, "half")
    return rows.select("item_id", label=pl.lit(f"{task.device} {task.threads}"))


def test_the_local_context_is_a_context(tmp_path):
    context: Context = LocalContext(tmp_path)
    declared = {name for name in vars(Context) if not name.startswith("_")}
    declared |= set(Context.__annotations__)
    assert [name for name in declared if not hasattr(context, name)] == []


def test_map_puts_results_together_in_order(tmp_path):
    rows = LocalContext(tmp_path).map(keep_bright, micrographs(tmp_path), chunk=1, least=30)
    assert rows["item_id"].to_list() == [50, 40, 30]
    assert rows.schema == {"item_id": pl.Int64, "score": pl.Float64}


def test_map_of_which_nothing_is_left_keeps_the_columns(tmp_path):
    rows = LocalContext(tmp_path).map(keep_bright, micrographs(tmp_path), chunk=2, least=99)
    assert (rows.height, rows.columns) == (0, ["item_id", "score"])


def test_map_over_nothing_gives_nothing(tmp_path):
    context = LocalContext(tmp_path)
    assert context.map(report, pl.DataFrame({"item_id": []}), chunk=2).height == 0
    assert context.n_executed == 0


def test_finished_chunks_are_not_run_again(tmp_path):
    data = micrographs(tmp_path)
    for n_executed, n_reused in ((3, 0), (0, 3)):
        context = LocalContext(tmp_path)
        context.map(report, data, chunk=2)
        assert (context.n_executed, context.n_reused) == (n_executed, n_reused)


def test_only_chunks_of_new_rows_are_run(tmp_path):
    LocalContext(tmp_path).map(report, micrographs(tmp_path, 5).select([50, 40]), chunk=2)
    context = LocalContext(tmp_path)
    context.map(report, micrographs(tmp_path, 5), chunk=2)
    assert (context.n_executed, context.n_reused) == (2, 1)


def test_damaged_result_is_run_again(tmp_path):
    data = micrographs(tmp_path)
    expected = LocalContext(tmp_path).map(report, data, chunk=2)
    path = min((tmp_path / "jobs/0001-local/chunks/report").iterdir())
    path.write_bytes(path.read_bytes()[:50])
    context = LocalContext(tmp_path)
    assert context.map(report, data, chunk=2).equals(expected)
    assert context.n_executed == 1


def test_items_left_out_become_warnings(tmp_path):
    context = LocalContext(tmp_path)
    context.map(skip_all, micrographs(tmp_path, 2), chunk=1)
    assert context.warnings == ["item 20 left out: no defocus", "item 10 left out: no defocus"]


def test_chunks_are_told_device_and_threads(tmp_path):
    context = LocalContext(tmp_path, device="cuda:1")
    data = micrographs(tmp_path, 1)
    assert context.map(report, data, chunk=1, cpus=3, gpus=1)["label"][0] == "cuda:1 3"
    plain = LocalContext(tmp_path, job="0002-local", device="cuda:1")
    assert plain.map(report, data, chunk=1, cpus=3)["label"][0] == "cpu 3"


def test_accumulate_adds_by_group(tmp_path):
    data = micrographs(tmp_path)
    added = LocalContext(tmp_path).accumulate(total, data, chunk=1, by="optics_group")
    assert {group: sums["sum"].tolist() for group, sums in added.sums.items()} == {
        1: [90.0],
        2: [60.0],
    }
    assert added.sums[1]["n"] == 3
    assert sorted(added.rows["item_id"]) == [10, 20, 30, 40, 50]


def test_accumulate_without_groups_has_one_sum(tmp_path):
    added = LocalContext(tmp_path).accumulate(total, micrographs(tmp_path), chunk=2)
    assert added.sums[None]["sum"] == [150.0]


def test_chunk_size_does_not_change_sums(tmp_path):
    context = LocalContext(tmp_path)
    sums = [
        context.accumulate(total, micrographs(tmp_path, 50), chunk=chunk).sums[None]["sum"]
        for chunk in (1, 3, 50)
    ]
    np.testing.assert_array_equal(sums, 12750.0)


def test_iteration_goes_on_from_its_checkpoint(tmp_path):
    seen = []

    def loop(n_before_crash):
        context = LocalContext(tmp_path)

        def step(state, iteration):
            if iteration >= n_before_crash:
                raise KeyboardInterrupt
            seen.append(iteration)
            return {"n": state["n"] + 1}

        return context.iterate(step, {"n": 10}, until=lambda state: state["n"] >= 14)

    with pytest.raises(KeyboardInterrupt):
        loop(2)
    assert loop(9) == {"n": 14}
    assert seen == [0, 1, 2, 3]
    assert loop(0) == {"n": 14}


def test_iteration_that_has_nothing_to_do_returns_its_state(tmp_path):
    state = LocalContext(tmp_path).iterate(lambda s, i: s, {"n": 1}, until=lambda s: True)
    assert state == {"n": 1}


def test_sums_of_finished_iterations_are_removed(tmp_path):
    context = LocalContext(tmp_path)
    data = micrographs(tmp_path)

    def step(state, iteration):
        context.map(report, data, chunk=5)
        added = context.accumulate(total, data, chunk=2)
        return {"n": iteration + 1, "sum": added.sums[None]["sum"]}

    context.iterate(step, {"n": 0}, until=lambda state: state["n"] >= 2)
    chunks = context.folder / "chunks"
    assert list((chunks / "total").iterdir()) == []
    assert len(list((chunks / "report").iterdir())) == 1


def test_loop_inside_a_loop_resumes_as_well(tmp_path):
    """Each iteration of the outer loop has inner checkpoints of its own."""
    seen = []

    def run(n_allowed):
        context = LocalContext(tmp_path)

        def outer(state, i):
            def inner(inner_state, j):
                if len(seen) >= n_allowed:
                    raise KeyboardInterrupt
                seen.append((i, j))
                return {"m": inner_state["m"] + i + 1}

            done = context.iterate(inner, {"m": 0}, until=lambda s: s["m"] >= 2 * (i + 1))
            return {"n": i + 1, "sum": state["sum"] + done["m"]}

        return context.iterate(outer, {"n": 0, "sum": 0}, until=lambda s: s["n"] >= 3)

    for n_allowed in range(6):
        with pytest.raises(KeyboardInterrupt):
            run(n_allowed)
    assert run(6) == {"n": 3, "sum": 12}
    assert seen == [(i, j) for i in range(3) for j in range(2)]


def test_checkpoints_of_a_changed_job_are_not_taken_up(tmp_path):
    def loop(**options):
        context = LocalContext(tmp_path, **options)
        return context.iterate(
            lambda state, i: {"n": state["n"] + 1, "by": context.protocol[1]},
            {"n": 0},
            until=lambda state: state["n"] >= 1,
        )["by"]

    assert loop(protocol=("a.b", 1)) == 1
    assert loop(protocol=("a.b", 2)) == 2


def test_sums_survive_a_crash_before_the_checkpoint(tmp_path):
    data = micrographs(tmp_path)

    def run(is_crashing):
        context = LocalContext(tmp_path)

        def step(state, iteration):
            context.accumulate(total, data, chunk=2)
            if is_crashing:
                raise KeyboardInterrupt
            return {"n": 1}

        context.iterate(step, {"n": 0}, until=lambda state: state["n"] >= 1)
        return context

    with pytest.raises(KeyboardInterrupt):
        run(True)
    assert run(False).n_reused == 3


def test_arrays_go_to_chunks_and_back(tmp_path):
    context = LocalContext(tmp_path)
    ref = context.put({"volume": np.arange(4.0)})
    np.testing.assert_array_equal(context.load(ref)["volume"], np.arange(4.0))


def test_files_of_a_job_are_written_in_one_step(tmp_path):
    context = LocalContext(tmp_path)
    text = context.write_file("plots/fsc.png", lambda path: path.write_bytes(b"png"))
    assert text == "jobs/0001-local/files/plots/fsc.png"
    assert context.path(text).read_bytes() == b"png"
    assert context.relative(context.path(text)) == text
    with pytest.raises(ZeroDivisionError):
        context.write_file("plots/bad.png", lambda path: path.write_bytes(bytes(1 // 0)))
    assert [path.name for path in (context.files / "plots").iterdir()] == ["fsc.png"]


def test_outputs_take_the_optics_of_their_source(tmp_path):
    data = micrographs(tmp_path)
    made = LocalContext(tmp_path).dataset(MICROGRAPHS, data.table, source=data)
    assert made.optics.equals(data.optics)
    assert made.root == tmp_path.resolve()


def test_outputs_lacking_a_trait_of_their_kind_are_refused(tmp_path):
    with pytest.raises(PortError, match="lacks image_path"):
        LocalContext(tmp_path).dataset(MICROGRAPHS, pl.DataFrame({"label": ["a"]}))


def test_outputs_are_stored_by_port(tmp_path):
    class Outputs(Ports):
        curves: object = port(CURVES)
        parts: list = port(CURVES, many=True, optional=True)
        rest: object = port(CURVES, optional=True)

    context = LocalContext(tmp_path)
    rows = pl.DataFrame({"label": ["a"], "x_per_angst": [[0.1]], "y": [[1.0]]})
    data = context.dataset(CURVES, rows)
    stored = store_outputs(Outputs(curves=data, parts=[data, data]), context.folder)
    assert {name: len(sets) for name, sets in stored.items()} == {
        "curves": 1,
        "parts": 2,
        "rest": 0,
    }
    folder = context.folder / "outputs"
    assert sorted(path.name for path in folder.iterdir()) == ["curves", "parts-1", "parts-2"]
    assert open_dataset(folder / "curves").rows().equals(data.rows())


def test_cancelled_job_keeps_what_is_finished(tmp_path):
    data = micrographs(tmp_path)
    with pytest.raises(JobCancelled, match="cancelled after 2 chunks"):
        LocalContext(tmp_path, cancel_after=2).map(report, data, chunk=1)
    context = LocalContext(tmp_path)
    context.map(report, data, chunk=1)
    assert (context.n_executed, context.n_reused) == (3, 2)


def test_person_is_asked(tmp_path):
    data = micrographs(tmp_path)
    context = LocalContext(tmp_path, answer=lambda kind, draft: draft.select([10]))
    assert context.ask(MICROGRAPHS, data).n_items == 1
    assert LocalContext(tmp_path).ask(MICROGRAPHS, data) is data


def test_warnings_and_numbers_are_kept(tmp_path):
    context = LocalContext(tmp_path)
    context.warn("few particles")
    context.metric("resolution_angst", 7.5)
    assert (context.warnings, context.metrics) == (["few particles"], {"resolution_angst": 7.5})


def test_what_a_program_prints_goes_to_the_log(tmp_path, caplog):
    tool = Tool("echo", "sh")
    with caplog.at_level("INFO", logger="verglas"):
        done = LocalContext(tmp_path).call(tool, Command(("-c", "echo one; echo two"), tmp_path))
    assert done.output == "one\ntwo\n"
    assert [r.getMessage() for r in caplog.records] == ["echo: one", "echo: two"]


def test_failing_program_is_a_tool_error(tmp_path):
    with pytest.raises(ToolError, match="exited with 3"):
        LocalContext(tmp_path).call(Tool("sh", "sh"), Command(("-c", "exit 3"), tmp_path))
    assert issubclass(ToolError, UserError)
