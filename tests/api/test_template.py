import json

import pytest

from tests.api.test_run import values
from tests.engine.number_protocols import number_registry
from verglas.api.project import Project
from verglas.core.errors import FormatError, ParamsError, PortError
from verglas.engine.placement import Placement


@pytest.fixture
def template(project, tmp_path):
    """The workflow make -> power -> split -> join, exported."""
    made = project.run("numbers.make_range", count=6)
    powers = project.run("numbers.raise_power", numbers=made, power=3, label="Cubes")
    split = project.run("numbers.split_set", numbers=powers)
    project.run("numbers.join_sets", sets=[f"{split.id}.sets[2]", made])
    path = tmp_path / "workflow.json"
    project.export_template(path)
    return path


@pytest.fixture
def other(tmp_path):
    with Project.create(
        tmp_path / "other", registry=number_registry(), placement=Placement("in_process")
    ) as project:
        yield project


def test_template_has_protocols_changes_and_links_but_no_data(template):
    content = json.loads(template.read_text())
    assert [node["name"] for node in content["nodes"]] == [
        "make_range", "cubes", "split_set", "join_sets",
    ]  # fmt: skip
    assert content["nodes"][1]["params"] == {"power": 3}
    assert content["nodes"][3]["inputs"] == {"sets": ["split_set.sets[2]", "make_range.numbers"]}
    assert content["free_inputs"] == {}
    assert "jobs/" not in template.read_text()


def test_replayed_template_gives_the_same_in_another_project(template, project, other):
    jobs = other.replay(template)
    assert list(jobs) == ["make_range", "cubes", "split_set", "join_sets"]
    assert values(jobs["join_sets"].output()) == values(project.job("j4").output())
    assert jobs["cubes"].record.label == "Cubes"


def test_parameters_are_overridden_by_the_name_of_the_node(template, other):
    jobs = other.replay(template, overrides={"make_range": {"count": 3}, "cubes": {"power": 1}})
    assert values(jobs["join_sets"].output()) == [1, 0, 1, 2]


def test_part_of_a_project_has_free_inputs(project, template, other, tmp_path):
    content = project.export_template(tmp_path / "part.json", jobs=["j2", "j3"])
    assert content["free_inputs"] == {"numbers_d1": "numbers"}
    source = other.run("numbers.make_range", count=4, start=1)
    jobs = other.replay(content, inputs={"numbers_d1": source})
    assert [values(part) for part in jobs["split_set"].outputs["sets"]] == [[8, 64], [1, 27]]


def test_second_replay_reuses_every_job(template, other):
    first = other.replay(template)
    again = other.replay(template)
    assert [job.id for job in first.values()] == [job.id for job in again.values()]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"overrides": {"cube": {}}}, ParamsError, "no node 'cube'; it has make_range, cubes"),
        ({"inputs": {"numbers": "d1"}}, ParamsError, "no free input 'numbers'"),
    ],
)
def test_names_that_are_not_in_the_template_are_refused(template, other, options, error, message):
    with pytest.raises(error, match=message):
        other.replay(template, **options)
    assert other.jobs() == []


def test_missing_free_input_is_named(project, template, other, tmp_path):
    content = project.export_template(tmp_path / "part.json", jobs=["j2"])
    with pytest.raises(PortError, match=r"needs a data set for 'numbers_d1' \(numbers\)"):
        other.replay(content)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"nodes": 3}, "not a workflow template: nodes"),
        ({"format": 2}, "format 2"),
        (
            {"nodes": [{"name": "a", "protocol": "x.y", "version": 1, "inputs": {"p": ["b.q"]}}]},
            "reads 'b.q', which is not there",
        ),
    ],
)
def test_damaged_template_is_refused(other, content, message):
    with pytest.raises(FormatError, match=message):
        other.replay(content)
