"""Expectation in the children of the likeliest cells of a coarser grid, view by view."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.cells import Cells, Children, children_in_lots
from verglas.algorithms.em.dense import NOISE_VIEWS, DenseSums, DenseViews, residual_over_noise
from verglas.algorithms.em.noise import NoiseWindow

__all__ = ["pruned_expectation"]

_SIGNIFICANT = 1e-3
_LEAST = -80.0  # `exp` of less takes ten times as long


def pruned_expectation(
    dense: DenseViews,
    half_volumes: Tensor,
    cells: Cells,
    kept: Sequence[Tensor],
    *,
    window: NoiseWindow,
    temperature: float = 1.0,
) -> DenseSums:
    """Score the eight children of the cells that each view kept, and add up what counts.

    Args:
        dense: the views.
        half_volumes: `[c, m, m, m // 2 + 1]`.
        cells: the parents.
        kept: rows of the cells for each view.
        window: for the noise of the residuals.
        temperature: of the scores.

    Returns:
        The sums; even and odd views make the two halves.
    """
    lots = [
        _sums_of_lot(dense, children, kept, temperature)
        for children in children_in_lots(dense, half_volumes, cells, kept)
    ]
    return _joined(lots, dense, window)


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
    dense: DenseViews, children: Children, kept: Sequence[Tensor], temperature: float
) -> _Lot:
    """Score the views of a lot one by one, and add up the rows that they share."""
    lot, k = children.lot, dense.signal.shape[1]
    n = lot.stop - lot.start
    zeros = dense.weight.new_zeros
    signal, row_mass = zeros(2, len(children.slices), 2 * k), zeros(n, len(children.slices))
    shift_mass, loglik = zeros(n, len(dense.phases)), zeros(n)
    best_slice, best_shift = [], []
    for i in range(n):
        view = lot.start + i
        rows = children.rows_of(kept[view])
        scores, shifted, slices = children.scores(dense, view, rows, temperature)
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
        rotations=children.cells.rotations_ref_to_img[used],
        reference=children.cells.reference[used],
        shift_mass=shift_mass,
        loglik=loglik.double(),
        best_slice=torch.stack(best_slice) if best_slice else zeros(0, 2 * k),
        best_shift=torch.tensor(best_shift, dtype=torch.long, device=dense.weight.device),
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
