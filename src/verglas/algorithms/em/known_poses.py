"""Expectation over references at poses that are known: one score for each view and reference.

Classes of particles whose poses a refinement has found need no search: a view is compared
with every class at its own pose (RELION's classification without alignment; Scheres 2012).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import noise_window
from verglas.algorithms.em.references import Poses, References, slices_of
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.views import Views
from verglas.kernels.disc import HalfDisc
from verglas.kernels.pose_likelihood import insert_at_poses, pose_scores

__all__ = ["KnownViews", "expect_known", "insert_known", "score_known"]


@dataclass(frozen=True)
class KnownViews:
    """Views ready to be compared at one pose each.

    Attributes:
        signal, weight: `[b, k]`, `CTF X / sigma^2` at the centre, and `CTF^2 / sigma^2`.
        rotations_ref_to_img: `[b, 1, 3, 3]`.
        still: `[b, 1, 2]`, no shift.
        disc: the coefficients.
    """

    signal: Tensor
    weight: Tensor
    rotations_ref_to_img: Tensor
    still: Tensor
    disc: HalfDisc

    @staticmethod
    def make(views: Views, rotations_ref_to_img: Tensor) -> "KnownViews":
        """Prepare views that were moved to their shifts; rotations are `[b, 3, 3]`."""
        signal, weight = views.whitened()
        still = torch.zeros(len(views), 1, 2, dtype=torch.float64, device=views.device)
        return KnownViews(signal, weight, rotations_ref_to_img[:, None], still, views.disc)

    def __len__(self) -> int:
        return len(self.signal)


def score_known(views: KnownViews, references: References) -> Tensor:
    """Score views against every reference.

    Args:
        views: at their poses.
        references: the maps.

    Returns:
        `[b, c]`, log-likelihood with the prior of the references, float64.
    """
    scores = [
        pose_scores(
            half_volume,
            views.signal,
            views.weight,
            views.rotations_ref_to_img,
            views.still,
            views.disc.frequencies_px,
            box=views.disc.box,
            padding=references.padding,
        )
        for half_volume in references.half_volumes
    ]
    return torch.cat(scores, 1) + references.log_prior.double()


def insert_known(
    views: KnownViews, probability: Tensor, *, padding: int, into: tuple[Tensor, Tensor]
) -> None:
    """Add views to the half volumes of all references, by probability, in place.

    Args:
        views: at their poses.
        probability: `[b, c]`.
        padding: oversampling of the half volumes.
        into: numerators (complex64) and denominators, `[c, m, m, m // 2 + 1]`.
    """
    for c in range(probability.shape[1]):
        insert_at_poses(
            views.signal,
            views.weight,
            views.rotations_ref_to_img,
            views.still,
            probability[:, c, None],
            views.disc.frequencies_px,
            box=views.disc.box,
            radius=views.disc.radius,
            padding=padding,
            into=(into[0][c], into[1][c]),
        )


def expect_known(
    views: Views,
    references: References,
    *,
    n_groups: int,
    rotations_ref_to_img: Tensor,
    shifts_angst: Tensor,
    noise_radius_angst: float,
) -> tuple[Poses, Sums]:
    """Score all views against the references at their poses and add up the expectations.

    Args:
        views: up to the radius in use, not moved.
        references: the maps, in 3D.
        n_groups: number of noise groups in the whole data set.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        noise_radius_angst: radius of the disc in which the noise is measured.

    Returns:
        The poses as given, with the likeliest reference of each view, and the sums.
    """
    disc = views.disc
    sums = Sums.zeros(
        len(references.half_volumes),
        n_groups,
        disc.radius,
        padding=references.padding,
        planar=False,
        device=views.device,
    )
    here = views.shifted(shifts_angst)
    at_poses = KnownViews.make(here, rotations_ref_to_img)
    scores = score_known(at_poses, references)
    evidence, posterior = scores.logsumexp(1), scores.softmax(1)
    insert_known(
        at_poses,
        posterior.float(),
        padding=references.padding,
        into=(sums.numerator, sums.denominator),
    )
    drawn = (posterior.cumsum(1) <= lot(views)[:, None]).sum(1).clamp_max(posterior.shape[1] - 1)
    slices = slices_of(references, rotations_ref_to_img, drawn, disc)
    radius_px = min(noise_radius_angst / views.pixel_size_angst, 0.45 * disc.box)
    add_residuals(here, slices, sums, noise_window(disc, radius_px))
    sums.class_weight.add_(posterior.sum(0))
    sums.evidence_loglik.add_(evidence.sum())
    square = shifts_angst.double().square().sum() / 2
    sums.shift_square_angst2.add_(torch.stack([square, square.new_tensor(len(views))]))
    share, best = posterior.max(1)
    unknown = torch.full((len(views),), torch.nan, device=views.device)
    poses = Poses(
        rotation_ref_to_img=rotations_ref_to_img.double(),
        shift_angst=shifts_angst.double(),
        reference=best,
        reference_weight=share.float(),
        weight=share.float(),
        loglik=evidence,
        effective_cells=posterior.square().sum(1).reciprocal().float(),
        angle_sd_deg=unknown,
        shift_sd_angst=unknown,
    )
    return poses, sums
