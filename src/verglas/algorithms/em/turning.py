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

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow, noise_window
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.em.search import Posterior
from verglas.algorithms.views import Views
from verglas.kernels.disc import HalfDisc, half_disc, scatter_disc
from verglas.kernels.fourier import irfft2, next_fast_size
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import (
    RingGrid,
    RingWaves,
    ring_orders,
    ring_shift_waves,
    rings_of_images,
    rings_of_orders,
    shifted_rings,
)
from verglas.kernels.slices import image_to_half_plane

__all__ = ["Turned", "Turning", "expect_turned"]

_BLOCK = 500_000  # scores in memory at a time
_LOG2_E = 1 / math.log(2)
_NOTHING = -100.0  # power of two that stands for no likelihood at all
_ALL_BUT_ONE = 1e-9  # least part of the evidence that a class leaves to the others
_LOTS = 97.0  # makes a second number of another's last digits
_ASTIGMATIC_ORDERS = (0, 2, 4)  # of CTF^2 along a ring


@dataclass(frozen=True)
class Turning:
    """What views are compared with, and how.

    Attributes:
        averages: `[c, n, n]`, compact; their extent is that of the views' box.
        log_prior: `[c]`.
        grid: rings, up to the radius of the views.
        shifts_angst: `[t, 2]`, relative to each view's centre.
        shift_prior_angst: standard deviation of shifts.
        first_psi_deg: where the grid of in-plane rotations begins.
        reach_angst: radius of the averages, edge and all.
        noise_radius_angst: of the disc in which the noise is measured.
    """

    averages: Tensor
    log_prior: Tensor
    grid: RingGrid
    shifts_angst: Tensor
    shift_prior_angst: float
    first_psi_deg: float
    reach_angst: float
    noise_radius_angst: float

    @property
    def n_psi(self) -> int:
        """Number of in-plane rotations: as many as the orders tell apart."""
        return 1 if self.grid.n_orders == 1 else next_fast_size(2 * self.grid.n_orders)

    @property
    def psi_deg(self) -> Tensor:
        """`[n_psi]`, float64."""
        n = self.n_psi
        return self.first_psi_deg + torch.arange(n, dtype=torch.float64) * (360 / n)


