"""CPU loops behind `interp.py`, compiled by numba; imported only when first used.

The 64 neighbours of a point are gathered and summed in registers, where the torch version
makes 16 passes over memory.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Values = NDArray[Any]
Points = NDArray[np.float64]


@njit(inline="always")
def _weights(f: float) -> tuple[float, float, float, float]:
    g = 1.0 - f
    f2 = f * f
    f3 = f2 * f
    return g * g * g / 6, (3 * f3 - 6 * f2 + 4) / 6, (3 * (f + f2 - f3) + 1) / 6, f3 / 6


@njit(inline="always")
def _slopes(f: float) -> tuple[float, float, float, float]:
    g = 1.0 - f
    return -g * g / 2, (1.5 * f - 2) * f, (1 - 1.5 * f) * f + 0.5, f * f / 2


@njit(inline="always", fastmath=True)
def _value(coefficients: Values, x: float, y: float, z: float) -> Any:
    n_z, n_y, n_x = coefficients.shape
    x0, y0, z0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
    weight_x, weight_y, weight_z = _weights(x - x0), _weights(y - y0), _weights(z - z0)
    i0, i1, i2, i3 = (x0 - 1) % n_x, x0 % n_x, (x0 + 1) % n_x, (x0 + 2) % n_x
    total = coefficients[0, 0, 0] * 0
    for c in range(4):
        plane = coefficients[(z0 - 1 + c) % n_z]
        for b in range(4):
            row = plane[(y0 - 1 + b) % n_y]
            line = (
                row[i0] * weight_x[0]
                + row[i1] * weight_x[1]
                + row[i2] * weight_x[2]
                + row[i3] * weight_x[3]
            )
            total += line * (weight_y[b] * weight_z[c])
    return total


@njit(parallel=True, fastmath=True, cache=True)
def sample(coefficients: Values, points: Points, out: Values) -> None:
    """Evaluate a series at `[n, 3]` points; one volume, periodic."""
    for i in prange(points.shape[0]):
        out[i] = _value(coefficients, points[i, 0], points[i, 1], points[i, 2])


@njit(parallel=True, fastmath=True, cache=True)
def sample_lattice(
    coefficients: Values, origin: Points, steps: Points, low: Points, high: Points, out: Values
) -> None:
    """Evaluate a series at `origin + x steps[0] + y steps[1] + z steps[2]`, 0 outside a box."""
    for k in prange(out.shape[0]):
        for j in range(out.shape[1]):
            x = origin[0] + k * steps[2, 0] + j * steps[1, 0]
            y = origin[1] + k * steps[2, 1] + j * steps[1, 1]
            z = origin[2] + k * steps[2, 2] + j * steps[1, 2]
            for i in range(out.shape[2]):
                px, py, pz = x + i * steps[0, 0], y + i * steps[0, 1], z + i * steps[0, 2]
                inside = low[0] <= px <= high[0] and low[1] <= py <= high[1]
                if inside and low[2] <= pz <= high[2]:
                    out[k, j, i] = _value(coefficients, px, py, pz)
                else:
                    out[k, j, i] = 0


@njit(parallel=True, fastmath=True, cache=True)
def sample_gradient(coefficients: Values, points: Points, out: Values, gradient: Values) -> None:
    """Evaluate a series and its derivatives by x, y, z index at `[n, 3]` points."""
    n_z, n_y, n_x = coefficients.shape
    for i in prange(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        x0, y0, z0 = int(np.floor(x)), int(np.floor(y)), int(np.floor(z))
        weight_x, weight_y, weight_z = _weights(x - x0), _weights(y - y0), _weights(z - z0)
        slope_x, slope_y, slope_z = _slopes(x - x0), _slopes(y - y0), _slopes(z - z0)
        i0, i1, i2, i3 = (x0 - 1) % n_x, x0 % n_x, (x0 + 1) % n_x, (x0 + 2) % n_x
        total = coefficients[0, 0, 0] * 0
        by_x, by_y, by_z = total, total, total
        for c in range(4):
            plane = coefficients[(z0 - 1 + c) % n_z]
            for b in range(4):
                row = plane[(y0 - 1 + b) % n_y]
                r0, r1, r2, r3 = row[i0], row[i1], row[i2], row[i3]
                line = r0 * weight_x[0] + r1 * weight_x[1] + r2 * weight_x[2] + r3 * weight_x[3]
                slope = r0 * slope_x[0] + r1 * slope_x[1] + r2 * slope_x[2] + r3 * slope_x[3]
                total += line * (weight_y[b] * weight_z[c])
                by_x += slope * (weight_y[b] * weight_z[c])
                by_y += line * (slope_y[b] * weight_z[c])
                by_z += line * (weight_y[b] * slope_z[c])
        out[i] = total
        gradient[i, 0], gradient[i, 1], gradient[i, 2] = by_x, by_y, by_z
