"""Fourier rings: transforms of compact images in polar coordinates, where turning is a phase.

An image that vanishes outside a disc has a smooth transform, which rings one Fourier pixel
apart describe fully (Penczek, Renka & Schomberg 2004, doi:10.1364/JOSAA.21.000499). Turning
the image moves every ring along itself, so that comparing two images at all in-plane rotations
is a product for each angular order and one short transform back.

Rings are `[2, .., radius, n_half]`: real and imaginary parts, apart because even orders need
only the first and odd orders only the second.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.fourier import next_fast_size

__all__ = [
    "RingGrid",
    "RingWaves",
    "images_of_orders",
    "ring_grid",
    "ring_orders",
    "ring_shift_waves",
    "rings_of_images",
    "rings_of_orders",
    "rings_to_images",
    "shifted_rings",
]

_MARGIN = 5  # orders beyond the band limit until coefficients vanish


@dataclass(frozen=True)
class RingGrid:
    """Rings of radius 1 to `radius`, in Fourier pixels of a box.

    Attributes:
        radius: of the last ring.
        n_half: samples of half a ring; the other half is their conjugate.
        n_orders: angular orders 0 to `n_orders - 1` that compact images have.
    """

    radius: int
    n_half: int
    n_orders: int

    @property
    def angles_rad(self) -> Tensor:
        """`[n_half]`, of the samples, from 0 up to half a turn; float64."""
        return torch.arange(self.n_half, dtype=torch.float64) * (math.pi / self.n_half)

    @property
    def radii_px(self) -> Tensor:
        """`[radius]`, float64."""
        return torch.arange(1, self.radius + 1, dtype=torch.float64)

    @property
    def frequencies_px(self) -> Tensor:
        """`[radius, n_half, 2]`, x and y; float64."""
        angle = self.angles_rad
        direction = torch.stack([angle.cos(), angle.sin()], -1)
        return self.radii_px[:, None, None] * direction


def ring_grid(radius: int, *, sampled_part: float, compared_part: float) -> RingGrid:
    """Choose as many samples as products of two compact images need.

    Args:
        radius: last ring.
        sampled_part: diameter of the larger images, as a part of the box.
        compared_part: diameter of the images they are compared with, whose orders are kept.

    Returns:
        The grid.
    """
    sampled, compared = (
        math.ceil(math.pi * radius * part) + _MARGIN for part in (sampled_part, compared_part)
    )
    return RingGrid(radius, next_fast_size(math.ceil((sampled + compared + 1) / 2)), compared + 1)


@dataclass(frozen=True)
class RingWaves:
    """Waves of all ring samples on the pixels of half a disc: made once, used for many images.

    Attributes:
        grid: the rings.
        n: side of the images.
        pixel: `[p]`, positions in a flattened image.
        mirror: `[p]`, those of their mirror images; the centre is its own.
        cosine, sine: `[p, radius n_half]`, halved at the centre.
    """

    grid: RingGrid
    n: int
    pixel: Tensor
    mirror: Tensor
    cosine: Tensor
    sine: Tensor

    @staticmethod
    def make(grid: RingGrid, n: int, *, radius_px: float) -> "RingWaves":
        """Work out the waves.

        Args:
            grid: the rings; the last one within Nyquist of n.
            n: side of the images, whose extent is the box of the grid.
            radius_px: of the disc outside which the images vanish, in their own pixels.
        """
        axis = torch.arange(n) - n // 2
        y, x = torch.meshgrid(axis, axis, indexing="ij")
        reach = min(radius_px, (n - 1) // 2)
        chosen = ((y > 0) | ((y == 0) & (x >= 0))) & (x.square() + y.square() <= reach**2)
        x, y = x[chosen], y[chosen]
        pixel, mirror = (y + n // 2) * n + x + n // 2, (n // 2 - y) * n + n // 2 - x
        # the wave of a pixel is the product of one of its column and one of its row
        turn = axis.double()[:, None] * grid.frequencies_px.flatten(0, 1).T[:, None]
        turn = turn * (2 * math.pi / n)
        cosine, sine = turn.cos().float(), turn.sin().float()
        cx, sx, cy, sy = (
            table[part, index + n // 2]
            for part, index in ((0, x), (1, y))
            for table in (cosine, sine)
        )
        weight = torch.where(pixel == mirror, 0.5, 1.0)[:, None]
        return RingWaves(
            grid, n, pixel, mirror, (cx * cy - sx * sy) * weight, (sx * cy + cx * sy) * weight
        )


def rings_of_images(images: Tensor, waves: RingWaves) -> Tensor:
    """Transform compact images onto rings, exactly.

    Args:
        images: `[b, n, n]`, real, centred at n // 2.
        waves: of that size.

    Returns:
        `[2, b, radius, n_half]`, not scaled.
    """
    flat = images.float().flatten(1)
    one, other = flat[:, waves.pixel], flat[:, waves.mirror]
    parts = torch.stack([(one + other) @ waves.cosine, (other - one) @ waves.sine])
    return parts.view(2, -1, waves.grid.radius, waves.grid.n_half)


def rings_to_images(rings: Tensor, waves: RingWaves) -> Tensor:
    """Transform rings back into images: the adjoint of `rings_of_images`, weighted by areas.

    Args:
        rings: `[2, b, radius, n_half]`.
        waves: of the size wanted; the images are zero outside their disc.

    Returns:
        `[b, n, n]`.
    """
    n, grid = waves.n, waves.grid
    area = (grid.radii_px * (math.pi / grid.n_half)).float()[:, None]
    real, imaginary = (rings * area).flatten(-2)
    even, odd = real @ waves.cosine.T, imaginary @ waves.sine.T
    out = rings.new_zeros(rings.shape[1], n * n)
    out[:, waves.mirror] = (even + odd) * (2 / n**2)
    # the waves are halved at the centre, which counts once
    twice = torch.where(waves.pixel == waves.mirror, 2.0, 1.0)
    out[:, waves.pixel] = (even - odd) * twice * (2 / n**2)
    return out.view(-1, n, n)


def ring_shift_waves(grid: RingGrid, shifts_px: Tensor, box: int) -> Tensor:
    """Return `[2, t, radius, n_half]`, the phase factors `exp(-2 pi i k . shift)`.

    Args:
        grid: of the rings.
        shifts_px: `[t, 2]`, x and y, in pixels of the box.
        box: whose Fourier pixels the rings are counted in.
    """
    turn = torch.einsum("tc,rhc->trh", shifts_px.double(), grid.frequencies_px)
    turn = turn * (-2 * math.pi / box)
    return torch.stack([turn.cos(), turn.sin()]).float()


def shifted_rings(rings: Tensor, waves: Tensor) -> Tensor:
    """Move images by every shift.

    Args:
        rings: `[2, b, radius, n_half]`.
        waves: `[2, t, radius, n_half]`, of the shifts.

    Returns:
        `[2, b, t, radius, n_half]`.
    """
    real, imaginary = rings[:, :, None]
    cosine, sine = waves
    out = rings.new_empty(2, len(real), *cosine.shape)
    torch.mul(real, cosine, out=out[0]).addcmul_(imaginary, sine, value=-1)
    torch.mul(real, sine, out=out[1]).addcmul_(imaginary, cosine)
    return out


def ring_orders(rings: Tensor, grid: RingGrid) -> Tensor:
    """Split rings by angular order.

    Args:
        rings: `[2, .., radius, n_half]`.
        grid: of the rings.

    Returns:
        `[n_orders, .., radius]`, complex64: means over the ring of `ring * exp(-i m angle)`;
        orders below zero are `(-1)^m` times the conjugate.
    """
    shape = (grid.n_orders, *rings.shape[1:-1])
    out = torch.empty(shape, dtype=torch.complex64, device=rings.device)
    for odd in (0, 1):
        order = torch.arange(odd, grid.n_orders, 2, dtype=torch.float64)
        turn = grid.angles_rad[:, None] * order
        # x + (-1)^m conj(x): even orders see the real part alone, odd orders the imaginary
        waves = [turn.sin(), turn.cos()] if odd else [turn.cos(), -turn.sin()]
        matrix = torch.stack(waves, -1).flatten(1).to(rings) / grid.n_half
        found = (rings[odd] @ matrix).view(*shape[1:], -1, 2)
        out[odd::2] = torch.view_as_complex(found).movedim(-1, 0)
    return out


def rings_of_orders(orders: Tensor, grid: RingGrid) -> Tensor:
    """Sample rings from their angular orders; the inverse of `ring_orders`.

    Args:
        orders: `[m, .., radius]`, complex.
        grid: of the rings.

    Returns:
        `[2, .., radius, n_half]`.
    """
    parts = []
    for odd in (0, 1):
        order = torch.arange(odd, len(orders), 2, dtype=torch.float64)
        turn = order[:, None] * grid.angles_rad
        real, imaginary = (
            [2 * turn.sin(), 2 * turn.cos()] if odd else [2 * turn.cos(), -2 * turn.sin()]
        )
        if not odd:
            real[0] = 1.0
            imaginary[0] = 0.0
        mine = orders[odd::2].movedim(0, -1)
        parts.append(mine.real @ real.float() + mine.imag @ imaginary.float())
    return torch.stack(parts)


def images_of_orders(orders: Tensor, n: int) -> Tensor:
    """Transform angular orders back into images.

    Args:
        orders: `[b, m, radius]`, complex, of rings in Fourier pixels of the images' box.
        n: side of the images; the last ring is within Nyquist of it.

    Returns:
        `[b, n, n]`.
    """
    n_orders, radius = orders.shape[1:]
    n_half = next_fast_size(math.ceil((math.pi * radius + n_orders) / 2) + _MARGIN)
    grid = RingGrid(radius, n_half, n_orders)
    rings = rings_of_orders(orders.to(torch.complex64).transpose(0, 1), grid)
    return rings_to_images(rings, RingWaves.make(grid, n, radius_px=n / 2))
