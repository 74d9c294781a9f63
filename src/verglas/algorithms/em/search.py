"""The expectation step: how probable is each pose of each view.

All poses of a bank of reference slices are scored by one matrix product,

    score(i, t, r) = Re<S_t w_i, P_r> - 1/2 <c_i, |P_r|^2>,
    w = CTF X / sigma^2,  c = CTF^2 / sigma^2,

with sigma^2 the variance of one real component and sums over the half-disc: this is the
exact Gaussian log-likelihood up to a constant of the image, without any further factor.
Finer grids are scored on the children of the significant poses only; see `ladder.py`.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.views import Views, shift_phases
from verglas.kernels.so3 import rotation_from_vector

__all__ = [
    "Posterior",
    "Profile",
    "as_real",
    "child_rotations",
    "posterior_of_bank",
    "scores_of_bank",
    "shift_grid",
]

_LOG2_E = 1 / math.log(2)


def shift_grid(range_angst: float, step_angst: float) -> Tensor:
    """Return the hexagonal grid of shifts within a radius, origin first.

    Args:
        range_angst: radius of the disc.
        step_angst: distance of neighbours.

    Returns:
        `[t, 2]`, float64.
    """
    n = int(range_angst / step_angst * 1.2) + 1
    row, column = torch.meshgrid(torch.arange(-n, n + 1), torch.arange(-n, n + 1), indexing="ij")
    x = (column + 0.5 * (row % 2)).double() * step_angst
    y = row.double() * step_angst * 3**0.5 / 2
    shifts = torch.stack([x.flatten(), y.flatten()], -1)
    length = shifts.norm(dim=1)
    shifts, length = shifts[length <= range_angst + 1e-9], length[length <= range_angst + 1e-9]
    return shifts[length.argsort(stable=True)]


@dataclass(frozen=True)
class Posterior:
    """How probable each pose of a block of views is.

    Attributes:
        likelihood: `[b, t, r]`, over shifts and rows (orientations), 1 for the best pose;
            big, so it is never divided by its sum.
        norm: `[b]`, one over the sum.
        evidence_loglik: `[b]`, log of the summed likelihood of each view (float64).
        best_row, best_shift: `[b]`, the most probable pose.
        best_weight: `[b]`, its probability.
    """

    likelihood: Tensor
    norm: Tensor
    evidence_loglik: Tensor
    best_row: Tensor
    best_shift: Tensor
    best_weight: Tensor

    @staticmethod
    def of_scores(scores: Tensor, temperature: float = 1.0) -> "Posterior":
        """Normalise log-likelihoods `[b, t, r]`, in place."""
        b, _, r = scores.shape
        flat = scores.view(b, -1)
        if temperature != 1.0:
            flat.div_(temperature)
        best, where = flat.max(dim=1)
        # `exp` of numbers that leave the range of float32 takes 20 ns each, `exp2` 0.3
        flat.sub_(best[:, None]).mul_(_LOG2_E).exp2_()
        total = scores.sum(1).sum(1, dtype=torch.float64)
        return Posterior(
            likelihood=scores,
            norm=total.reciprocal().float(),
            evidence_loglik=best.double() + total.log(),
            best_row=where % r,
            best_shift=where // r,
            best_weight=total.reciprocal().float(),
        )

    @property
    def row_mass(self) -> Tensor:
        """`[b, r]`, probability of each orientation."""
        return self.likelihood.sum(1) * self.norm[:, None]

    @property
    def shift_mass(self) -> Tensor:
        """`[b, t]`, probability of each shift."""
        return self.likelihood.sum(2) * self.norm[:, None]

    def draw(self, uniform: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one pose of each view.

        Args:
            uniform: `[b]`, random numbers in [0, 1).

        Returns:
            Row and shift, `[b]` each.
        """
        row, rest = _draw_index(self.row_mass, uniform.double())
        at = torch.arange(len(row), device=row.device)
        shift, _ = _draw_index(self.likelihood[at, :, row], rest)
        return row, shift


