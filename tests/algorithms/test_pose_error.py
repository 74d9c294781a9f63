"""Poses compared after alignment of the references."""

import numpy as np
import pytest
import torch

from verglas.algorithms.pose_error import compare_poses
from verglas.kernels.so3 import (
    matrix_to_euler,
    random_rotations,
    rotation_angle_deg,
    rotation_from_vector,
)
from verglas.kernels.symmetry import symmetry_operators

MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


def disturbed(symmetry, *, n, noise_deg, is_mirrored, turned, seed=0):
    """True poses, and equivalent ones in a turned reference with some noise."""
    generator = torch.Generator().manual_seed(seed)
    true = random_rotations(n, generator=generator)
    operators = symmetry_operators(symmetry)
    chosen = operators[torch.randint(len(operators), (n,), generator=generator)]
    vectors = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    noise = rotation_from_vector(torch.deg2rad(torch.tensor(noise_deg)) * vectors)
    base = MIRROR @ true @ MIRROR if is_mirrored else true
    found = noise @ base @ turned @ chosen
    return matrix_to_euler(found).numpy(), matrix_to_euler(true).numpy(), rotation_angle_deg(noise)


@pytest.mark.parametrize("is_mirrored", [False, True])
@pytest.mark.parametrize("symmetry", ["C1", "D3", "O"])
def test_remaining_errors_are_those_that_were_put_in(symmetry, is_mirrored):
    # a turn that maps the group onto itself: about z by 45 degrees for O, any for C1
    angle = np.deg2rad({"C1": 70.0, "D3": 60.0, "O": 90.0}[symmetry])
    turned = rotation_from_vector(torch.tensor([[0.0, 0.0, angle]], dtype=torch.float64))[0]
    found, true, put_in = disturbed(
        symmetry, n=400, noise_deg=1.0, is_mirrored=is_mirrored, turned=turned
    )
    agreement = compare_poses(found, true, symmetry=symmetry)
    got, wanted = np.median(agreement.errors_deg), float(put_in.median())
    # 400 particles place the reference to noise / sqrt(400) = 0.05 degrees about each axis
    assert abs(got - wanted) < 0.1
    if symmetry == "C1":
        assert agreement.is_mirrored is is_mirrored


def test_wrong_poses_do_not_spoil_the_alignment():
    turned = rotation_from_vector(torch.tensor([[0.3, 0.1, 1.0]], dtype=torch.float64))[0]
    found, true, _ = disturbed("C1", n=200, noise_deg=0.5, is_mirrored=False, turned=turned)
    found[:60] = matrix_to_euler(
        random_rotations(60, generator=torch.Generator().manual_seed(9))
    ).numpy()
    errors = compare_poses(found, true).errors_deg
    assert np.median(errors[60:]) < 1.2
    assert np.median(errors[:60]) > 30


def test_unequal_numbers_of_poses_are_refused():
    with pytest.raises(ValueError, match="two"):
        compare_poses(np.zeros((3, 3)), np.zeros((2, 3)))
