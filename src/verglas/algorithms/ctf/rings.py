"""How far, how well and in which directions Thon rings follow a fitted CTF.

The equi-phase average (Zhang 2016) puts Fourier pixels of equal aberration phase together, so
that rings stay sharp under astigmatism; its running correlation with the model is the quality
curve. Motion during the exposure wipes out rings along its direction only, so the same curve by
sector of direction tells drift from defocus trouble.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.optics import Optics
from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = [
    "RingProfile",
    "equivalent_radius",
    "fit_resolution",
    "mean_quality",
    "ring_profile",
    "sector_profiles",
]

_QUALITY_THRESHOLD = 0.5


@dataclass(frozen=True)
class RingProfile:
    """Equi-phase average along frequency.

    Attributes:
        radius_per_angst: `[s]`, frequency at the mean defocus.
        experiment, model: `[s]`, power above the background over the background.
        quality: `[s]`, running correlation of the two over about three rings.
        count: `[s]`, pixels averaged.
    """

    radius_per_angst: Tensor
    experiment: Tensor
    model: Tensor
    quality: Tensor
    count: Tensor


def equivalent_radius(
    phase: Tensor, *, optics: Optics, defocus_angst: float, phase_shift: float
) -> Tensor:
    """Frequency at which the mean defocus gives the phase `chi` of a pixel."""
    linear = math.pi * optics.wavelength_angst * defocus_angst
    curvature = -0.5 * math.pi * optics.spherical_aberration_angst * optics.wavelength_angst**3
    rest = phase - phase_shift - optics.contrast_phase
    root = (linear * linear + 4.0 * curvature * rest).clamp(min=0.0).sqrt()
    return (2.0 * rest / (linear + root)).clamp(min=0.0).sqrt()


def _running_correlation(
    experiment: Tensor, model: Tensor, weight: Tensor, low: Tensor, high: Tensor
) -> Tensor:
    """Weighted correlation of two curves over the window `low[i] <= j < high[i]`."""
    product = torch.stack(
        [
            weight,
            weight * experiment,
            weight * model,
            weight * experiment * experiment,
            weight * model * model,
            weight * experiment * model,
        ]
    )
    total = torch.nn.functional.pad(product.cumsum(dim=1), (1, 0))
    n, x, y, xx, yy, xy = total[:, high] - total[:, low]
    n = n.clamp(min=1.0)
    covariance = xy - x * y / n
    variance = ((xx - x * x / n) * (yy - y * y / n)).clamp(min=1e-30)
    correlation: Tensor = covariance / variance.sqrt()
    return correlation.clamp(-1.0, 1.0)


def ring_profile(
    radius: Tensor,
    experiment: Tensor,
    model: Tensor,
    *,
    step_per_angst: float,
    ring_per_angst2: float,
) -> RingProfile:
    """Average pixels of equal phase and correlate with the model along frequency.

    Args:
        radius: `[n]`, equivalent radius of each pixel, 1/Å.
        experiment, model: `[n]`, relative power above the background.
        step_per_angst: bin width.
        ring_per_angst2: squared-frequency distance of two rings, `1 / (lambda defocus)`.
    """
    index = (radius / step_per_angst).round().long()
    n_bins = int(index.max()) + 1
    count = torch.bincount(index, minlength=n_bins).to(radius.dtype)
    used = count > 0
    curves = [
        (torch.bincount(index, weights=values, minlength=n_bins) / count.clamp(min=1.0))[used]
        for values in (experiment, model)
    ]
    position = torch.arange(n_bins, device=radius.device)[used].to(radius) * step_per_angst
    square = position.square()
    half = 1.5 * ring_per_angst2
    low = torch.searchsorted(square, square - half)
    high = torch.searchsorted(square, square + half, right=True)
    here = torch.arange(len(position), device=radius.device)
    low = torch.minimum(low, here - 4).clamp(min=0)
    high = torch.maximum(high, here + 5).clamp(max=len(position))
    quality = _running_correlation(curves[0], curves[1], count[used], low, high)
    return RingProfile(position, curves[0], curves[1], quality, count[used])


def fit_resolution(profile: RingProfile, *, ring_per_angst2: float) -> float:
    """Resolution in Å up to which the quality stays above 0.5.

    A dip shorter than two rings is bridged, and a single lucky peak beyond does not count. A
    profile that never reaches 0.5 in its first three rings gives infinity.
    """
    good = profile.quality >= _QUALITY_THRESHOLD
    square = profile.radius_per_angst.square()
    last = -1
    for index in torch.nonzero(good).flatten().tolist():
        reach = float(square[last]) if last >= 0 else float(square[0])
        allowed = (2.0 if last >= 0 else 3.0) * ring_per_angst2
        if float(square[index]) - reach > allowed:
            break
        last = index
    return 1.0 / float(profile.radius_per_angst[last]) if last >= 0 else math.inf


def mean_quality(profile: RingProfile, *, max_per_angst: float) -> float:
    """Mean of the quality curve up to a fixed frequency, negative values as zero."""
    used = profile.radius_per_angst <= max_per_angst
    return float(profile.quality[used].clamp(min=0.0).mean())


def sector_profiles(
    spectrum: TileSpectrum,
    radius: Tensor,
    experiment: Tensor,
    model: Tensor,
    *,
    ring_per_angst2: float,
    n_sectors: int,
) -> list[RingProfile]:
    """Ring profiles by direction; sector s is centred on `180 s / n_sectors` degrees from +x."""
    angle = torch.atan2(spectrum.y_per_angst, spectrum.x_per_angst)
    sector = (angle * n_sectors / math.pi).round().long() % n_sectors
    profiles = []
    for s in range(n_sectors):
        chosen = sector == s
        profiles.append(
            ring_profile(
                radius[chosen],
                experiment[chosen],
                model[chosen],
                step_per_angst=spectrum.step_per_angst,
                ring_per_angst2=ring_per_angst2,
            )
        )
    return profiles
