"""CPU loops behind `slices.py`, compiled by numba; imported only when first used.

One fused loop per operation: rotate the frequency, find the cell, gather or scatter eight
corners. Measured against eight torch gathers they are 3 (slicing) and 25 (insertion) times
faster on one core (docs/dependencies.md).
"""

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Real = NDArray[np.float32]
Complex = NDArray[np.complex64]


@njit(inline="always", fastmath=True)
def _sample(volume: Complex, x: float, y: float, z: float) -> tuple[float, float]:
    centre_z = volume.shape[0] // 2
    centre_y = volume.shape[1] // 2
    sign = np.float32(1.0)
    if x < 0:
        x, y, z, sign = -x, -y, -z, np.float32(-1.0)
    x0 = int(np.floor(x))
    y0 = int(np.floor(y))
    z0 = int(np.floor(z))
    fx = np.float32(x - x0)
    fy = np.float32(y - y0)
    fz = np.float32(z - z0)
    iy = y0 + centre_y
    iz = z0 + centre_z
    gx = np.float32(1.0) - fx
    gy = np.float32(1.0) - fy
    gz = np.float32(1.0) - fz
    a = volume[iz, iy, x0] * gx + volume[iz, iy, x0 + 1] * fx
    b = volume[iz, iy + 1, x0] * gx + volume[iz, iy + 1, x0 + 1] * fx
    c = volume[iz + 1, iy, x0] * gx + volume[iz + 1, iy, x0 + 1] * fx
    d = volume[iz + 1, iy + 1, x0] * gx + volume[iz + 1, iy + 1, x0 + 1] * fx
    value = (a * gy + b * fy) * gz + (c * gy + d * fy) * fz
    return value.real, sign * value.imag


@njit(parallel=True, fastmath=True, cache=True)
def extract(
    volume: Complex, rotations: Real, frequencies: Real, padding: float, out: Complex
) -> None:
    """Sample one central slice for each rotation."""
    n_k = frequencies.shape[0]
    for r in prange(rotations.shape[0]):
        ax, ay, az = rotations[r, 0] * padding
        bx, by, bz = rotations[r, 1] * padding
        for k in range(n_k):
            u = frequencies[k, 0]
            v = frequencies[k, 1]
            re, im = _sample(volume, u * ax + v * bx, u * ay + v * by, u * az + v * bz)
            out[r, k] = complex(re, im)


@njit(fastmath=True, cache=True)
def insert(
    slices: Complex,
    weights: Real,
    rotations: Real,
    frequencies: Real,
    padding: float,
    numerator: Complex,
    denominator: Real,
) -> None:
    """Add slices and their weights to the eight corners around every sample."""
    centre_z = numerator.shape[0] // 2
    centre_y = numerator.shape[1] // 2
    n_k = frequencies.shape[0]
    for r in range(rotations.shape[0]):
        ax, ay, az = rotations[r, 0] * padding
        bx, by, bz = rotations[r, 1] * padding
        for k in range(n_k):
            w = weights[r, k]
            if w == 0:
                continue
            u = frequencies[k, 0]
            v = frequencies[k, 1]
            x = u * ax + v * bx
            y = u * ay + v * by
            z = u * az + v * bz
            value = slices[r, k]
            if x < 0:
                x, y, z = -x, -y, -z
                value = np.conj(value)
            x0 = int(np.floor(x))
            y0 = int(np.floor(y))
            z0 = int(np.floor(z))
            fx = np.float32(x - x0)
            fy = np.float32(y - y0)
            fz = np.float32(z - z0)
            for dz in range(2):
                cz = fz if dz else np.float32(1.0) - fz
                for dy in range(2):
                    cy = cz * (fy if dy else np.float32(1.0) - fy)
                    for dx in range(2):
                        c = cy * (fx if dx else np.float32(1.0) - fx)
                        iz = z0 + dz + centre_z
                        iy = y0 + dy + centre_y
                        numerator[iz, iy, x0 + dx] += c * value
                        denominator[iz, iy, x0 + dx] += c * w


@njit(parallel=True, fastmath=True, cache=True)
def symmetrise(volume: Complex, operators: Real, out: Complex) -> None:
    """Sum a half volume over the rotations of a group by trilinear interpolation."""
    size = volume.shape[0]
    centre = size // 2
    limit = float(centre - 1)
    for iz in prange(size):
        z = float(iz - centre)
        for iy in range(size):
            y = float(iy - centre)
            for ix in range(volume.shape[2]):
                x = float(ix)
                if x * x + y * y + z * z > limit * limit:
                    continue
                re = np.float32(0.0)
                im = np.float32(0.0)
                for g in range(operators.shape[0]):
                    m = operators[g]
                    a, b = _sample(
                        volume,
                        m[0, 0] * x + m[0, 1] * y + m[0, 2] * z,
                        m[1, 0] * x + m[1, 1] * y + m[1, 2] * z,
                        m[2, 0] * x + m[2, 1] * y + m[2, 2] * z,
                    )
                    re += a
                    im += b
                out[iz, iy, ix] = complex(re, im)
