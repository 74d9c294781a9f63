"""The single-particle workflow as data."""

from dataclasses import replace
from pathlib import Path

import pytest

from verglas.api.process import check_workflow
from verglas.api.project import Project
from verglas.api.single_particle import (
    Movies,
    Settings,
    quantities,
    single_particle_template,
    steps_of,
)
from verglas.core.errors import ParamsError
from verglas.core.registry import load_registry

SETTINGS = Settings(pixel_size_angst=1.5, diameter_angst=130.0, symmetry="O", files=("a.mrc",))
VARIANTS = {
    "real": SETTINGS,
    "with atoms": replace(SETTINGS, atoms=Path("model.cif")),
    "simulated": replace(SETTINGS, files=(), simulate={"n_micrographs": 2}),
    "movies": replace(SETTINGS, movies=Movies(1.0, gain="gain.mrc")),
    "simulated movies": replace(SETTINGS, files=(), movies=Movies(), simulate={"n_movies": 2}),
}


def test_steps_depend_on_what_is_given():
    names = {
        name: [node["name"] for node in single_particle_template(settings)["nodes"]]
        for name, settings in VARIANTS.items()
    }
    common = ["ctf", "pick", "extract", "classify", "select", "initial", "refine", "postprocess"]
    assert names["real"] == ["import", *common]
    assert names["with atoms"] == ["import", *common, "fsc"]
    assert names["simulated"] == ["simulate", *common, "truth"]
    (truth,) = single_particle_template(VARIANTS["simulated"])["nodes"][-1:]
    assert truth["params"] == {}
    assert names["movies"][:4] == ["import", "gain", "align", "screen_drift"]
    assert names["movies"][-7:] == ["extract", "screen", *common[3:]]
    assert names["simulated movies"] == ["simulate", *names["movies"][1:], "truth"]


def test_point_group_that_does_not_exist_is_refused_before_anything_runs():
    with pytest.raises(ParamsError, match=r"symmetry: point group must be .* got 'Q7'"):
        single_particle_template(replace(SETTINGS, symmetry="Q7"))


def test_box_holds_the_particle_and_most_of_what_the_ctf_spreads():
    known = quantities(SETTINGS)
    spread_angst = 0.0197 * 20000 / 7
    assert known["box_angst"] >= SETTINGS.diameter_angst + 1.8 * spread_angst
    assert known["box_angst"] <= 2 * SETTINGS.diameter_angst


@pytest.mark.parametrize("variant", VARIANTS)
def test_protocols_have_the_parameters_and_ports_of_the_workflow(tmp_path, variant):
    with Project.create(tmp_path / "p") as project:
        template = check_workflow(project, single_particle_template(VARIANTS[variant]))
    registry = load_registry()
    outputs = {}
    for node in template.nodes:
        spec = registry.protocol(node.protocol)
        outputs[node.name] = {name: port.kind.id for name, port in spec.output_ports().items()}
        inputs = spec.input_ports()
        for port, links in node.inputs.items():
            for link in links:
                source, _, output = link.partition(".")
                assert outputs[source][output] == inputs[port].kind.id
        needed = {name for name, port in inputs.items() if not port.optional}
        assert needed <= set(node.inputs)


@pytest.mark.parametrize("variant", ["real", "movies"])
def test_every_step_takes_known_quantities(variant):
    known, steps = quantities(VARIANTS[variant]), steps_of(VARIANTS[variant])
    assert {quantity for step in steps for quantity in step.takes.values()} <= set(known)


def test_steps_of_one_protocol_that_differ_in_its_method_have_labels_of_their_own():
    nodes = single_particle_template(VARIANTS["movies"])["nodes"]
    labels = [node["label"] for node in nodes if node["name"].startswith("ctf_")]
    assert len(set(labels)) == len(labels) == 4
    assert "Estimate CTF by equiphase" in labels
