import math

import numpy as np
import polars as pl
import pytest
import torch

from tests.protocols.simulated import BOX, OPTICS, particles_of, simulated, truth_of, volumes_of
from verglas.algorithms.pose_error import compare_poses
from verglas.core.errors import PortError
from verglas.io.mrc import write_mrc
from verglas.kernels.so3 import euler_to_matrix, matrix_to_euler, rotation_from_vector
from verglas.model import MASKS, PARTICLES, make_dataset
from verglas.protocols.refine3d.refine_local import Inputs, RefineLocalParams, run
from verglas.sdk.testing import LocalContext, check_protocol
from verglas.simulate.particles import optics_table

ANGLES = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
SHIFTS = ("shift_x_angst", "shift_y_angst")
PARAMS = RefineLocalParams(diameter_angst=130, symmetry="O")


def _disturbed(particles, made, turn_deg, move_angst):
    """Turn every pose about a random axis and move it along a random direction."""
    generator = torch.Generator().manual_seed(0)
    table = made.table.sort("item_id")
    n = table.height
    axis = torch.nn.functional.normalize(torch.randn(n, 3, generator=generator).double(), dim=1)
    turned = rotation_from_vector(axis * math.radians(turn_deg)) @ euler_to_matrix(
        torch.tensor(table.select(ANGLES).to_numpy())
    )
    angles = matrix_to_euler(turned).numpy()
    along = torch.nn.functional.normalize(torch.randn(n, 2, generator=generator).double(), dim=1)
    shifts = table.select(SHIFTS).to_numpy() + move_angst * along.numpy()
    columns = dict(zip(ANGLES, angles.T, strict=True)) | dict(zip(SHIFTS, shifts.T, strict=True))
    rows = table.select("item_id").with_columns(
        **{name: pl.Series(values.copy()) for name, values in columns.items()}
    )
    return particles.with_columns(rows)


def _inputs(root, made, *, turn_deg=6.0, factor=37.0, **more):
    particles = _disturbed(particles_of(root, made, keep_poses=True), made, turn_deg, 2.0)
    volume = truth_of("apoferritin", made) * factor
    return Inputs(particles=particles, reference=volumes_of(root, volume), **more)


def _errors(found, made):
    pair = (rows.sort("item_id").select(ANGLES).to_numpy() for rows in (found, made.table))
    return compare_poses(*pair, symmetry="O").errors_deg


def test_refine_local_keeps_the_contract():
    check_protocol(run)


