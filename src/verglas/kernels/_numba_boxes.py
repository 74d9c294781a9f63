"""CPU loops that cut boxes out of an image and level their background, compiled by numba.

Each box is read twice while it lies in the cache: once for the sums of its background, once to
write it without its level and slope. Rows are summed in float32, boxes in float64.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["level_boxes"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Whole = NDArray[np.int64]

_ROUNDING = 2e-7  # of float32, relative


@njit(inline="always", fastmath=True, cache=True)
def _row_sums(
    row: Real, begin: int, end: int, level: np.float32
) -> tuple[np.float32, np.float32, np.float32]:
    """Sums of value, of value times column, and of its square, about a level."""
    total = along = square = np.float32(0.0)
    for i in range(begin, end):
        value = row[i] - level
        total += value
        along += value * np.float32(i)
        square += value * value
    return total, along, square


@njit(inline="always", fastmath=True, cache=True)
def _mean(row: Real) -> np.float32:
    total = np.float32(0.0)
    for i in range(row.shape[0]):
        total += row[i]
    return total / np.float32(row.shape[0])


@njit(inline="always", fastmath=True, cache=True)
def _write_row(
    row: Real, begin: int, end: int, start: np.float32, step: np.float32, out: Real
) -> np.float32:
    """Write a part of a row less a line; the sum of squares of what is written."""
    square = np.float32(0.0)
    for i in range(begin, end):
        value = row[i] - start - step * np.float32(i)
        out[i] = value
        square += value * value
    return square


@njit(fastmath=True, cache=True, nogil=True)
def level_boxes(
    image: Real,
    corner: Whole,
    inner: Whole,
    inverse: Double,
    scales: bool,
    out: Real,
    mean: Real,
    deviation: Real,
) -> None:
    """Cut boxes, and take out the level and slope of their background.

    Args:
        image: `[h, w]`.
        corner: `[n, 2]`, x and y of the first pixel of each box; all of it lies in the image.
        inner: `[height, 2]`, the first column of each row that is not background and the first
            after it that is again.
        inverse: `[3, 3]`, inverse of the normal matrix of level, slope in x and slope in y
            about the centre pixel; zero rows and columns for what is not fitted.
        scales: divide by the deviation, too.
        out: `[n, height, width]`.
        mean, deviation: `[n]`, of the background about its mean as it was.
    """
    height, width = out.shape[1], out.shape[2]
    n_outside = 0
    for y in range(height):
        n_outside += inner[y, 0] + width - inner[y, 1]
    for box in range(len(corner)):
        left, top = corner[box, 0], corner[box, 1]
        level = _mean(image[top, left : left + width])
        total = along_x = along_y = square = 0.0
        for y in range(height):
            row = image[top + y, left : left + width]
            for part in range(2):
                begin = 0 if part == 0 else inner[y, 1]
                end = inner[y, 0] if part == 0 else width
                one, first, second = _row_sums(row, begin, end, level)
                total += float(one)
                along_x += float(first - one * (width // 2))
                along_y += float(one * (y - height // 2))
                square += float(second)
        mean[box] = level + total / n_outside
        deviation[box] = np.sqrt(max(0.0, square / n_outside - (total / n_outside) ** 2))
        fit = inverse @ np.array([total, along_x, along_y])
        kept = 0.0
        for y in range(height):
            row = image[top + y, left : left + width]
            start = fit[0] - fit[1] * (width // 2) + fit[2] * (y - height // 2)
            start32, step = np.float32(level + start), np.float32(fit[1])
            into = out[box, y]
            kept += float(_write_row(row, 0, inner[y, 0], start32, step, into))
            _write_row(row, inner[y, 0], inner[y, 1], start32, step, into)
            kept += float(_write_row(row, inner[y, 1], width, start32, step, into))
        # what rounding leaves of a constant background is not noise
        if scales and kept > n_outside * (_ROUNDING * level) ** 2:
            factor = np.float32(np.sqrt(n_outside / kept))
            for y in range(height):
                for x in range(width):
                    out[box, y, x] *= factor