@dataclass(frozen=True)
class Profile:
    """How likely each row of a grid is at its own best shift: enough to find peaks.

    Attributes:
        loglik: `[b, r]`, maximum over shifts; minus infinity where a view has no row.
        best_shift: `[b, r]`, where it is.
        temperature: of the masses.
    """

    loglik: Tensor
    best_shift: Tensor
    temperature: float

    @staticmethod
    def of_scores(scores: Tensor, temperature: float) -> "Profile":
        """Take the best shift of each row of `[b, t, r]`."""
        best, shift = scores.max(dim=1)
        return Profile(best, shift, temperature)

    @property
    def row_mass(self) -> Tensor:
        """`[b, r]`, share of each row at the temperature."""
        return (self.loglik / self.temperature).softmax(1)

    @property
    def shift_of_best(self) -> Tensor:
        """`[b]`, index of the shift of the best row."""
        return self.best_shift.gather(1, self.loglik.argmax(1, keepdim=True)).squeeze(1)


def _draw_index(weight: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a column of each line of weights; also return the unused part of the number."""
    running = weight.cumsum(1, dtype=torch.float64)
    target = uniform * running[:, -1]
    index = torch.searchsorted(running, target[:, None], right=True).squeeze(1)
    index = index.clamp_max(weight.shape[1] - 1)
    at = torch.arange(len(index), device=index.device)
    chosen = weight[at, index].double().clamp_min(1e-300)
    rest = ((target - (running[at, index] - chosen)) / chosen).clamp(0, 1 - 1e-9)
    return index, rest


def as_real(values: Tensor) -> Tensor:
    """View `[.., k]` complex as `[.., 2 k]` real."""
    return torch.view_as_real(values).flatten(-2)


def scores_of_bank(
    views: Views,
    bank: Tensor,
    *,
    shifts_angst: Tensor,
    log_prior_row: Tensor,
    log_prior_shift: Tensor,
) -> tuple[Tensor, Tensor]:
    """Score every row of a bank and every shift, densely.

    Args:
        views: `b` views; the caller chooses b so that `b * t * r` floats fit.
        bank: `[r, k]`, reference slices.
        shifts_angst: `[t, 2]`, relative to each view's present centre.
        log_prior_row: `[r]`.
        log_prior_shift: `[b, t]` or `[1, t]`.

    Returns:
        Log-likelihoods `[b, t, r]`, and the shifted whitened views `[b, t, k]`, which the
        maximisation step needs again.
    """
    signal, weight = views.whitened()
    phases = shift_phases(shifts_angst, views.disc, views.pixel_size_angst)
    shifted = signal[:, None, :] * phases
    b, t, k = shifted.shape
    scores = (as_real(shifted).view(b * t, 2 * k) @ as_real(bank).T).view(b, t, -1)
    power = weight @ (bank.real.square() + bank.imag.square()).T
    scores += (log_prior_row - 0.5 * power)[:, None, :]
    scores += log_prior_shift[:, :, None]
    return scores, shifted


def posterior_of_bank(
    views: Views,
    bank: Tensor,
    *,
    shifts_angst: Tensor,
    log_prior_row: Tensor,
    log_prior_shift: Tensor,
    temperature: float = 1.0,
) -> tuple[Posterior, Tensor]:
    """Score as `scores_of_bank` does, and normalise.

    Args:
        views, bank, shifts_angst, log_prior_row, log_prior_shift: as there.
        temperature: scores are divided by it; 1 is the likelihood.

    Returns:
        The posterior and the shifted whitened views `[b, t, k]`.
    """
    scores, shifted = scores_of_bank(
        views,
        bank,
        shifts_angst=shifts_angst,
        log_prior_row=log_prior_row,
        log_prior_shift=log_prior_shift,
    )
    return Posterior.of_scores(scores, temperature), shifted


def child_rotations(rotations_ref_to_img: Tensor, step_deg: float) -> Tensor:
    """Return the eight children of rotations, half a grid step apart.

    The cell of a pose is taken as a cube of side `step_deg` in the tangent space, cut in
    eight.

    Args:
        rotations_ref_to_img: `[n, 3, 3]`.
        step_deg: step of the parents' grid.

    Returns:
        `[n, 8, 3, 3]`, float64.
    """
    parents = rotations_ref_to_img.double()
    quarter = math.radians(step_deg / 4)
    corners = torch.cartesian_prod(*[parents.new_tensor([-quarter, quarter])] * 3)
    return torch.einsum("cij,njk->ncik", rotation_from_vector(corners), parents)
