"""Crystalline ice in a spectrum: a sharp ring, or single reflections in some tiles.

Vitreous ice has a broad maximum near 3.7 Å, which a smooth background follows. Crystals of ice
have sharp rings at 3.9, 3.67 and 3.44 Å (hexagonal; only 3.66 Å cubic), or, where they are few and
large, single spots. Both are looked for in what the fitted rings and background leave.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = ["IceSigns", "find_ice"]

_RINGS_ANGST = (3.90, 3.67, 3.44)  # Dowell & Rinfret 1960, doi:10.1038/1881144a0
_RING_HALF_WIDTH = 0.004  # 1/Å
_REFERENCE = (0.012, 0.035)  # 1/Å from the ring, what it is compared with
_SPOTS_FROM_ANGST = 10.0
_FALSE_ALARMS = 0.01  # expected number of spots in noise, a micrograph


@dataclass(frozen=True)
class IceSigns:
    """Signs of crystals.

    Attributes:
        ring_ratio: power in the strongest ice ring over that beside it, less 1; NaN where the
            spectrum does not reach 3.4 Å.
        n_reflections: Fourier pixels of tiles, finer than 10 Å, far above what noise gives.
        crystal_fraction: part of the tiles that have any.
    """

    ring_ratio: float
    n_reflections: int
    crystal_fraction: float


def find_ice(spectrum: TileSpectrum, fit: RingFit) -> IceSigns:
    """Measure ice rings and reflections against a fit.

    Args:
        spectrum: with its tiles, to beyond 3.4 Å if ice rings are to be seen.
        fit: of that spectrum.
    """
    model = fit.background + fit.amplitude * fit.rings
    radius = spectrum.radius_per_angst
    n_spots, part = _reflections(spectrum, model, radius)
    # not over the background: it may have followed the ring that is looked for
    ringless = spectrum.power / (1.0 + fit.amplitude / fit.background * fit.rings)
    return IceSigns(_ring_ratio(ringless, radius), n_spots, part)


def _ring_ratio(ratio: Tensor, radius: Tensor) -> float:
    """Greatest excess of the ice rings within the band."""
    ratio = ratio / ratio.mean()
    excess = []
    for ring_angst in _RINGS_ANGST:
        distance = (radius - 1.0 / ring_angst).abs()
        inside = distance <= _RING_HALF_WIDTH
        beside = (distance >= _REFERENCE[0]) & (distance <= _REFERENCE[1])
        for other in _RINGS_ANGST:
            beside &= (radius - 1.0 / other).abs() > 1.5 * _RING_HALF_WIDTH
        if float(radius.max()) >= 1.0 / ring_angst + _RING_HALF_WIDTH and bool(beside.any()):
            excess.append(float(ratio[inside].mean() / ratio[beside].mean()) - 1.0)
    return max(excess) if excess else math.nan


def _reflections(spectrum: TileSpectrum, model: Tensor, radius: Tensor) -> tuple[int, float]:
    """Count pixels of tiles that exceed what an exponential distribution allows."""
    fine = radius >= 1.0 / _SPOTS_FROM_ANGST
    tiles = spectrum.tile_power[:, fine]
    if not tiles.numel():
        return 0, 0.0
    relative = tiles / (model[fine] / model.mean()).to(tiles)
    limit = math.log(tiles.numel() / _FALSE_ALARMS)
    found = relative > limit * relative.mean(dim=1, keepdim=True)
    return int(found.sum()), float(found.any(dim=1).double().mean())
