"""Placing volumes in other frames."""

import numpy as np
import pytest
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map
from tests.tolerance import F64, INTERP, assert_close_to_peak
from verglas.algorithms.resample import MapPose, fourier_sampler, resample_volume
from verglas.kernels.fourier import rfft3, rfft_grid
from verglas.kernels.so3 import random_rotations

POINTS = asymmetric_points()


def random_pose(seed=0, *, mirrored=False, factor=1.0):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(3, generator=generator, dtype=torch.float64) * 3
    return MapPose(random_rotations(1, generator=generator)[0], shift, mirrored, factor)


def moved_points(pose):
    turned = POINTS @ (pose.rotation_map_to_ref @ pose.mirror()).numpy().T
    return pose.pixel_size_factor * turned + pose.shift_angst.numpy()


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("box", [40, 41])
def test_resampled_map_equals_the_map_of_the_moved_points(box, mirrored):
    pose = random_pose(mirrored=mirrored)
    # sigma of 2 pixels: 0.7 % of the amplitude is left at half of Nyquist
    volume = blob_map(POINTS, box=box, pixel_size_angst=2.5, sigma_angst=4.0)
    expected = blob_map(moved_points(pose), box=box, pixel_size_angst=2.5, sigma_angst=4.0)
    got = resample_volume(volume, pose, pixel_size_angst=2.5)
    assert_close_to_peak(got, expected, INTERP / 10)


def test_box_pixel_size_and_stretch_may_change():
    pose = random_pose(2, factor=1.04)
    volume = blob_map(POINTS, box=44, pixel_size_angst=2.2, sigma_angst=4.0)
    expected = blob_map(moved_points(pose), box=36, pixel_size_angst=2.8, sigma_angst=4.0 * 1.04)
    got = resample_volume(volume, pose, pixel_size_angst=2.2, box=36, output_pixel_size_angst=2.8)
    assert_close_to_peak(got, expected, INTERP / 10)


def test_inverse_pose_brings_points_back():
    pose = random_pose(3, mirrored=True, factor=0.97)
    points = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    there = pose.to_map(points)
    np.testing.assert_allclose(pose.inverse().to_map(there), points, **F64)


def test_white_noise_keeps_its_spectrum_up_to_nyquist():
    # interpolation that blurred would lose the fine shells; the corners have no mates
    volume = torch.randn(32, 32, 32, generator=torch.Generator().manual_seed(1))
    turned = resample_volume(volume, random_pose(4), pixel_size_angst=1.0)
    inner = (slice(10, 22),) * 3
    assert 0.85 < float(turned[inner].var() / volume[inner].var()) < 1.15
    back = resample_volume(turned, random_pose(4).inverse(), pixel_size_angst=1.0)
    kept = torch.corrcoef(torch.stack([back[inner].flatten(), volume[inner].flatten()]))[0, 1]
    # components in the corners of the transform (47 % of all) cannot turn with the rest
    assert kept > 0.7


def test_sampler_reads_the_transform_of_the_turned_map():
    pose = random_pose(5)
    volume = blob_map(POINTS, box=40, pixel_size_angst=2.5, sigma_angst=4.0)
    turned = blob_map(
        POINTS @ pose.rotation_map_to_ref.numpy().T, box=40, pixel_size_angst=2.5, sigma_angst=4.0
    )
    expected = rfft3(turned[None])[0]
    sampler = fourier_sampler(volume, pixel_size_angst=2.5, resolution_angst=5.0)
    grid = rfft_grid((40,) * 3, 2.5, dtype=torch.float64)
    inside = grid.norm(dim=-1) < 0.15
    values = sampler.read(grid[inside] @ pose.rotation_map_to_ref)
    assert_close_to_peak(values, expected[inside], 1e-3)


def test_volume_that_is_not_cubic_raises():
    with pytest.raises(ValueError, match="cubic"):
        resample_volume(torch.zeros(4, 4, 5), MapPose.identity(), pixel_size_angst=1.0)
