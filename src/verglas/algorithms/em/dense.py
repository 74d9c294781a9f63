"""Dense expectation over a small set of views that several searches share.

A first map is sought on coarse grids, where nothing can be pruned yet, by many searches over
the same few views. So every orientation and shift is scored, one matrix product per block of
views; expectations are added per orientation, by another; and only slices of orientations are
inserted. The score is that of `search.py`.

Where the finer grid is too large, it is scored about the likeliest cells of the coarse one
only, view by view: with a few hundred views hardly two look into the same cell, and the grouped
products of `ladder.py` would be of single rows (0.065 against 0.01 CPU s a view).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.noise import NoiseWindow, windowed_power
from verglas.algorithms.em.search import as_real, child_rotations
from verglas.algorithms.views import Views, shift_phases
from verglas.kernels.disc import shell_sums
from verglas.kernels.slices import extract_slices, insert_slices

__all__ = [
    "Bank",
    "DenseSums",
    "DenseViews",
    "dense_expectation",
    "likeliest_rows",
    "pruned_expectation",
]

_SCORES_AT_ONCE = 3_000_000  # 12 MB; fewer would re-read the bank too often (measured)
_NOISE_VIEWS = 96
_NEGLIGIBLE = 1e-5
_KEPT_MASS = 0.999
_SIGNIFICANT = 1e-3


@dataclass(frozen=True)
class DenseViews:
    """Views ready to be scored at a grid of shifts.

    Attributes:
        views: up to the radius in use, at their present centres.
        signal, weight: `[b, k]`, `CTF X / sigma^2` and `CTF^2 / sigma^2`.
        shifts_angst: `[t, 2]`.
        phases: `[t, k]`.
        log_prior_shift: `[t]`, normalised.
    """

    views: Views
    signal: Tensor
    weight: Tensor
    shifts_angst: Tensor
    phases: Tensor
    log_prior_shift: Tensor

    @staticmethod
    def make(views: Views, *, shifts_angst: Tensor, shift_prior_angst: float) -> "DenseViews":
        """Prepare views for a grid of shifts with a Gaussian prior about zero."""
        signal, weight = views.whitened()
        log_prior = -shifts_angst.square().sum(-1) / (2 * shift_prior_angst**2)
        return DenseViews(
            views=views,
            signal=signal,
            weight=weight,
            shifts_angst=shifts_angst,
            phases=shift_phases(shifts_angst, views.disc, views.pixel_size_angst),
            log_prior_shift=(log_prior - log_prior.logsumexp(0)).float(),
        )

    def blocks(self, n_rows: int) -> Iterator[slice]:
        """Cut the views so that a block of scores stays small; there are at least two."""
        b = len(self.signal)
        size = _SCORES_AT_ONCE // (len(self.phases) * n_rows)
        size = max(1, min((b + 1) // 2, size))
        for start in range(0, b, size):
            yield slice(start, min(b, start + size))


@dataclass(frozen=True)
class DenseSums:
    """What a dense pass leaves behind.

    Attributes:
        signal: `[2, r, k]`, complex, summed expected views of each row, for two halves.
        weight: `[2, r, k]`.
        row_mass: `[r]`, number of views that a row stands for.
        row_reference: `[r]`.
        rotations_ref_to_img: `[r, 3, 3]`.
        loglik: `[b]`, evidence of each view against no signal.
        mean_shift_angst: `[b, 2]`, posterior mean.
        shift_square_angst2: mean squared shift per axis.
        effective_rows: mean number of rows that share a view's posterior.
        noise_factor: `[s]`, residual power over the noise assumed, by shell.
    """

    signal: Tensor
    weight: Tensor
    row_mass: Tensor
    row_reference: Tensor
    rotations_ref_to_img: Tensor
    loglik: Tensor
    mean_shift_angst: Tensor
    shift_square_angst2: float
    effective_rows: float
    noise_factor: Tensor

    def insert_into(
        self,
        numerators: Tensor,
        denominators: Tensor,
        frequencies_px: Tensor,
        *,
        radius: int,
        padding: int,
    ) -> None:
        """Add the slices of all rows to half volumes, in place.

        Args:
            numerators, denominators: `[2, c, m, m, m // 2 + 1]`, by half and reference.
            frequencies_px: `[k, 2]`.
            radius: last shell.
            padding: oversampling of the half volumes.
        """
        largest = self.weight.amax(2)
        used = largest > _NEGLIGIBLE * largest.max()
        for half in range(2):
            for c in range(numerators.shape[1]):
                rows = (used[half] & (self.row_reference == c)).nonzero().squeeze(1)
                if len(rows):
                    insert_slices(
                        self.signal[half][rows],
                        self.weight[half][rows],
                        self.rotations_ref_to_img[rows],
                        frequencies_px,
                        radius=radius,
                        padding=padding,
                        into=(numerators[half, c], denominators[half, c]),
                    )


@dataclass(frozen=True)
class Bank:
    """Reference slices at the orientations of a grid.

    Attributes:
        slices: `[r, k]`, complex.
        rotations_ref_to_img: `[r, 3, 3]`.
        reference: `[r]`.
        log_prior: `[r]`.
    """

    slices: Tensor
    rotations_ref_to_img: Tensor
    reference: Tensor
    log_prior: Tensor

    @staticmethod
    def make(
        half_volumes: Tensor, rotations: Tensor, class_weight: Tensor, frequencies_px: Tensor
    ) -> "Bank":
        """Slice every reference at every orientation.

        Args:
            half_volumes: `[c, m, m, m // 2 + 1]`.
            rotations: `[n, 3, 3]`, reference to image.
            class_weight: `[c]`, share of the views of each reference.
            frequencies_px: `[k, 2]`.
        """
        n = len(rotations)
        return Bank(
            slices=torch.cat([extract_slices(h, rotations, frequencies_px) for h in half_volumes]),
            rotations_ref_to_img=rotations.repeat(len(half_volumes), 1, 1),
            reference=torch.arange(len(half_volumes)).repeat_interleave(n),
            log_prior=(class_weight / n).log().float().repeat_interleave(n),
        )


def dense_expectation(
    dense: DenseViews, bank: Bank, *, window: NoiseWindow, temperature: float = 1.0
) -> DenseSums:
    """Score all views against all rows and shifts, and add up the expectations.

    Args:
        dense: the views.
        bank: reference slices.
        window: for the noise of the residuals, of the same radius.
        temperature: scores are divided by it; below 1 the best poses get more than their due.

    Returns:
        The sums; even and odd blocks of views make the two halves.
    """
    n_rows, k = bank.slices.shape
    n_views = len(dense.signal)
    square = dense.shifts_angst.square().sum(-1).float()
    signal, weight = torch.zeros(2, n_rows, 2 * k), torch.zeros(2, n_rows, k)
    row_mass = torch.zeros(n_rows)
    loglik, moved, best = [], [], []
    shift_square = shared = 0.0
    for i, (block, operand, scores) in enumerate(_scored(dense, bank, temperature)):
        largest, where = scores.flatten(1).max(dim=1)
        scores.flatten(1).sub_(largest[:, None]).exp_()
        of_shift, of_row = scores.sum(2), scores.sum(1)
        total = of_shift.sum(1)
        of_shift, of_row = of_shift / total[:, None], of_row / total[:, None]
        operand /= total[:, None, None]
        signal[i % 2].addmm_(scores.flatten(0, 1).T, operand.flatten(0, 1))
        weight[i % 2].addmm_(of_row.T, dense.weight[block])
        row_mass += of_row.sum(0)
        loglik.append(largest.double() + total.double().log())
        moved.append(of_shift.double() @ dense.shifts_angst.double())
        best.append(where)
        shift_square += float((of_shift @ square).sum())
        shared += float(of_row.square().sum(1).reciprocal().sum())
    where = torch.cat(best)[:_NOISE_VIEWS]
    return DenseSums(
        signal=torch.view_as_complex(signal.view(2, n_rows, k, 2)),
        weight=weight,
        row_mass=row_mass,
        row_reference=bank.reference,
        rotations_ref_to_img=bank.rotations_ref_to_img,
        loglik=torch.cat(loglik),
        mean_shift_angst=torch.cat(moved),
        shift_square_angst2=shift_square / n_views / 2,
        effective_rows=shared / n_views,
        noise_factor=_noise_factor(dense, bank.slices[where % n_rows], where // n_rows, window),
    )


def _noise_factor(dense: DenseViews, slices: Tensor, shift: Tensor, window: NoiseWindow) -> Tensor:
    """Return `[s]`, power left inside the window at the best poses of a few views."""
    some = dense.views.take(slice(0, len(slices)))
    residual = some.data * dense.phases[shift] - some.ctf * slices
    power = windowed_power(residual, window)
    count = shell_sums(torch.ones(1, residual.shape[1]), some.disc)
    factor = (power / (some.noise_power * count).clamp_min(1e-30)).mean(0)
    factor[0] = factor[1]
    assert math.isfinite(float(factor.sum())), "noise must be positive in every shell"
    return factor.float()


def _scored(
    dense: DenseViews, bank: Bank, temperature: float
) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield blocks of views: where, shifted views `[b, t, 2 k]` and scores `[b, t, r]`."""
    columns = as_real(bank.slices).T.contiguous()
    half_power = dense.weight @ (0.5 * bank.slices.abs().square()).T - bank.log_prior
    for block in dense.blocks(len(bank.slices)):
        operand = as_real(dense.signal[block, None] * dense.phases)
        scores = (operand.flatten(0, 1) @ columns).view(len(operand), len(dense.phases), -1)
        scores -= half_power[block, None, :] - dense.log_prior_shift[:, None]
        if temperature != 1.0:
            scores /= temperature
        yield block, operand, scores


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
    for _, _, scores in _scored(dense, bank, temperature):
        mass = scores.logsumexp(1).softmax(1)
        top, row = mass.topk(min(max_rows, mass.shape[1]), dim=1)
        keep = top.cumsum(1) - top < _KEPT_MASS
        kept.extend(rows[used] for rows, used in zip(row, keep, strict=True))
    return kept


