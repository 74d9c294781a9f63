"""Thickness of the ice from the node of its Thon rings.

A slab of thickness t damps the oscillation of the rings by `sinc(lambda k^2 t)`: it vanishes at
`k = 1 / sqrt(lambda t)` and is reversed beyond. Only that reversal is taken as evidence, for a
decay alone may be an envelope. A tilted specimen makes nodes of the same sort: what its slope, as
the tiles show it, does to the rings is taken out first.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import shell_sums
from verglas.algorithms.ctf.matched import Signal

__all__ = ["Thickness", "find_thickness", "slab_visibility"]

_STEP_ANGST = 20.0
_LEAST_GAIN_NATS = 8.0
_B_FACTORS_ANGST2 = tuple(range(-60, 420, 20))


@dataclass(frozen=True)
class Thickness:
    """Thickness of the ice and its standard error; NaN where no node is seen."""

    value_angst: float
    error_angst: float


def slab_visibility(radius: Tensor, thickness_angst: Tensor, wavelength_angst: float) -> Tensor:
    """Factor of the oscillation of the rings of slabs: `[t, s]`.

    Args:
        radius: `[s]`, 1/Å.
        thickness_angst: `[t]`.
        wavelength_angst: of the electrons.

    References:
        McMullan et al. 2015, doi:10.1016/j.ultramic.2015.05.017; Elferich et al. 2024,
        doi:10.7554/eLife.97227.
    """
    return torch.sinc(wavelength_angst * radius.square() * thickness_angst[:, None])


def find_thickness(
    signal: Signal,
    phase: Tensor,
    radius: Tensor,
    *,
    wavelength_angst: float,
    max_thickness_angst: float,
    tilt: Tensor | None = None,
) -> Thickness:
    """Look for the reversal of rings beyond a node.

    Args:
        signal: whitened, its background near 0.
        phase: `[c]`, of the fit.
        radius: `[s]`, of the shells, 1/Å.
        wavelength_angst: of the electrons.
        max_thickness_angst: thickest slab to try.
        tilt: `[s]`, factor of the rings by a tilt, see `tilt_visibility`.
    """
    nothing = Thickness(math.nan, math.nan)
    thinnest = 1.0 / (wavelength_angst * float(radius[-1]) ** 2)
    if max_thickness_angst <= 1.1 * thinnest:
        return nothing
    wave = -torch.cos(2.0 * phase).float()
    along, square = shell_sums(
        torch.stack([signal.values * wave, wave * wave]) * signal.weight, signal.shell_end
    )
    grid = torch.arange(thinnest, max_thickness_angst, _STEP_ANGST).to(radius)
    tried = torch.cat([torch.zeros(1).to(radius), grid])
    b_factor = torch.tensor(_B_FACTORS_ANGST2).to(radius)
    envelope = torch.exp(-0.5 * b_factor[:, None] * radius.square())
    slabs = slab_visibility(radius, tried, wavelength_angst)
    if tilt is not None:
        slabs = slabs * tilt
    height = slabs[:, None] * envelope
    gain = 0.5 * (height @ along).clamp(min=0.0).square() / (height.square() @ square)
    best = gain.amax(dim=1)
    top = int(best[1:].argmax()) + 1
    if float(best[top] - best[0]) < _LEAST_GAIN_NATS:
        return nothing
    return _peak(tried[1:], best[1:])


def _peak(grid: Tensor, gain: Tensor) -> Thickness:
    """Mean and standard deviation of the posterior on an even grid, near its maximum."""
    weight = (gain - gain.max()).exp()
    mean = float((weight * grid).sum() / weight.sum())
    spread = float((weight * (grid - mean).square()).sum() / weight.sum())
    return Thickness(mean, math.sqrt(spread + _STEP_ANGST**2 / 12.0))
