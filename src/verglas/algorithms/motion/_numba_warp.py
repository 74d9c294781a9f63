"""CPU loops that sample oversampled frames along a motion field, compiled by numba.

A row of the output is made in two passes, each a sum of four neighbours: down the columns of
the oversampled frame, which are contiguous and become vectors, then along the row. Both lie in
the cache. The weights are polynomials in the fractional position.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["add_rows"]

Real = NDArray[np.float32]

_MARGIN = 4


@njit(inline="always", fastmath=True, cache=True)
def _fold(x: float, last: float) -> float:
    """Mirror a position at the first and the last pixel; one far away comes to an end."""
    x = abs(x)
    return max(0.0, 2.0 * last - x) if x > last else x


@njit(inline="always", fastmath=True, cache=True)
def _weight(taps: Real, tap: int, t: np.float32) -> np.float32:
    value: np.float32 = taps[tap, 5]
    for power in range(4, -1, -1):
        value = value * t + taps[tap, power]
    return value


@njit(inline="always", fastmath=True, cache=True)
def _combine(
    r0: Real, r1: Real, r2: Real, r3: Real, taps: Real, t0: np.float32, step: np.float32, out: Real
) -> None:
    """Add four rows with weights whose fractional position goes linearly along the row."""
    for i in range(out.shape[0]):
        t = t0 + step * np.float32(i)
        out[i] = (
            _weight(taps, 0, t) * r0[i]
            + _weight(taps, 1, t) * r1[i]
            + _weight(taps, 2, t) * r2[i]
            + _weight(taps, 3, t) * r3[i]
        )


@njit(inline="always", fastmath=True, cache=True)
def _column_pass(fine: Real, y: Real, last: float, taps: Real, out: Real) -> None:
    """Sample each column of a frame at its own height.

    `y` holds the height at every 32nd column; between them it is linear.
    """
    n_rows, n_columns = fine.shape
    for node in range(y.shape[0] - 1):
        begin = node * 32
        end = min(begin + 32, n_columns)
        step = (y[node + 1] - y[node]) / 32.0
        at = begin
        while at < end:
            here = y[node] + step * (at - begin)
            there = y[node] + step * (end - 1 - begin)
            floor = np.floor(here)
            if min(here, there) >= 0.0 and max(here, there) <= last:
                stop = end
                if np.floor(there) != floor:
                    stop = at + 1
                    while np.floor(y[node] + step * (stop - begin)) == floor:
                        stop += 1
                row = int(floor)
                _combine(
                    fine[(row - 1) % n_rows, at:stop],
                    fine[row % n_rows, at:stop],
                    fine[(row + 1) % n_rows, at:stop],
                    fine[(row + 2) % n_rows, at:stop],
                    taps,
                    np.float32(here - floor),
                    np.float32(step),
                    out[at:stop],
                )
                at = stop
            else:
                folded = _fold(here, last)
                row = int(np.floor(folded))
                t = np.float32(folded - row)
                total = np.float32(0.0)
                for tap in range(4):
                    total += _weight(taps, tap, t) * fine[(row - 1 + tap) % n_rows, at]
                out[at] = total
                at += 1


@njit(inline="always", fastmath=True, cache=True)
def _row_pass(row: Real, x: Real, last: float, taps: Real, out: Real) -> None:
    """Sample a row, which repeats at its ends, at positions linear between every 32nd pixel.

    `row` has `_MARGIN` further pixels before and after.
    """
    n = out.shape[0]
    places, parts = np.empty(32, np.int32), np.empty(32, np.float32)
    near = np.empty((4, 32), np.float32)
    for node in range(x.shape[0] - 1):
        begin = node * 32
        count = min(32, n - begin)
        step = (x[node + 1] - x[node]) / 32.0
        first, final = x[node], x[node] + step * (count - 1)
        if min(first, final) >= 0.0 and max(first, final) <= last:
            base = np.int32(np.floor(min(first, final)))
            t0 = np.float32(first - base)
            step32 = np.float32(step)
            # an index without a sign needs no look at whether it counts from the end
            offset = np.uint32(base + np.int32(_MARGIN - 1))
            for i in range(count):
                position = t0 + step32 * np.float32(i)
                places[i] = np.int32(position)
                parts[i] = position - np.float32(places[i])
            # fetching stands alone, so that the weights become vectors
            for i in range(count):
                k = offset + np.uint32(places[i])
                near[0, i] = row[k]
                near[1, i] = row[k + np.uint32(1)]
                near[2, i] = row[k + np.uint32(2)]
                near[3, i] = row[k + np.uint32(3)]
            for i in range(count):
                t = parts[i]
                out[begin + i] = (
                    _weight(taps, 0, t) * near[0, i]
                    + _weight(taps, 1, t) * near[1, i]
                    + _weight(taps, 2, t) * near[2, i]
                    + _weight(taps, 3, t) * near[3, i]
                )
        else:
            for i in range(count):
                position_64 = _fold(first + step * i, last)
                whole = np.int32(np.floor(position_64))
                part = np.float32(position_64 - whole)
                start = whole + np.int32(_MARGIN - 1)
                total = np.float32(0.0)
                for tap in range(4):
                    total += _weight(taps, tap, part) * row[start + tap]
                out[begin + i] = total


@njit(inline="always", fastmath=True, cache=True)
def _between(grid: Real, row: int, part: float, column: float) -> float:
    """Interpolate a grid linearly at a row and a column."""
    at = min(max(int(column), 0), grid.shape[1] - 2)
    t = column - at
    upper = grid[row, at] + t * (grid[row, at + 1] - grid[row, at])
    lower = grid[row + 1, at] + t * (grid[row + 1, at + 1] - grid[row + 1, at])
    between: float = upper + part * (lower - upper)
    return between


@njit(nogil=True, fastmath=True, cache=True)
def add_rows(
    fine: Real,
    grid_x: Real,
    grid_y: Real,
    taps: Real,
    geometry: NDArray[np.float64],
    weights: Real,
    first_row: int,
    end_row: int,
    sums: Real,
) -> None:
    """Sample a frame along its motion and add it to some rows of several sums.

    Args:
        fine: `[m, l]`, the oversampled frame, which repeats at its ends.
        grid_x: `[a, b]`, displacement at every 32nd pixel of the output, in its pixels.
        grid_y: `[a, b]`, the same along y.
        taps: `[4, 6]`, polynomials of the four weights.
        geometry: scale of positions along y and x (oversampled pixels a pixel of the output),
            and the last position of the frame along y and x, in oversampled pixels.
        weights: `[s]`, of this frame in each sum; a sum of weight 0 is left alone.
        first_row, end_row: rows to make, the last one excluded.
        sums: `[s, h, w]`, changed in place; in one piece, or its rows do not become vectors.
    """
    scale_y, scale_x, last_y, last_x = geometry
    n_fine = fine.shape[1]
    width = sums.shape[2]
    y_nodes = np.empty(-(-n_fine // 32) + 1, np.float32)
    x_nodes = np.empty(-(-width // 32) + 1, np.float32)
    column = np.empty(n_fine + 2 * _MARGIN, np.float32)
    sampled = np.empty(width, np.float32)
    for y in range(first_row, end_row):
        node = min(y // 32, grid_x.shape[0] - 2)
        part = y / 32.0 - node
        for i in range(y_nodes.shape[0]):
            # the output pixel that is sampled at this column, by one step of a fixed point
            at = 32.0 * i / scale_x
            at -= _between(grid_x, node, part, at / 32.0)
            moved = y + _between(grid_y, node, part, at / 32.0)
            y_nodes[i] = scale_y * moved
        _column_pass(fine, y_nodes, last_y, taps, column[_MARGIN : _MARGIN + n_fine])
        for i in range(_MARGIN):
            column[i] = column[n_fine + i]
            column[n_fine + _MARGIN + i] = column[_MARGIN + i]
        for i in range(x_nodes.shape[0]):
            x_nodes[i] = scale_x * (32.0 * i + _between(grid_x, node, part, float(i)))
        _row_pass(column, x_nodes, last_x, taps, sampled)
        for s in range(sums.shape[0]):
            weight = weights[s]
            if weight != 0.0:
                target = sums[s, y]
                for i in range(width):
                    target[i] += weight * sampled[i]
