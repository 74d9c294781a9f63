import numpy as np
import polars as pl
import pytest

from tests.protocols.simulated import BOX, OPTICS, particles_of, simulated, truth_of
from verglas.core.errors import ParamsError, PortError
from verglas.io.mrc import read_mrc
from verglas.model import PARTICLES, make_dataset
from verglas.protocols.refine3d.reconstruct import Inputs, ReconstructParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

PARAMS = ReconstructParams(symmetry="O")


def _inputs(root, made=None, **columns):
    root.mkdir(parents=True, exist_ok=True)
    data = particles_of(root, made or simulated("apoferritin", 120, 1.0), keep_poses=True)
    ids = data.rows(("item_id",))
    values = {"half_set": ids["item_id"] % 2 + 1} | columns
    return Inputs(particles=data.with_columns(ids.with_columns(**values)))


def test_reconstruct_keeps_the_contract():
    check_protocol(run)


def test_known_poses_give_the_map_and_half_maps(tmp_path):
    ctx = LocalContext(tmp_path)
    out = run(ctx, PARAMS, _inputs(tmp_path))
    row = out.volumes.rows(with_optics=True).row(0, named=True)
    full, pixel = read_mrc(tmp_path / row["image_path"])
    assert pixel == OPTICS.pixel_size_angst
    truth = np.asarray(truth_of("apoferritin", simulated("apoferritin", 120, 1.0)))
    # 120 images of 36 px at SNR 1, 24 operators
    assert np.corrcoef(full.ravel(), truth.ravel())[0, 1] > 0.9
    halves = [read_mrc(tmp_path / row[f"half_map_{h}_path"])[0] for h in (1, 2)]
    assert full.shape == halves[0].shape == (BOX,) * 3
    assert not np.array_equal(*halves)
    assert row["resolution_angst"] < 12
    assert row["symmetry"] == "O"
    curve = out.curves.rows().row(0, named=True)
    assert len(curve["y"]) == BOX // 2 + 1
    assert ctx.metrics["n_particles"] == 120
    assert ctx.warnings == []


def test_a_resumed_reconstruction_equals_one_in_one_go(tmp_path):
    check_resume(run, _inputs, PARAMS, tmp_path)


def test_particles_without_halves_are_dealt_out_with_a_warning(tmp_path):
    data = particles_of(tmp_path, simulated("apoferritin", 120, 1.0), keep_poses=True)
    ctx = LocalContext(tmp_path)
    out = run(ctx, PARAMS, Inputs(particles=data))
    assert any("half sets" in text for text in ctx.warnings)
    assert out.volumes.rows()["resolution_angst"][0] < 12


def test_one_half_set_gives_a_map_without_halves(tmp_path):
    ctx = LocalContext(tmp_path)
    out = run(ctx, PARAMS, _inputs(tmp_path, half_set=pl.lit(1)))
    assert "half_map_1_path" not in out.volumes.columns
    assert out.curves.n_items == 0
    assert any("one half set" in text for text in ctx.warnings)


def test_only_the_chosen_class_is_used(tmp_path):
    ids = pl.col("item_id")
    inputs = _inputs(tmp_path, class_index=(ids < 40).cast(pl.Int64))
    ctx = LocalContext(tmp_path)
    run(ctx, PARAMS.model_copy(update={"class_index": 1}), inputs)
    assert ctx.metrics["n_particles"] == 40
    with pytest.raises(PortError, match="class 7 has no particles"):
        run(ctx, PARAMS.model_copy(update={"class_index": 7}), inputs)


def test_images_that_are_not_finite_are_left_out_and_named(tmp_path):
    inputs = _inputs(tmp_path)
    with (tmp_path / "p.mrcs").open("r+b") as file:
        file.seek(1024 + 5 * BOX * BOX * 4)
        file.write(np.float32("nan").tobytes())
    ctx = LocalContext(tmp_path)
    out = run(ctx, PARAMS, inputs)
    assert ctx.metrics["n_particles"] == 119
    full, _ = read_mrc(tmp_path / out.volumes.rows()["image_path"][0])
    assert np.isfinite(full).all()


def test_particles_without_a_pose_are_refused(tmp_path):
    angle = pl.when(pl.col("item_id") == 3).then(None).otherwise(0.0)
    inputs = _inputs(tmp_path, angle_rot_deg=angle)
    with pytest.raises(PortError, match="1 particles have no pose, as item 3"):
        run(LocalContext(tmp_path), PARAMS, inputs)


def test_an_unknown_point_group_is_refused(tmp_path):
    with pytest.raises(ParamsError, match="point group"):
        run(LocalContext(tmp_path), ReconstructParams(symmetry="Q"), _inputs(tmp_path))


def test_aberrations_of_the_optics_table_are_taken_off(tmp_path):
    maps = []
    for tilt in (0.0, 40.0):
        root = tmp_path / f"tilt-{tilt:g}"
        data = _inputs(root).particles
        optics = data.optics.with_columns(
            beam_tilt_x_mrad=pl.lit(tilt), beam_tilt_y_mrad=pl.lit(0.0)
        )
        tilted = make_dataset(PARTICLES, data.rows(), root=root, optics=optics)
        out = run(LocalContext(root), PARAMS, Inputs(particles=tilted)).volumes
        maps.append(read_mrc(root / out.rows()["image_path"][0])[0])
    # 40 mrad turn the phase by a radian at 12 A; these images have no tilt
    assert 0.2 < np.corrcoef(*(volume.ravel() for volume in maps))[0, 1] < 0.98
