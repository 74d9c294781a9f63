"""Estimate the gain of a detector from movies, and how a given reference lies on them.

Convention: frames are multiplied by the gain; its mean over good pixels is 1.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter

__all__ = [
    "ORIENTATIONS",
    "GainFit",
    "Orientation",
    "brightness",
    "find_orientation",
    "invert_gain",
    "residual_gain",
    "turn",
]

Real = NDArray[np.float32]

_HIGH_PASS_PX = 4.0
_HIGH_PASS_WIDTH_PX = 15
_CERTAIN_Z = 8.0
_CERTAIN_LEAD = 4.0
_N_MOVED = 24
_OUTLIER_SDS = 6.0


ORIENTATIONS = (
    "as it is",
    "turned by 90 degrees",
    "turned by 180 degrees",
    "turned by 270 degrees",
    "mirrored in x",
    "mirrored in x, then turned by 90 degrees",
    "mirrored in x, then turned by 180 degrees",
    "mirrored in x, then turned by 270 degrees",
)
"""The eight ways an image can lie; turns are from +x to +y."""


def turn(image: Real, orientation: int) -> Real:
    """Lay an image in one of the eight ways.

    Args:
        image: `[h, w]`.
        orientation: index into `ORIENTATIONS`.
    """
    mirrored = image[:, ::-1] if orientation >= 4 else image
    # rows count upwards, so that a turn from +x to +y is one from columns to rows
    return np.ascontiguousarray(np.rot90(mirrored, orientation % 4, axes=(1, 0)))


@dataclass(frozen=True)
class Orientation:
    """How a reference lies on the frames.

    Attributes:
        orientation: index into `ORIENTATIONS`, of what must be done to the reference.
        is_inverse: whether frames are to be divided by it.
        correlation: of the best way, 0 to 1.
        chance: standard deviation of the correlation of patterns that do not belong together,
            as patterns that are moved against each other have.
        second: correlation of the second best way.
    """

    orientation: int
    is_inverse: bool
    correlation: float
    chance: float
    second: float

    @property
    def z_score(self) -> float:
        """Correlation in standard deviations of chance."""
        return self.correlation / max(self.chance, 1e-12)

    @property
    def is_certain(self) -> bool:
        """Whether the best way stands out."""
        lead = (self.correlation - self.second) / max(self.chance, 1e-12)
        return self.z_score > _CERTAIN_Z and lead > _CERTAIN_LEAD

    @property
    def is_identity(self) -> bool:
        """Whether the reference is right as it is."""
        return self.orientation == 0 and not self.is_inverse

    @property
    def text(self) -> str:
        """The way in words."""
        return ORIENTATIONS[self.orientation] + (", as a divisor" if self.is_inverse else "")


def brightness(total: Real, gain: Real | None, smooth_px: float) -> Real:
    """Light that fell on each pixel during a movie, from a sum of its frames.

    Args:
        total: `[h, w]`, sum of raw frames.
        gain: `[h, w]`, known so far, or None.
        smooth_px: standard deviation of the average over neighbours.

    Returns:
        `[h, w]`; what each pixel would have counted at gain 1.
    """
    flat = total if gain is None else total * gain
    good = np.ones_like(flat) if gain is None else (gain > 0).astype(np.float32)
    level = float(np.median(flat[good > 0]))
    sd = math.sqrt(max(level, 1.0)) + 0.1 * abs(level)
    good *= np.abs(flat - level) < max(20.0 * sd, 3.0 * abs(level))
    weight = gaussian_filter(good, smooth_px, mode="reflect")
    smooth = gaussian_filter(flat * good, smooth_px, mode="reflect")
    return np.asarray(smooth / np.maximum(weight, 1e-3), dtype=np.float32)


@dataclass(frozen=True)
class GainFit:
    """An estimated gain.

    Attributes:
        gain: `[h, w]`; 0 at pixels that cannot be used.
        counts: mean counts of a pixel that it rests on.
        n_bad: pixels that count nothing, or far too much.
    """

    gain: Real
    counts: float
    n_bad: int

    @property
    def expected_error(self) -> float:
        """Relative standard error of a pixel by counting statistics."""
        return 1.0 / math.sqrt(max(self.counts, 1e-9))


def invert_gain(counted: Real, light: Real) -> GainFit:
    """Find the gain from what pixels counted and the light that fell on them.

    The estimate weights movies by their counts: it is the likeliest under Poisson statistics.

    Args:
        counted: `[h, w]`, sum over all movies.
        light: `[h, w]`, of `brightness`, sum over all movies.
    """
    mean = float(counted.mean(dtype=np.float64))
    if mean <= 0:
        raise ValueError(f"movies must have counted something: got a mean of {mean:g}")
    sensitivity = counted / np.maximum(light, 1e-6 * mean)
    middle = float(np.median(sensitivity))
    spread = 1.4826 * float(np.median(np.abs(sensitivity - middle)))
    limit = max(10.0 * spread, 0.5 * middle)
    bad = np.abs(sensitivity - middle) > limit
    gain = np.where(bad, 0.0, 1.0 / np.maximum(sensitivity, 1e-6))
    gain /= gain[~bad].mean()
    return GainFit(gain.astype(np.float32), mean, int(bad.sum()))


def find_orientation(counted: Real, reference: Real) -> Orientation:
    """Find how a reference must lie on the frames, by their fixed pattern.

    Args:
        counted: `[h, w]`, sum of raw frames; the more the better.
        reference: `[a, b]`, gain or its inverse, in any of the eight ways.
    """
    pattern, own = -_pattern(counted), _pattern(reference)
    found = []
    for orientation in range(len(ORIENTATIONS)):
        other = turn(own, orientation)
        if other.shape != counted.shape:
            continue
        norm = math.sqrt(float(np.vdot(pattern, pattern)) * float(np.vdot(other, other)))
        found.append((float(np.vdot(pattern, other)) / norm if norm > 0 else 0.0, orientation))
    if not found:
        raise ValueError(
            f"the gain reference has {reference.shape[1]} x {reference.shape[0]} pixels, the "
            f"frames {counted.shape[1]} x {counted.shape[0]}"
        )
    found.sort(key=lambda item: -abs(item[0]))
    best, orientation = found[0]
    second = abs(found[1][0]) if len(found) > 1 else 0.0
    chance = _chance(pattern, turn(own, orientation))
    return Orientation(orientation, best < 0, abs(best), chance, second)


def _chance(pattern: Real, other: Real) -> float:
    """Spread of the correlations of two patterns that are moved against each other."""
    rng = np.random.default_rng(0)
    moves = [
        [int(rng.integers(n // 8 + 1, n - n // 8)) for n in pattern.shape] for _ in range(_N_MOVED)
    ]
    norm = math.sqrt(float(np.vdot(pattern, pattern)) * float(np.vdot(other, other)))
    if norm == 0:
        return 1.0
    found = [float(np.vdot(pattern, np.roll(other, move, (0, 1)))) / norm for move in moves]
    return max(float(np.sqrt(np.mean(np.square(found)))), 1.0 / math.sqrt(pattern.size))


def _pattern(image: Real) -> Real:
    """Logarithm of an image without its slow part, outliers cut off."""
    level = float(np.median(image[image > 0])) if (image > 0).any() else 1.0
    logarithm = np.log(np.clip(image, 0.2 * level, 5.0 * level))
    rest = logarithm - uniform_filter(logarithm, _HIGH_PASS_WIDTH_PX, mode="nearest")
    sample = rest.reshape(-1)[:: max(1, rest.size // 200_000)]
    spread = 1.4826 * float(np.median(np.abs(sample))) + 1e-12
    clipped = np.clip(rest, -_OUTLIER_SDS * spread, _OUTLIER_SDS * spread)
    return np.asarray(clipped - clipped.mean(), dtype=np.float32)


def residual_gain(fit: GainFit, applied: Real) -> tuple[Real, float]:
    """Compare an applied gain with the estimate.

    Args:
        fit: from raw frames.
        applied: `[h, w]`, as it lies on them.

    Returns:
        `[h, w]` their ratio less 1 (0 at bad pixels), and its standard deviation beyond
        counting statistics.
    """
    good = (fit.gain > 0) & (applied > 0)
    ratio = np.where(good, applied / np.where(good, fit.gain, 1.0), 1.0)
    ratio /= ratio[good].mean()
    rest = np.where(good, ratio - 1.0, 0.0).astype(np.float32)
    fine = (rest - gaussian_filter(rest, _HIGH_PASS_PX, mode="nearest"))[good]
    spread = 1.4826 * float(np.median(np.abs(fine)))
    return rest, math.sqrt(max(spread**2 - fit.expected_error**2, 0.0))