@dataclass(frozen=True)
class Turned:
    """The most probable pose of each view.

    Attributes:
        psi_deg: `[b]`, in-plane rotation.
        shift_angst: `[b, 2]`.
        reference: `[b]`, class.
        reference_weight: `[b]`, posterior probability of that class, all poses together.
        loglik: `[b]`, evidence against an empty box.
        loss_loglik: `[b, c]`, how much of it would be lost without each class.
    """

    psi_deg: Tensor
    shift_angst: Tensor
    reference: Tensor
    reference_weight: Tensor
    loglik: Tensor
    loss_loglik: Tensor

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
        The best pose of each view, and the sums; the planes of these are
        `[c, radius, n_half]`, along rings.
    """
    pass_ = _Pass.make(views, turning)
    sums = _empty_sums(turning, n_groups)
    totals = _Totals.zeros(turning)
    parts = []
    for block in _blocks(len(views), turning):
        parts.append(
            _step(views.take(block), shifts_angst[block].double(), turning, pass_, totals, sums)
        )
    numerator = rings_of_orders(totals.signal, turning.grid)
    denominator = rings_of_orders(totals.weight, turning.grid)[0]
    sums.numerator.copy_(torch.complex(numerator[0], numerator[1]))
    sums.denominator.copy_(denominator)
    return Turned.join(parts), sums


@dataclass(frozen=True)
class _Pass:
    """What is the same for all views of a pass.

    Attributes:
        disc: coefficients of the views on a box just large enough.
        mask: `[n, n]`, the disc that fills the box.
        waves: of the rings within the mask.
        shift_waves: of the shifts.
        averages: `[m, radius, c]`, conjugates of what views' orders are multiplied with.
        half_planes: the averages, for slicing.
        shells: `[k, 5 radius]`, averages CTF^2 by shell and astigmatic order.
        power: `[5 radius, c n_psi]`, half the power of the averages, likewise.
        window: in which the noise is measured.
    """

    disc: HalfDisc
    mask: Tensor
    waves: RingWaves
    shift_waves: Tensor
    averages: Tensor
    half_planes: Tensor
    shells: Tensor
    power: Tensor
    window: NoiseWindow

    @staticmethod
    def make(views: Views, turning: Turning) -> "_Pass":
        grid, averages = turning.grid, turning.averages
        extent = views.disc.box * views.pixel_size_angst
        n = next_fast_size(2 * grid.radius + 6)
        edge_px = 2.0
        # beyond the averages: what the CTF spread is not lost to the sums
        radius_px = n / 2 - edge_px - 1
        waves = RingWaves.make(grid, n, radius_px=radius_px + edge_px)
        side = averages.shape[-1]
        of_averages = waves
        if side != n:
            of_averages = RingWaves.make(grid, side, radius_px=turning.reach_angst * side / extent)
        found = rings_of_images(averages, of_averages)
        orders = ring_orders(found, grid)
        first = math.radians(turning.first_psi_deg)
        turn = torch.arange(grid.n_orders, dtype=torch.float64) * first
        wave = torch.polar(torch.ones_like(turn), turn).to(torch.complex64)
        area = (math.pi * grid.radii_px).float()
        disc = half_disc(n, grid.radius)
        return _Pass(
            disc=disc,
            mask=soft_circle(n, radius_px, edge_px),
            waves=waves,
            shift_waves=ring_shift_waves(
                grid, turning.shifts_angst / views.pixel_size_angst, views.disc.box
            ),
            averages=(orders * wave[:, None, None] * area).transpose(1, 2).contiguous(),
            half_planes=image_to_half_plane(averages, radius=grid.radius, padding=2),
            shells=_shell_orders(disc),
            power=_half_power(found, turning),
            window=noise_window(views.disc, _noise_radius_px(views, turning)),
        )


@dataclass(frozen=True)
class _Totals:
    """Sums over views by angular order: `[m, c, radius]`, complex."""

    signal: Tensor
    weight: Tensor

    @staticmethod
    def zeros(turning: Turning) -> "_Totals":
        shape = len(turning.averages), turning.grid.radius
        return _Totals(
            torch.zeros(turning.grid.n_orders, *shape, dtype=torch.complex64),
            torch.zeros(max(_ASTIGMATIC_ORDERS) + 1, *shape, dtype=torch.complex64),
        )


def _empty_sums(turning: Turning, n_groups: int) -> Sums:
    grid, n_classes = turning.grid, len(turning.averages)
    empty = Sums.zeros(n_classes, n_groups, grid.radius, padding=1, planar=True)
    shape = n_classes, grid.radius, grid.n_half
    return replace(
        empty,
        numerator=torch.zeros(shape, dtype=torch.complex64),
        denominator=torch.zeros(shape),
    )


def _blocks(n_views: int, turning: Turning) -> Iterator[slice]:
    grid = turning.grid
    by_ring = grid.radius * 2 * grid.n_half
    per_view = len(turning.shifts_angst) * max(by_ring, len(turning.averages) * turning.n_psi)
    size = max(1, min(256, _BLOCK // per_view))
    for start in range(0, n_views, size):
        yield slice(start, min(n_views, start + size))


def _shell_orders(disc: HalfDisc) -> Tensor:
    """Return `[k, 5 radius]`: what averages over shells, cos and sin of the orders apart."""
    angle = torch.atan2(disc.frequencies_px[:, 1], disc.frequencies_px[:, 0]).double()
    one = torch.nn.functional.one_hot(disc.shell - 1, disc.radius).double()
    one = one / one.sum(0)
    waves = [torch.ones_like(angle)]
    for order in _ASTIGMATIC_ORDERS[1:]:
        waves += [(order * angle).cos(), (order * angle).sin()]
    return torch.cat([one * wave[:, None] for wave in waves], 1).float()


def _half_power(rings: Tensor, turning: Turning) -> Tensor:
    """Return `[5 radius, c n_psi]`: half the power of each average at each rotation."""
    power = rings.square().sum(0).double()
    angle, psi = turning.grid.angles_rad, torch.deg2rad(turning.psi_deg)
    rows = [power.mean(-1)[..., None].expand(*power.shape[:2], len(psi))]
    for order in _ASTIGMATIC_ORDERS[1:]:
        turn = order * angle
        mean = torch.complex((power * turn.cos()).mean(-1), -(power * turn.sin()).mean(-1))
        moved = mean[..., None] * torch.polar(torch.ones_like(psi), order * psi)
        rows += [2 * moved.real, -2 * moved.imag]
    # the area of half a ring, as in the products: the number of coefficients scatters about it
    area = (math.pi * turning.grid.radii_px).repeat(len(rows))[:, None]
    return (torch.cat(rows, 1).transpose(0, 1).flatten(1) * area / 2).float()


def _step(
    views: Views,
    centre: Tensor,
    turning: Turning,
    pass_: _Pass,
    totals: _Totals,
    sums: Sums,
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
    mass = row_mass.view(len(views), -1, turning.n_psi).sum(2)
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
        loss_loglik=-(1 - mass).clamp_min(_ALL_BUT_ONE).log(),
    )


def _score(
    orders: Tensor, by_shell: Tensor, centre: Tensor, turning: Turning, pass_: _Pass
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
    return _posterior(scores)


def _posterior(scores: Tensor) -> Posterior:
    """Normalise log-likelihoods `[b, t, r]`, in place."""
    best = scores.amax((1, 2))
    best_shift = scores.amax(2).argmax(1)
    best_row = scores[torch.arange(len(scores)), best_shift].argmax(1)
    # the exponential is ten times slower where it underflows
    likelihood = scores.sub_(best[:, None, None]).mul_(_LOG2_E).clamp_min_(_NOTHING).exp2_()
    total = likelihood.sum(2).sum(1, dtype=torch.float64)
    return Posterior(
        likelihood=likelihood,
        norm=total.reciprocal().float(),
        evidence_loglik=best.double() + total.log(),
        best_row=best_row,
        best_shift=best_shift,
        best_weight=total.reciprocal().float(),
    )


def _add_planes(
    posterior: Posterior,
    orders: Tensor,
    by_shell: Tensor,
    turning: Turning,
    totals: _Totals,
) -> None:
    """Add what the views say of the averages."""
    m, b, t, radius = orders.shape
    part = posterior.likelihood * posterior.norm[:, None, None]
    mine = torch.fft.rfft(part.view(b, t, -1, turning.n_psi))
    first = torch.arange(m, dtype=torch.float64) * -math.radians(turning.first_psi_deg)
    wave = torch.polar(torch.ones_like(first), first).to(torch.complex64)
    by_order = (mine[..., :m] * wave).movedim(-1, 0)
    totals.signal.baddbmm_(by_order.flatten(1, 2).transpose(1, 2), orders.flatten(1, 2))
    of_view = by_order.sum(2)
    at = 0
    for order in _ASTIGMATIC_ORDERS:
        real = by_shell[:, at : at + radius]
        imaginary = torch.zeros_like(real)
        at += radius
        if order:
            imaginary = -by_shell[:, at : at + radius]
            at += radius
        if order < m:
            totals.weight[order] += of_view[order].T @ torch.complex(real, imaginary)


def _add_numbers(
    posterior: Posterior,
    row_mass: Tensor,
    views: Views,
    centre: Tensor,
    turning: Turning,
    pass_: _Pass,
    sums: Sums,
) -> None:
    """Add shifts, evidence, and the residual at a pose drawn from each posterior."""
    b = len(views)
    row, shift = _drawn(posterior, row_mass, lot(views))
    reference, psi = row // turning.n_psi, turning.psi_deg[row % turning.n_psi]
    slices = _slices(pass_.half_planes, reference, psi, views.disc.frequencies_px)
    add_residuals(views.shifted(turning.shifts_angst[shift]), slices, sums, pass_.window)
    total = (centre[:, None] + turning.shifts_angst).square().sum(-1) / 2
    square = (total * posterior.shift_mass.double()).sum()
    sums.shift_square_angst2.add_(torch.stack([square, torch.tensor(float(b)).double()]))
    sums.evidence_loglik.add_(posterior.evidence_loglik.sum())


def _drawn(posterior: Posterior, row_mass: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw a row and a shift of each view."""

    def draw(weight: Tensor, at: Tensor) -> Tensor:
        running = weight.cumsum(1)
        target = (at.float() * running[:, -1])[:, None]
        index = torch.searchsorted(running, target, right=True).squeeze(1)
        return index.clamp_max(weight.shape[1] - 1)

    row = draw(row_mass, uniform)
    shifts = posterior.likelihood[torch.arange(len(row)), :, row]
    return row, draw(shifts, (uniform * _LOTS) % 1.0)


