"""Cells of a grid of orientations, view by view: which are likely, and their children.

With a few hundred views hardly two look into the same cell, and the grouped products of
`ladder.py` would be of single rows (0.065 against 0.01 CPU s a view). So each view is scored
against its own cells; slices are made once for all views of a lot.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.dense import Bank, DenseViews, likelihoods
from verglas.algorithms.em.search import as_real, child_rotations
from verglas.kernels.slices import extract_slices

__all__ = ["Cells", "Children", "children_in_lots", "likeliest_rows", "likely_children"]

_KEPT_MASS = 0.999
_BANK_BYTES = 32_000_000


@dataclass(frozen=True)
class Cells:
    """Orientations and the cubes about them.

    Attributes:
        rotations_ref_to_img: `[n, 3, 3]`.
        reference: `[n]`.
        log_prior: `[n]`.
        step_deg: side of the cubes.
    """

    rotations_ref_to_img: Tensor
    reference: Tensor
    log_prior: Tensor
    step_deg: float

    @staticmethod
    def of_bank(bank: Bank, step_deg: float) -> "Cells":
        """Take the rows of a bank for cells."""
        return Cells(bank.rotations_ref_to_img, bank.reference, bank.log_prior, step_deg)

    def children_of(self, index: Tensor) -> "Cells":
        """Cut some of the cells in eight: child c of cell i becomes row 8 i + c."""
        rotations = child_rotations(self.rotations_ref_to_img[index], self.step_deg)
        return Cells(
            rotations.reshape(-1, 3, 3),
            self.reference[index].repeat_interleave(8),
            self.log_prior[index].repeat_interleave(8) - math.log(8),
            self.step_deg / 2,
        )


@dataclass(frozen=True)
class Children:
    """Children of the cells that a lot of views kept, ready to be scored.

    Attributes:
        parents: `[n]`, rising.
        cells: `[8 n]`.
        slices: `[8 n, 2 k]`, real and imaginary parts in turn.
        offset: `[b, 8 n]`, the part of the views' scores that does not depend on their data.
        lot: which views.
    """

    parents: Tensor
    cells: Cells
    slices: Tensor
    offset: Tensor
    lot: slice

    def rows_of(self, parents: Tensor) -> Tensor:
        """Return the rows of the children of some parents, eight for each."""
        return _eightfold(torch.searchsorted(self.parents, parents))

    def scores(
        self, dense: DenseViews, view: int, rows: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Score one view of the lot.

        Args:
            dense: all views.
            view: its place among all.
            rows: `[r]`.
            temperature: of the scores.

        Returns:
            Scores `[t, r]`, the shifted view `[t, 2 k]` and the slices `[r, 2 k]`.
        """
        slices = self.slices[rows]
        shifted = as_real(dense.signal[view] * dense.phases)
        scores = torch.addmm(dense.log_prior_shift[:, None], shifted, slices.T)
        scores.add_(self.offset[view - self.lot.start, rows]).div_(temperature)
        return scores, shifted, slices


def children_in_lots(
    dense: DenseViews, half_volumes: Tensor, cells: Cells, kept: Sequence[Tensor]
) -> Iterator[Children]:
    """Yield the children of what the views kept, for so many views as fit into memory.

    Args:
        dense: the views.
        half_volumes: `[c, m, m, m // 2 + 1]`.
        cells: the parents.
        kept: rows of the cells for each view.
    """
    frequencies = dense.views.disc.frequencies_px
    for lot in _lots(kept, len(cells.reference), len(frequencies)):
        parents = torch.unique(torch.cat(list(kept[lot])))
        children = cells.children_of(parents)
        slices = half_volumes.new_empty(len(children.reference), len(frequencies))
        for c in range(len(half_volumes)):
            chosen = (children.reference == c).nonzero().squeeze(1)
            if len(chosen):
                rotations = children.rotations_ref_to_img[chosen]
                slices[chosen] = extract_slices(half_volumes[c], rotations, frequencies)
        values = as_real(slices)
        power = values.square().view(len(values), -1, 2).sum(2)
        offset = torch.addmm(children.log_prior, dense.weight[lot], power.T, alpha=-0.5)
        yield Children(parents, children, values, offset, lot)


def _lots(kept: Sequence[Tensor], n_rows: int, k: int) -> Iterator[slice]:
    """Cut the views so that the children of their cells fit into memory."""
    fit = max(1, _BANK_BYTES // (64 * k))
    start = count = 0
    for view, cells in enumerate(kept):
        if view > start and min(count + len(cells), n_rows) > fit:
            yield slice(start, view)
            start, count = view, 0
        count += len(cells)
    yield slice(start, len(kept))


def _eightfold(rows: Tensor) -> Tensor:
    return (8 * rows[:, None] + torch.arange(8, device=rows.device)).flatten()


def likeliest_rows(
    dense: DenseViews, bank: Bank, *, temperature: float, max_rows: int
) -> list[Tensor]:
    """Return, for each view, the rows that hold most of its posterior mass.

    Args:
        dense: the views.
        bank: reference slices.
        temperature: of the scores.
        max_rows: at most so many.
    """
    kept: list[Tensor] = []
    for block in likelihoods(dense, bank, temperature):
        _, mass, _ = block.marginals()
        kept.extend(_heaviest(of_view, max_rows) for of_view in mass)
    return kept


def _heaviest(mass: Tensor, max_rows: int) -> Tensor:
    top, row = mass.topk(min(max_rows, len(mass)))
    return row[top.cumsum(0) - top < _KEPT_MASS]


def likely_children(
    dense: DenseViews,
    half_volumes: Tensor,
    cells: Cells,
    kept: Sequence[Tensor],
    *,
    temperature: float,
    max_rows: int,
) -> tuple[Cells, list[Tensor]]:
    """Go one level down: score the children of what each view kept, and keep the likeliest.

    Args:
        dense: the views, up to a radius that the children can follow.
        half_volumes: `[c, m, m, m // 2 + 1]`.
        cells: the parents.
        kept: rows of the cells for each view.
        temperature: of the scores.
        max_rows: at most so many children for each view.

    Returns:
        The children of all that was kept, and their rows for each view.
    """
    parents = torch.unique(torch.cat(list(kept)))
    found: list[Tensor] = []
    for children in children_in_lots(dense, half_volumes, cells, kept):
        for view in range(children.lot.start, children.lot.stop):
            rows = children.rows_of(kept[view])
            scores, _, _ = children.scores(dense, view, rows, temperature)
            mass = scores.flatten().softmax(0).view(scores.shape).sum(0)
            row_of_all = _eightfold(torch.searchsorted(parents, kept[view]))
            found.append(row_of_all[_heaviest(mass, max_rows)])
    return cells.children_of(parents), found
