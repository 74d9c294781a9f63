"""Rigid alignment of maps."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map, octahedral_shell, with_noise
from verglas.algorithms.map_align import AlignConfig, align_maps, refine_alignment
from verglas.algorithms.resample import MapPose, resample_volume
from verglas.kernels.so3 import pose_distance_deg, random_rotations, rotation_from_vector
from verglas.kernels.symmetry import symmetry_operators

PIXEL = 2.5
# The coarse grid of a full run has 7.5 degree steps; 15 degrees keep these tests quick.
QUICK = AlignConfig(order=2, diameter_angst=70.0, candidates=4)


def pose_of(seed, *, mirrored=False, factor=1.0):
    generator = torch.Generator().manual_seed(seed)
    shift = torch.randn(3, generator=generator, dtype=torch.float64) * 3
    return MapPose(random_rotations(1, generator=generator)[0], shift, mirrored, factor)


def map_points(points, pose):
    """Where points of the reference lie in the moving map."""
    return pose.to_map(torch.from_numpy(points)).numpy()


def errors(pose, truth, symmetry="C1"):
    angle = pose_distance_deg(
        pose.rotation_map_to_ref[None],
        truth.rotation_map_to_ref[None],
        symmetry_operators(symmetry),
    )
    return float(angle[0]), float((pose.shift_angst - truth.shift_angst).norm())


@pytest.mark.parametrize("mirrored", [False, True])
def test_asymmetric_map_is_found_in_its_hand(mirrored):
    # noise 0.5 x the map's standard deviation in every voxel, other box and pixel size
    truth, points = pose_of(1, mirrored=mirrored), asymmetric_points()
    reference = blob_map(points, box=40, pixel_size_angst=PIXEL, sigma_angst=3.5)
    moving = blob_map(map_points(points, truth), box=48, pixel_size_angst=2.2, sigma_angst=3.5)
    found = align_maps(
        reference,
        with_noise(moving, ratio=0.5),
        reference_pixel_size_angst=PIXEL,
        moving_pixel_size_angst=2.2,
        config=QUICK,
    )
    angle, shift = errors(found.best.pose, truth)
    assert found.best.pose.mirrored == mirrored
    assert found.hand_difference > 0.2
    assert angle < 0.2
    assert shift < 0.1 * PIXEL


def test_octahedral_map_is_found_in_one_asymmetric_unit():
    # noise 2 x the map's; the reference is in a general orientation, as a model may be
    truth, points = pose_of(2), octahedral_shell()
    placed = points @ truth.rotation_map_to_ref.numpy().T + truth.shift_angst.numpy()
    reference = blob_map(placed, box=40, pixel_size_angst=PIXEL, sigma_angst=3.5)
    moving = blob_map(points, box=40, pixel_size_angst=PIXEL, sigma_angst=3.5)
    config = dataclasses.replace(QUICK, symmetry="O", order=3)
    found = align_maps(
        reference,
        with_noise(moving, ratio=2.0),
        reference_pixel_size_angst=PIXEL,
        moving_pixel_size_angst=PIXEL,
        config=config,
    )
    angle, shift = errors(found.best.pose, truth, "O")
    assert not found.best.pose.mirrored
    assert found.hand_difference > 0.2
    assert angle < 0.2
    assert shift < 0.1 * PIXEL


def test_found_pose_resamples_the_map_onto_the_reference():
    truth, points = pose_of(3, mirrored=True), asymmetric_points(seed=3)
    reference = blob_map(points, box=36, pixel_size_angst=PIXEL, sigma_angst=4.0)
    moving = blob_map(map_points(points, truth), box=36, pixel_size_angst=PIXEL, sigma_angst=4.0)
    fit = refine_alignment(
        reference,
        moving,
        dataclasses.replace(truth, shift_angst=truth.shift_angst + 1.0),
        reference_pixel_size_angst=PIXEL,
        moving_pixel_size_angst=PIXEL,
        config=QUICK,
    )
    aligned = resample_volume(moving, fit.pose, pixel_size_angst=PIXEL)
    both = torch.stack([aligned.flatten(), reference.flatten()])
    assert torch.corrcoef(both)[0, 1] > 0.999


def test_wrong_pixel_size_is_found():
    # the clean map's pixel is stated 3 % too small; start 4 degrees off; noise 0.5 x
    truth, points = pose_of(4, factor=1.03), asymmetric_points(seed=4)
    reference = blob_map(points, box=40, pixel_size_angst=PIXEL, sigma_angst=3.5)
    moving = blob_map(
        map_points(points, truth), box=40, pixel_size_angst=PIXEL, sigma_angst=3.5 / 1.03
    )
    turn = rotation_from_vector(torch.tensor([[0.0, 0.07, 0.0]], dtype=torch.float64))[0]
    start = MapPose(turn @ truth.rotation_map_to_ref, truth.shift_angst + 1.0)
    fit = refine_alignment(
        with_noise(reference, ratio=0.5),
        moving,
        start,
        reference_pixel_size_angst=PIXEL,
        moving_pixel_size_angst=PIXEL,
        config=dataclasses.replace(QUICK, fit_pixel_size=True),
    )
    angle, shift = errors(fit.pose, truth)
    assert fit.pose.pixel_size_factor == pytest.approx(1.03, abs=0.003)
    assert angle < 0.2
    assert shift < 0.1 * PIXEL


def test_mask_keeps_what_lies_beside_the_object_out():
    truth, points = pose_of(5), asymmetric_points(radius_angst=18.0, seed=5)
    reference = blob_map(points, box=40, pixel_size_angst=PIXEL, sigma_angst=3.5)
    moving = blob_map(map_points(points, truth), box=40, pixel_size_angst=PIXEL, sigma_angst=3.5)
    stray = blob_map(np.array([[32.0, 20, 0]]), box=40, pixel_size_angst=PIXEL, sigma_angst=6.0)
    mask = (reference > 0.05 * reference.max()).float()
    mask = torch.nn.functional.avg_pool3d(
        torch.nn.functional.max_pool3d(mask[None], 5, 1, 2), 5, 1, 2
    )[0]
    fit = refine_alignment(
        reference,
        moving + 3 * stray,
        dataclasses.replace(truth, shift_angst=truth.shift_angst + 2.0),
        reference_pixel_size_angst=PIXEL,
        moving_pixel_size_angst=PIXEL,
        config=QUICK,
        mask=mask,
    )
    angle, shift = errors(fit.pose, truth)
    assert angle < 0.2
    assert shift < 0.1 * PIXEL


def test_equal_calls_give_equal_results():
    reference = blob_map(asymmetric_points(), box=32, pixel_size_angst=3.0, sigma_angst=4.0)
    moving = with_noise(reference, ratio=1.0)
    config = dataclasses.replace(QUICK, order=1, both_hands=False)
    sizes = {"reference_pixel_size_angst": 3.0, "moving_pixel_size_angst": 3.0}
    first, second = (align_maps(reference, moving, config=config, **sizes) for _ in range(2))
    assert torch.equal(first.best.pose.rotation_map_to_ref, second.best.pose.rotation_map_to_ref)
    assert first.other is None
    assert first.hand_difference == 0


def test_volumes_that_do_not_fit_raise():
    cube, slab = torch.zeros(8, 8, 8), torch.zeros(8, 8, 6)
    sizes = {"reference_pixel_size_angst": 1.0, "moving_pixel_size_angst": 1.0}
    with pytest.raises(ValueError, match="moving map must be cubic"):
        align_maps(cube, slab, **sizes)
    with pytest.raises(ValueError, match="mask must have"):
        align_maps(cube, cube, mask=torch.zeros(4, 4, 4), **sizes)
