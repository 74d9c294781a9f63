"""CPU loops that add images to a half volume, compiled by numba; see `_machine_code`.

One fused pass for each image: shift, transfer function, weights, rotation, and the eight
corners of every sample. Sums are kept as four floats a voxel (real, imaginary, weight, unused),
so that the two corners along x are one vector of eight.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

from verglas.kernels._numba_vector import add_pair, prefetch

__all__ = ["insert_curved_images", "insert_images"]

Real = NDArray[np.float32]
Whole = NDArray[np.int64]

_FULL, _FLIPPED = 0, 1


@njit(inline="always", fastmath=True, cache=True)
def _sine(turns: np.float32) -> np.float32:
    """Return sin(2 pi t) to 2e-7 by a polynomial, so that loops over it become vectors."""
    t = turns - np.rint(turns)  # -0.5 .. 0.5
    # fold to a quarter turn: sin(2 pi t) = sin(2 pi (sign / 2 - t))
    t = t - np.float32(2.0) * max(np.float32(0.0), t - np.float32(0.25))
    t = t + np.float32(2.0) * max(np.float32(0.0), -t - np.float32(0.25))
    s = t * t
    p = np.float32(-15.0946426)
    p = p * s + np.float32(42.0586939)
    p = p * s - np.float32(76.7058597)
    p = p * s + np.float32(81.6052492)
    p = p * s - np.float32(41.3417022)
    p = p * s + np.float32(6.28318531)
    sine: np.float32 = p * t
    return sine


@njit(inline="always", fastmath=True, cache=True)
def _fetch_row(sums: Real, side: int, g: Real, y: np.float32, last: int) -> None:
    """Bring what a row of samples will touch into the cache."""
    centre = np.float32(side // 2)
    row = np.uint64(side // 2 + 1) * np.uint64(4)
    plane = row * np.uint64(side)
    for i in range(last + 1):
        x = np.float32(i)
        u = g[2] * x + g[5] * y
        sign = np.float32(1.0) if u >= 0 else np.float32(-1.0)
        v = sign * (g[3] * x + g[6] * y) + centre
        w = sign * (g[4] * x + g[7] * y) + centre
        at = np.uint64(np.int32(w)) * plane + np.uint64(np.int32(v)) * row
        at += np.uint64(np.int32(sign * u)) * np.uint64(4)
        prefetch(sums, at)
        prefetch(sums, at + row)
        prefetch(sums, at + plane)
        prefetch(sums, at + plane + row)


@njit(inline="always", fastmath=True, cache=True)
def _scatter(
    sums: Real,
    side: int,
    x: np.float32,
    y: np.float32,
    z: np.float32,
    re: np.float32,
    im: np.float32,
    w: np.float32,
) -> None:
    """Add one sample to the eight corners around it."""
    if x < 0:
        x, y, z, im = -x, -y, -z, -im
    centre = np.float32(side // 2)
    y += centre
    z += centre
    x0 = np.int32(x)
    y0 = np.int32(y)
    z0 = np.int32(z)
    fx = x - np.float32(x0)
    fy = y - np.float32(y0)
    fz = z - np.float32(z0)
    gx = np.float32(1.0) - fx
    gy = np.float32(1.0) - fy
    gz = np.float32(1.0) - fz
    row = np.uint64(side // 2 + 1) * np.uint64(4)
    plane = row * np.uint64(side)
    start = np.uint64(z0) * plane + np.uint64(y0) * row + np.uint64(x0) * np.uint64(4)
    a0, a1, a2 = gx * re, gx * im, gx * w
    b0, b1, b2 = fx * re, fx * im, fx * w
    add_pair(sums, start, gz * gy, a0, a1, a2, b0, b1, b2)
    add_pair(sums, start + row, gz * fy, a0, a1, a2, b0, b1, b2)
    add_pair(sums, start + plane, fz * gy, a0, a1, a2, b0, b1, b2)
    add_pair(sums, start + plane + row, fz * fy, a0, a1, a2, b0, b1, b2)


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def insert_images(
    images_ft: Real,
    geometry: Real,
    phases: Real,
    odd: Real,
    even: Real,
    group: Whole,
    shell_weight: Real,
    mode: int,
    side: int,
    scratch: Real,
    sums: Real,
) -> None:
    """Add images to the sums of a half volume.

    Args:
        images_ft: `[b, n, n // 2 + 1, 2]`, transforms with the origin at the first pixel.
        geometry: `[b, 8]`: cycles a Fourier pixel along x and y that move the image, then the
            padded axes of the slice, (x, y, z) of kx and (x, y, z) of ky.
        phases: `[b, 8]`, the CTF's argument in turns: constant, factors of kx^2, 2 kx ky and
            ky^2, that of q^2, and q's factors of kx^2, 2 kx ky and ky^2.
        odd, even: `[g, n, n // 2 + 1]`, further phases in turns, or `[0, 0, 0]` for none.
        group: `[b]`, into the former two.
        shell_weight: `[radius + 1]`.
        mode: 0 for images as they are, 1 for flipped phases, 2 for no CTF.
        side: of the half volume.
        scratch: `[5, radius + 1]`, written to.
        sums: `[side * side * (side // 2 + 1) * 4]`, added to.
    """
    n = images_ft.shape[1]
    radius = shell_weight.shape[0] - 1
    edge = (radius + 0.5) * (radius + 0.5)
    reach = min(radius, (n - 1) // 2)  # Nyquist's row and column have no sign
    cx, sx, re, im, we = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    has_aberrations = odd.shape[0] > 0
    for b in range(images_ft.shape[0]):
        g = geometry[b]
        p = phases[b]
        for i in range(radius + 1):
            cx[i] = _sine(g[0] * np.float32(i) + np.float32(0.25))
            sx[i] = _sine(g[0] * np.float32(i))
        for j in range(-reach, reach + 1):
            y = np.float32(j)
            row = j % n
            last = min(reach, int(np.sqrt(edge - j * j)))
            _fetch_row(sums, side, g, y, last)
            cy = _sine(g[1] * y + np.float32(0.25))
            sy = _sine(g[1] * y)
            for i in range(last + 1):
                x = np.float32(i)
                q = p[5] * x * x + p[6] * x * y + p[7] * y * y
                t = p[0] + p[1] * x * x + p[2] * x * y + p[3] * y * y + p[4] * q * q
                c = cx[i] * cy - sx[i] * sy
                s = cx[i] * sy + sx[i] * cy
                if has_aberrations:
                    t += even[group[b], row, i]
                    u = odd[group[b], row, i]
                    co, so = _sine(np.float32(0.25) - u), _sine(-u)
                    c, s = c * co - s * so, c * so + s * co
                f = _sine(t)
                if mode == _FLIPPED:
                    f = abs(f)
                elif mode != _FULL:
                    f = np.float32(1.0)
                w = f * shell_weight[min(radius, int(np.sqrt(x * x + y * y) + np.float32(0.5)))]
                a = images_ft[b, row, i, 0]
                d = images_ft[b, row, i, 1]
                re[i] = w * (a * c - d * s)
                im[i] = w * (a * s + d * c)
                we[i] = w * f
            if j <= 0:  # half of the kx = 0 column says it all; the origin is its own mate
                factor = np.float32(0.5) if j == 0 else np.float32(0.0)
                re[0] *= factor
                im[0] *= factor
                we[0] *= factor
            for i in range(last + 1):
                x = np.float32(i)
                _scatter(
                    sums,
                    side,
                    g[2] * x + g[5] * y,
                    g[3] * x + g[6] * y,
                    g[4] * x + g[7] * y,
                    re[i],
                    im[i],
                    we[i],
                )


@njit(inline="always", fastmath=True, cache=True)
def _ball(x: float) -> float:
    """Return the transform of a ball, 1 at 0, at x = 2 pi radius frequency."""
    if x < 0.1:
        return 1 - x * x / 10
    value: float = 3 * (np.sin(x) - x * np.cos(x)) / (x * x * x)
    return value


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def insert_curved_images(
    images_ft: Real,
    geometry: Real,
    phases: Real,
    odd: Real,
    even: Real,
    group: Whole,
    shell_weight: Real,
    bend: Real,
    thickness: float,
    side: int,
    sums: Real,
) -> None:
    """Add images to the sums of a half volume, on both sheets of the Ewald sphere.

    `X = -i/2 e^(i g) V(k, s) + i/2 e^(-i g) V(k, -s)`, g the CTF's argument and s the height of
    the sphere; each sheet takes X times the conjugate of its factor. Where the sheets are closer
    than the particle is thick they say nearly the same, and the weights tend to those of a plane.

    Args:
        images_ft, phases, odd, even, group, shell_weight, side, sums: as of `insert_images`.
        geometry: `[b, 11]`: as of `insert_images`, then the padded axis of kz.
        bend: `[b]`, signed height of the sphere in Fourier pixels over q.
        thickness: diameter of the particle over the side of the box.
    """
    n = images_ft.shape[1]
    radius = shell_weight.shape[0] - 1
    edge = (radius + 0.5) * (radius + 0.5)
    reach = min(radius, (n - 1) // 2)
    has_aberrations = odd.shape[0] > 0
    limit = np.float32(side // 2 - 1e-3)
    for b in range(images_ft.shape[0]):
        g = geometry[b]
        p = phases[b]
        for j in range(-reach, reach + 1):
            y = np.float32(j)
            row = j % n
            last = min(reach, int(np.sqrt(edge - j * j)))
            for i in range(0 if j >= 0 else 1, last + 1):
                x = np.float32(i)
                q = p[5] * x * x + p[6] * x * y + p[7] * y * y
                t = p[0] + p[1] * x * x + p[2] * x * y + p[3] * y * y + p[4] * q * q
                move = g[0] * x + g[1] * y
                if has_aberrations:
                    t += even[group[b], row, i]
                    move -= odd[group[b], row, i]
                part = shell_weight[min(radius, int(np.sqrt(x * x + y * y) + np.float32(0.5)))]
                if i == 0 and j == 0:
                    part *= np.float32(0.5)
                height = bend[b] * q
                alike = np.float32(_ball(2 * np.pi * abs(height) * thickness))
                cosine = _sine(np.float32(2.0) * t + np.float32(0.25))
                weight = part * np.float32(0.25) * (np.float32(1.0) - alike * cosine)
                a, d = images_ft[b, row, i, 0], images_ft[b, row, i, 1]
                for sheet in range(2):
                    sign = np.float32(1.0 - 2.0 * sheet)
                    turn = move - sign * t + sign * np.float32(0.25)
                    c = np.float32(0.5) * part * _sine(turn + np.float32(0.25))
                    s = np.float32(0.5) * part * _sine(turn)
                    px = g[2] * x + g[5] * y + sign * height * g[8]
                    py = g[3] * x + g[6] * y + sign * height * g[9]
                    pz = g[4] * x + g[7] * y + sign * height * g[10]
                    if px * px + py * py + pz * pz < limit * limit:
                        _scatter(sums, side, px, py, pz, a * c - d * s, a * s + d * c, weight)
