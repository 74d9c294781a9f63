"""Running protocols: what a user of the API relies on, chunks in this process."""

import json
import threading

import polars as pl
import pytest

from tests.engine.number_protocols import NUMBERS, number_registry
from verglas.api.project import Project
from verglas.core.errors import (
    EngineError,
    ParamsError,
    PortError,
    ProjectLocked,
    TaskFailed,
    ToolError,
    UserError,
)
from verglas.engine.journal import read_journal
from verglas.model import make_dataset
from verglas.project.record import JobStatus
from verglas.sdk import JobCancelled


def values(data, column="x_value"):
    return data.rows()[column].to_list()


def n_runs(side_log, what="start"):
    if not side_log.exists():
        return 0
    return sum(line.startswith(what) for line in side_log.read_text().splitlines())


def test_job_gives_numbered_outputs_and_a_full_record(project):
    job = project.run("numbers.make_range", count=4, label="four")
    assert (job.id, job.status, job.folder.name) == ("j1", JobStatus.DONE, "0001-make_range")
    assert values(job.output()) == [0, 1, 2, 3]
    assert job.output().id == "d1"
    record = json.loads((job.folder / "job.json").read_text())
    assert record["parameters"] == {"count": 4, "start": 0}
    assert record["changed"] == {"count": 4}
    assert record["label"] == "four"
    assert record["metrics"] == {"count": 4.0}
    assert {"python", "torch", "numpy", "verglas", "host", "device"} <= set(record["environment"])
    assert record["started"] <= record["ended"]
    assert [moment["what"] for moment in record["history"]] == ["created", "started", "done"]


def test_chunks_are_put_together_in_order(project):
    made = project.run("numbers.make_range", count=10)
    squares = project.run("numbers.raise_power", numbers=made, chunk=3).output()
    assert values(squares) == [i * i for i in range(10)]
    assert squares.source == ("d1",)


@pytest.mark.parametrize("ref", ["d1", "j1.numbers", "j1", "1.numbers", "0001-make_range.numbers"])
def test_inputs_are_named_in_several_ways(project, ref):
    project.run("numbers.make_range", count=4)
    job = project.run("numbers.raise_power", numbers=ref)
    assert values(job.output()) == [0, 1, 4, 9]


def test_inputs_are_given_as_handle_or_data_set(project):
    made = project.run("numbers.make_range", count=4)
    first = project.run("numbers.raise_power", numbers=made)
    assert project.run("numbers.raise_power", numbers=made.output()).id == first.id


def test_output_of_the_name_of_the_port_is_taken_from_a_job_with_several(project):
    made = project.run("numbers.make_range", count=8)
    screened = project.run("numbers.screen_large", numbers=made, below=3)
    assert values(project.run("numbers.raise_power", numbers=screened).output()) == [0, 1, 4]
    rest = project.run("numbers.raise_power", numbers=f"{screened.id}.rejected")
    assert values(rest.output()) == [9, 16, 25, 36, 49]
    with pytest.raises(PortError, match="more than one output"):
        project.run("numbers.join_sets", sets=[screened])


def test_seed_goes_to_the_protocol_if_it_has_one(project):
    made = project.run("numbers.make_range", count=8)
    job = project.run("numbers.screen_large", numbers=made, seed=7)
    assert job.metrics["seed"] == 7.0
    assert job.record.seed == 0
    job = project.run("numbers.raise_power", numbers=made, seed=7)
    assert job.record.seed == 7


