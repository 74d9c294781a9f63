"""Power spectra of micrographs: averaged periodograms, radial profiles, backgrounds.

Power is divided by the number of pixels (and by the mean square of the window), so white
noise of variance s^2 is flat at s^2 for every tile and window.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.core.checks import check_ndim, check_range
from verglas.kernels._checks import box_of_half_transform
from verglas.kernels.fsc import shell_average

__all__ = [
    "average_periodogram",
    "bin_average",
    "box_background",
    "radial_average",
    "spline_background",
    "tile_periodograms",
]

Window = Literal["hann", "none"]


def tile_periodograms(
    images: Tensor, *, tile_px: int, step_px: int, window: Window = "hann"
) -> Tensor:
    """Power of every tile of an even lattice over the images.

    Each tile loses its mean and is multiplied by the window. Tiles start at multiples of a
    step of at most `step_px`, chosen so that the last tile ends at the border.

    Args:
        images: `[b, h, w]`, real; both sides at least one tile.
        tile_px: side of the square tiles.
        step_px: largest distance between neighbours; half a tile for Hann windows.
        window: `hann` against leakage, or `none`.

    Returns:
        `[b, n_y, n_x, tile_px, tile_px//2+1]`, power per pixel.
    """
    tops, lefts = _tile_starts(images, tile_px, step_px)
    taper = _taper(tile_px, window, images)
    rows = [_row_of_periodograms(images, top, lefts, taper) for top in tops]
    return torch.stack(rows, dim=1)


def average_periodogram(
    images: Tensor, *, tile_px: int, step_px: int | None = None, window: Window = "hann"
) -> Tensor:
    """Mean power of overlapping tiles of each image; memory stays at one row of tiles.

    Args:
        images: `[b, h, w]`, real; both sides at least one tile.
        tile_px: side of the square tiles.
        step_px: largest distance between neighbours; half a tile if not given.
        window: `hann` against leakage, or `none`.

    Returns:
        `[b, tile_px, tile_px//2+1]`, power per pixel.

    References:
        Welch 1967, doi:10.1109/TAU.1967.1161901.
    """
    tops, lefts = _tile_starts(images, tile_px, tile_px // 2 if step_px is None else step_px)
    taper = _taper(tile_px, window, images)
    total = images.new_zeros(images.shape[0], tile_px, tile_px // 2 + 1)
    for top in tops:
        total = total + _row_of_periodograms(images, top, lefts, taper).sum(1)
    return total / (len(tops) * len(lefts))


def radial_average(power: Tensor, *, n_shells: int | None = None) -> Tensor:
    """Mean over rings (or shells) of the whole transform.

    Args:
        power: `[b, n, n//2+1]` or `[b, n, n, n//2+1]`, real.
        n_shells: rings from the origin; `n//2 + 1` if not given.

    Returns:
        `[b, n_shells]`, float64.
    """
    n = box_of_half_transform("power", power)
    shape = (n,) * (power.ndim - 1)
    return shell_average(power, shape=shape, n_shells=n_shells or n // 2 + 1)


def bin_average(values: Tensor, positions: Tensor, *, n_bins: int) -> tuple[Tensor, Tensor]:
    """Average values whose real-valued positions share the nearest whole number.

    With positions made by `ctf.equivalent_frequencies` this is the equi-phase average of an
    astigmatic spectrum.

    Args:
        values: `[b, ...]`, real.
        positions: as `values`, in bins; outside [-1/2, n_bins - 1/2) or not finite is left out.
        n_bins: bins from 0.

    Returns:
        Means `[b, n_bins]` (0 in an empty bin) and counts `[b, n_bins]`, float64.
    """
    if values.shape != positions.shape:
        raise ValueError(f"shapes differ: {tuple(values.shape)} and {tuple(positions.shape)}")
    check_range("n_bins", n_bins, ge=1)
    n_batch = values.shape[0]
    index = positions.nan_to_num(nan=-1).round().clamp(-1, n_bins).to(torch.int64)
    index = torch.where(index < 0, n_bins, index).reshape(n_batch, -1)
    index = index + torch.arange(n_batch, device=index.device)[:, None] * (n_bins + 1)
    length = n_batch * (n_bins + 1)
    total = torch.bincount(index.reshape(-1), values.reshape(-1).double(), minlength=length)
    count = torch.bincount(index.reshape(-1), minlength=length).to(torch.float64)
    total, count = (t.reshape(n_batch, -1)[:, :n_bins] for t in (total, count))
    return total / count.clamp(min=1), count


def box_background(power: Tensor, *, width_px: int) -> Tensor:
    """Moving average of half-plane power over a square, in the periodic whole plane.

    Args:
        power: `[b, n, n//2+1]`, real.
        width_px: odd side of the square, in Fourier pixels.

    Returns:
        As `power`.

    References:
        Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008, section 2.2.
    """
    n = box_of_half_transform("power", power)
    check_ndim("power", power, 3)
    if width_px % 2 == 0 or not 1 <= width_px <= n:
        raise ValueError(f"width_px must be odd and in 1 ... {n}: got {width_px}")
    # the spectrum of the square: a moving average over a periodic plane is a product
    kernel = torch.zeros(n, dtype=torch.float64, device=power.device)
    kernel[: width_px // 2 + 1] = 1
    kernel[n - width_px // 2 :] = 1
    response = torch.fft.fft(kernel).real / width_px
    whole_ft = torch.fft.irfft2(power.to(torch.complex128), s=(n, n))
    smooth: Tensor = torch.fft.rfft2(whole_ft * (response[:, None] * response))
    return smooth.real.to(power.dtype)


def spline_background(profiles: Tensor, *, n_knots: int, first: int = 0) -> Tensor:
    """Least-squares cubic spline through each profile, with evenly spaced knots.

    Args:
        profiles: `[b, n]`; pass the logarithm for a background that stays positive.
        n_knots: intervals of the spline; fewer make it stiffer.
        first: samples before this one do not count (and are extrapolated as equal to it).

    Returns:
        `[b, n]`, dtype of the profiles.
    """
    check_ndim("profiles", profiles, 2)
    n = profiles.shape[1] - first
    check_range("n_knots", n_knots, ge=1, le=max(1, n - 3))
    position = torch.linspace(0, n_knots, n, dtype=torch.float64, device=profiles.device)
    knots = torch.arange(n_knots + 3, dtype=torch.float64, device=profiles.device) - 1
    basis = _cubic_bspline(position[:, None] - knots)
    solution = torch.linalg.lstsq(basis, profiles[:, first:].double().T).solution
    fit: Tensor = (basis @ solution).T.to(profiles.dtype)
    return F.pad(fit[:, None], (first, 0), mode="replicate")[:, 0]


def _cubic_bspline(distance: Tensor) -> Tensor:
    d = distance.abs()
    inner = 2 / 3 - d**2 + d**3 / 2
    outer = (2 - d).clamp(min=0) ** 3 / 6
    value: Tensor = torch.where(d < 1, inner, outer)
    return value


def _tile_starts(images: Tensor, tile_px: int, step_px: int) -> tuple[list[int], list[int]]:
    check_ndim("images", images, 3)
    check_range("step_px", step_px, ge=1)
    shortest = min(images.shape[1:])
    check_range("tile_px", tile_px, ge=2, le=shortest)
    return _starts(images.shape[1], tile_px, step_px), _starts(images.shape[2], tile_px, step_px)


def _starts(length: int, tile_px: int, step_px: int) -> list[int]:
    n_steps = math.ceil((length - tile_px) / step_px)
    return [round(i * (length - tile_px) / max(n_steps, 1)) for i in range(n_steps + 1)]


def _taper(tile_px: int, window: Window, like: Tensor) -> Tensor:
    """Window of mean square 1."""
    if window == "none":
        return like.new_ones(tile_px, tile_px)
    if window != "hann":
        raise ValueError(f"window must be 'hann' or 'none': got {window!r}")
    one = torch.hann_window(tile_px, periodic=True, dtype=torch.float64, device=like.device)
    two = one[:, None] * one
    return (two / two.square().mean().sqrt()).to(like.dtype)


def _row_of_periodograms(images: Tensor, top: int, lefts: list[int], taper: Tensor) -> Tensor:
    """Power of the tiles of one row, `[b, n_x, t, t//2+1]`."""
    t = taper.shape[-1]
    tiles = torch.stack([images[:, top : top + t, x : x + t] for x in lefts], dim=1)
    tiles = (tiles - tiles.mean((-2, -1), keepdim=True)) * taper
    tiles_ft = torch.view_as_real(torch.fft.rfft2(tiles))
    return tiles_ft.square().sum(-1) / t**2
