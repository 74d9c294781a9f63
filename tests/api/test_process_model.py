"""The result of a workflow quotes the figures that its steps measured, the model's too."""

import json

import numpy as np
import pytest

from tests.protocols.volumes.test_fsc import atom_places, atoms_file, turned_map
from verglas.api.process import process
from verglas.api.project import Project
from verglas.api.single_particle import Settings, single_particle_template
from verglas.engine.placement import Placement

QUICK = {"search_order": 1, "fit_pixel_size": False}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    root = tmp_path_factory.mktemp("model")
    places = atom_places()
    turned_map(root, points=places)
    files = {
        name: [str(root / f"{file}.mrc")]
        for name, file in (("files", "map"), ("half_maps_1", "half1"), ("half_maps_2", "half2"))
    }
    settings = Settings(
        pixel_size_angst=3.0, diameter_angst=60.0, atoms=root / atoms_file(root, places)
    )
    steps = {node["name"]: node for node in single_particle_template(settings)["nodes"]}
    last = [steps["postprocess"], steps["fsc"] | {"params": steps["fsc"]["params"] | QUICK}]
    given = {"name": "refine", "protocol": "volumes.import", "version": 1, "params": files}
    with Project.create(root / "p", placement=Placement("in_process")) as project:
        workflow = {"format": 1, "nodes": [{**given, "inputs": {}}, *last]}
        found = process(project, workflow)
        curves = found.jobs["fsc"].output("curves").rows()
        half_curves = found.jobs["postprocess"].output("curves").rows()
    return found, curves, half_curves


def crossing(curves, label, threshold):
    """Resolution where a curve falls below a threshold for good, between samples."""
    row = next(row for row in curves.iter_rows(named=True) if row["label"] == label)
    x, y = np.array(row["x_per_angst"]), np.array(row["y"])
    i = int(np.argmax(y < threshold))
    return 1 / (x[i - 1] + (y[i - 1] - threshold) / (y[i - 1] - y[i]) * (x[i] - x[i - 1]))


def test_resolution_against_the_model_is_that_of_the_curve(result):
    found, curves, _ = result
    content = json.loads(json.dumps(found.as_json()))
    expected = crossing(curves, "masked", 0.5)
    assert content["model_resolution_angst"] == pytest.approx(expected, rel=0.01)
    assert content["steps"][-1]["numbers"]["fsc_05_angst"] == content["model_resolution_angst"]


def test_resolution_of_the_halves_is_that_of_the_last_step(result):
    found, _, half_curves = result
    content = found.as_json()
    row = found.jobs["postprocess"].output("volumes").rows().row(0, named=True)
    assert content["resolution_angst"] == row["resolution_angst"]
    expected = crossing(half_curves, "corrected", 0.143)
    assert content["resolution_angst"] == pytest.approx(expected, rel=0.02)
    assert content["map"].endswith(row["image_path"])
    assert [path.rpartition("/")[2] for path in content["half_maps"]] == ["half1.mrc", "half2.mrc"]