def test_port_that_takes_many_gets_a_list(project):
    project.run("numbers.make_range", count=2)
    project.run("numbers.make_range", count=3)
    joined = project.run("numbers.join_sets", sets=["d2", "d1"])
    assert values(joined.output()) == [0, 1, 2, 0, 1]
    split = project.run("numbers.split_set", numbers=joined)
    assert [values(part) for part in split.outputs["sets"]] == [[0, 2, 0], [1, 1]]
    again = project.run("numbers.join_sets", sets=["j4.sets[2]", "j4.sets[1]"])
    assert values(again.output()) == [1, 1, 0, 2, 0]
    with pytest.raises(PortError, match=r"its outputs are j4\.sets\[1\], j4\.sets\[2\]"):
        project.run("numbers.join_sets", sets=["j4.sets"])


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"numbers": "d9"}, UserError, "no data set 'd9'"),
        ({"numbers": "j9"}, UserError, "no job 'j9'"),
        ({"numbers": "j1.other"}, PortError, "its outputs are j1.numbers"),
        ({"numbers": "what?"}, PortError, "name it as d41"),
        ({}, PortError, "is empty: expected numbers"),
        ({"numbers": ["d1", "d1"]}, PortError, "takes one data set: got 2"),
        ({"numbers": "d1", "powr": 3}, ParamsError, "did you mean 'power'"),
        ({"numbers": "d1", "power": 0}, ParamsError, "expected >= 1"),
    ],
)
def test_wrong_request_is_refused_before_a_job_is_made(project, values, error, message):
    project.run("numbers.make_range", count=2)
    with pytest.raises(error, match=message.replace("?", r"\?").replace(".", r"\.")):
        project.run("numbers.raise_power", **values)
    assert len(project.jobs()) == 1


def test_unknown_protocol_is_refused_with_the_nearest(project):
    with pytest.raises(UserError, match=r"did you mean numbers\.make_range"):
        project.run("numbers.make_rang")


def test_data_set_outside_the_project_is_refused(project):
    data = make_dataset(NUMBERS, pl.DataFrame({"x_value": [1]}), root=project.root)
    with pytest.raises(PortError, match="is not in the project"):
        project.run("numbers.raise_power", numbers=data)


def test_equal_run_returns_the_finished_job(project, tmp_path):
    made = project.run("numbers.make_range", count=6)
    options = {"numbers": made, "side_log": str(tmp_path / "log")}
    first = project.run("numbers.raise_power", **options)
    assert project.run("numbers.raise_power", **options).id == first.id
    assert n_runs(tmp_path / "log") == 2


def test_forced_run_computes_anew_and_keeps_the_number_of_equal_outputs(project, tmp_path):
    made = project.run("numbers.make_range", count=6)
    options = {"numbers": made, "side_log": str(tmp_path / "log")}
    first = project.run("numbers.raise_power", **options)
    forced = project.run("numbers.raise_power", **options, force=True)
    assert n_runs(tmp_path / "log") == 4
    assert forced.output().id != first.output().id
    assert project.stale() == {}
    assert len(project.jobs()) == 3


def test_failed_chunk_is_named_and_the_others_are_kept(project, tmp_path):
    made = project.run("numbers.make_range", count=6)
    options = {"numbers": made, "chunk": 2, "side_log": str(tmp_path / "log")}
    with pytest.raises(TaskFailed, match="1 of 3 chunks of power_of failed: ValueError"):
        project.run("numbers.raise_power", **options, bad=[3])
    job = project.job("j2")
    assert job.status is JobStatus.FAILED
    assert "cannot take 3" in job.error
    assert "Traceback" in job.log()
    assert n_runs(tmp_path / "log", "end") == 2


def test_failed_job_resumes_in_its_folder_and_runs_only_what_is_missing(project, tmp_path):
    made = project.run("numbers.make_range", count=6)
    log = tmp_path / "log"
    with pytest.raises(TaskFailed):
        project.run("numbers.raise_power", numbers=made, chunk=2, side_log=str(log), bad=[3])
    with pytest.raises(TaskFailed):
        project.resume("j2")
    assert n_runs(log, "start") == 4, "only the failed chunk ran again"
    assert [job.id for job in project.jobs()] == ["j1", "j2"]


def test_item_left_out_is_a_warning_and_the_job_succeeds(project):
    made = project.run("numbers.make_range", count=6)
    job = project.run("numbers.raise_power", numbers=made, left_out=[4])
    assert job.status is JobStatus.DONE
    assert job.warnings == ("item 4 left out: not wanted",)
    assert values(job.output()) == [0, 1, 4, 9, 25]