def _slices(half_planes: Tensor, reference: Tensor, psi_deg: Tensor, points: Tensor) -> Tensor:
    """Return `[b, k]`: one average for each view, turned; bilinear, as `extract_slices`."""
    psi = torch.deg2rad(psi_deg)
    cosine, sine = psi.cos().float()[:, None], psi.sin().float()[:, None]
    x = 2 * (cosine * points[:, 0] - sine * points[:, 1])
    y = 2 * (sine * points[:, 0] + cosine * points[:, 1])
    side, width = half_planes.shape[2:]
    sign = torch.where(x < 0, -1.0, 1.0)
    x, y = x * sign, y * sign
    x0, y0 = x.floor(), y.floor()
    part_x, part_y = x - x0, y - y0
    at = (reference[:, None] * side + y0.long() + side // 2) * width + x0.long()
    flat = torch.view_as_real(half_planes[:, 1].contiguous()).view(-1, 2)
    low = torch.lerp(flat[at], flat[at + 1], part_x[..., None])
    high = torch.lerp(flat[at + width], flat[at + width + 1], part_x[..., None])
    found = torch.lerp(low, high, part_y[..., None])
    return torch.complex(found[..., 0], found[..., 1] * sign)


def _noise_radius_px(views: Views, turning: Turning) -> float:
    return min(turning.noise_radius_angst / views.pixel_size_angst, 0.45 * views.disc.box)
