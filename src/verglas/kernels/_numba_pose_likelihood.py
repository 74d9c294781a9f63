"""CPU loops behind `pose_likelihood.py`, compiled by numba; imported only when first used.

One fused loop per pose: shift, rotate, interpolate, differentiate, add up. The interpolant
is differentiated exactly as it is (trilinear in each cell), so the gradient is that of the
score that is compared. Loops that only read are written so that the compiler turns them
into vector instructions: real and imaginary parts apart, no branches, indices of 32 bits,
sums in single precision over a block and in double precision over blocks. Twice as fast as
one coefficient at a time (870 coefficients, side 97).
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Complex = NDArray[np.complex64]

_BLOCK = 1024  # coefficients whose sum is kept in single precision


@njit(inline="always")
def _phase_tables(shift: Double, box: int, reach: int) -> tuple[Complex, Complex]:
    """Return exp(-2 pi i k s / box) for x (k >= 0) and y (k from -reach)."""
    x = np.empty(reach + 1, np.complex64)
    y = np.empty(2 * reach + 1, np.complex64)
    step_x = -2 * np.pi * shift[0] / box
    step_y = -2 * np.pi * shift[1] / box
    for k in range(reach + 1):
        x[k] = complex(np.cos(step_x * k), np.sin(step_x * k))
        y[reach + k] = complex(np.cos(step_y * k), np.sin(step_y * k))
        y[reach - k] = np.conj(y[reach + k])
    return x, y


@njit(inline="always")
def _real_tables(shift: Double, box: int, reach: int) -> tuple[Real, Real, Real, Real]:
    """Return the phase tables as cosines and sines of x, then of y."""
    x, y = _phase_tables(shift, box, reach)
    return x.real.copy(), x.imag.copy(), y.real.copy(), y.imag.copy()


@njit(inline="always", fastmath=True, error_model="numpy")
def _cell(
    x: np.float32, y: np.float32, z: np.float32, grid: tuple[Any, Any, Any]
) -> tuple[Any, Any, Any, Any, Any]:
    """Return the sign that mirrors a point to x >= 0, its cell's place, and where it lies in it.

    The grid is given as steps of a row and a plane, in floats, and the centre of y and z.
    """
    row, plane, centre = grid
    sign = np.float32(1.0) if x >= 0 else np.float32(-1.0)
    x = x * sign
    y = y * sign + centre
    z = z * sign + centre
    x0, y0, z0 = np.int32(x), np.int32(y), np.int32(z)
    place = np.uint32(z0 * plane + y0 * row + np.int32(2) * x0)
    return sign, place, x - np.float32(x0), y - np.float32(y0), z - np.float32(z0)


@njit(inline="always", fastmath=True, error_model="numpy")
def _between(
    volume: Real, at: Any, grid: tuple[Any, Any, Any], fx: Any, fy: Any, fz: Any
) -> tuple[Any, Any, Any, Any]:
    """Return the trilinear interpolant of one part and its slopes along x, y, z."""
    row, plane, _ = grid
    up = np.uint32(at + plane)
    v00, v10 = volume[at], volume[at + row]
    v01, v11 = volume[up], volume[up + row]
    d00, d10 = volume[at + 2] - v00, volume[at + row + 2] - v10
    d01, d11 = volume[up + 2] - v01, volume[up + row + 2] - v11
    c00 = v00 + fx * d00
    e0 = v10 + fx * d10 - c00
    c01 = v01 + fx * d01
    e1 = v11 + fx * d11 - c01
    c0 = c00 + fy * e0
    gz = c01 + fy * e1 - c0
    f0 = d00 + fy * (d10 - d00)
    gx = f0 + fz * (d01 + fy * (d11 - d01) - f0)
    return c0 + fz * gz, gx, e0 + fz * (e1 - e0), gz


@njit(inline="always", fastmath=True, error_model="numpy")
def _shifted(
    signal: Real, tables: tuple[Real, Real, Real, Real], k: int, kx: Any, ky: Any
) -> tuple[Any, Any]:
    """Return a coefficient of a view with the phase of its shift."""
    cx, sx, cy, sy = tables
    u, v = np.uint32(kx), np.uint32(ky)
    cosine = cx[u] * cy[v] - sx[u] * sy[v]
    sine = cx[u] * sy[v] + sx[u] * cy[v]
    re, im = signal[2 * k], signal[2 * k + 1]
    return re * cosine - im * sine, re * sine + im * cosine


@njit(fastmath=True, error_model="numpy", cache=True)
def _score_block(
    volume: Real,
    grid: tuple[Any, Any, Any],
    signal: Real,
    weight: Real,
    rotation: Real,
    tables: tuple[Real, Real, Real, Real],
    frequencies: NDArray[np.int32],
    first: int,
    last: int,
) -> float:
    """Score coefficients from first to before last; the rotation is times the padding."""
    m = rotation
    m00, m01, m02, m10, m11, m12 = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
    reach = np.int32(len(tables[0]) - 1)
    total = np.float32(0.0)
    for k in range(first, last):
        kx, ky = frequencies[0, k], frequencies[1, k]
        u, v = np.float32(kx), np.float32(ky)
        sign, at, fx, fy, fz = _cell(u * m00 + v * m10, u * m01 + v * m11, u * m02 + v * m12, grid)
        re, _, _, _ = _between(volume, at, grid, fx, fy, fz)
        im, _, _, _ = _between(volume, np.uint32(at + 1), grid, fx, fy, fz)
        sr, si = _shifted(signal, tables, k, kx, ky + reach)
        # im has the other sign in the mirrored half, and counts squared or with it
        total += re * sr + sign * im * si - np.float32(0.5) * weight[k] * (re * re + im * im)
    return float(total)


@njit(parallel=True, fastmath=True, cache=True)
def scores(
    volume: Real,
    size: int,
    signal: Real,
    weight: Real,
    rotations: Real,
    shifts: Double,
    frequencies: NDArray[np.int32],
    padding: float,
    box: int,
    out: Double,
) -> None:
    """Score every view at several poses of its own.

    Args:
        volume: flat, real and imaginary parts in turn, of a half volume of odd side.
        size: that side.
        signal: `[b, 2 k]`, likewise.
        weight: `[b, k]`.
        rotations: `[b, s, 3, 3]`.
        shifts: `[b, s, 2]`, in pixels.
        frequencies: `[2, k]`, x and y.
        padding: oversampling factor.
        box: side of the images.
        out: `[b, s]`, written to.
    """
    n_k = frequencies.shape[1]
    reach = np.abs(frequencies).max()
    grid = _grid(size, volume.size)
    n_poses = rotations.shape[1]
    for job in prange(rotations.shape[0] * n_poses):
        i = job // n_poses
        j = job % n_poses
        tables = _real_tables(shifts[i, j], box, reach)
        turned = rotations[i, j] * np.float32(padding)
        total = 0.0
        for first in range(0, n_k, _BLOCK):
            last = min(n_k, first + _BLOCK)
            total += _score_block(
                volume, grid, signal[i], weight[i], turned, tables, frequencies, first, last
            )
        out[i, j] = total


@njit(inline="always")
def _grid(size: int, n_floats: int) -> tuple[Any, Any, Any]:
    """Return the steps of a row and a plane in floats, and the centre of y and z."""
    plane = n_floats // size
    return np.int32(plane // size), np.int32(plane), np.float32(size // 2)


@njit(fastmath=True, error_model="numpy", cache=True)
def _normal_block(
    volume: Real,
    grid: tuple[Any, Any, Any],
    signal: Real,
    weight: Real,
    rotation: Real,
    tables: tuple[Real, Real, Real, Real],
    frequencies: NDArray[np.int32],
    cycle: np.float32,
    first: int,
    last: int,
    out: Double,
) -> None:
    """Add score, gradient and lower triangle of coefficients from first to before last."""
    m = rotation
    m00, m01, m02, m10, m11, m12 = m[0, 0], m[0, 1], m[0, 2], m[1, 0], m[1, 1], m[1, 2]
    m20, m21, m22 = m[2, 0], m[2, 1], m[2, 2]
    reach = np.int32(len(tables[0]) - 1)
    zero = np.float32(0.0)
    total = g0 = g1 = g2 = g3 = g4 = zero
    h00 = h01 = h02 = h03 = h04 = h11 = h12 = h13 = h14 = zero
    h22 = h23 = h24 = h33 = h34 = h44 = zero
    for k in range(first, last):
        kx, ky = frequencies[0, k], frequencies[1, k]
        u, v = np.float32(kx), np.float32(ky)
        sign, at, fx, fy, fz = _cell(u * m00 + v * m10, u * m01 + v * m11, u * m02 + v * m12, grid)
        re, ax, ay, az = _between(volume, at, grid, fx, fy, fz)
        im, bx, by, bz = _between(volume, np.uint32(at + 1), grid, fx, fy, fz)
        im *= sign
        # slopes along the beam and by a turn in the plane; k -> -k and conjugation turn signs
        nr = sign * (m20 * ax + m21 * ay + m22 * az)
        ni = m20 * bx + m21 * by + m22 * bz
        tx, ty, tz = v * m00 - u * m10, v * m01 - u * m11, v * m02 - u * m12
        tr = sign * (tx * ax + ty * ay + tz * az)
        ti = tx * bx + ty * by + tz * bz
        sr, si = _shifted(signal, tables, k, kx, ky + reach)
        w = weight[k]
        square = re * re + im * im
        total += re * sr + im * si - np.float32(0.5) * w * square
        er, ei = sr - w * re, si - w * im
        # rotation vector: columns (-ky gz, kx gz, ky gx - kx gy); shift: 2 pi i k P
        along = nr * er + ni * ei
        g0 -= v * along
        g1 += u * along
        g2 += tr * er + ti * ei
        turn = cycle * (re * si - im * sr)
        g3 += u * turn
        g4 += v * turn
        wn = w * (nr * nr + ni * ni)
        wnt = w * (nr * tr + ni * ti)
        wp = w * cycle * cycle * square
        wnp = w * cycle * (re * ni - im * nr)
        wtp = w * cycle * (re * ti - im * tr)
        h00 += v * v * wn
        h01 -= u * v * wn
        h11 += u * u * wn
        h02 -= v * wnt
        h12 += u * wnt
        h22 += w * (tr * tr + ti * ti)
        h03 -= u * v * wnp
        h04 -= v * v * wnp
        h13 += u * u * wnp
        h14 += u * v * wnp
        h23 += u * wtp
        h24 += v * wtp
        h33 += u * u * wp
        h34 += u * v * wp
        h44 += v * v * wp
    _add(out, (total, g0, g1, g2, g3, g4))
    _add(out[6:], (h00, h01, h11, h02, h12, h22))
    _add(out[12:], (h03, h13, h23, h33, h04, h14, h24, h34, h44))


@njit(inline="always")
def _add(out: Double, values: tuple[Any, ...]) -> None:
    for i in range(len(values)):
        out[i] += values[i]


@njit(parallel=True, fastmath=True, cache=True)
def normals(
    volume: Real,
    size: int,
    signal: Real,
    weight: Real,
    rotations: Real,
    shifts: Double,
    frequencies: NDArray[np.int32],
    padding: float,
    box: int,
    score: Double,
    gradient: Double,
    normal: Double,
) -> None:
    """Score every view at one pose, with gradient and Gauss-Newton matrix.

    Args:
        volume, size, signal, weight, frequencies, padding, box: as for `scores`.
        rotations: `[b, 3, 3]`.
        shifts: `[b, 2]`.
        score: `[b]`, written to.
        gradient: `[b, 5]`, likewise.
        normal: `[b, 5, 5]`, likewise.
    """
    n_k = frequencies.shape[1]
    reach = np.abs(frequencies).max()
    cycle = np.float32(2 * np.pi / box)
    grid = _grid(size, volume.size)
    for i in prange(rotations.shape[0]):
        tables = _real_tables(shifts[i], box, reach)
        turned = rotations[i] * np.float32(padding)
        out = np.zeros(21)
        for first in range(0, n_k, _BLOCK):
            last = min(n_k, first + _BLOCK)
            _normal_block(
                volume,
                grid,
                signal[i],
                weight[i],
                turned,
                tables,
                frequencies,
                cycle,
                first,
                last,
                out,
            )
        score[i] = out[0]
        gradient[i] = out[1:6]
        _write_symmetric(out[6:], normal[i])


@njit(inline="always")
def _write_symmetric(lower: Double, out: Double) -> None:
    """Write a 5 x 5 matrix given by the rows of its lower triangle."""
    k = 0
    for i in range(5):
        for j in range(i + 1):
            out[i, j] = lower[k]
            out[j, i] = lower[k]
            k += 1


@njit(fastmath=True, cache=True)
def insert(
    signal: Complex,
    weight: Real,
    rotations: Real,
    shifts: Double,
    probability: Real,
    frequencies: NDArray[np.int32],
    padding: float,
    box: int,
    numerator: Complex,
    denominator: Real,
) -> None:
    """Add every view at several poses of its own, each with its probability."""
    centre_y = numerator.shape[1] // 2
    centre_z = numerator.shape[0] // 2
    n_k = frequencies.shape[0]
    reach = 0
    for k in range(n_k):
        reach = max(reach, abs(frequencies[k, 0]), abs(frequencies[k, 1]))
    for i in range(rotations.shape[0]):
        for j in range(rotations.shape[1]):
            p = probability[i, j]
            if p == 0:
                continue
            px, py = _phase_tables(shifts[i, j], box, reach)
            ax, ay, az = rotations[i, j, 0] * np.float32(padding)
            bx, by, bz = rotations[i, j, 1] * np.float32(padding)
            for k in range(n_k):
                u = np.float32(frequencies[k, 0])
                v = np.float32(frequencies[k, 1])
                x = u * ax + v * bx
                y = u * ay + v * by
                z = u * az + v * bz
                value = p * signal[i, k] * px[frequencies[k, 0]] * py[frequencies[k, 1] + reach]
                w = p * weight[i, k]
                if x < 0:
                    x, y, z = -x, -y, -z
                    value = np.conj(value)
                x0 = int(x)
                y0 = int(np.floor(y))
                z0 = int(np.floor(z))
                fx = np.float32(x - x0)
                fy = np.float32(y - y0)
                fz = np.float32(z - z0)
                for dz in range(2):
                    cz = fz if dz else np.float32(1.0) - fz
                    iz = z0 + dz + centre_z
                    for dy in range(2):
                        cy = cz * (fy if dy else np.float32(1.0) - fy)
                        iy = y0 + dy + centre_y
                        right = cy * fx
                        left = cy - right
                        numerator[iz, iy, x0] += left * value
                        numerator[iz, iy, x0 + 1] += right * value
                        denominator[iz, iy, x0] += left * w
                        denominator[iz, iy, x0 + 1] += right * w
