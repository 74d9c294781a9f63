"""Spread points onto a finer grid so that its transform, corrected, is exact.

Type-1 non-uniform transform: each point is spread with the "exponential of semicircle"
kernel, six samples wide, on a grid 1.5 times finer than the result; the kernel's own
transform is divided out afterwards. Error about 1e-4 of the largest value.

References:
    Barnett, Magland & af Klinteberg 2019, SIAM J. Sci. Comput. 41:C479 (kernel, eq. 1.8).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy.fft import next_fast_len

__all__ = ["fine_size", "kernel_transform", "spread_projections", "spread_volume"]

Floats32 = NDArray[np.float32]

_WIDTH = 6
_FINENESS = 1.5
_BETA = 0.98 * np.pi * _WIDTH * (1 - 1 / (2 * _FINENESS))
_STEPS = 2048


def fine_size(size_px: int) -> int:
    """Return an even, quickly transformed size of at least 1.5 times `size_px`."""
    least = max(int(np.ceil(size_px * _FINENESS / 2)), _WIDTH)
    return 2 * int(next_fast_len(least, real=True))


def _kernel(distance_px: NDArray[np.float64]) -> NDArray[np.float64]:
    inside = np.clip(1 - (2 * distance_px / _WIDTH) ** 2, 0, None)
    value = np.exp(_BETA * (np.sqrt(inside) - 1))
    return np.where(np.abs(distance_px) <= _WIDTH / 2, value, 0.0)


def kernel_transform(frequency_per_px: NDArray[np.float64]) -> NDArray[np.float64]:
    """Evaluate the kernel's Fourier transform at frequencies per fine pixel."""
    nodes, weights = np.polynomial.legendre.leggauss(96)
    distance = nodes * _WIDTH / 2
    waves = np.cos(2 * np.pi * np.asarray(frequency_per_px)[..., None] * distance)
    return np.asarray(waves @ (weights * _kernel(distance)) * _WIDTH / 2)


def _weight_table() -> Floats32:
    """Kernel samples for each fraction of a pixel, `[steps + 2, width]`.

    For a point at position u, the first sample is at `ceil(u - width / 2)`; the row is
    chosen by how far that sample lies beyond `u - width / 2`.
    """
    offset = np.arange(_STEPS + 2)[:, None] / _STEPS
    distance = offset - _WIDTH / 2 + np.arange(_WIDTH)
    return _kernel(distance).astype(np.float32)


def _taps(place: Any, table: Any, size: Any, where: Any, taps: Any) -> None:
    """Find the samples that a coordinate reaches on a periodic axis, and their weights."""
    width, steps = table.shape[1], table.shape[0] - 2
    start = np.ceil(place - width / 2)
    row_place = (start - place + width / 2) * steps
    row = int(row_place)
    rest = np.float32(row_place - row)
    first = int(start) % size
    for a in range(width):
        where[a] = first + a if first + a < size else first + a - size
        taps[a] = table[row, a] + rest * (table[row + 1, a] - table[row, a])


def _spread_2d(points: Any, weights: Any, rotations: Any, table: Any, grids: Any) -> None:
    size, width, rank = grids.shape[1], table.shape[1], weights.shape[1]
    columns, rows = np.empty(width, np.int64), np.empty(width, np.int64)
    taps_x, taps_y = np.empty(width, np.float32), np.empty(width, np.float32)
    for image in range(grids.shape[0]):
        r = rotations[image]
        grid = grids[image]
        for i in range(points.shape[0]):
            x, y, z = points[i, 0], points[i, 1], points[i, 2]
            _compiled_taps(r[0, 0] * x + r[0, 1] * y + r[0, 2] * z, table, size, columns, taps_x)
            _compiled_taps(r[1, 0] * x + r[1, 1] * y + r[1, 2] * z, table, size, rows, taps_y)
            for a in range(width):
                line = grid[rows[a]]
                for b in range(width):
                    w = taps_y[a] * taps_x[b]
                    for c in range(rank):
                        line[columns[b], c] += w * weights[i, c]


def _spread_3d(points: Any, weights: Any, table: Any, grid: Any) -> None:
    size, width = grid.shape[0], table.shape[1]
    where, taps = np.empty((3, width), np.int64), np.empty((3, width), np.float32)
    for i in range(points.shape[0]):
        for axis in range(3):
            _compiled_taps(points[i, axis], table, size, where[axis], taps[axis])
        for a in range(width):
            for b in range(width):
                line = grid[where[2, a], where[1, b]]
                w = taps[2, a] * taps[1, b] * weights[i]
                for c in range(width):
                    line[where[0, c]] += w * taps[0, c]


# Assigned rather than decorated: numba has no types, and strict checking wants decorators typed.
_compiled_taps: Callable[..., None] = njit(cache=True, fastmath=True, inline="always")(_taps)
_compiled_2d: Callable[..., None] = njit(cache=True, fastmath=True, nogil=True)(_spread_2d)
_compiled_3d: Callable[..., None] = njit(cache=True, fastmath=True, nogil=True)(_spread_3d)


def spread_projections(
    positions_px: NDArray[np.float64],
    weights: Floats32,
    rotations_ref_to_img: NDArray[np.float64],
    *,
    size_px: int,
) -> Floats32:
    """Project points along z of each rotation onto periodic fine grids.

    Args:
        positions_px: `[n, 3]`, x, y, z in fine pixels; index 0 of the grid is the origin.
        weights: `[n, rank]`.
        rotations_ref_to_img: `[b, 3, 3]`.

    Returns:
        `[b, rank, size_px, size_px]`.
    """
    grids = np.zeros((len(rotations_ref_to_img), size_px, size_px, weights.shape[1]), np.float32)
    _compiled_2d(positions_px, weights, rotations_ref_to_img, _weight_table(), grids)
    return np.ascontiguousarray(np.moveaxis(grids, -1, 1))


def spread_volume(
    positions_px: NDArray[np.float64], weights: Floats32, *, size_px: int
) -> Floats32:
    """Spread points with one weight each, `[n]`, onto a periodic grid `[size, size, size]`."""
    grid = np.zeros((size_px, size_px, size_px), np.float32)
    _compiled_3d(positions_px, weights, _weight_table(), grid)
    return grid
