"""What views meet in the expectation step in 2D, prepared once for all views of a pass."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.algorithms.em.noise import NoiseWindow, noise_window
from verglas.algorithms.views import Views
from verglas.kernels.disc import HalfDisc, half_disc
from verglas.kernels.fourier import next_fast_size
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import (
    RingGrid,
    RingWaves,
    ring_orders,
    ring_shift_waves,
    rings_of_images,
)
from verglas.kernels.slices import image_to_half_plane

__all__ = ["Turning", "TurningPass", "turned_slices"]

_ASTIGMATIC_ORDERS = (0, 2, 4)  # of CTF^2 along a ring
_EDGE_PX = 2.0


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
        temperature: that scores are divided by.
        n_families: parts of the classes, in order and of one size, each of which is by itself:
            a view counts fully for each family.
        is_noise_measured: residuals are added up.
    """

    averages: Tensor
    log_prior: Tensor
    grid: RingGrid
    shifts_angst: Tensor
    shift_prior_angst: float
    first_psi_deg: float
    reach_angst: float
    noise_radius_angst: float
    temperature: float = 1.0
    n_families: int = 1
    is_noise_measured: bool = True

    @property
    def n_psi(self) -> int:
        """Number of in-plane rotations: as many as the orders tell apart."""
        return 1 if self.grid.n_orders == 1 else next_fast_size(2 * self.grid.n_orders)

    @property
    def psi_deg(self) -> Tensor:
        """`[n_psi]`, float64."""
        n = self.n_psi
        turn = torch.arange(n, dtype=torch.float64, device=self.shifts_angst.device) * (360 / n)
        return self.first_psi_deg + turn


@dataclass(frozen=True)
class TurningPass:
    """What is the same for all views of a pass.

    Attributes:
        disc: coefficients of the views on a box just large enough.
        mask: `[n, n]`, the disc of the averages, wherever shifts move it.
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
    def make(views: Views, turning: Turning) -> "TurningPass":
        """Prepare for views of one size: on the processor, for wherever they are.

        Args:
            views: of the pass, or some of them.
            turning: what they are compared with.
        """
        there, views_disc = views.device, to_device(views.disc, "cpu")
        turning = to_device(turning, "cpu")
        grid, averages = turning.grid, turning.averages
        extent = views.disc.box * views.pixel_size_angst
        n = next_fast_size(2 * grid.radius + 6)
        # averages are compact: what falls outside them, moved by any shift and blurred to the
        # resolution, does not count
        reach = turning.reach_angst + float(turning.shifts_angst.norm(dim=1).max())
        radius_px = min(reach * n / extent + 0.5, n / 2 - _EDGE_PX - 1)
        waves = RingWaves.make(grid, n, radius_px=radius_px + _EDGE_PX)
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
        made = TurningPass(
            disc=disc,
            mask=soft_circle(n, radius_px, _EDGE_PX),
            waves=waves,
            shift_waves=ring_shift_waves(
                grid, turning.shifts_angst / views.pixel_size_angst, views.disc.box
            ),
            averages=(orders * wave[:, None, None] * area).transpose(1, 2).contiguous(),
            half_planes=image_to_half_plane(averages, radius=grid.radius, padding=2),
            shells=_shell_orders(disc),
            power=_half_power(found, turning),
            window=noise_window(views_disc, _noise_radius_px(views, turning)),
        )
        return to_device(made, there)


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


def turned_slices(
    half_planes: Tensor, reference: Tensor, psi_deg: Tensor, points: Tensor
) -> Tensor:
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
