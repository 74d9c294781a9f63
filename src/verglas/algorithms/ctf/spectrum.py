"""Tile periodogram of a micrograph and its polar average, the data that a CTF fit sees.

Tiles have a fixed size in Å rather than in pixels, so that Thon rings are sampled alike at any
pixel size; frequencies that are too fine to be useful are cut off instead of resampling the image.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.grey_levels import clip_outliers
from verglas.kernels.fourier import next_fast_size
from verglas.kernels.spectrum import tile_periodograms

__all__ = ["TileSpectrum", "polar_average", "ring_gain", "tile_spectrum"]

# Variance of the mean over overlapping Hann tiles: neighbouring tiles at half overlap share
# (1/6)^2 of their variance, and the Hann window correlates neighbouring frequencies so that
# 1.944 of them (per axis) carry the information of one (Welch 1967; Percival & Walden 1993).
_HANN_OVERLAP_CORRELATION = 1.0 / 36.0
_HANN_FREQUENCY_CORRELATION = 1.944
# Squared correlation of values one and two frequencies apart.
_HANN_NEIGHBOURS = (4.0 / 9.0, 1.0 / 36.0)


@dataclass(frozen=True)
class TileSpectrum:
    """Mean periodogram of the tiles of one micrograph, as a list of Fourier pixels.

    Only independent pixels (half plane) within the working band are kept; the lines next to the
    axes, where detectors and image edges leave stripes, are not.

    Attributes:
        power: `[n]`, white noise of variance s^2 is flat at s^2.
        x_per_angst, y_per_angst: `[n]`, frequency of each pixel.
        step_per_angst: spacing of the frequencies.
        n_independent: independent periodogram values that one pixel stands for.
        tile_power: `[t, n]`, the same for each tile, over the tile's mean power.
        tile_centre_angst: `[t, 2]` (x, y), from the centre of the image.
    """

    power: Tensor
    x_per_angst: Tensor
    y_per_angst: Tensor
    step_per_angst: float
    n_independent: float
    tile_power: Tensor
    tile_centre_angst: Tensor

    @property
    def radius_per_angst(self) -> Tensor:
        """Distance of each pixel from the origin."""
        return torch.hypot(self.x_per_angst, self.y_per_angst)

    def within(self, max_per_angst: float) -> "TileSpectrum":
        """Keep the pixels up to a frequency."""
        keep = self.radius_per_angst <= max_per_angst
        return replace(
            self,
            power=self.power[keep],
            x_per_angst=self.x_per_angst[keep],
            y_per_angst=self.y_per_angst[keep],
            tile_power=self.tile_power[:, keep],
        )


def tile_spectrum(
    image: Tensor,
    *,
    pixel_size_angst: float,
    tile_angst: float = 768.0,
    min_per_angst: float,
    max_per_angst: float,
) -> TileSpectrum:
    """Average the periodograms of Hann-windowed, half-overlapping square tiles.

    Args:
        image: `[h, w]`, any grey scale.
        pixel_size_angst: of the image.
        tile_angst: edge of a tile; 768 Å are 512 pixels of 1.5 Å.
        min_per_angst, max_per_angst: band of frequencies to keep.

    Returns:
        The spectrum; an image smaller than a tile is one tile.

    References:
        Welch 1967, doi:10.1109/TAU.1967.1161901.
    """
    tile = next_fast_size(round(tile_angst / pixel_size_angst))
    tile = min(tile, 2 * (min(image.shape) // 2))
    clipped = clip_outliers(image.float(), n_sigma=6.0)[None]
    power = tile_periodograms(clipped, tile_px=tile, step_px=tile // 2)[0]
    n_rows, n_columns = power.shape[:2]
    centre = _tile_centres((n_rows, n_columns), (image.shape[0], image.shape[1]), tile)
    power = power.flatten(0, 1)
    # total power is variance: blank and masked tiles are left out
    variance = power.mean(dim=(1, 2))
    used = variance >= 0.25 * variance.median()
    power = power[used]
    looks = len(power) / (n_rows * n_columns)
    for count in (n_rows, n_columns):
        looks *= count / (1.0 + 2.0 * _HANN_OVERLAP_CORRELATION * (count - 1) / count)
    step = 1.0 / (tile * pixel_size_angst)
    rows, columns, x, y = _band_pixels(tile, step, (min_per_angst, max_per_angst), image.device)
    tile_power = power[:, rows, columns]
    return TileSpectrum(
        power=tile_power.mean(dim=0, dtype=torch.float64),
        x_per_angst=x,
        y_per_angst=y,
        step_per_angst=step,
        n_independent=looks / _HANN_FREQUENCY_CORRELATION**2,
        tile_power=tile_power / tile_power.mean(dim=1, keepdim=True),
        tile_centre_angst=centre.to(image.device)[used] * pixel_size_angst,
    )


def ring_gain(turns_per_step: Tensor) -> Tensor:
    """How many times more an oscillation tells than the independent values of a flat spectrum.

    The window makes neighbouring values vary together, which hurts a sum over many of them, but
    less a sum whose sign changes from one to the next, as that over narrow rings.

    Args:
        turns_per_step: `[s]`, turns of the oscillation from one frequency to the next.

    Returns:
        `[s]`, at least 1; mean over the directions of the oscillation.
    """
    angle = (torch.arange(8) + 0.5).to(turns_per_step) * (0.5 * torch.pi / 8)
    turn = 2.0 * torch.pi * turns_per_step[:, None]
    near, far = _HANN_NEIGHBOURS

    def correlation(along: Tensor) -> Tensor:
        return 1.0 + 2.0 * (near * torch.cos(along) + far * torch.cos(2.0 * along))

    both = correlation(turn * angle.cos()) * correlation(turn * angle.sin())
    return (_HANN_FREQUENCY_CORRELATION**2 / both.mean(dim=1)).clamp(min=1.0)


def _tile_centres(grid: tuple[int, int], shape: tuple[int, int], tile: int) -> Tensor:
    """Centres (x, y) of an even lattice of tiles from the centre of the image, pixels: `[t, 2]`."""
    y, x = (
        torch.linspace(-0.5, 0.5, count, dtype=torch.float64) * (extent - tile)
        if count > 1
        else torch.zeros(1, dtype=torch.float64)
        for count, extent in zip(grid, shape, strict=True)
    )
    return torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], dim=-1).flatten(0, 1)


def _band_pixels(
    tile: int, step_per_angst: float, band_per_angst: tuple[float, float], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows, columns and frequencies (x, y) of the half plane between two radii, off the axes."""
    y = torch.fft.fftfreq(tile, 1.0 / tile, dtype=torch.float64, device=device)
    x = torch.arange(tile // 2 + 1, dtype=torch.float64, device=device)
    radius = torch.hypot(x[None, :], y[:, None]) * step_per_angst
    lower, upper = band_per_angst
    keep = (radius >= lower) & (radius <= min(upper, 0.5 * tile * step_per_angst))
    keep &= (x[None, :] >= 2) & (y[:, None].abs() >= 2)
    rows, columns = keep.nonzero(as_tuple=True)
    return rows, columns, x[columns] * step_per_angst, y[rows] * step_per_angst


def polar_average(
    values: Tensor, spectrum: TileSpectrum, *, n_sectors: int
) -> tuple[Tensor, Tensor]:
    """Average pixel values over sectors of direction (over 180 degrees) and shells.

    Args:
        values: `[n]`, one per pixel of the spectrum.
        spectrum: gives the frequencies.
        n_sectors: sector s is centred on `180 s / n_sectors` degrees from +x towards +y.

    Returns:
        Mean and number of pixels, both `[n_sectors, n_shells]`; shell j is at j steps. An empty
        cell has mean 0.
    """
    shell = (spectrum.radius_per_angst / spectrum.step_per_angst).round().long()
    angle = torch.atan2(spectrum.y_per_angst, spectrum.x_per_angst)
    sector = (angle * n_sectors / torch.pi).round().long() % n_sectors
    n_shells = int(shell.max()) + 1
    cell = sector * n_shells + shell
    total = torch.bincount(cell, weights=values, minlength=n_sectors * n_shells)
    count = torch.bincount(cell, minlength=n_sectors * n_shells).to(total.dtype)
    mean = total / count.clamp(min=1.0)
    return mean.view(n_sectors, n_shells), count.view(n_sectors, n_shells)
