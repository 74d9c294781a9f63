"""CPU loops behind `pose_likelihood.py`, compiled by numba; imported only when first used.

One fused loop per pose: shift, rotate, interpolate, differentiate, add up. The interpolant
is differentiated exactly as it is (trilinear in each cell), so the gradient is that of the
score that is compared.
"""

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Complex = NDArray[np.complex64]


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


@njit(inline="always", fastmath=True)
def _value_and_slopes(
    volume: Complex, x: float, y: float, z: float
) -> tuple[complex, complex, complex, complex]:
    """Return the trilinear interpolant and its slopes along x, y, z; x is not negative."""
    x0 = int(x)
    y0 = int(np.floor(y))
    z0 = int(np.floor(z))
    fx = np.float32(x - x0)
    fy = np.float32(y - y0)
    fz = np.float32(z - z0)
    iy = y0 + volume.shape[1] // 2
    iz = z0 + volume.shape[0] // 2
    v000 = volume[iz, iy, x0]
    v010 = volume[iz, iy + 1, x0]
    v100 = volume[iz + 1, iy, x0]
    v110 = volume[iz + 1, iy + 1, x0]
    d00 = volume[iz, iy, x0 + 1] - v000
    d10 = volume[iz, iy + 1, x0 + 1] - v010
    d01 = volume[iz + 1, iy, x0 + 1] - v100
    d11 = volume[iz + 1, iy + 1, x0 + 1] - v110
    c00 = v000 + fx * d00
    e0 = v010 + fx * d10 - c00
    c01 = v100 + fx * d01
    e1 = v110 + fx * d11 - c01
    c0 = c00 + fy * e0
    gz = c01 + fy * e1 - c0
    f0 = d00 + fy * (d10 - d00)
    gx = f0 + fz * (d01 + fy * (d11 - d01) - f0)
    return c0 + fz * gz, gx, e0 + fz * (e1 - e0), gz


@njit(inline="always", fastmath=True)
def _sample(
    volume: Complex, rotation: Real, pad: np.float32, u: np.float32, v: np.float32
) -> tuple[Any, Any, Any, Any, Any, Any]:
    """Return a slice at (u, v), its slope along the beam and by a turn in the plane.

    Each as real and imaginary part, at the rotation from reference to image.
    """
    m = rotation
    x = (u * m[0, 0] + v * m[1, 0]) * pad
    y = (u * m[0, 1] + v * m[1, 1]) * pad
    z = (u * m[0, 2] + v * m[1, 2]) * pad
    sign = np.float32(1.0)
    if x < 0:
        x, y, z, sign = -x, -y, -z, np.float32(-1.0)
    value, gx, gy, gz = _value_and_slopes(volume, x, y, z)
    # d value / d k in the image's frame; k -> -k and conjugation turn its sign
    along_x = m[0, 0] * gx + m[0, 1] * gy + m[0, 2] * gz
    along_y = m[1, 0] * gx + m[1, 1] * gy + m[1, 2] * gz
    beam = (m[2, 0] * gx + m[2, 1] * gy + m[2, 2] * gz) * pad
    turn = (v * along_x - u * along_y) * pad
    return (
        value.real,
        sign * value.imag,
        sign * beam.real,
        beam.imag,
        sign * turn.real,
        turn.imag,
    )


@njit(inline="always")
def _write_symmetric(lower: tuple[float, ...], out: Double) -> None:
    """Write a 5 x 5 matrix given by the rows of its lower triangle."""
    k = 0
    for i in range(5):
        for j in range(i + 1):
            out[i, j] = lower[k]
            out[j, i] = lower[k]
            k += 1