def test_poses_climb_to_the_limit_that_their_deviations_state(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    ctx = LocalContext(tmp_path)
    out = run(ctx, PARAMS, _inputs(tmp_path, made))
    found = out.particles.rows()
    errors = _errors(found, made)
    # 120 images of 36 px of 5 A at SNR 1, from 6 deg and 2 A off, map 37 times too strong
    assert np.median(errors) < 2.5
    # median of the length of three equal Gaussians over the root of their summed variances
    expected = 0.888 * found["angle_sd_deg"].median()
    assert 0.6 < np.median(errors) / expected < 1.6
    assert out.volumes is None
    assert "class_index" not in out.particles.columns


def test_iterations_give_half_maps_and_keep_the_halves(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    inputs = _inputs(tmp_path, made)
    given = inputs.particles.rows(("item_id",)).with_columns(
        half_set=(pl.col("item_id") < 50).cast(pl.Int8) + 1
    )
    inputs = Inputs(particles=inputs.particles.with_columns(given), reference=inputs.reference)
    params = PARAMS.model_copy(update={"n_iterations": 2, "initial_low_pass_angst": 25.0})
    out = run(LocalContext(tmp_path), params, inputs)
    found = out.particles.rows().sort("item_id")
    assert found["half_set"].to_list() == given.sort("item_id")["half_set"].to_list()
    assert np.median(_errors(found, made)) < 2.5
    # Nyquist is at 10 A
    assert out.volumes.rows()["resolution_angst"][0] <= 14
    assert out.curves.n_items == 1


def test_particles_without_poses_are_refused(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    reference = volumes_of(tmp_path, truth_of("apoferritin", made))
    with pytest.raises(PortError, match="angle_rot_deg"):
        Inputs(particles=particles_of(tmp_path, made), reference=reference)


def test_a_pose_that_is_missing_is_named(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    inputs = _inputs(tmp_path, made)
    holes = inputs.particles.rows(("item_id", "angle_psi_deg")).with_columns(
        angle_psi_deg=pl.when(pl.col("item_id") == 5).then(None).otherwise("angle_psi_deg")
    )
    inputs = Inputs(particles=inputs.particles.with_columns(holes), reference=inputs.reference)
    with pytest.raises(PortError, match="1 particles have no pose, as item 5"):
        run(LocalContext(tmp_path), PARAMS, inputs)


def test_a_mask_that_goes_beyond_one_is_refused(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    write_mrc(
        tmp_path / "m.mrc",
        np.full((BOX,) * 3, 7.0, np.float32),
        OPTICS.pixel_size_angst,
        is_stack=False,
    )
    rows = pl.DataFrame({"image_path": ["m.mrc"], "image_slice": [0], "optics_group": [1]})
    mask = make_dataset(MASKS, rows, root=tmp_path, optics=optics_table(OPTICS, BOX))
    with pytest.raises(PortError, match="must go from 0 to 1: got 7 to 7"):
        run(LocalContext(tmp_path), PARAMS, _inputs(tmp_path, made, mask=mask))


def test_two_pixel_sizes_are_refused_with_both(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    inputs = _inputs(tmp_path, made)
    data = inputs.particles
    second = data.optics.with_columns(
        optics_group=pl.lit(2, data.optics["optics_group"].dtype), pixel_size_angst=6.0
    )
    rows = data.rows().with_columns(
        optics_group=pl.when(pl.col("item_id") < 9).then(2).otherwise("optics_group")
    )
    mixed = make_dataset(PARTICLES, rows, root=tmp_path, optics=pl.concat([data.optics, second]))
    with pytest.raises(PortError, match="2 pixel sizes, 5 to 6 Å"):
        run(LocalContext(tmp_path), PARAMS, Inputs(particles=mixed, reference=inputs.reference))


def test_images_of_another_box_are_refused_with_their_file(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    inputs = _inputs(tmp_path, made)
    write_mrc(
        tmp_path / "small.mrcs",
        np.zeros((1, 20, 20), np.float32),
        OPTICS.pixel_size_angst,
        is_stack=True,
    )
    rows = inputs.particles.rows(("item_id", "image_path", "image_slice"))
    one = pl.col("item_id") == 5
    rows = rows.with_columns(
        image_path=pl.when(one).then(pl.lit("small.mrcs")).otherwise("image_path"),
        image_slice=pl.when(one).then(0).otherwise("image_slice"),
    )
    particles = inputs.particles.with_columns(rows)
    expected = r"2 box sizes, 20 to \d+ px: in the files of image_path: 1 particles of 20 px"
    with pytest.raises(PortError, match=expected):
        run(
            LocalContext(tmp_path),
            PARAMS,
            Inputs(particles=particles, reference=inputs.reference),
        )


def test_a_map_of_something_else_gives_a_warning(tmp_path):
    made = simulated("apoferritin", 120, 1.0)
    noise = np.random.default_rng(0).normal(size=(BOX,) * 3).astype(np.float32)
    inputs = _inputs(tmp_path, made, turn_deg=0.0)
    ctx = LocalContext(tmp_path)
    params = PARAMS.model_copy(update={"symmetry": "C1"})
    run(ctx, params, Inputs(particles=inputs.particles, reference=volumes_of(tmp_path, noise)))
    assert any("is it the map that they belong to" in text for text in ctx.warnings)
