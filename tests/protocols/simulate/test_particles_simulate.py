import numpy as np
import polars as pl
import pytest
from scipy.spatial import cKDTree

from tests.protocols.simulate.conftest import PDB
from verglas.core.errors import FormatError, ParamsError
from verglas.io.mrc import read_mrc
from verglas.protocols.simulate import particles_simulate
from verglas.protocols.simulate.particles_simulate import Inputs, SimulateParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume
from verglas.simulate.particles import simulate_particles

SMALL = SimulateParams(
    specimen="model.pdb", n_particles=7, box_px=48, pixel_size_angst=4.0, snr=0.2, seed=2
)


def image_of(outputs, index):
    row = outputs.particles.rows().row(index, named=True)
    stack, pixel = read_mrc(outputs.particles.path(row["image_path"]))
    assert pixel == pytest.approx(4.0)
    return stack[row["image_slice"]]


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "particles.simulate"


def test_images_and_truth_are_those_of_the_function(project, monkeypatch, shell):
    monkeypatch.setattr(particles_simulate, "_CHUNK", 3)
    params = SMALL.model_copy(update={"specimen": "apoferritin"})
    outputs = run(LocalContext(project), params, Inputs())
    expected = simulate_particles(shell, particles_simulate._config(params))
    assert outputs.volume.rows()["symmetry"].to_list() == ["O"]
    for index in (0, 4, 6):
        np.testing.assert_allclose(image_of(outputs, index), expected.images[index], atol=1e-5)
    truth = outputs.true_particles.rows()
    assert truth["item_id"].to_list() == list(range(7))
    for name in expected.table.columns:
        assert truth[name].equals(expected.table[name]), name
    assert truth["image_slice"].to_list() == [0, 1, 2, 0, 1, 2, 0]


def test_particles_come_with_ctf_and_without_poses(project):
    outputs = run(LocalContext(project), SMALL, Inputs())
    assert "ctf" in outputs.particles.traits
    assert "pose3d" not in outputs.particles.traits
    assert "pose3d" in outputs.true_particles.traits
    assert outputs.particles.optics["box_px"].to_list() == [48]


def test_resumed_run_equals_one_in_one_go(tmp_path, monkeypatch):
    monkeypatch.setattr(particles_simulate, "_CHUNK", 3)

    def make_inputs(root):
        (root / "model.pdb").write_text(PDB)
        return Inputs()

    check_resume(run, make_inputs, SMALL, tmp_path)


def test_a_model_from_a_file_is_centred(project):
    outputs = run(LocalContext(project), SMALL, Inputs())
    row = outputs.volume.rows().row(0, named=True)
    assert "symmetry" not in row
    volume, pixel = read_mrc(outputs.volume.path(row["image_path"]))
    assert volume.shape == (48, 48, 48)
    assert pixel == pytest.approx(4.0)
    places = np.argwhere(volume > 0.5 * volume.max())
    assert cKDTree(places).query([24, 24, 24])[0] < 2.5


def test_noise_only_set_has_images_of_variance_one(project):
    params = SMALL.model_copy(update={"snr": 0.0})
    outputs = run(LocalContext(project), params, Inputs())
    images = np.stack([image_of(outputs, i) for i in range(7)])
    assert images.var() == pytest.approx(1, abs=0.06)
    volume, _ = read_mrc(outputs.volume.path(outputs.volume.rows()["image_path"].item()))
    assert volume.max() > 0


def test_a_specimen_larger_than_the_box_is_a_warning(project):
    context = LocalContext(project)
    run(context, SMALL.model_copy(update={"box_px": 16, "pixel_size_angst": 1.0}), Inputs())
    assert any("larger than the box" in text for text in context.warnings)


def test_missing_model_is_named(project):
    params = SMALL.model_copy(update={"specimen": "nothing.cif"})
    with pytest.raises(FormatError, match=r"nothing\.cif"):
        run(LocalContext(project), params, Inputs())


def test_empty_defocus_range_is_refused():
    with pytest.raises(ParamsError, match="defocus"):
        SimulateParams(defocus_min_angst=3e4)


def test_true_shifts_have_the_asked_spread(project):
    params = SMALL.model_copy(update={"n_particles": 60, "shift_angst": 5.0, "box_px": 16})
    table = run(LocalContext(project), params, Inputs()).true_particles.rows()
    spread = table.select(pl.col("shift_x_angst", "shift_y_angst").std()).row(0)
    assert spread == pytest.approx((5.0, 5.0), rel=0.4)
