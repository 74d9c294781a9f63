"""What views are compared with, and the poses that are found."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.search import Posterior
from verglas.kernels.disc import HalfDisc
from verglas.kernels.slices import extract_slices

__all__ = ["Poses", "References", "slices_of"]


@dataclass(frozen=True)
class References:
    """Maps (or class averages) to compare with, ready for slicing.

    Attributes:
        half_volumes: `[c, ...]`, one per reference.
        log_prior: `[c]`, log of each reference's share of the views.
        padding: oversampling of the half volumes.
        planar: 2D references.
    """

    half_volumes: Tensor
    log_prior: Tensor
    padding: int
    planar: bool


@dataclass(frozen=True)
class Poses:
    """The most probable pose of each view.

    Attributes:
        rotation_ref_to_img: `[b, 3, 3]`, float64.
        shift_angst: `[b, 2]`.
        reference: `[b]`.
        reference_weight: `[b]`, posterior probability of that reference, all poses together.
        weight: `[b]`, posterior probability of that one grid point.
        loglik: `[b]`, evidence.
        effective_cells: `[b]`, number of orientations (on a grid) or peaks that share the
            posterior.
        angle_sd_deg, shift_sd_angst: `[b]`, standard deviations of the pose about its peak,
            all angles and both shifts together; NaN from a grid.
    """

    rotation_ref_to_img: Tensor
    shift_angst: Tensor
    reference: Tensor
    reference_weight: Tensor
    weight: Tensor
    loglik: Tensor
    effective_cells: Tensor
    angle_sd_deg: Tensor
    shift_sd_angst: Tensor

    @staticmethod
    def join(parts: list["Poses"]) -> "Poses":
        """Concatenate the poses of blocks."""
        return Poses(*[torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])])

    @staticmethod
    def on_grid(
        posterior: Posterior,
        *,
        rotation_ref_to_img: Tensor,
        shift_angst: Tensor,
        reference: Tensor,
        reference_weight: Tensor,
    ) -> "Poses":
        """Make them from a posterior on a grid, and what its best rows stand for."""
        unknown = torch.full_like(posterior.best_weight, torch.nan)
        return Poses(
            rotation_ref_to_img=rotation_ref_to_img,
            shift_angst=shift_angst,
            reference=reference,
            reference_weight=reference_weight,
            weight=posterior.best_weight,
            loglik=posterior.evidence_loglik,
            effective_cells=posterior.row_mass.square().sum(1).reciprocal(),
            angle_sd_deg=unknown,
            shift_sd_angst=unknown,
        )


def slices_of(
    references: References, rotations_ref_to_img: Tensor, reference: Tensor, disc: HalfDisc
) -> Tensor:
    """Slice, for each entry, its own reference.

    Args:
        references: the maps.
        rotations_ref_to_img: `[b, 3, 3]`.
        reference: `[b]`.
        disc: the coefficients.

    Returns:
        `[b, k]`, complex64.
    """
    out = references.half_volumes.new_zeros(len(reference), disc.n_coefficients)
    for c in torch.unique(reference).tolist():
        chosen = reference == c
        out[chosen] = extract_slices(
            references.half_volumes[c],
            rotations_ref_to_img[chosen],
            disc.frequencies_px,
            padding=references.padding,
        )
    return out
