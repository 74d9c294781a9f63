"""HEALPix pixels of the sphere in the NESTED order.

Equal-area pixels whose four children at the next order are numbered 4 p ... 4 p + 3,
which is what a hierarchical search over directions needs.
Source: Gorski et al. 2005, doi:10.1086/427976.
"""

import math

import torch
from torch import Tensor

__all__ = ["healpix_angles", "healpix_pixels"]

# ring index (in units of n_side) and longitude (in units of pi/4) of the 12 faces' centres
_FACE_RING = (2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4)
_FACE_LONGITUDE = (1, 3, 5, 7, 0, 2, 4, 6, 1, 3, 5, 7)


def healpix_angles(pixels: Tensor, *, order: int) -> Tensor:
    """Directions of pixel centres.

    Args:
        pixels: `[n]`, int64, NESTED, below 12 * 4^order.
        order: of the grid, 0 to 20; n_side is 2^order.

    Returns:
        `[n, 2]` (longitude, colatitude) in degrees, float64, longitude in [0, 360).
    """
    n_side = _n_side(order)
    face, inside = pixels // n_side**2, pixels % n_side**2
    x, y = _even_bits(inside), _even_bits(inside >> 1)
    ring = _per_face(_FACE_RING, face) * n_side - x - y - 1
    n_in_ring = torch.minimum(torch.minimum(ring, 4 * n_side - ring), torch.full_like(ring, n_side))
    polar = n_in_ring.to(torch.float64).square() / (3 * n_side**2)
    equatorial = (2 * n_side - ring).to(torch.float64) * (2 / (3 * n_side))
    z = torch.where(ring < n_side, 1 - polar, equatorial)
    z = torch.where(ring > 3 * n_side, polar - 1, z)
    # 1 - |z| is kept apart, so that colatitudes near the poles lose no digits
    near_pole = (ring < n_side) | (ring > 3 * n_side)
    sine = torch.sqrt(torch.where(near_pole, polar * (2 - polar), 1 - z * z))
    # longitude in units of pi / (4 n_in_ring)
    steps = _per_face(_FACE_LONGITUDE, face) * n_in_ring + x - y
    longitude = 45.0 * steps.to(torch.float64) / n_in_ring
    return torch.stack([longitude % 360, torch.rad2deg(torch.atan2(sine, z))], dim=-1)


def healpix_pixels(angles_deg: Tensor, *, order: int) -> Tensor:
    """Pixel that each direction falls in.

    Args:
        angles_deg: `[n, 2]` (longitude, colatitude).
        order: of the grid, 0 to 20.

    Returns:
        `[n]`, int64, NESTED.
    """
    n_side = _n_side(order)
    longitude, colatitude = angles_deg.to(torch.float64).unbind(-1)
    z = torch.cos(torch.deg2rad(colatitude))
    quarter = (longitude % 360) / 90
    face_e, x_e, y_e = _equatorial_cell(z, quarter, n_side)
    face_p, x_p, y_p = _polar_cell(z, colatitude, quarter, n_side)
    equatorial = z.abs() <= 2 / 3
    face = torch.where(equatorial, face_e, face_p)
    x, y = torch.where(equatorial, x_e, x_p), torch.where(equatorial, y_e, y_p)
    return face * n_side**2 + _spread_bits(x) + 2 * _spread_bits(y)


def _equatorial_cell(z: Tensor, quarter: Tensor, n_side: int) -> tuple[Tensor, Tensor, Tensor]:
    ascending = torch.floor(n_side * (0.5 + quarter - 0.75 * z)).to(torch.int64)
    descending = torch.floor(n_side * (0.5 + quarter + 0.75 * z)).to(torch.int64)
    band_a, band_d = ascending // n_side, descending // n_side
    face = torch.where(band_a == band_d, band_a % 4 + 4, torch.where(band_a < band_d, band_a, 0))
    face = torch.where(band_a > band_d, band_d % 4 + 8, face)
    face = torch.where(band_a < band_d, band_a % 4, face)
    return face, descending % n_side, n_side - 1 - ascending % n_side


def _polar_cell(
    z: Tensor, colatitude: Tensor, quarter: Tensor, n_side: int
) -> tuple[Tensor, Tensor, Tensor]:
    cap = torch.clamp(torch.floor(quarter).to(torch.int64), max=3)
    along = quarter - cap
    # sqrt(3 (1 - |z|)) without cancellation near the poles
    lower = torch.minimum(colatitude, 180 - colatitude)
    width = n_side * math.sqrt(6) * torch.sin(torch.deg2rad(lower) / 2)
    a = torch.clamp(torch.floor(along * width).to(torch.int64), max=n_side - 1)
    b = torch.clamp(torch.floor((1 - along) * width).to(torch.int64), max=n_side - 1)
    north = z >= 0
    x = torch.where(north, n_side - 1 - b, a)
    y = torch.where(north, n_side - 1 - a, b)
    return torch.where(north, cap, cap + 8), x, y


def _n_side(order: int) -> int:
    if not 0 <= order <= 20:
        raise ValueError(f"order must be in 0 ... 20: got {order}")
    return 1 << order


def _per_face(values: tuple[int, ...], face: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.int64, device=face.device)[face]


def _even_bits(code: Tensor) -> Tensor:
    """Gather bits 0, 2, 4, ... of each code."""
    out = torch.zeros_like(code)
    for bit in range(20):
        out |= ((code >> (2 * bit)) & 1) << bit
    return out


def _spread_bits(value: Tensor) -> Tensor:
    """Move bit i of each value to bit 2 i."""
    out = torch.zeros_like(value)
    for bit in range(20):
        out |= ((value >> bit) & 1) << (2 * bit)
    return out
