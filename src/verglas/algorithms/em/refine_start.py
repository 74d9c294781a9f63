"""The start of a refinement: a map of any box and grey scale, brought to that of the images."""

import math

import torch
from torch import Tensor

from verglas.algorithms.em.refine_state import RefineConfig, RefineState, map_box, map_sphere
from verglas.kernels.filters import low_pass
from verglas.kernels.fourier import fourier_resize3

__all__ = ["fit_to_box", "initial_state"]


def fit_to_box(volume: Tensor, *, pixel_size_angst: float, config: RefineConfig) -> Tensor:
    """Bring a map of any box and pixel size onto the box of the images.

    Args:
        volume: `[n, n, n]`.
        pixel_size_angst: of the map.
        config: of the run.

    Returns:
        `[box, box, box]`, about the same centre.
    """
    n = volume.shape[-1]
    if len(set(volume.shape)) != 1:
        raise ValueError(f"volume must be cubic: got shape {tuple(volume.shape)}")
    extent = max(n * pixel_size_angst, config.extent_angst)
    padded, wanted = _matching_sizes(
        max(n, math.ceil(extent / pixel_size_angst)), pixel_size_angst / config.pixel_size_angst
    )
    grown = _about_centre(volume.float(), padded)
    resized = fourier_resize3(grown[None], shape=(wanted,) * 3)[0]
    return _about_centre(resized, config.box)


def _matching_sizes(least: int, ratio: float) -> tuple[int, int]:
    """Find a padded size that becomes, times the ratio, nearly a whole number alike in parity."""

    def target(size: int) -> int:
        whole = round(size * ratio)
        return whole + (whole - size) % 2

    sizes = range(least, least + max(16, least // 4))
    best = min(sizes, key=lambda size: abs(size * ratio / target(size) - 1) + 1e-6 * size)
    return best, target(best)


def _about_centre(volume: Tensor, size: int) -> Tensor:
    """Cut or pad a cube about voxel n // 2."""
    before = size // 2 - volume.shape[-1] // 2
    after = size - volume.shape[-1] - before
    return torch.nn.functional.pad(volume, (before, after) * 3)


def initial_state(config: RefineConfig, volume: Tensor, noise_power: Tensor) -> RefineState:
    """Start both halves from one low-passed map.

    Args:
        config: of the run.
        volume: `[n, n, n]`, of the box's extent, on the scale of the images.
        noise_power: `[g, s]`.

    Returns:
        The state before the first iteration.
    """
    shell = config.first_shell
    box = map_box(shell)
    low = fourier_resize3(volume[None].float(), shape=(box,) * 3)[0]
    low = low * (volume.shape[-1] / box) ** 3
    pixel = config.extent_angst / box
    limit = config.extent_angst / shell
    low = low_pass(low[None], resolution_angst=limit, pixel_size_angst=pixel)[0]
    low = low * map_sphere(box, config)
    return RefineState(
        half_maps=torch.stack([low, low]),
        noise_power=noise_power,
        scale=torch.ones(len(noise_power)),
        b_factor_angst2=torch.zeros(len(noise_power)),
        fsc=torch.ones(shell + 1, dtype=torch.float64),
        radius=0,
        shell=shell,
        step_deg=360.0,
        effective_cells=1e9,
        shift_prior_angst=config.shift_range_angst / 2,
        iteration=0,
        stalled=0,
        n_polished=0,
        jumped=1.0,
    )
