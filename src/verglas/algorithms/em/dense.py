"""Dense expectation over a small set of views that several searches share.

A first map is sought on coarse grids, where nothing can be pruned yet, by many searches over
the same few views. So every orientation and shift is scored, one matrix product per block of
views; expectations are added per orientation, by another; and only slices of orientations are
inserted. The score is that of `search.py`, in powers of two: `exp` of numbers that leave the
range of float32 takes 20 ns each, `exp2` 0.3 (measured, one core).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.noise import NoiseWindow, windowed_power
from verglas.algorithms.em.search import as_real
from verglas.algorithms.views import Views, shift_phases
from verglas.kernels.disc import shell_sums
from verglas.kernels.slices import extract_slices, insert_slices

__all__ = [
    "NOISE_VIEWS",
    "Bank",
    "DenseSums",
    "DenseViews",
    "Evidence",
    "dense_evidence",
    "dense_expectation",
    "likelihoods",
    "residual_over_noise",
]

_SCORES_AT_ONCE = 3_000_000  # 12 MB; fewer would re-read the bank too often (measured)
NOISE_VIEWS = 96  # whose residuals are measured
_NEGLIGIBLE = 1e-5
_SPARSE = 0.5  # share of the rows in use below which the others are left out of a product
_LOG2_E = 1 / math.log(2)


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
        shifts_angst = shifts_angst.to(views.device)
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
        n, device = len(rotations), half_volumes.device
        rotations = rotations.to(device)
        return Bank(
            slices=torch.cat([extract_slices(h, rotations, frequencies_px) for h in half_volumes]),
            rotations_ref_to_img=rotations.repeat(len(half_volumes), 1, 1),
            reference=torch.arange(len(half_volumes), device=device).repeat_interleave(n),
            log_prior=(class_weight / n).log().float().repeat_interleave(n),
        )


@dataclass(frozen=True)
class DenseSums:
    """What a pass leaves behind.

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
class Evidence:
    """How well a bank explains views.

    Attributes:
        loglik: `[b]`, of each view against no signal.
        mean_shift_angst: `[b, 2]`, posterior mean.
        effective_rows: mean number of rows that share a view's posterior.
    """

    loglik: Tensor
    mean_shift_angst: Tensor
    effective_rows: float


@dataclass(frozen=True)
class _Block:
    """A block of views: `likelihood[b, t, r]` over its largest, and what goes with it."""

    where: slice
    operand: Tensor
    likelihood: Tensor
    largest: Tensor

    def marginals(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior of shifts `[b, t]` and rows `[b, r]`, and the sum `[b]`."""
        of_shift, of_row = self.likelihood.sum(2), self.likelihood.sum(1)
        total = of_shift.sum(1)
        return of_shift / total[:, None], of_row / total[:, None], total


def likelihoods(dense: DenseViews, bank: Bank, temperature: float = 1.0) -> Iterator[_Block]:
    """Yield blocks of views with their likelihoods, 1 for the best pose of each view.

    Args:
        dense: the views.
        bank: reference slices.
        temperature: scores are divided by it.
    """
    scale = _LOG2_E / temperature
    columns = as_real(bank.slices).mul(scale).T.contiguous()
    half_power = dense.weight @ (0.5 * bank.slices.abs().square()).T - bank.log_prior
    half_power *= scale
    log_prior_shift = scale * dense.log_prior_shift
    for where in dense.blocks(len(bank.slices)):
        operand = as_real(dense.signal[where, None] * dense.phases)
        scores = (operand.flatten(0, 1) @ columns).view(len(operand), len(dense.phases), -1)
        scores -= half_power[where, None, :] - log_prior_shift[:, None]
        largest = scores.flatten(1).amax(dim=1)
        scores.sub_(largest[:, None, None]).exp2_()
        yield _Block(where, operand, scores, largest.double() / _LOG2_E)


def dense_evidence(dense: DenseViews, bank: Bank, *, temperature: float = 1.0) -> Evidence:
    """Score all views against all rows and shifts.

    Args:
        dense: the views.
        bank: reference slices.
        temperature: scores are divided by it.
    """
    loglik, moved = [], []
    shared = 0.0
    for block in likelihoods(dense, bank, temperature):
        of_shift, of_row, total = block.marginals()
        loglik.append(block.largest + total.double().log())
        moved.append(of_shift.double() @ dense.shifts_angst.double())
        shared += float(of_row.square().sum(1).reciprocal().sum())
    return Evidence(torch.cat(loglik), torch.cat(moved), shared / len(dense.signal))


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
    zeros = dense.weight.new_zeros
    signal, weight, row_mass = zeros(2, n_rows, 2 * k), zeros(2, n_rows, k), zeros(n_rows)
    loglik, moved, best = [], [], []
    shift_square = shared = 0.0
    for i, block in enumerate(likelihoods(dense, bank, temperature)):
        of_shift, of_row, total = block.marginals()
        block.operand.div_(total[:, None, None])
        _add_rows(block, of_row, dense.weight[block.where], signal[i % 2], weight[i % 2])
        row_mass += of_row.sum(0)
        loglik.append(block.largest + total.double().log())
        moved.append(of_shift.double() @ dense.shifts_angst.double())
        if block.where.start < NOISE_VIEWS:
            best.append(block.likelihood.flatten(1).argmax(1))
        shift_square += float((of_shift @ square).sum())
        shared += float(of_row.square().sum(1).reciprocal().sum())
    where = torch.cat(best)[:NOISE_VIEWS]
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
        noise_factor=residual_over_noise(
            dense, bank.slices[where % n_rows], where // n_rows, window
        ),
    )


def _add_rows(
    block: _Block, of_row: Tensor, view_weight: Tensor, signal: Tensor, weight: Tensor
) -> None:
    """Add a block to `signal[r, 2 k]` and `weight[r, k]`; rows that no view takes are skipped."""
    likelihood, operand = block.likelihood.flatten(0, 1), block.operand.flatten(0, 1)
    used = (of_row.amax(0) > _NEGLIGIBLE).nonzero().squeeze(1)
    if len(used) > _SPARSE * len(signal):
        signal.addmm_(likelihood.T, operand)
        weight.addmm_(of_row.T, view_weight)
    else:
        signal.index_add_(0, used, likelihood[:, used].T @ operand)
        weight.index_add_(0, used, of_row[:, used].T @ view_weight)


def residual_over_noise(
    dense: DenseViews, slices: Tensor, shift: Tensor, window: NoiseWindow
) -> Tensor:
    """Measure what the best poses of the first views leave inside the window.

    Args:
        dense: the views.
        slices: `[n, k]`, of the first n views.
        shift: `[n]`, which shift goes with them.
        window: of the same radius.

    Returns:
        `[s]`, residual power over the noise assumed.
    """
    some = dense.views.take(slice(0, len(slices)))
    residual = some.data * dense.phases[shift] - some.ctf * slices
    power = windowed_power(residual, window)
    count = shell_sums(torch.ones_like(some.ctf[:1]), some.disc)
    factor = (power / (some.noise_power * count).clamp_min(1e-30)).mean(0)
    factor[0] = factor[1]
    assert math.isfinite(float(factor.sum())), "noise must be positive in every shell"
    return factor.float()
