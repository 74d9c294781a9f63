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
_BANK_BYTES = 32_000_000


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
        The sums; even and odd views make the two halves.
    """
    lots = []
    for lot in _lots(kept, len(bank.log_prior), dense.signal.shape[1]):
        children = _Children.of(torch.cat(list(kept[lot])), bank, half_volumes, dense, step_deg)
        lots.append(_sums_of_lot(dense, children, kept, lot, temperature))
    return _joined(lots, dense, window)


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


@dataclass(frozen=True)
class _Lot:
    """What some views leave behind: `[u, ...]` for rows in use, `[b, ...]` for views.

    Attributes:
        signal: `[2, u, 2 k]`.
        row_mass: `[b, u]`.
        weight: `[2, u, k]`.
        rotations, reference: of the rows.
        shift_mass: `[b, t]`.
        loglik: `[b]`.
        best_slice: `[n, k]`, of those whose residual is measured.
        best_shift: `[n]`.
    """

    signal: Tensor
    row_mass: Tensor
    weight: Tensor
    rotations: Tensor
    reference: Tensor
    shift_mass: Tensor
    loglik: Tensor
    best_slice: Tensor
    best_shift: Tensor


def _sums_of_lot(
    dense: DenseViews, children: _Children, kept: Sequence[Tensor], lot: slice, temperature: float
) -> _Lot:
    """Score the views of a lot one by one, and add up the rows that they share."""
    n, k = lot.stop - lot.start, dense.signal.shape[1]
    offset = children.offsets(dense.weight[lot])
    signal = torch.zeros(2, len(children.slices), 2 * k)
    row_mass = torch.zeros(n, len(children.slices))
    shift_mass, loglik = torch.empty(n, len(dense.phases)), torch.empty(n)
    best_slice, best_shift = [], []
    for i in range(n):
        view = lot.start + i
        rows = children.rows_of(kept[view])
        slices = children.slices[rows]
        shifted = as_real(dense.signal[view] * dense.phases)
        scores = torch.addmm(dense.log_prior_shift[:, None], shifted, slices.T)
        scores.add_(offset[i, rows]).div_(temperature)
        if view < NOISE_VIEWS:
            best = int(scores.argmax())
            best_slice.append(slices[best % len(rows)])
            best_shift.append(best // len(rows))
        loglik[i] = scores.flatten().logsumexp(0)
        posterior = scores.sub_(loglik[i]).clamp_(min=_LEAST).exp_()
        mass = posterior.sum(0)
        used = (mass > _SIGNIFICANT * mass.max()).nonzero().squeeze(1)
        signal[view % 2].index_add_(0, rows[used], posterior[:, used].T @ shifted)
        row_mass[i, rows[used]] = mass[used]
        shift_mass[i] = posterior.sum(1)
    used = (row_mass.amax(0) > 0).nonzero().squeeze(1)
    of_half = [slice((lot.start + half) % 2, None, 2) for half in range(2)]
    weight = [row_mass[h][:, used].T @ dense.weight[lot][h] for h in of_half]
    return _Lot(
        signal=signal[:, used],
        row_mass=row_mass[:, used],
        weight=torch.stack(weight),
        rotations=children.rotations_ref_to_img[used],
        reference=children.reference[used],
        shift_mass=shift_mass,
        loglik=loglik.double(),
        best_slice=torch.stack(best_slice) if best_slice else torch.empty(0, 2 * k),
        best_shift=torch.tensor(best_shift, dtype=torch.long),
    )


def _joined(lots: Sequence[_Lot], dense: DenseViews, window: NoiseWindow) -> DenseSums:
    square = dense.shifts_angst.square().sum(-1).float()
    signal = torch.cat([lot.signal for lot in lots], 1)
    of_shift = torch.cat([lot.shift_mass for lot in lots])
    shared = torch.cat([1 / lot.row_mass.square().sum(1) for lot in lots])
    best_slice = torch.cat([lot.best_slice for lot in lots])
    return DenseSums(
        signal=torch.view_as_complex(signal.view(2, signal.shape[1], -1, 2)),
        weight=torch.cat([lot.weight for lot in lots], 1),
        row_mass=torch.cat([lot.row_mass.sum(0) for lot in lots]),
        row_reference=torch.cat([lot.reference for lot in lots]),
        rotations_ref_to_img=torch.cat([lot.rotations for lot in lots]),
        loglik=torch.cat([lot.loglik for lot in lots]),
        mean_shift_angst=of_shift.double() @ dense.shifts_angst.double(),
        shift_square_angst2=float((of_shift @ square).mean()) / 2,
        effective_rows=float(shared.mean()),
        noise_factor=residual_over_noise(
            dense,
            torch.view_as_complex(best_slice.view(len(best_slice), -1, 2)),
            torch.cat([lot.best_shift for lot in lots]),
            window,
        ),
    )
