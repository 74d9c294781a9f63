"""How far the poses of a refinement are from known ones.

A map may lie turned against the truth, and be its mirror image, without its projections
telling; so one rotation and one hand for all particles are found before poses are compared.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from verglas.kernels.so3 import euler_to_matrix, mean_rotation, rotation_angle_deg
from verglas.kernels.symmetry import symmetry_operators

__all__ = ["PoseAgreement", "compare_poses"]

_SEEDS = 60
_SCORED = 300
_ROUNDS = 8
_MIRROR = torch.diag(torch.tensor([1.0, 1.0, -1.0], dtype=torch.float64))


@dataclass(frozen=True)
class PoseAgreement:
    """Two sets of poses of the same particles, brought together as well as possible.

    Attributes:
        errors_deg: `[n]`, angle between the poses that remains.
        rotation_ref_to_true: `[3, 3]`, turns the reference of the found poses into the true
            one; up to an operator of the group.
        is_mirrored: the found map is the mirror image.
    """

    errors_deg: npt.NDArray[np.float64]
    rotation_ref_to_true: npt.NDArray[np.float64]
    is_mirrored: bool


def compare_poses(
    found_deg: npt.NDArray[np.float64],
    true_deg: npt.NDArray[np.float64],
    *,
    symmetry: str = "C1",
) -> PoseAgreement:
    """Compare poses after aligning the two references in rotation and hand.

    Convention: with a mirror M through z = 0 a map V(M r) has at the pose M R M the projection
    that V has at R, so mirrored poses are compared as M R M.

    Args:
        found_deg: `[n, 3]` rot, tilt, psi.
        true_deg: `[n, 3]` of the same particles.
        symmetry: point group of the specimen.
    """
    if found_deg.shape != true_deg.shape or found_deg.ndim != 2 or not len(found_deg):
        raise ValueError(
            f"poses must be two [n, 3] arrays with n > 0: got {found_deg.shape}, {true_deg.shape}"
        )
    operators = symmetry_operators(symmetry)
    found = euler_to_matrix(torch.as_tensor(np.ascontiguousarray(found_deg, dtype=np.float64)))
    true = euler_to_matrix(torch.as_tensor(np.ascontiguousarray(true_deg, dtype=np.float64)))
    attempts = []
    for is_mirrored in (False, True):
        target = _MIRROR @ true @ _MIRROR if is_mirrored else true
        turned, errors = _align(found, target, operators)
        attempts.append((float(errors.median()), is_mirrored, turned, errors))
    _, is_mirrored, turned, errors = min(attempts, key=lambda attempt: attempt[0])
    return PoseAgreement(errors.numpy(), turned.numpy(), is_mirrored)


def _align(found: Tensor, true: Tensor, operators: Tensor) -> tuple[Tensor, Tensor]:
    """Find the rotation between the references: trial by single particles, then averages."""
    relative = true.transpose(1, 2) @ found  # true.T found = turned @ operator, but for errors
    picks = torch.linspace(0, len(relative) - 1, min(_SCORED, len(relative))).long()
    seeds = relative[picks[torch.linspace(0, len(picks) - 1, min(_SEEDS, len(picks))).long()]]
    medians = [_errors(relative[picks], seed, operators)[0].median() for seed in seeds]
    turned = seeds[int(torch.stack(medians).argmin())]
    for _ in range(_ROUNDS):
        errors, nearest = _errors(relative, turned, operators)
        is_close = errors <= 2 * errors.median() + 1e-9
        chosen = relative @ operators[nearest]
        turned = mean_rotation(chosen[is_close][None])[0]
    return turned, _errors(relative, turned, operators)[0]


def _errors(relative: Tensor, turned: Tensor, operators: Tensor) -> tuple[Tensor, Tensor]:
    """Angles to the nearest equivalent pose, and which operator gives it."""
    left = turned.T @ relative
    angles = torch.stack([rotation_angle_deg(left @ operator) for operator in operators])
    smallest = angles.min(dim=0)
    return smallest.values, smallest.indices