def test_job_that_failed_for_an_unreadable_file_goes_on_once_it_is_put_right(project, tmp_path):
    """As when a disk was not mounted: that an item was left out must not be remembered."""
    path = tmp_path / "number.txt"
    with pytest.raises(UserError, match="nothing could be read"):
        project.run("numbers.read_file", path=str(path))
    assert project.job(1).warnings == ("item 0 left out: the file is absent",)
    path.write_text("42")
    assert values(project.resume(1).output()) == [42]


def test_warnings_of_reused_chunks_are_not_lost(project):
    made = project.run("numbers.make_range", count=6)
    job = project.run("numbers.raise_power", numbers=made, left_out=[4])
    again = project.rerun(job, chunk=3, cpus=2)
    assert again.record.steps[0].reused == 2
    assert again.warnings == ("item 4 left out: not wanted",)


def test_data_set_without_items_is_refused_as_input(project):
    made = project.run("numbers.make_range", count=0)
    assert made.output().n_items == 0
    with pytest.raises(PortError, match="has no items"):
        project.run("numbers.raise_power", numbers=made)
    assert len(project.jobs()) == 1


def test_unexpected_error_of_a_protocol_becomes_an_engine_error(project):
    with pytest.raises(EngineError, match="KeyError: 'unexpected'"):
        project.run("numbers.break_down")
    job = project.job(1)
    assert job.status is JobStatus.FAILED
    assert "Traceback" in job.log()


def test_iterations_add_up_and_resume_from_the_last_checkpoint(project, tmp_path):
    made = project.run("numbers.make_range", count=12)
    job = project.run("numbers.sum_up", numbers=made, n_iterations=4, side_log=str(tmp_path / "a"))
    assert n_runs(tmp_path / "a") == 12
    assert not list(job.folder.glob("chunks/partial_sum/*.zip")), "sums of iterations are removed"

    log = tmp_path / "b"
    options = {"numbers": made, "n_iterations": 4, "side_log": str(log), "pause_s": 0.05}
    job_b = project.run("numbers.sum_up", **options, wait=False)
    while n_runs(log, "end") < 7:
        assert job_b.is_running_here
    job_b.cancel()
    with pytest.raises(JobCancelled):
        job_b.wait(10)
    assert job_b.status is JobStatus.CANCELLED
    before = n_runs(log, "end")
    project.resume(job_b)
    assert n_runs(log, "end") == 12, f"{before} were finished before"
    assert job_b.metrics == job.metrics


def test_changed_parameters_do_not_take_up_old_checkpoints(project):
    made = project.run("numbers.make_range", count=12)
    job = project.run("numbers.sum_up", numbers=made, n_iterations=4)
    fresh = project.run("numbers.sum_up", numbers=made, n_iterations=2)
    assert project.rerun(job, n_iterations=2).metrics == fresh.metrics != {}


def test_job_in_a_thread_reports_progress_and_can_be_cancelled(project, tmp_path):
    made = project.run("numbers.make_range", count=40)
    updates = []
    job = project.run(
        "numbers.raise_power", numbers=made, chunk=2, pause_s=0.1, wait=False, show=updates.append
    )
    with pytest.raises(UserError, match="is running"):
        project.resume(job)
    while not updates:
        threading.Event().wait(0.01)
    job.cancel()
    with pytest.raises(JobCancelled):
        job.wait(10)
    assert job.status is JobStatus.CANCELLED
    assert 0 < updates[-1].done < updates[-1].total == 40
    assert updates[-1].left_s > 0
    project.run("numbers.raise_power", numbers=made, chunk=2, pause_s=0.1)
    assert len(project.jobs()) == 2


def test_waiting_longer_than_allowed_raises(project):
    made = project.run("numbers.make_range", count=4)
    job = project.run("numbers.raise_power", numbers=made, pause_s=0.5, wait=False)
    with pytest.raises(TimeoutError):
        job.wait(0.05)
    assert job.wait().status is JobStatus.DONE


