"""Noise of known spectrum, drawn image by image so that no order of work changes it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.kernels.fourier import irfft2, rfft2, rfft_grid

__all__ = ["NoiseSpectrum", "draw_noise", "item_generator", "noise_power"]


@dataclass(frozen=True)
class NoiseSpectrum:
    """A white floor and a part that falls off, `1 / (1 + (k / corner)^2)`.

    Attributes:
        coloured_fraction: part of the variance that falls off; 0 is white noise.
        corner_per_angst: frequency at which the falling part is half of its start.
    """

    coloured_fraction: float = 0.0
    corner_per_angst: float = 1 / 30

    def __post_init__(self) -> None:
        if not 0 <= self.coloured_fraction <= 1:
            raise ValueError(f"coloured fraction must be in 0..1: got {self.coloured_fraction}")
        if self.corner_per_angst <= 0:
            raise ValueError(f"corner frequency must be positive: got {self.corner_per_angst}")


def item_generator(seed: int, *key: int) -> np.random.Generator:
    """Make the generator of one item: the same for the same seed and key, alone or in a batch."""
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


def noise_power(spectrum: NoiseSpectrum, shape: tuple[int, int], pixel_size_angst: float) -> Tensor:
    """Evaluate the power spectrum per coefficient of a half transform.

    Returns:
        `[h, w//2+1]` float32; its mean over the whole plane is 1, the variance of a pixel.
    """
    height, width = shape
    grid = rfft_grid((height, width), pixel_size_angst, dtype=torch.float64)
    square = grid.square().sum(-1)
    falling = 1 / (1 + square / spectrum.corner_per_angst**2)
    column = torch.arange(width // 2 + 1)
    twice = torch.where((column == 0) | (2 * column == width), 1.0, 2.0)
    mean = (falling * twice).sum() / (height * width)
    part = spectrum.coloured_fraction
    return ((1 - part) + part * falling / mean).float()


def draw_noise(
    items: NDArray[np.int64],
    shape: tuple[int, int],
    *,
    seed: int,
    spectrum: NoiseSpectrum | None = None,
    pixel_size_angst: float = 1.0,
) -> Tensor:
    """Draw Gaussian noise of unit variance for each item.

    Args:
        items: `[b]`, numbers that choose the noise together with the seed.
        shape: `(h, w)`.
        spectrum: white without it.
        pixel_size_angst: only the spectrum needs it.

    Returns:
        `[b, h, w]` float32, periodic in both axes when coloured.
    """
    drawn = np.empty((len(items), *shape), np.float32)
    for image, item in zip(drawn, items, strict=True):
        item_generator(seed, int(item)).standard_normal(out=image, dtype=np.float32)
    white = torch.from_numpy(drawn)
    if spectrum is None or spectrum.coloured_fraction == 0:
        return white
    power = noise_power(spectrum, shape, pixel_size_angst)
    return irfft2(rfft2(white) * power.sqrt(), shape=shape)
