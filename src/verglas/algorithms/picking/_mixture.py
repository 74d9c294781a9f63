"""Split peak heights into noise and particles by a mixture of two populations.

Noise peaks are maxima of a random field, so their heights follow an extreme-value (Gumbel)
distribution with its long upper tail; particles are taken as normal.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class HeightSplit:
    """Two populations of peak heights.

    Attributes:
        threshold: height above which a peak is more likely a particle than noise.
        noise_mean, noise_std: of the lower population.
        particle_mean, particle_std: of the upper one; those of the noise if there is only one.
        particle_fraction: share of the upper population.
        is_bimodal: whether two populations are there at all.
    """

    threshold: float
    noise_mean: float
    noise_std: float
    particle_mean: float
    particle_std: float
    particle_fraction: float
    is_bimodal: bool


def _log_extreme(heights: Floats, mean: float, std: float) -> Floats:
    """Logarithm of the Gumbel density of maxima with a given mean and deviation."""
    scale = std * math.sqrt(6.0) / math.pi
    reduced = (heights - mean) / scale + np.euler_gamma
    return -reduced - np.exp(-np.maximum(reduced, -50.0)) - math.log(scale)


def _log_normal(heights: Floats, mean: float, std: float) -> Floats:
    return -0.5 * ((heights - mean) / std) ** 2 - math.log(std * math.sqrt(2.0 * math.pi))


def _expectation_maximisation(
    heights: Floats, split: float, least_std: float
) -> tuple[float, Floats]:
    """Fit both populations from a start that divides at `split`: log-likelihood, parameters."""
    upper = (heights > split).astype(np.float64)
    loglik = -math.inf
    parameters = np.zeros(5)
    for _ in range(200):
        fraction = float(np.clip(upper.mean(), 1e-6, 1 - 1e-6))
        means, stds = [], []
        for weight in (1.0 - upper, upper):
            total = max(float(weight.sum()), 1e-9)
            mean = float(weight @ heights) / total
            means.append(mean)
            variance = float(weight @ (heights - mean) ** 2) / total
            stds.append(max(math.sqrt(variance), least_std))
        parts = np.stack(
            [
                math.log(1.0 - fraction) + _log_extreme(heights, means[0], stds[0]),
                math.log(fraction) + _log_normal(heights, means[1], stds[1]),
            ]
        )
        top = parts.max(axis=0)
        log_sum = top + np.log(np.exp(parts - top).sum(axis=0))
        upper = np.exp(parts[1] - log_sum)
        parameters = np.array([means[0], stds[0], means[1], stds[1], fraction])
        if log_sum.sum() - loglik < 1e-6 * len(heights):
            break
        loglik = float(log_sum.sum())
    return loglik, parameters


def _crossing(parameters: Floats) -> float:
    """Height between the two means where the posterior of a particle passes one half."""
    low, low_std, high, high_std, fraction = parameters
    grid = np.linspace(low, high, 513)
    noise = math.log(1.0 - fraction) + _log_extreme(grid, low, low_std)
    particle = math.log(fraction) + _log_normal(grid, high, high_std)
    return float(grid[np.flatnonzero(particle >= noise)[0]]) if (particle >= noise).any() else high


def _otsu(heights: Floats) -> float:
    """Height that splits a sample into two halves of least variance inside."""
    ordered = np.sort(heights)
    below = np.arange(1, len(ordered))
    above = len(ordered) - below
    sums = ordered.cumsum()
    gap = sums[:-1] / below - (sums[-1] - sums[:-1]) / above
    best = int(np.argmax(below * above * gap**2))
    return float(0.5 * (ordered[best] + ordered[best + 1]))


def split_heights(heights: Floats, *, floor: float) -> HeightSplit:
    """Fit noise and particles to peak heights and find the height that parts them.

    Two populations are accepted when the Bayesian information criterion asks for them and their
    means are at least two standard deviations apart (Ashman's D > 2), or one where the upper mean
    is far above noise. Otherwise the threshold is three standard deviations above the median; if
    even the median is above what noise reaches, the heights are cut in two by Otsu's rule.

    Args:
        heights: `[n]`, all peaks that are not suppressed by a better neighbour.
        floor: what uncorrelated noise hardly ever reaches; the threshold is never lower.

    References:
        Otsu 1979, doi:10.1109/TSMC.1979.4310076; Ashman, Bird & Zepf 1994,
        doi:10.1086/117248 (separation of two populations).
    """
    heights = np.asarray(heights, dtype=np.float64)
    centre = float(np.median(heights)) if len(heights) else 0.0
    spread = 1.4826 * float(np.median(np.abs(heights - centre))) if len(heights) else 0.0
    is_high = centre >= floor and spread > 0.0
    alone = _otsu(heights) if is_high else max(centre + 3.0 * spread, floor)
    single = HeightSplit(alone, centre, spread, centre, spread, 0.0, False)
    if len(heights) < 10 or spread == 0.0:
        return single
    total_std = float(heights.std())
    fits = [
        _expectation_maximisation(heights, float(np.quantile(heights, q)), 0.05 * total_std)
        for q in (0.3, 0.5, 0.7, 0.85, 0.95)
    ]
    loglik, parameters = max(fits, key=lambda fit: fit[0])
    low, low_std, high, high_std, fraction = (float(value) for value in parameters)
    one = max(
        float(density(heights, float(heights.mean()), total_std).sum())
        for density in (_log_extreme, _log_normal)
    )
    separation = (high - low) / math.sqrt(0.5 * (low_std**2 + high_std**2))
    crossing = max(_crossing(parameters), floor)
    needed = 2.0 if high < 1.5 * floor else 1.0
    if loglik - one < 1.5 * math.log(len(heights)) or separation < needed or crossing > high:
        return single
    return HeightSplit(crossing, low, low_std, high, high_std, fraction, True)
