"""What a counting detector adds: unequal pixels, columns, hot and dead places."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Detector", "DetectorConfig", "draw_detector"]


@dataclass(frozen=True)
class DetectorConfig:
    """How far a detector is from ideal.

    Attributes:
        detected_fraction: of the electrons, DQE at frequency 0.
        pixel_spread: relative standard deviation of the pixels' response.
        column_spread: relative standard deviation of the columns' response.
        shading: relative change of the response across the detector.
        hot_fraction: of the pixels that count by themselves.
        dead_fraction: of the pixels that count nothing.
        dead_columns: whole columns that count nothing.
        hot_counts: largest number of counts of a hot pixel in a frame.
    """

    detected_fraction: float = 0.9
    pixel_spread: float = 0.03
    column_spread: float = 0.02
    shading: float = 0.05
    hot_fraction: float = 2e-5
    dead_fraction: float = 1e-5
    dead_columns: int = 0
    hot_counts: float = 40.0

    def __post_init__(self) -> None:
        if not 0 < self.detected_fraction <= 1:
            raise ValueError(f"detected fraction must be in 0..1: got {self.detected_fraction}")
        if min(self.hot_fraction, self.dead_fraction, self.dead_columns) < 0:
            raise ValueError("numbers of bad pixels must not be negative")


@dataclass(frozen=True)
class Detector:
    """One detector.

    Attributes:
        response: `[h, w]`, expected counts over electrons that arrive; 0 for dead pixels.
        hot: `[h, w]`, counts per frame that come by themselves.
        gain: `[h, w]`, the reference: frames are multiplied by it; 0 for dead pixels.
        defects: `[n, 4]`, x, y, width and height of bad pixels and columns.
    """

    response: NDArray[np.float32]
    hot: NDArray[np.float32]
    gain: NDArray[np.float32]
    defects: NDArray[np.int64]


def draw_detector(
    config: DetectorConfig, shape: tuple[int, int], rng: np.random.Generator
) -> Detector:
    """Draw a detector; equal generators draw the same.

    Args:
        config: how far from ideal.
        shape: rows and columns.
        rng: where the randomness comes from.
    """
    height, width = shape
    response = 1 + config.pixel_spread * rng.standard_normal(shape, dtype=np.float32)
    columns = rng.standard_normal(width) + 0.5 * (np.arange(width) % 2 * 2 - 1)
    response *= 1 + config.column_spread * columns.astype(np.float32)
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    tilt = rng.uniform(-0.5, 0.5, 2)
    shade = tilt[0] * x + tilt[1] * y - 0.5 * (x * x + y * y) + 1 / 3
    response *= (1 + config.shading * shade).astype(np.float32)
    response = np.maximum(response, np.float32(0.05))
    response /= response.mean()
    gain = (1 / response).astype(np.float32)
    n_hot, n_dead = (
        round(part * height * width) for part in (config.hot_fraction, config.dead_fraction)
    )
    bad = rng.choice(height * width, n_hot + n_dead, replace=False)
    hot = np.zeros(shape, np.float32)
    counts = np.exp(rng.uniform(np.log(3), np.log(max(config.hot_counts, 3.0)), n_hot))
    hot.flat[bad[:n_hot]] = counts
    dead = np.zeros(shape, bool)
    dead.flat[bad[n_hot:]] = True
    lines = np.sort(rng.choice(width, config.dead_columns, replace=False))
    dead[:, lines] = True
    response[dead] = 0
    gain[dead] = 0
    rows, places = np.divmod(np.sort(bad), width)
    singles = [[x, y, 1, 1] for x, y in zip(places, rows, strict=True)]
    whole = [[x, 0, 1, height] for x in lines]
    defects = np.array(singles + whole, np.int64).reshape(-1, 4)
    return Detector(response * np.float32(config.detected_fraction), hot, gain, defects)
