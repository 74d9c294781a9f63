"""Slope of the defocus across a micrograph, from the spectra of its tiles.

A specimen tilted by 10 degrees changes its defocus by 0.18 Å per Å, some 300 Å across a
micrograph, which matters for each particle beyond about 5 Å. The fit of the mean spectrum is kept;
only the phase of the rings may move in proportion to the position of a tile.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.optics import Optics
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = ["Gradient", "fit_gradient", "tilt_visibility"]

_PRIOR_SLOPE = 0.2  # 11 degrees
_N_STEPS = 3
_N_STEEP_STEPS = 8  # where the first ones lead far
_STEEP = 0.15
_SURE_ERRORS = 4.0
_HANN_SPREAD = 0.1414  # of a tile's edge: deviation of the squared window


@dataclass(frozen=True)
class Gradient:
    """Change of defocus per Å along x and y, and the standard error of either."""

    slope_x: float
    slope_y: float
    error: float


def _tiles_by_cell(spectrum: TileSpectrum, cell: Tensor, count: Tensor) -> Tensor:
    """Average each tile's power over cells: `[t, c]`."""
    total = torch.zeros(len(spectrum.tile_power), len(count), device=cell.device)
    total.index_add_(1, cell, spectrum.tile_power)
    return total / count


def fit_gradient(spectrum: TileSpectrum, fit: RingFit, *, optics: Optics) -> Gradient:
    """Fit a plane of defocus by Fisher scoring of the tiles' likelihood.

    The prior is level with a width of 0.2, so that weak data give no slope.

    Args:
        spectrum: with its tiles; fewer than three give no slope.
        fit: of the mean spectrum.
        optics: wavelength.
    """
    if len(spectrum.tile_power) < 3:
        return Gradient(0.0, 0.0, math.inf)
    cell, count = fit.cell, torch.bincount(fit.cell).float()

    def mean(values: Tensor) -> Tensor:
        return (torch.bincount(cell, weights=values) / count).float()

    phase = mean(fit.phase)
    background, amplitude = mean(fit.background), mean(fit.amplitude)
    per_defocus = mean(math.pi * optics.wavelength_angst * spectrum.radius_per_angst.square())
    weight = mean(fit.weight) * count / len(spectrum.tile_power)
    power = _tiles_by_cell(spectrum, cell, count)
    # each tile on the grey scale of the model: only the place of the rings is asked for
    model = background + amplitude * phase.sin().square()
    power = power * (model * count).sum() / (power * count).sum(dim=1, keepdim=True)
    centre = spectrum.tile_centre_angst.double()
    prior = torch.eye(2, dtype=torch.float64, device=centre.device) / _PRIOR_SLOPE**2
    slope = torch.zeros(2, dtype=torch.float64, device=centre.device)
    fisher = prior
    for step in range(_N_STEEP_STEPS):
        if step >= _N_STEPS and float(slope.norm()) < _STEEP:
            break
        shifted = phase + (centre @ slope).float()[:, None] * per_defocus
        inverse = 1.0 / (background + amplitude * shifted.sin().square())
        change = amplitude * (2.0 * shifted).sin() * per_defocus * inverse
        score = (weight * (power * inverse - 1.0) * change).sum(dim=1, dtype=torch.float64)
        information = (weight * change.square()).sum(dim=1, dtype=torch.float64)
        fisher = prior + (centre * information[:, None]).T @ centre
        slope = slope + torch.linalg.solve(fisher, centre.T @ score - prior @ slope)
    covariance = torch.linalg.inv(fisher)
    error = math.sqrt(0.5 * float(covariance.trace()))
    return Gradient(float(slope[0]), float(slope[1]), error)


def tilt_visibility(
    spectrum: TileSpectrum, fit: RingFit, radius: Tensor, *, optics: Optics
) -> Tensor | None:
    """Factor of the rings of the mean spectrum by a tilt that is sure; None for none.

    Tiles of other defocus add up to rings that fade, vanish at a node and are reversed beyond.

    Args:
        spectrum: with its tiles.
        fit: of the mean spectrum.
        radius: `[s]`, of the shells, 1/Å.
        optics: wavelength.
    """
    gradient = fit_gradient(spectrum, fit, optics=optics)
    steepness = math.hypot(gradient.slope_x, gradient.slope_y)
    if steepness < _SURE_ERRORS * gradient.error:
        return None
    slope = torch.tensor([gradient.slope_x, gradient.slope_y]).to(spectrum.tile_centre_angst)
    per_defocus = 2.0 * math.pi * optics.wavelength_angst * radius.double().square()
    turns = (spectrum.tile_centre_angst @ slope).double()[:, None] * per_defocus
    within = per_defocus * steepness * _HANN_SPREAD / spectrum.step_per_angst
    return (turns.cos().mean(dim=0) * torch.exp(-0.5 * within.square())).to(radius)
