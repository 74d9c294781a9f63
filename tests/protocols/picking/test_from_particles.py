"""Shifts of an alignment become positions in the micrograph with the right sign."""

import numpy as np
import polars as pl
import pytest
import torch

from verglas.core.errors import PortError
from verglas.io.mrc import write_mrc
from verglas.kernels.so3 import euler_to_matrix
from verglas.model import COORDINATES, MICROGRAPHS, make_dataset
from verglas.protocols.particles import extract
from verglas.protocols.picking.from_particles import FromParticlesParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

PIXEL = 2.0
TRUTH = np.array([[60.3, 70.8], [150.6, 90.4], [90.2, 180.7], [200.4, 200.1]])  # px
SIZE = 256

OPTICS = pl.DataFrame(
    {
        "optics_group": [1],
        "pixel_size_angst": [PIXEL],
        "voltage_kv": [300.0],
        "spherical_aberration_mm": [2.7],
        "amplitude_contrast": [0.07],
    }
)


def blobs(root):
    y, x = np.mgrid[:SIZE, :SIZE]
    image = -sum(np.exp(-((x - a) ** 2 + (y - b) ** 2) / 2 / 4.0**2) for a, b in TRUTH)
    image += 0.001 * np.random.default_rng(0).standard_normal(image.shape)
    (root / "data").mkdir()
    write_mrc(root / "data/a.mrc", image.astype(np.float32), PIXEL)
    rows = {"image_path": ["data/a.mrc"], "image_slice": [0], "optics_group": [1]}
    rows |= {"image_height_px": [SIZE], "image_width_px": [SIZE], "item_id": [7]}
    return make_dataset(MICROGRAPHS, pl.DataFrame(rows), root=root, optics=OPTICS)


def particles(root, *, output_px=None):
    """Cut boxes about picks that miss the blobs, and measure how far the blobs are off."""
    micrographs = blobs(root)
    picks = TRUTH + np.array([[2.3, -3.1], [-4.2, 1.4], [0.6, 0.0], [3.5, 3.5]])
    rows = pl.DataFrame(
        {
            "coord_x_angst": picks[:, 0] * PIXEL,
            "coord_y_angst": picks[:, 1] * PIXEL,
            "micrograph_id": [7] * 4,
            "micrograph_path": ["data/a.mrc"] * 4,
            "optics_group": [1] * 4,
            "score": [0.1, 0.2, 0.3, 0.4],
        }
    )
    coordinates = make_dataset(COORDINATES, rows, root=root, optics=OPTICS)
    params = extract.ExtractParams(
        box_px=64, diameter_angst=60.0, output_px=output_px, precision="float32", dust_sigma=0.0
    )
    inputs = extract.Inputs(coordinates=coordinates, micrographs=micrographs)
    made = extract.run(LocalContext(root), params, inputs).particles
    from verglas.io.mrc import read_mrc

    images = read_mrc(root / made.rows()["image_path"][0])[0]
    box, pixel = images.shape[-1], float(made.optics["pixel_size_angst"][0])
    weight = np.where(images > 0.08 * images.max(axis=(1, 2), keepdims=True), images, 0)
    axis = (np.arange(box) - box // 2) * pixel
    total = weight.sum(axis=(1, 2))
    x, y = (weight * axis).sum(axis=(1, 2)) / total, (weight * axis[:, None]).sum((1, 2)) / total
    frame = made.rows(["item_id"]).with_columns(
        shift_x_angst=pl.Series(-x), shift_y_angst=pl.Series(-y)
    )
    return made.with_columns(frame), micrographs


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "coordinates.from_particles"


@pytest.mark.parametrize("output_px", [None, 32])
def test_positions_are_those_of_the_particles(tmp_path, output_px):
    """Picks are off by up to 5 px; positions come back within 0.15 px, whatever the binning."""
    data, _ = particles(tmp_path, output_px=output_px)
    made = run(LocalContext(tmp_path), FromParticlesParams(), Inputs(particles=data)).coordinates
    found = made.rows(["coord_x_angst", "coord_y_angst"]).to_numpy() / PIXEL
    assert np.abs(found - TRUTH).max() < 0.15
    assert made.optics["pixel_size_angst"][0] == PIXEL
    assert not {"shift_x_angst", "image_path", "background_std"} & set(made.columns)
    assert made.rows()["score"].to_list() == [0.1, 0.2, 0.3, 0.4]


def test_particles_cut_out_again_are_centred(tmp_path):
    data, micrographs = particles(tmp_path)
    ctx = LocalContext(tmp_path, job="0002-again")
    made = run(ctx, FromParticlesParams(), Inputs(particles=data)).coordinates
    params = extract.ExtractParams(box_px=64, diameter_angst=60.0)
    again = extract.run(ctx, params, extract.Inputs(coordinates=made, micrographs=micrographs))
    shifts = again.particles.rows(["shift_x_angst", "shift_y_angst"]).to_numpy()
    assert np.abs(shifts).max() <= 0.5 * PIXEL + 1e-6
    assert ctx.metrics["median_move_angst"] > 3.0


def test_a_point_of_the_reference_moves_with_the_orientation(tmp_path):
    data, _ = particles(tmp_path)
    angles = np.array(
        [[10.0, 20.0, 30.0], [90.0, 90.0, 0.0], [0.0, 0.0, 45.0], [200.0, 130.0, 7.0]]
    )
    names = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
    frame = data.rows(["item_id"]).with_columns(
        **{name: pl.Series(angles[:, i]) for i, name in enumerate(names)}
    )
    params = FromParticlesParams(centre_x_angst=12.0, centre_y_angst=-5.0, centre_z_angst=20.0)
    inputs = Inputs(particles=data.with_columns(frame))
    found = run(LocalContext(tmp_path), params, inputs).coordinates
    point = torch.tensor([12.0, -5.0, 20.0], dtype=torch.float64)
    wanted = TRUTH * PIXEL + (euler_to_matrix(torch.from_numpy(angles)) @ point)[:, :2].numpy()
    assert np.abs(found.rows(["coord_x_angst", "coord_y_angst"]).to_numpy() - wanted).max() < 0.3
    assert "angle_rot_deg" in found.columns


def test_a_point_without_orientations_is_refused(tmp_path):
    data, _ = particles(tmp_path)
    with pytest.raises(PortError, match="lacks angle_rot_deg"):
        run(LocalContext(tmp_path), FromParticlesParams(centre_x_angst=1.0), Inputs(particles=data))


def test_doubles_and_strangers_go(tmp_path):
    """Two particles are moved onto one place and one out of the image."""
    data, micrographs = particles(tmp_path)
    rows = data.rows(["item_id", "coord_x_angst", "coord_y_angst"])
    rows = rows.with_columns(
        shift_x_angst=rows["coord_x_angst"] - pl.Series([100.0, 104.0, 300.0, 600.0]),
        shift_y_angst=rows["coord_y_angst"] - pl.Series([100.0, 100.0, 300.0, 100.0]),
    ).select("item_id", "shift_x_angst", "shift_y_angst")
    ctx = LocalContext(tmp_path)
    params = FromParticlesParams(min_distance_angst=30.0)
    inputs = Inputs(particles=data.with_columns(rows), micrographs=micrographs)
    made = run(ctx, params, inputs).coordinates.rows()
    assert made["score"].to_list() == [0.2, 0.3]
    assert "1 of 4 positions lie outside" in ctx.warnings[-1]
    assert ctx.metrics["n_duplicates"] == 1
