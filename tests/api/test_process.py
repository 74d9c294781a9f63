"""Workflows carried out step by step, on plain numbers."""

import pytest

from verglas.api.process import Watch, process
from verglas.core.errors import ParamsError, TaskFailed, UserError

WORKFLOW = {
    "format": 1,
    "nodes": [
        {"name": "make", "protocol": "numbers.make_range", "version": 1, "params": {"count": 4}},
        {
            "name": "square",
            "protocol": "numbers.raise_power",
            "version": 1,
            "params": {},
            "inputs": {"numbers": ["make.numbers"]},
        },
    ],
}


def test_each_step_is_summed_up(project):
    result = process(project, WORKFLOW)
    first, second = result.steps
    assert (first.name, first.job, first.items_in, first.items_out) == (
        "make",
        "j1",
        {},
        {"numbers": 4},
    )
    assert second.items_in == {"numbers": 4}
    assert first.numbers == {"count": 4.0}
    content = result.as_json()
    assert [step["job"] for step in content["steps"]] == ["j1", "j2"]
    assert content["map"] is None
    folder = content["steps"][0]["outputs"]["numbers"]["folder"]
    assert folder.startswith(str(project.root))


def test_steps_that_are_done_are_not_run_again(project, tmp_path):
    side_log = tmp_path / "side.txt"
    overrides = {"square": {"side_log": str(side_log)}}
    assert [s.is_reused for s in process(project, WORKFLOW, overrides=overrides).steps] == [
        False,
        False,
    ]
    n_chunks = len(side_log.read_text().splitlines())
    again = process(project, WORKFLOW, overrides=overrides)
    assert [step.is_reused for step in again.steps] == [True, True]
    assert len(side_log.read_text().splitlines()) == n_chunks
    changed = process(project, WORKFLOW, overrides={"square": {"power": 3}})
    assert [step.is_reused for step in changed.steps] == [True, False]


def test_workflow_goes_on_after_a_step_that_failed(project):
    with pytest.raises(TaskFailed):
        process(project, WORKFLOW, overrides={"square": {"bad": [2]}})
    result = process(project, WORKFLOW)
    assert [step.is_reused for step in result.steps] == [True, False]


def test_progress_is_told_to_who_watches(project):
    told = []
    watch = Watch(
        started=lambda name, number, count: told.append((name, number, count)),
        ended=lambda step: told.append(step.name),
    )
    process(project, WORKFLOW, watch=watch)
    assert told == [("make", 1, 2), "make", ("square", 2, 2), "square"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"squar": {}}, "no step 'squar'"),
        ({"square": {"powr": 2}}, "step square: .* has no parameter 'powr'"),
        ({"square": {"power": 0}}, "step square: .*power: got 0, expected >= 1"),
    ],
)
def test_overrides_are_checked_before_anything_runs(project, overrides, message):
    with pytest.raises(ParamsError, match=message):
        process(project, WORKFLOW, overrides=overrides)
    assert project.jobs() == []


def test_step_that_gives_nothing_stops_the_workflow(project):
    with pytest.raises(UserError, match=r"step make \(j1, numbers.make_range\) gave 0 numbers"):
        process(project, WORKFLOW, overrides={"make": {"count": 0}})
    assert len(project.jobs()) == 1
