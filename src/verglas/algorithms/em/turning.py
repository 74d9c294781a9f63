"""The expectation step in 2D: every class, in-plane rotation and shift of each view at once.

The score is that of `search.py`, written on Fourier rings: for each angular order a product
between rings of views and of averages, and one short transform gives the scores at all
rotations. The sums for new averages go the same way back. What is compared is compact, so
nothing is lost (see `kernels/rings.py`).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.em.search import Posterior
from verglas.algorithms.em.turning_setup import Turning, TurningPass, turned_slices
from verglas.algorithms.views import Views
from verglas.kernels.disc import scatter_disc
from verglas.kernels.fourier import irfft2
from verglas.kernels.rings import ring_orders, rings_of_images, shifted_rings

__all__ = ["Turned", "expect_turned"]

_BLOCK = 500_000  # scores in memory at a time
_LOG2_E = 1 / math.log(2)
_NOTHING = -100.0  # power of two that stands for no likelihood at all
_LOTS = 97.0  # makes a second number of another's last digits


@dataclass(frozen=True)
class Turned:
    """The most probable pose of each view.

    Attributes:
        psi_deg: `[b]`, in-plane rotation.
        shift_angst: `[b, 2]`.
        reference: `[b]`, class.
        reference_weight: `[b]`, posterior probability of that class, all poses together.
        loglik: `[b]`, evidence against an empty box.
        class_mass: `[b, c]`, posterior probability of each class within its family.
    """

    psi_deg: Tensor
    shift_angst: Tensor
    reference: Tensor
    reference_weight: Tensor
    loglik: Tensor
    class_mass: Tensor

    @staticmethod
    def join(parts: list["Turned"]) -> "Turned":
        """Concatenate the poses of blocks."""
        return Turned(*[torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])])


def expect_turned(
    views: Views, turning: Turning, *, n_groups: int, shifts_angst: Tensor
) -> tuple[Turned, Sums]:
    """Score all views and add up the expectations.

    Args:
        views: the images of one half set.
        turning: what to compare with.
        n_groups: number of noise groups in the whole data set.
        shifts_angst: `[b, 2]`, present centres.

    Returns:
        The best pose of each view, and the sums; the planes of these are by angular order,
        `[c, m, radius]`, the weights `[c, radius]`, means along rings.
    """
    turning = to_device(turning, views.device)
    pass_ = TurningPass.make(views, turning)
    sums = _empty_sums(turning, n_groups)
    totals = _Totals.zeros(turning)
    parts = []
    for block in _blocks(len(views), turning):
        parts.append(
            _step(views.take(block), shifts_angst[block].double(), turning, pass_, totals, sums)
        )
    sums.numerator.copy_(totals.signal.transpose(0, 1))
    sums.denominator.copy_(totals.weight)
    return Turned.join(parts), sums


@dataclass(frozen=True)
class _Totals:
    """Sums over views: `[m, c, radius]` by angular order, and weights `[c, radius]`."""

    signal: Tensor
    weight: Tensor

    @staticmethod
    def zeros(turning: Turning) -> "_Totals":
        shape = len(turning.averages), turning.grid.radius
        weight = torch.zeros(shape, device=turning.averages.device)
        signal = weight.new_zeros(turning.grid.n_orders, *shape, dtype=torch.complex64)
        return _Totals(signal, weight)


def _empty_sums(turning: Turning, n_groups: int) -> Sums:
    grid, n_classes = turning.grid, len(turning.averages)
    device = turning.averages.device
    empty = Sums.zeros(n_classes, n_groups, grid.radius, padding=1, planar=True, device=device)
    return replace(
        empty,
        numerator=empty.numerator.new_zeros(n_classes, grid.n_orders, grid.radius),
        denominator=empty.denominator.new_zeros(n_classes, grid.radius),
    )


def _blocks(n_views: int, turning: Turning) -> Iterator[slice]:
    grid = turning.grid
    by_ring = grid.radius * 2 * grid.n_half
    per_view = len(turning.shifts_angst) * max(by_ring, len(turning.averages) * turning.n_psi)
    size = max(1, min(256, _BLOCK // per_view))
    for start in range(0, n_views, size):
        yield slice(start, min(n_views, start + size))


def _step(
    views: Views, centre: Tensor, turning: Turning, pass_: TurningPass, totals: _Totals, sums: Sums
) -> Turned:
    """Score a block of views and add up its expectations, in place."""
    at_centre = views.shifted(centre)
    signal, weight = at_centre.whitened()
    n = pass_.disc.box
    images = irfft2(scatter_disc(signal, pass_.disc), shape=(n, n)) * pass_.mask
    rings = rings_of_images(images, pass_.waves)
    orders = ring_orders(shifted_rings(rings, pass_.shift_waves), turning.grid)
    by_shell = weight @ pass_.shells
    posterior = _score(orders, by_shell, centre, turning, pass_)
    _add_planes(posterior, orders, by_shell, turning, totals)
    row_mass = posterior.row_mass
    mass = row_mass.view(len(views), -1, turning.n_psi).sum(2) * turning.n_families
    _add_numbers(posterior, row_mass, at_centre, centre, turning, pass_, sums)
    sums.class_weight.add_(mass.double().sum(0))
    best = posterior.best_row
    reference = best // turning.n_psi
    return Turned(
        psi_deg=turning.psi_deg[best % turning.n_psi],
        shift_angst=centre + turning.shifts_angst[posterior.best_shift],
        reference=reference,
        reference_weight=mass.gather(1, reference[:, None]).squeeze(1),
        loglik=posterior.evidence_loglik,
        class_mass=mass,
    )


def _score(
    orders: Tensor, by_shell: Tensor, centre: Tensor, turning: Turning, pass_: TurningPass
) -> Posterior:
    """Return the posterior; rows are classes, and in each the rotations."""
    b, t = orders.shape[1:3]
    products = orders.conj().flatten(1, 2) @ pass_.averages
    products = products.movedim(0, -1).contiguous()
    scores = torch.fft.irfft(products, n=turning.n_psi, norm="forward").view(b, t, -1)
    prior = turning.log_prior.float().repeat_interleave(turning.n_psi)
    scores += (prior - by_shell @ pass_.power)[:, None]
    moved = (centre[:, None] + turning.shifts_angst).square().sum(-1)
    scores -= (moved / (2 * turning.shift_prior_angst**2)).float()[:, :, None]
    return _posterior(scores.div_(turning.temperature), turning.n_families)


def _posterior(scores: Tensor, n_families: int) -> Posterior:
    """Normalise log-likelihoods `[b, t, r]`, in place; each family has an equal part."""
    b, t, _ = scores.shape
    best_shift = scores.amax(2).argmax(1)
    best_row = scores[torch.arange(b, device=scores.device), best_shift].argmax(1)
    apart = scores.view(b, t, n_families, -1)
    best = apart.amax((1, 3))
    # the exponential is ten times slower where it underflows
    apart.sub_(best[:, None, :, None]).mul_(_LOG2_E).clamp_min_(_NOTHING).exp2_()
    total = apart.sum(3).sum(1, dtype=torch.float64)
    norm = total[:, 0].reciprocal().float()
    if n_families > 1:
        apart.div_(total.float()[:, None, :, None])
        norm = torch.full_like(norm, 1 / n_families)
    return Posterior(
        likelihood=scores,
        norm=norm,
        evidence_loglik=(best.double() + total.log()).mean(1),
        best_row=best_row,
        best_shift=best_shift,
        best_weight=norm,
    )


def _add_planes(
    posterior: Posterior, orders: Tensor, by_shell: Tensor, turning: Turning, totals: _Totals
) -> None:
    """Add what the views say of the averages."""
    m, b, t, radius = orders.shape
    part = posterior.likelihood * (posterior.norm * turning.n_families)[:, None, None]
    mine = torch.fft.rfft(part.view(b, t, -1, turning.n_psi))
    first = torch.arange(m, dtype=torch.float64) * -math.radians(turning.first_psi_deg)
    wave = torch.polar(torch.ones_like(first), first).to(mine)
    by_order = (mine[..., :m] * wave).movedim(-1, 0)
    totals.signal.baddbmm_(by_order.flatten(1, 2).transpose(1, 2), orders.flatten(1, 2))
    of_view = by_order[0].sum(1).real
    totals.weight.addmm_(of_view.T, by_shell[:, :radius])


def _add_numbers(
    posterior: Posterior,
    row_mass: Tensor,
    views: Views,
    centre: Tensor,
    turning: Turning,
    pass_: TurningPass,
    sums: Sums,
) -> None:
    """Add shifts, evidence, and the residual at a pose drawn from each posterior."""
    b = len(views)
    if turning.is_noise_measured:
        row, shift = _drawn(posterior, row_mass, lot(views))
        reference, psi = row // turning.n_psi, turning.psi_deg[row % turning.n_psi]
        slices = turned_slices(pass_.half_planes, reference, psi, views.disc.frequencies_px)
        add_residuals(views.shifted(turning.shifts_angst[shift]), slices, sums, pass_.window)
    total = (centre[:, None] + turning.shifts_angst).square().sum(-1) / 2
    square = (total * posterior.shift_mass.double()).sum()
    sums.shift_square_angst2.add_(torch.stack([square, square.new_tensor(b)]))
    sums.evidence_loglik.add_(posterior.evidence_loglik.sum())


def _drawn(posterior: Posterior, row_mass: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a row and a shift of each view."""

    def draw(weight: Tensor, at: Tensor) -> Tensor:
        running = weight.cumsum(1)
        target = (at.float() * running[:, -1])[:, None]
        index = torch.searchsorted(running, target, right=True).squeeze(1)
        return index.clamp_max(weight.shape[1] - 1)

    row = draw(row_mass, uniform)
    shifts = posterior.likelihood[torch.arange(len(row), device=row.device), :, row]
    return row, draw(shifts, (uniform * _LOTS) % 1.0)
