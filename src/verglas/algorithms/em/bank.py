"""Slices of every reference at every rotation of a grid, compared with all views alike."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.references import References
from verglas.kernels.disc import HalfDisc
from verglas.kernels.slices import extract_slices, insert_slices

__all__ = ["Bank"]


@dataclass(frozen=True)
class Bank:
    """The rows of the dense level.

    Attributes:
        slices: `[r, k]`, complex.
        rotations_ref_to_img: `[n, 3, 3]`, float64.
        row_rotation, row_reference: `[r]`, what each row is.
        log_prior: `[r]`.
    """

    slices: Tensor
    rotations_ref_to_img: Tensor
    row_rotation: Tensor
    row_reference: Tensor
    log_prior: Tensor

    def __len__(self) -> int:
        return len(self.slices)

    @staticmethod
    def make(disc: HalfDisc, references: References, rotations_ref_to_img: Tensor) -> "Bank":
        """Slice all references, one after another.

        Args:
            disc: the coefficients.
            references: the maps.
            rotations_ref_to_img: `[n, 3, 3]`.
        """
        n, c = len(rotations_ref_to_img), len(references.half_volumes)
        slices = torch.cat(
            [
                extract_slices(
                    v, rotations_ref_to_img, disc.frequencies_px, padding=references.padding
                )
                for v in references.half_volumes
            ]
        )
        device = slices.device
        row_reference = torch.arange(c, device=device).repeat_interleave(n)
        return Bank(
            slices=slices,
            rotations_ref_to_img=rotations_ref_to_img.double(),
            row_rotation=torch.arange(n, device=device).repeat(c),
            row_reference=row_reference,
            log_prior=references.log_prior.float()[row_reference],
        )

    def row_sums(self) -> tuple[Tensor, Tensor]:
        """Return empty sums over views, by row: signal `[r, 2 k]` and weight `[r, k]`."""
        r, k = self.slices.shape
        parts = torch.view_as_real(self.slices)
        return parts.new_zeros(r, 2 * k), parts.new_zeros(r, k)

    def insert(
        self,
        row_sums: tuple[Tensor, Tensor],
        disc: HalfDisc,
        references: References,
        sums: Sums,
    ) -> None:
        """Insert what was added up by row, in place.

        Args:
            row_sums: as `row_sums` made them.
            disc: the coefficients.
            references: of the bank.
            sums: added to.
        """
        row_signal, row_weight = row_sums
        signal = torch.view_as_complex(row_signal.view(len(row_signal), -1, 2))
        used = row_weight.amax(1) > 0
        for c in range(len(references.half_volumes)):
            rows = (used & (self.row_reference == c)).nonzero().squeeze(1)
            if len(rows) == 0:
                continue
            insert_slices(
                signal[rows],
                row_weight[rows],
                self.rotations_ref_to_img[self.row_rotation[rows]],
                disc.frequencies_px,
                radius=disc.radius,
                padding=references.padding,
                planar=references.planar,
                into=(sums.numerator[c], sums.denominator[c]),
            )