def test_question_parks_the_job_until_it_is_answered(project):
    made = project.run("numbers.make_range", count=5)
    job = project.run("numbers.ask_which", numbers=made)
    assert job.status is JobStatus.ASKING
    assert not project.store.layout.lock.exists()
    draft = project.draft(job)
    assert values(draft) == [0, 1, 2, 3, 4]
    done = project.answer(job, draft.select([1, 3]))
    assert done.status is JobStatus.DONE
    assert values(done.output()) == [1, 3]
    with pytest.raises(UserError, match="does not ask"):
        project.draft(job)


def test_outside_program_gets_its_arguments_untouched_and_is_logged(project):
    job = project.run("numbers.call_shell")
    assert 'shell: first; $HOME "line"' in job.log()


def test_failing_program_is_reported_with_its_last_lines(project):
    with pytest.raises(ToolError, match=r"shell exited with 3 after 0 s; last lines: .*last line"):
        project.run("numbers.call_shell", code=3)


def test_events_tell_the_story_of_a_job(project):
    made = project.run("numbers.make_range", count=4)
    job = project.run("numbers.raise_power", numbers=made, chunk=2)
    names = [event["event"] for event in read_journal(job.folder)]
    assert names[:3] == ["queued", "started", "step_opened"]
    assert names[-1] == "returned"
    assert names.count("chunk_done") == 2


def test_log_has_version_parameters_and_why_chunks_ran(project):
    made = project.run("numbers.make_range", count=4)
    job = project.run("numbers.raise_power", numbers=made, power=3)
    text = project.log(job)
    assert "numbers.raise_power version 1" in text
    assert "power = 3" in text
    assert "2 of 2 chunks of power_of must run: first run" in text
    assert "powers of 3 numbers" in text
    project.rerun(job, power=5)
    assert "argument power changed" in project.log(job)


def test_reopened_project_shows_the_same_jobs(project):
    made = project.run("numbers.make_range", count=4)
    project.run("numbers.raise_power", numbers=made)
    project.close()
    with Project.open(project.root, registry=number_registry()) as again:
        assert [job.protocol for job in again.jobs()] == [
            "numbers.make_range",
            "numbers.raise_power",
        ]
        assert values(again.dataset("j2")) == [0, 1, 4, 9]


def test_damaged_result_is_found_out_and_made_again(project, tmp_path):
    made = project.run("numbers.make_range", count=6)
    log = tmp_path / "log"
    job = project.run("numbers.raise_power", numbers=made, chunk=2, side_log=str(log))
    results = sorted(job.folder.glob("chunks/power_of/*.zip"))
    content = bytearray(results[0].read_bytes())
    content[len(content) // 3] ^= 0xFF
    results[0].write_bytes(content)
    results[1].write_bytes(results[1].read_bytes()[:-40])
    before = values(job.output())
    again = project.rerun(job, cpus=2)
    assert n_runs(log) == 5, "the two damaged chunks ran again, the third did not"
    assert values(again.output()) == before


def test_error_of_a_job_in_a_thread_is_raised_by_wait_even_later(project):
    made = project.run("numbers.make_range", count=4)
    job = project.run("numbers.raise_power", numbers=made, bad=[1], wait=False)
    while job.is_running_here:
        threading.Event().wait(0.01)
    with pytest.raises(TaskFailed, match="cannot take 1"):
        job.wait()


def test_second_writer_is_refused_while_a_job_runs_and_may_read(project):
    made = project.run("numbers.make_range", count=4)
    job = project.run("numbers.raise_power", numbers=made, pause_s=0.5, wait=False)
    while job.status is not JobStatus.RUNNING:
        threading.Event().wait(0.01)
    with Project.open(project.root, registry=number_registry()) as other:
        assert other.job("j2").status is JobStatus.RUNNING
        with pytest.raises(ProjectLocked, match="is being written by process"):
            other.run("numbers.make_range", count=5)
        assert len(other.jobs()) == 2
    job.wait()


def test_parameters_may_be_given_apart(project):
    assert project.run("numbers.make_range", params={"count": 2}).output().n_items == 2
