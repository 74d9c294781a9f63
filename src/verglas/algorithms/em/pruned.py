"""Expectation about the likeliest cells of a coarse grid, view by view.

Where the finer grid is large, it is scored in the likeliest cells of the coarse one only: with
a few hundred views hardly two look into the same cell, and the grouped products of `ladder.py`
would be of single rows (0.065 against 0.01 CPU s a view).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.dense import (
    NOISE_VIEWS,
    Bank,
    DenseSums,
    DenseViews,
    likelihoods,
    residual_over_noise,
)
from verglas.algorithms.em.noise import NoiseWindow
from verglas.algorithms.em.search import as_real, child_rotations
from verglas.kernels.slices import extract_slices

__all__ = ["likeliest_rows", "pruned_expectation"]

_KEPT_MASS = 0.999
_SIGNIFICANT = 1e-3
_LEAST = -80.0  # `exp` of less takes ten times as long
_BANK_BYTES = 64_000_000


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
        top, row = mass.topk(min(max_rows, mass.shape[1]), dim=1)
        keep = top.cumsum(1) - top < _KEPT_MASS
        kept.extend(rows[used] for rows, used in zip(row, keep, strict=True))
    return kept


@dataclass(frozen=True)
class _OneView:
    """The significant rows of one view: `[n, ...]` each but for the last four."""

    signal: Tensor
    weight: Tensor
    row_mass: Tensor
    rotations: Tensor
    reference: Tensor
    shift_mass: Tensor
    loglik: Tensor
    best_slice: Tensor
    best_shift: Tensor


def pruned_expectation(
    dense: DenseViews,
    half_volumes: Tensor,
    bank: Bank,
    kept: Sequence[Tensor],
    *,
    step_deg: float,
    window: NoiseWindow,
    temperature: float = 1.0,
) -> DenseSums:
    """Score the eight children of the cells that each view kept, and add up what counts.

    Args:
        dense: the views.
        half_volumes: `[c, m, m, m // 2 + 1]`.
        bank: the cells; its slices are not used.
        kept: rows of the bank for each view.
        step_deg: side of the cells.
        window: for the noise of the residuals.
        temperature: of the scores.

    Returns:
        The sums, one row for each significant orientation of each view; even and odd views
        make the two halves.
    """
    k = dense.signal.shape[1]
    parts: list[_OneView] = []
    for lot in _lots(kept, len(bank.log_prior), k):
        children = _Children.of(torch.cat(list(kept[lot])), bank, half_volumes, dense, step_deg)
        offset = children.offsets(dense.weight[lot])
        parts.extend(
            _score_children(dense, children, view, kept[view], offset[i], temperature)
            for i, view in enumerate(range(lot.start, lot.stop))
        )
    return _joined(parts, dense, window)


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


@dataclass(frozen=True)
class _Children:
    """Children of cells that some views share.

    Attributes:
        cells: `[n]`, rows of the bank, rising.
        rotations_ref_to_img: `[8 n, 3, 3]`.
        slices: `[8 n, 2 k]`, real and imaginary parts in turn.
        reference: `[8 n]`.
        log_prior: `[8 n]`.
    """

    cells: Tensor
    rotations_ref_to_img: Tensor
    slices: Tensor
    reference: Tensor
    log_prior: Tensor

    @staticmethod
    def of(
        cells: Tensor, bank: Bank, half_volumes: Tensor, dense: DenseViews, step_deg: float
    ) -> "_Children":
        cells = torch.unique(cells)
        rotations = child_rotations(bank.rotations_ref_to_img[cells], step_deg).reshape(-1, 3, 3)
        reference = bank.reference[cells].repeat_interleave(8)
        frequencies = dense.views.disc.frequencies_px
        slices = torch.empty(len(rotations), len(frequencies), dtype=torch.complex64)
        for c in range(len(half_volumes)):
            chosen = (reference == c).nonzero().squeeze(1)
            if len(chosen):
                slices[chosen] = extract_slices(half_volumes[c], rotations[chosen], frequencies)
        return _Children(
            cells,
            rotations,
            as_real(slices),
            reference,
            bank.log_prior[cells].repeat_interleave(8) - math.log(8),
        )

    def offsets(self, weight: Tensor) -> Tensor:
        """Return `[b, 8 n]`, what does not depend on the data, for views of weight `[b, k]`."""
        power = self.slices.square().view(len(self.slices), -1, 2).sum(2)
        return torch.addmm(self.log_prior, weight, power.T, alpha=-0.5)

    def rows_of(self, cells: Tensor) -> Tensor:
        """Return the rows of the children of some of the cells."""
        first = 8 * torch.searchsorted(self.cells, cells)
        return (first[:, None] + torch.arange(8)).flatten()


def _score_children(
    dense: DenseViews,
    children: _Children,
    view: int,
    cells: Tensor,
    offset: Tensor,
    temperature: float,
) -> _OneView:
    rows = children.rows_of(cells)
    slices = children.slices[rows]
    shifted = as_real(dense.signal[view] * dense.phases)
    scores = shifted @ slices.T + dense.log_prior_shift[:, None]
    scores += offset[rows]
    scores /= temperature
    total = scores.flatten().logsumexp(0)
    posterior = (scores - total).clamp_(min=_LEAST).exp_()
    mass = posterior.sum(0)
    used = (mass > _SIGNIFICANT * mass.max()).nonzero().squeeze(1)
    best = int(scores.argmax())
    signal = (posterior[:, used].T @ shifted).view(len(used), -1, 2)
    return _OneView(
        signal=torch.view_as_complex(signal),
        weight=mass[used, None] * dense.weight[view],
        row_mass=mass[used],
        rotations=children.rotations_ref_to_img[rows[used]],
        reference=children.reference[rows[used]],
        shift_mass=posterior.sum(1),
        loglik=total.double(),
        best_slice=torch.view_as_complex(slices[best % len(slices)].view(-1, 2)),
        best_shift=torch.tensor(best // len(slices)),
    )


def _joined(parts: Sequence[_OneView], dense: DenseViews, window: NoiseWindow) -> DenseSums:
    square = dense.shifts_angst.square().sum(-1).float()
    count = torch.tensor([len(p.weight) for p in parts])
    half = (torch.arange(len(parts)) % 2).repeat_interleave(count)
    signal, weight = torch.cat([p.signal for p in parts]), torch.cat([p.weight for p in parts])
    both = torch.stack([half == 0, half == 1])[:, :, None].float()
    of_shift = torch.stack([p.shift_mass for p in parts])
    some = parts[:NOISE_VIEWS]
    return DenseSums(
        signal=both * signal,
        weight=both * weight,
        row_mass=torch.cat([p.row_mass for p in parts]),
        row_reference=torch.cat([p.reference for p in parts]),
        rotations_ref_to_img=torch.cat([p.rotations for p in parts]),
        loglik=torch.stack([p.loglik for p in parts]),
        mean_shift_angst=of_shift.double() @ dense.shifts_angst.double(),
        shift_square_angst2=float((of_shift @ square).mean()) / 2,
        effective_rows=float(torch.stack([1 / p.row_mass.square().sum() for p in parts]).mean()),
        noise_factor=residual_over_noise(
            dense,
            torch.stack([p.best_slice for p in some]),
            torch.stack([p.best_shift for p in some]),
            window,
        ),
    )
