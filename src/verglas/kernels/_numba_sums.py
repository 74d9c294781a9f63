"""CPU loops from the sums of insertion to a transform, compiled by numba; see `_machine_code`.

Only the voxels of a sphere are stored, plane by plane and row by row; four floats a voxel
are used while sums are made.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["divide", "pack", "radial_weight", "shell_products", "unpack"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Complex = NDArray[np.complex64]


@njit(inline="always", fastmath=True, cache=True)
def _row_end(square: float, limit: float) -> int:
    """Return one past the last x of a row inside the sphere."""
    return int(np.sqrt(limit * limit - square)) + 1 if square <= limit * limit else 0


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def pack(sums: Real, packed: Real) -> None:
    """Take the voxels of the sphere out of `[m, m, m // 2 + 1, 4]` sums, as `[3, voxels]`."""
    side = sums.shape[0]
    centre = side // 2
    at = 0
    for iz in range(side):
        for iy in range(side):
            end = _row_end((iz - centre) ** 2 + (iy - centre) ** 2, centre)
            for ix in range(end):
                packed[0, at] = sums[iz, iy, ix, 0]
                packed[1, at] = sums[iz, iy, ix, 1]
                packed[2, at] = sums[iz, iy, ix, 2]
                at += 1


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def unpack(packed: Double, sums: Real) -> None:
    """Undo `pack`, and add to each point of the x = 0 plane the conjugate of its mirror point."""
    side = sums.shape[0]
    centre = side // 2
    at = 0
    for iz in range(side):
        for iy in range(side):
            end = _row_end((iz - centre) ** 2 + (iy - centre) ** 2, centre)
            for ix in range(end):
                sums[iz, iy, ix, 0] += packed[0, at]
                sums[iz, iy, ix, 1] += packed[1, at]
                sums[iz, iy, ix, 2] += packed[2, at]
                if ix == 0:
                    jz, jy = side - 1 - iz, side - 1 - iy
                    sums[jz, jy, 0, 0] += packed[0, at]
                    sums[jz, jy, 0, 1] -= packed[1, at]
                    sums[jz, jy, 0, 2] += packed[2, at]
                at += 1


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def radial_weight(sums: Real, padding: float, total: Double, count: Double) -> None:
    """Add up weights and voxels by shell of the unpadded box."""
    side = sums.shape[0]
    centre = side // 2
    for iz in range(side):
        for iy in range(side):
            square = (iz - centre) ** 2 + (iy - centre) ** 2
            for ix in range(_row_end(square, centre)):
                shell = int(np.sqrt(square + ix * ix) / padding + 0.5)
                if shell < total.shape[0]:
                    total[shell] += sums[iz, iy, ix, 2]
                    count[shell] += 1


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def divide(sums: Real, padding: float, floor: Real, prior: Real, out: Complex) -> None:
    """Divide by the weights into an unshifted transform centred for an even period.

    Args:
        sums: `[m, m, m // 2 + 1, 4]`.
        padding: of the sums.
        floor: `[radius + 1]`, least weight of each shell.
        prior: `[radius + 1]`, added to the weights; negative where nothing is kept.
        out: `[p, p, p // 2 + 1]` of zeros, p even.
    """
    side = sums.shape[0]
    centre = side // 2
    period = out.shape[0]
    reach = min(centre, period // 2 - 1)
    radius = floor.shape[0] - 1
    limit = min(float(centre - 1), (radius + 0.5) * padding)
    for z in range(-reach, reach + 1):
        for y in range(-reach, reach + 1):
            square = z * z + y * y
            for x in range(min(reach + 1, _row_end(square, limit))):
                shell = min(radius, int(np.sqrt(square + x * x) / padding + 0.5))
                if prior[shell] < 0:
                    continue
                voxel = sums[z + centre, y + centre, x]
                weight = max(voxel[2] + prior[shell], floor[shell])
                factor = (np.float32(1.0) if (x + y + z) % 2 == 0 else np.float32(-1.0)) / weight
                out[z % period, y % period, x] = complex(voxel[0] * factor, voxel[1] * factor)


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def shell_products(a_ft: Complex, b_ft: Complex, sums: Double) -> None:
    """Add Re a b*, |a|^2 and |b|^2 by shell of two half transforms of a cube of even side."""
    n = a_ft.shape[0]
    for iz in range(n):
        z = iz - n * (2 * iz >= n)
        for iy in range(n):
            y = iy - n * (2 * iy >= n)
            for ix in range(a_ft.shape[2]):
                shell = int(np.sqrt(z * z + y * y + ix * ix) + 0.5)
                if shell >= sums.shape[1]:
                    continue
                times = 1.0 if ix == 0 else 2.0
                a, b = a_ft[iz, iy, ix], b_ft[iz, iy, ix]
                sums[0, shell] += times * (a.real * b.real + a.imag * b.imag)
                sums[1, shell] += times * (a.real * a.real + a.imag * a.imag)
                sums[2, shell] += times * (b.real * b.real + b.imag * b.imag)