def pruned_expectation(
    dense: DenseViews,
    half_volumes: Tensor,
    bank: Bank,
    kept: list[Tensor],
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
    square = dense.shifts_angst.square().sum(-1).float()
    k = dense.signal.shape[1]
    parts: list[_OneView] = []
    for view, cells in enumerate(kept):
        parts.append(_score_children(dense, half_volumes, bank, view, cells, step_deg, temperature))
    count = torch.tensor([len(p.weight) for p in parts])
    half = (torch.arange(len(parts)) % 2).repeat_interleave(count)
    signal, weight = torch.cat([p.signal for p in parts]), torch.cat([p.weight for p in parts])
    both = torch.stack([half == 0, half == 1])[:, :, None].float()
    mass = torch.cat([p.row_mass for p in parts])
    of_shift = torch.stack([p.shift_mass for p in parts])
    some = parts[:_NOISE_VIEWS]
    return DenseSums(
        signal=both * signal.view(1, -1, k),
        weight=both * weight,
        row_mass=mass,
        row_reference=torch.cat([p.reference for p in parts]),
        rotations_ref_to_img=torch.cat([p.rotations for p in parts]),
        loglik=torch.stack([p.loglik for p in parts]),
        mean_shift_angst=of_shift.double() @ dense.shifts_angst.double(),
        shift_square_angst2=float((of_shift @ square).mean()) / 2,
        effective_rows=float(torch.stack([1 / p.row_mass.square().sum() for p in parts]).mean()),
        noise_factor=_noise_factor(
            dense,
            torch.stack([p.best_slice for p in some]),
            torch.stack([p.best_shift for p in some]),
            window,
        ),
    )


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


def _score_children(
    dense: DenseViews,
    half_volumes: Tensor,
    bank: Bank,
    view: int,
    cells: Tensor,
    step_deg: float,
    temperature: float,
) -> _OneView:
    rotations = child_rotations(bank.rotations_ref_to_img[cells], step_deg).reshape(-1, 3, 3)
    reference = bank.reference[cells].repeat_interleave(8)
    frequencies = dense.views.disc.frequencies_px
    slices = torch.empty(len(rotations), len(frequencies), dtype=torch.complex64)
    for c in range(len(half_volumes)):
        chosen = reference == c
        if chosen.any():
            slices[chosen] = extract_slices(half_volumes[c], rotations[chosen], frequencies)
    shifted = as_real(dense.signal[view] * dense.phases)
    scores = shifted @ as_real(slices).T + dense.log_prior_shift[:, None]
    prior = bank.log_prior[cells].repeat_interleave(8) - math.log(8)
    scores += prior - 0.5 * slices.abs().square() @ dense.weight[view]
    scores /= temperature
    total = scores.flatten().double().logsumexp(0)
    posterior = (scores - total).exp().float()
    mass = posterior.sum(0)
    used = mass > _SIGNIFICANT * mass.max()
    best = int(scores.argmax())
    return _OneView(
        signal=torch.view_as_complex((posterior[:, used].T @ shifted).view(-1, slices.shape[1], 2)),
        weight=mass[used, None] * dense.weight[view],
        row_mass=mass[used],
        rotations=rotations[used],
        reference=reference[used],
        shift_mass=posterior.sum(1),
        loglik=total,
        best_slice=slices[best % len(slices)],
        best_shift=torch.tensor(best // len(slices)),
    )
