"""Picture of a power spectrum with the fitted Thon rings beside it."""

import math

import torch
from torch import Tensor

from verglas.algorithms.ctf.spectrum import TileSpectrum, polar_average

__all__ = ["spectrum_picture"]

_N_SECTORS = 90
_HALF_ARC = 3  # sectors of 2 degrees on either side that are averaged


def _smooth_arcs(values: Tensor, spectrum: TileSpectrum) -> Tensor:
    """Average along arcs of 14 degrees, then scale wide bands to zero mean and unit deviation."""
    mean, count = polar_average(values, spectrum, n_sectors=_N_SECTORS)
    total, weight = mean * count, count
    shifts = range(-_HALF_ARC, _HALF_ARC + 1)
    total = torch.stack([total.roll(shift, dims=0) for shift in shifts]).sum(dim=0)
    weight = torch.stack([weight.roll(shift, dims=0) for shift in shifts]).sum(dim=0)
    arcs = total / weight.clamp(min=1.0)
    used = (weight > 0).to(arcs)
    moments = torch.stack([used, arcs * used, arcs.square() * used]).sum(dim=1)
    width = max(3, moments.shape[1] // 16)
    kernel = torch.ones(1, 1, 2 * width + 1).to(values)
    padded = torch.nn.functional.pad(moments[:, None], (width, width), mode="reflect")
    n, first, second = torch.nn.functional.conv1d(padded, kernel)[:, 0]
    level = first / n.clamp(min=1.0)
    deviation = (second / n.clamp(min=1.0) - level.square()).clamp(min=1e-12).sqrt()
    shell = (spectrum.radius_per_angst / spectrum.step_per_angst).round().long()
    angle = torch.atan2(spectrum.y_per_angst, spectrum.x_per_angst)
    sector = (angle * _N_SECTORS / math.pi).round().long() % _N_SECTORS
    scaled: Tensor = (arcs - level) / deviation
    return scaled[sector, shell]


def spectrum_picture(
    spectrum: TileSpectrum, *, relative_power: Tensor, ctf2: Tensor, fit_res_angst: float
) -> Tensor:
    """Draw the measured spectrum in the left half and the fitted rings in the right.

    Args:
        spectrum: gives the frequencies.
        relative_power: `[n]`, power above the background, over the background.
        ctf2: `[n]`, squared CTF of the fit.
        fit_res_angst: drawn as a bright circle.

    Returns:
        `[p, p]` uint8; zero frequency in the centre, columns along +x, rows along +y.
    """
    step = spectrum.step_per_angst
    half = int((spectrum.radius_per_angst / step).max()) + 2
    column = (spectrum.x_per_angst / step).round().long()
    row = (spectrum.y_per_angst / step).round().long()
    picture = torch.full((2 * half + 1, 2 * half + 1), 0.5).to(ctf2)
    rings = _smooth_arcs(relative_power, spectrum)
    picture[half - row, half - column] = (0.5 + 0.25 * rings).clamp(0.0, 1.0)
    picture[half + row, half + column] = 0.1 + 0.8 * ctf2
    axis = torch.arange(-half, half + 1).to(picture)
    radius = torch.hypot(axis[:, None], axis[None, :]) * step
    picture[(radius - 1.0 / fit_res_angst).abs() < 0.5 * step] = 1.0
    return (255.0 * picture).round().to(torch.uint8).cpu()
