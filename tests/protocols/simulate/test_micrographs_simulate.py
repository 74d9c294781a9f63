import numpy as np
import pytest

from tests.protocols.simulate.conftest import PDB
from verglas.core.errors import ParamsError
from verglas.io.mrc import read_mrc
from verglas.protocols.simulate.micrographs_simulate import (
    Inputs,
    SimulateParams,
    _config,
    run,
)
from verglas.sdk.testing import LocalContext, check_protocol, check_resume
from verglas.simulate.micrograph import simulate_micrographs

SMALL = SimulateParams(
    specimen="model.pdb",
    n_micrographs=3,
    height_px=160,
    width_px=200,
    pixel_size_angst=4.0,
    particles_per_micrograph=6,
    ice_thickness_angst=75.0,
    seed=1,
)


@pytest.fixture
def outputs(project):
    return run(LocalContext(project), SMALL, Inputs())


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.simulate"


def test_images_and_truth_are_those_of_the_function(tmp_path, shell):
    params = SMALL.model_copy(update={"specimen": "apoferritin"})
    outputs = run(LocalContext(tmp_path), params, Inputs())
    expected = simulate_micrographs(shell, _config(params))
    assert outputs.volume.rows()["symmetry"].to_list() == ["O"]
    for index, path in enumerate(outputs.micrographs.rows()["image_path"]):
        image, pixel = read_mrc(outputs.micrographs.path(path))
        np.testing.assert_array_equal(image[0], expected.images[index])
        assert pixel == pytest.approx(4.0)
    truth = outputs.true_particles.rows()
    for name in expected.particles.columns:
        assert truth[name].equals(expected.particles[name]), name


def test_only_the_truth_knows_defocus_and_poses(outputs):
    assert "ctf" not in outputs.micrographs.traits
    assert "ctf" in outputs.true_micrographs.traits
    assert {"coord2d", "pose3d", "ctf", "optics"} <= outputs.true_particles.traits


def test_particles_point_to_their_micrograph(outputs):
    paths = dict(outputs.micrographs.rows().select("item_id", "image_path").iter_rows())
    particles = outputs.true_particles.rows()
    for micrograph_id, path in particles.select("micrograph_id", "micrograph_path").iter_rows():
        assert paths[micrograph_id] == path


def test_resumed_run_equals_one_in_one_go(tmp_path):
    def make_inputs(root):
        (root / "model.pdb").write_text(PDB)
        return Inputs()

    check_resume(run, make_inputs, SMALL, tmp_path)


def test_crowded_field_is_a_warning(tmp_path):
    context = LocalContext(tmp_path)
    crowd = {"specimen": "apoferritin", "particles_per_micrograph": 60, "n_micrographs": 1}
    params = SMALL.model_copy(update=crowd)
    outputs = run(context, params, Inputs())
    assert 0 < outputs.true_particles.n_items < 60
    assert any("found room" in text for text in context.warnings)


def test_ice_only_micrographs_have_no_particles(project):
    params = SMALL.model_copy(update={"particles_per_micrograph": 0, "n_micrographs": 1})
    outputs = run(LocalContext(project), params, Inputs())
    assert outputs.true_particles.n_items == 0
    assert outputs.micrographs.n_items == 1


def test_empty_defocus_range_is_refused():
    with pytest.raises(ParamsError, match="defocus"):
        SimulateParams(defocus_min_angst=3e4)


def test_contamination_is_known_to_the_truth_only(project):
    params = SMALL.model_copy(update={"contamination": 3.0})
    outputs = run(LocalContext(project), params, Inputs())
    assert "contamination_path" not in outputs.micrographs.columns
    masks = [
        read_mrc(outputs.micrographs.path(path))[0][0]
        for path in outputs.true_micrographs.rows()["contamination_path"]
    ]
    assert all(mask.shape == (160, 200) and mask.max() <= 4 for mask in masks)
    assert any(mask.any() for mask in masks)
    for data, is_clean in ((outputs.true_particles, True), (outputs.contaminated_particles, False)):
        for micrograph, x, y in (
            data.rows().select("micrograph_id", "coord_x_angst", "coord_y_angst").iter_rows()
        ):
            label = masks[micrograph][round(y / 4.0), round(x / 4.0)]
            assert label == 0 if is_clean else 0 < label < 4


def test_clean_images_have_no_contaminated_particles(outputs):
    assert outputs.contaminated_particles is None
    assert "contamination_path" not in outputs.true_micrographs.columns
