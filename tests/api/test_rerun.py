"""Running a job again in its place: what becomes stale, why, and how it is brought up to date."""

import pytest

from tests.api.test_run import n_runs, values
from verglas.core.errors import PortError, UserError
from verglas.project.record import JobStatus


@pytest.fixture
def chain(project, tmp_path):
    """j1 makes numbers, j2 squares them, j3 cubes the squares; a log of chunks."""
    log = tmp_path / "log"
    made = project.run("numbers.make_range", count=9)
    squares = project.run("numbers.raise_power", numbers=made, side_log=str(log))
    project.run("numbers.raise_power", numbers=squares, power=3, side_log=str(log))
    return project, log


def test_changed_upstream_job_makes_descendants_stale_and_says_why(chain):
    project, _ = chain
    project.rerun("j1", count=12)
    stale = project.stale()
    assert list(stale) == [2, 3]
    assert project.job("j2").stale[0].text == (
        "input numbers is d1 of j1, which was run again: count 9 -> 12"
    )
    assert values(project.job("j2").output()) == [i * i for i in range(9)], "old data stay readable"
    assert values(project.dataset("d1")) == list(range(9))
    assert values(project.dataset("j1")) == list(range(12))


def test_update_brings_up_to_date_and_reuses_chunks_whose_rows_did_not_change(chain):
    project, log = chain
    assert n_runs(log) == 6
    project.rerun("j1", count=12)
    updated = project.update()
    assert [job.id for job in updated] == ["j2", "j3"]
    assert project.stale() == {}
    assert values(project.job("j3").output()) == [(i * i) ** 3 for i in range(12)]
    assert n_runs(log) == 8, "one new chunk of three rows for each of two jobs"
    assert [step.reused for step in project.job("j2").record.steps] == [3]


def test_rerun_that_gives_the_same_results_makes_nothing_stale(chain):
    project, _log = chain
    project.rerun("j2", power=5)
    assert list(project.stale()) == [3]
    project.rerun("j2", power=2)
    assert project.stale() == {}, "the data set of the first revision came back"
    assert project.job("j2").record.revision == 3
    assert project.job("j2").output().id == "d2"


def test_rerun_without_change_does_nothing(chain):
    project, log = chain
    assert project.rerun("j2").record.revision == 1
    assert n_runs(log) == 6


def test_changed_input_can_be_given(chain):
    project, _ = chain
    other = project.run("numbers.make_range", count=2, start=5)
    project.rerun("j2", numbers=other)
    assert values(project.job("j2").output()) == [25, 36]
    assert list(project.stale()) == [3]
    assert "numbers d1 -> d4" in project.job("j3").stale[0].text


def test_wrong_change_is_refused_and_leaves_the_job_as_it_was(chain):
    project, _ = chain
    before = project.job("j2").record
    with pytest.raises(UserError):
        project.rerun("j2", power=-1)
    assert project.job("j2").record == before


def test_failed_rerun_keeps_old_data_and_can_be_put_back(chain):
    project, _ = chain
    with pytest.raises(Exception, match="cannot take 4"):
        project.rerun("j2", bad=[4])
    assert project.job("j2").status is JobStatus.FAILED
    assert list(project.stale()) == [3]
    with pytest.raises(PortError, match="run j2 to its end first"):
        project.rerun("j3")
    project.rerun("j2", bad=[])
    assert project.stale() == {}


def test_history_and_former_revisions_are_kept(chain):
    project, _ = chain
    project.rerun("j1", count=12)
    record = project.job("j1").record
    assert [revision.parameters["count"] for revision in record.former] == [9]
    assert [moment.what for moment in record.history].count("done") == 2
    before = project.stale()
    assert project.reindex() == 3
    assert project.stale() == before


def test_deleting_a_job_that_others_used_keeps_its_record_and_their_tables(chain):
    project, _ = chain
    split = project.run("numbers.split_set", numbers="j2")
    project.delete("j2")
    job = project.job("j2")
    assert job.record.deleted
    assert job.record.parameters["power"] == 2
    assert not (job.folder / "files").exists()
    assert values(split.outputs["sets"][0]) == [0, 4, 16, 36, 64]
    assert [edge.source for edge in project.graph().edges] == [1, 2, 2]


def test_deleted_data_cannot_be_used_and_can_be_made_again(chain):
    project, _ = chain
    project.delete("j3")
    with pytest.raises(UserError, match="'d3' of j3 was deleted; run j3 again"):
        project.run("numbers.raise_power", numbers="d3")
    again = project.resume("j3")
    assert not again.record.deleted
    assert values(again.output()) == [(i * i) ** 3 for i in range(9)]


def test_ancestors_descendants_and_notes(chain):
    project, _ = chain
    assert project.ancestors("j3") == [1, 2]
    assert project.descendants("j1") == [2, 3]
    project.note("j2", "looks right")
    assert project.job("j2").record.notes[0].text == "looks right"
