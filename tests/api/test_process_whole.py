"""The whole single-particle workflow on a few simulated micrographs: every seam holds.

How good the map is, is the business of the protocols' own tests; here the images are tiny and
the iterations few.
"""

import json

import pytest

from verglas.api.process import process
from verglas.api.project import Project
from verglas.api.single_particle import Settings, single_particle_template
from verglas.api.truth import compare_with_truth
from verglas.engine.placement import Placement
from verglas.io.mrc import read_mrc

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIMULATE = {
    "n_micrographs": 2,
    "height_px": 384,
    "width_px": 384,
    "particles_per_micrograph": 45,
    "dose_e_per_angst2": 60.0,
}
QUICK = {
    "classify": {"n_classes": 2, "iterations": 3, "ramp_iterations": 2},
    "initial": {
        "coarse_iterations": 2,
        "fine_iterations": 4,
        "n_searches": 1,
        "n_finalists": 1,
        "max_rounds": 1,
        "max_particles": 50,
        "particles_per_iteration": 30,
    },
    "refine": {"max_iterations": 2},
    "truth": {"search_order": 1, "fit_pixel_size": False},
}


@pytest.fixture(scope="module")
def workflow():
    settings = Settings(pixel_size_angst=4.0, diameter_angst=130.0, symmetry="O", simulate=SIMULATE)
    return single_particle_template(settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("whole") / "p"


@pytest.fixture(scope="module")
def result(folder, workflow):
    with Project.create(folder, placement=Placement(workers=1)) as project:
        found = process(project, workflow, overrides=QUICK, report=folder / "report.html")
        truth = compare_with_truth(found.jobs, symmetry="O")
    return found, truth


def test_every_step_is_done_and_ends_in_a_map(result):
    found, _ = result
    names = [
        "simulate",
        "ctf",
        "pick",
        "extract",
        "classify",
        "select",
        "initial",
        "refine",
        "postprocess",
        "truth",
    ]
    assert [step.name for step in found.steps] == names
    assert len(found.half_maps) == 2
    shapes = {read_mrc(path)[0].shape for path in (found.map, *found.half_maps)}
    assert len(shapes) == 1
    assert found.resolution_angst >= 8.0
    assert found.report.stat().st_size > 10_000


def test_result_is_plain_json_with_absolute_paths(result):
    found, _ = result
    content = json.loads(json.dumps(found.as_json()))
    assert content["map"].startswith("/")
    extract = next(step for step in content["steps"] if step["name"] == "extract")
    assert set(extract["items_in"]) == {"micrographs", "coordinates"}
    assert extract["items_out"]["particles"] > 20
    assert extract["seconds"] > 0


def test_truth_is_found_again(result):
    _, truth = result
    assert truth["defocus_error_worst_angst"] < 500  # 1500 Å of ice at 4 Å pixels
    assert truth["picks_recall"] > 0.9
    assert truth["picks_precision"] > 0.9
    assert truth["n_poses"] > 20


def test_second_run_does_nothing_anew(result, folder, workflow):
    with Project.open(folder) as project:
        again = process(project, workflow, overrides=QUICK)
    assert all(step.is_reused for step in again.steps)
    assert again.map == result[0].map
    assert again.elapsed_s < 10