@njit(parallel=True, fastmath=True, cache=True)
def scores(
    volume: Complex,
    signal: Complex,
    weight: Real,
    rotations: Real,
    shifts: Double,
    frequencies: NDArray[np.int32],
    padding: float,
    box: int,
    out: Double,
) -> None:
    """Score every view at several poses of its own."""
    centre_y = volume.shape[1] // 2
    centre_z = volume.shape[0] // 2
    n_k = frequencies.shape[0]
    reach = 0
    for k in range(n_k):
        reach = max(reach, abs(frequencies[k, 0]), abs(frequencies[k, 1]))
    n_poses = rotations.shape[1]
    for job in prange(rotations.shape[0] * n_poses):
        i = job // n_poses
        j = job % n_poses
        px, py = _phase_tables(shifts[i, j], box, reach)
        ax, ay, az = rotations[i, j, 0] * np.float32(padding)
        bx, by, bz = rotations[i, j, 1] * np.float32(padding)
        total = 0.0
        for k in range(n_k):
            u = np.float32(frequencies[k, 0])
            v = np.float32(frequencies[k, 1])
            x = u * ax + v * bx
            y = u * ay + v * by
            z = u * az + v * bz
            sign = np.float32(1.0)
            if x < 0:
                x, y, z, sign = -x, -y, -z, np.float32(-1.0)
            x0 = int(x)
            y0 = int(np.floor(y))
            z0 = int(np.floor(z))
            fx = np.float32(x - x0)
            fy = np.float32(y - y0)
            fz = np.float32(z - z0)
            iy = y0 + centre_y
            iz = z0 + centre_z
            v000 = volume[iz, iy, x0]
            v010 = volume[iz, iy + 1, x0]
            v100 = volume[iz + 1, iy, x0]
            v110 = volume[iz + 1, iy + 1, x0]
            c00 = v000 + fx * (volume[iz, iy, x0 + 1] - v000)
            c10 = v010 + fx * (volume[iz, iy + 1, x0 + 1] - v010)
            c01 = v100 + fx * (volume[iz + 1, iy, x0 + 1] - v100)
            c11 = v110 + fx * (volume[iz + 1, iy + 1, x0 + 1] - v110)
            c0 = c00 + fy * (c10 - c00)
            c1 = c01 + fy * (c11 - c01)
            value = c0 + fz * (c1 - c0)
            re = value.real
            im = sign * value.imag
            s = signal[i, k] * px[frequencies[k, 0]] * py[frequencies[k, 1] + reach]
            total += (
                re * s.real + im * s.imag - np.float32(0.5) * weight[i, k] * (re * re + im * im)
            )
        out[i, j] = total


@njit(parallel=True, fastmath=True, cache=True)
def normals(
    volume: Complex,
    signal: Complex,
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
    """Score every view at one pose, with gradient and Gauss-Newton matrix."""
    n_k = frequencies.shape[0]
    reach = 0
    for k in range(n_k):
        reach = max(reach, abs(frequencies[k, 0]), abs(frequencies[k, 1]))
    cycle = np.float32(2 * np.pi / box)
    pad = np.float32(padding)
    for i in prange(rotations.shape[0]):
        px, py = _phase_tables(shifts[i], box, reach)
        m = rotations[i]
        total = 0.0
        g0 = g1 = g2 = g3 = g4 = 0.0
        h00 = h01 = h02 = h03 = h04 = 0.0
        h11 = h12 = h13 = h14 = 0.0
        h22 = h23 = h24 = 0.0
        h33 = h34 = h44 = 0.0
        for k in range(n_k):
            u = np.float32(frequencies[k, 0])
            v = np.float32(frequencies[k, 1])
            re, im, nr, ni, tr, ti = _sample(volume, m, pad, u, v)
            s = signal[i, k] * px[frequencies[k, 0]] * py[frequencies[k, 1] + reach]
            w = weight[i, k]
            total += re * s.real + im * s.imag - np.float32(0.5) * w * (re * re + im * im)
            er = s.real - w * re
            ei = s.imag - w * im
            # rotation vector: columns (-ky gz, kx gz, ky gx - kx gy); shift: 2 pi i k P
            along = nr * er + ni * ei
            g0 -= v * along
            g1 += u * along
            g2 += tr * er + ti * ei
            turn = cycle * (re * s.imag - im * s.real)
            g3 += u * turn
            g4 += v * turn
            wn = w * (nr * nr + ni * ni)
            wt = w * (tr * tr + ti * ti)
            wnt = w * (nr * tr + ni * ti)
            wp = w * cycle * cycle * (re * re + im * im)
            wnp = w * cycle * (re * ni - im * nr)
            wtp = w * cycle * (re * ti - im * tr)
            h00 += v * v * wn
            h01 -= u * v * wn
            h11 += u * u * wn
            h02 -= v * wnt
            h12 += u * wnt
            h22 += wt
            h03 -= v * u * wnp
            h04 -= v * v * wnp
            h13 += u * u * wnp
            h14 += u * v * wnp
            h23 += u * wtp
            h24 += v * wtp
            h33 += u * u * wp
            h34 += u * v * wp
            h44 += v * v * wp
        score[i] = total
        gradient[i] = (g0, g1, g2, g3, g4)
        _write_symmetric(
            (h00, h01, h11, h02, h12, h22, h03, h13, h23, h33, h04, h14, h24, h34, h44), normal[i]
        )


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
