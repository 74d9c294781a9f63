"""The finer levels of the search: only children of significant poses, grouped by cell.

Every view keeps its own list of orientation cells. The lists are turned round: each cell
owns the views that kept it, so that scoring its eight children is again a matrix product,
and so is adding up their expectations (mixture of experts, the experts being cells). A
slice is made once per cell, however many views look at it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.batching import block_size, budget_gb
from verglas.algorithms.em.search import Posterior, as_real, child_rotations
from verglas.algorithms.views import Views, shift_phases
from verglas.kernels.slices import extract_slices, insert_slices

__all__ = ["CellScores", "Cells", "add_expectations", "score_cells", "select_cells"]

_CELLS_AT_ONCE = 64
_FEW_VIEWS = 2  # in a cell on average
_PAIRS_GB = 0.05
_NEGLIGIBLE = 1e-4


@dataclass(frozen=True)
class Cells:
    """Orientation cells and the views that look into them.

    Attributes:
        rotations_ref_to_img: `[u, 3, 3]`, centres of the cells.
        reference: `[u]`, the reference each belongs to.
        step_deg: side of the cells.
        view: `[p]`, view of each (view, cell) pair; pairs are sorted by cell.
        cell: `[p]`, cell of each pair.
        slot: `[p]`, position of the pair in its view's list.
        n_views: number of views.
    """

    rotations_ref_to_img: Tensor
    reference: Tensor
    step_deg: float
    view: Tensor
    cell: Tensor
    slot: Tensor
    n_views: int

    @property
    def is_sparse(self) -> bool:
        """Pairs are compared one by one: few share a cell, or a GPU waits for larger pieces."""
        few = len(self.view) < _FEW_VIEWS * len(self.rotations_ref_to_img)
        return few or self.view.device.type != "cpu"

    @property
    def children(self) -> Tensor:
        """`[u, 8, 3, 3]`, the rotations that are scored."""
        return child_rotations(self.rotations_ref_to_img, self.step_deg)

    def batches(self) -> Iterator[tuple[slice, list[slice]]]:
        """Yield runs of cells, with the slice of pairs of each cell."""
        n = len(self.rotations_ref_to_img)
        ends = torch.searchsorted(self.cell, torch.arange(n + 1, device=self.cell.device)).tolist()
        for start in range(0, n, _CELLS_AT_ONCE):
            stop = min(n, start + _CELLS_AT_ONCE)
            yield slice(start, stop), [slice(ends[i], ends[i + 1]) for i in range(start, stop)]


@dataclass(frozen=True)
class CellScores:
    """What scoring a level gives.

    Attributes:
        loglik: `[b, t, r]`, rows number `slot * 8 + child` in the view's own list; minus
            infinity where the list is shorter.
        shifted: `[b, t, 2 k]`, shifted whitened views, real.
        weight: `[b, k]`, CTF^2 / sigma^2.
    """

    loglik: Tensor
    shifted: Tensor
    weight: Tensor


def select_cells(
    row_mass: Tensor,
    row_cell: Tensor,
    *,
    rotations_ref_to_img: Tensor,
    reference: Tensor,
    step_deg: float,
    kept_mass: float,
    min_cells: int,
    max_cells: int,
) -> Cells:
    """Keep, for each view, the orientations that hold most of its posterior mass.

    Args:
        row_mass: `[b, r]`, posterior mass of each row of the coarser level.
        row_cell: `[b, r]` or `[1, r]`, orientation that each row stands for, negative where
            a row stands for none.
        rotations_ref_to_img: `[u, 3, 3]`, all orientations of that level.
        reference: `[u]`.
        step_deg: step of that level.
        kept_mass: mass to keep.
        min_cells, max_cells: fewest and most cells of a view.

    Returns:
        The cells that some view kept.
    """
    mass, row = row_mass.topk(min(max_cells, row_mass.shape[1]), dim=1)
    before = mass.cumsum(1) - mass
    keep = (before < kept_mass) & (mass > 0)
    keep[:, : max(1, min_cells)] = True
    listed = row_cell.expand(len(row_mass), -1).gather(1, row)
    view, slot = (keep & (listed >= 0)).nonzero(as_tuple=True)
    cell = listed[view, slot]
    order = torch.argsort(cell, stable=True)
    used, cell = torch.unique(cell[order], return_inverse=True)
    return Cells(
        rotations_ref_to_img=rotations_ref_to_img[used],
        reference=reference[used],
        step_deg=step_deg,
        view=view[order],
        cell=cell,
        slot=slot[order],
        n_views=len(row_mass),
    )


def _slices_of(
    half_volumes: Tensor, cells: Cells, run: slice, views: Views, padding: int
) -> Tensor:
    """Return `[cells, 8, k]`, the slices of the children of a run of cells."""
    children = child_rotations(cells.rotations_ref_to_img[run], cells.step_deg)
    reference = cells.reference[run]
    out = views.data.new_empty(len(children), 8, views.disc.n_coefficients)
    for c in torch.unique(reference).tolist():
        chosen = reference == c
        out[chosen] = extract_slices(
            half_volumes[c],
            children[chosen].reshape(-1, 3, 3),
            views.disc.frequencies_px,
            padding=padding,
        ).view(-1, 8, out.shape[-1])
    return out


def score_cells(
    views: Views,
    half_volumes: Tensor,
    cells: Cells,
    *,
    shifts_angst: Tensor,
    log_prior_shift: Tensor,
    log_prior_reference: Tensor,
    padding: int,
) -> CellScores:
    """Score the children of every cell for the views that kept it.

    Args:
        views: `b` views, already moved to their present centres.
        half_volumes: `[c, ...]`, one per reference.
        cells: who looks where.
        shifts_angst: `[t, 2]`, relative to the present centres.
        log_prior_shift: `[b, t]`.
        log_prior_reference: `[c]`.
        padding: oversampling of the half volumes.

    Returns:
        The scores over each view's list and the operands that the sums need again.
    """
    signal, weight = views.whitened()
    phases = shift_phases(shifts_angst, views.disc, views.pixel_size_angst)
    shifted = as_real(signal[:, None, :] * phases).contiguous()
    b, t, _ = shifted.shape
    scores = shifted.new_full((b, int(cells.slot.max()) + 1, 8, t), -torch.inf)
    log_prior = log_prior_reference.float()[cells.reference]
    for run, pairs in cells.batches():
        slices = _slices_of(half_volumes, cells, run, views, padding)
        power = slices.real.square() + slices.imag.square()
        bank = _Run(as_real(slices), 0.5 * power, log_prior[run])
        if cells.is_sparse:
            for some in _blocks_of_pairs(pairs, shifted):
                view, cell = cells.view[some], cells.cell[some] - run.start
                scores[view, cells.slot[some]] = bank.of_pairs(shifted[view], weight[view], cell)
            continue
        for i, pair in enumerate(pairs):
            view = cells.view[pair]
            scores[view, cells.slot[pair]] = bank.of_cell(shifted[view], weight[view], i)
    scores += log_prior_shift[:, None, None, :]
    return CellScores(scores.flatten(1, 2).transpose(1, 2), shifted, weight)


@dataclass(frozen=True)
class _Run:
    """A run of cells: slices `[u, 8, 2 k]`, half their power `[u, 8, k]`, log prior `[u]`."""

    slices: Tensor
    half_power: Tensor
    log_prior: Tensor

    def of_cell(self, shifted: Tensor, weight: Tensor, cell: int) -> Tensor:
        """Score the views of one cell by one product; `[n, 8, t]`."""
        n, t, k2 = shifted.shape
        cross = (shifted.view(-1, k2) @ self.slices[cell].T).view(n, t, 8).transpose(1, 2)
        offset = weight @ self.half_power[cell].T - self.log_prior[cell]
        return cross - offset.unsqueeze(-1)

    def of_pairs(self, shifted: Tensor, weight: Tensor, cell: Tensor) -> Tensor:
        """Score pairs of a view and a cell, each by a product of its own; `[n, 8, t]`."""
        cross = self.slices[cell] @ shifted.mT
        offset = self.half_power[cell] @ weight[:, :, None] - self.log_prior[cell, None, None]
        return cross - offset


def _blocks_of_pairs(pairs: list[slice], shifted: Tensor) -> Iterator[slice]:
    """Cut the pairs of a run of cells so that their operands stay small."""
    _, n_shifts, n_parts = shifted.shape
    budget = budget_gb(_PAIRS_GB, shifted.device)
    size = block_size(4 * n_parts * (n_shifts + 16), budget_gb=budget, most=1 << 20)
    for start in range(pairs[0].start, pairs[-1].stop, size):
        yield slice(start, min(start + size, pairs[-1].stop))


def _add_by_cell(
    cells: Cells,
    pairs: list[slice],
    weights: Tensor,
    scored: CellScores,
    signal: Tensor,
    weight: Tensor,
) -> None:
    """Add the views of every cell to `signal[u, 8, 2 k]` and `weight[u, 8, k]`, one by one."""
    k2 = signal.shape[2]
    for i, pair in enumerate(pairs):
        view = cells.view[pair]
        gamma = weights[view, cells.slot[pair]]
        alive = gamma.amax((1, 2)) > _NEGLIGIBLE
        if not alive.any():
            continue
        view, gamma = view[alive], gamma[alive]
        signal[i] = gamma.transpose(0, 1).reshape(8, -1) @ scored.shifted[view].view(-1, k2)
        weight[i] = gamma.sum(-1).T @ scored.weight[view]


def add_expectations(
    scored: CellScores,
    posterior: Posterior,
    cells: Cells,
    views: Views,
    *,
    padding: int,
    planar: bool,
    numerator: Tensor,
    denominator: Tensor,
) -> None:
    """Insert the expected slices of every cell's children into the sums, in place.

    Args:
        scored: of `score_cells` with the same cells and views.
        posterior: of its scores.
        cells: who looks where.
        views: the views.
        padding: oversampling of the sums.
        planar: the sums are one plane thick.
        numerator, denominator: `[c, ...]`, added to.
    """
    shifted = scored.shifted
    k2 = shifted.shape[2]
    weights = (posterior.likelihood * posterior.norm[:, None, None]).transpose(1, 2)
    weights = weights.reshape(len(shifted), -1, 8, shifted.shape[1])
    for run, pairs in cells.batches():
        signal = shifted.new_zeros(len(pairs), 8, k2)
        weight = shifted.new_zeros(len(pairs), 8, k2 // 2)
        if cells.is_sparse:
            for some in _blocks_of_pairs(pairs, shifted):
                view, cell = cells.view[some], cells.cell[some] - run.start
                gamma = weights[view, cells.slot[some]]
                signal.index_add_(0, cell, gamma @ shifted[view])
                weight.index_add_(0, cell, gamma.sum(-1)[:, :, None] * scored.weight[view, None])
        else:
            _add_by_cell(cells, pairs, weights, scored, signal, weight)
        children = child_rotations(cells.rotations_ref_to_img[run], cells.step_deg)
        used = weight.amax(-1) > 0
        for c in torch.unique(cells.reference[run]).tolist():
            chosen = used & (cells.reference[run] == c)[:, None]
            if not chosen.any():
                continue
            insert_slices(
                torch.view_as_complex(signal[chosen].view(-1, k2 // 2, 2)),
                weight[chosen],
                children[chosen],
                views.disc.frequencies_px,
                radius=views.disc.radius,
                padding=padding,
                planar=planar,
                into=(numerator[c], denominator[c]),
            )
