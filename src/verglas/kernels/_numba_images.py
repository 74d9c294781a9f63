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
Short = NDArray[np.int32]

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


@njit(inline="always", fastmath=True, cache=True, error_model="numpy")
def _find_cells(
    side: int, g: Real, y: np.float32, last: int, place: Short, where: tuple[Real, Real, Real, Real]
) -> None:
    """Find where the samples of a row lie: sign that brings them to x >= 0, and their cells.

    Args:
        side: of the half volume.
        g: geometry of the image.
        y: the row.
        last: sample.
        place: of each cell in the sums, written to.
        where: sign and place within the cell along x, y and z; written to.
    """
    sign, fx, fy, fz = where
    centre = np.float32(side // 2)
    row = np.int32((side // 2 + 1) * 4)
    plane = np.int32(row * side)
    x0, y0, z0 = g[5] * y, g[6] * y, g[7] * y
    # an axis at a time: with more arrays in one loop the compiler does not make vectors of it
    for i in range(last + 1):
        u = x0 + g[2] * np.float32(i)
        sign[i] = np.float32(1.0) if u >= 0 else np.float32(-1.0)
        u = abs(u)
        iu = np.int32(u)
        place[i] = iu * np.int32(4)
        fx[i] = u - np.float32(iu)
    for i in range(last + 1):
        v = (y0 + g[3] * np.float32(i)) * sign[i] + centre
        iv = np.int32(v)
        place[i] += iv * row
        fy[i] = v - np.float32(iv)
    for i in range(last + 1):
        w = (z0 + g[4] * np.float32(i)) * sign[i] + centre
        iw = np.int32(w)
        place[i] += iw * plane
        fz[i] = w - np.float32(iw)


@njit(inline="always", fastmath=True, cache=True, error_model="numpy")
def _fetch_cells(sums: Real, side: int, last: int, place: Short) -> None:
    """Bring what a row of samples will touch into the cache."""
    row = np.uint64((side // 2 + 1) * 4)
    plane = row * np.uint64(side)
    for i in range(last + 1):
        at = np.uint64(np.uint32(place[i]))
        prefetch(sums, at)
        prefetch(sums, at + row)
        prefetch(sums, at + plane)
        prefetch(sums, at + plane + row)


@njit(inline="always", fastmath=True, cache=True, error_model="numpy")
def _add_cells(
    sums: Real,
    side: int,
    last: int,
    place: Short,
    where: tuple[Real, Real, Real, Real],
    values: tuple[Real, Real, Real],
) -> None:
    """Add a row of samples to the eight corners around each."""
    sign, fx, fy, fz = where
    real, imaginary, weight = values
    row = np.uint64((side // 2 + 1) * 4)
    plane = row * np.uint64(side)
    for i in range(last + 1):
        # read all before anything is added: the compiler cannot know that sums are elsewhere
        at = np.uint64(np.uint32(place[i]))
        hx, hy, hz = fx[i], fy[i], fz[i]
        re, im, w = real[i], sign[i] * imaginary[i], weight[i]
        gx, gy, gz = np.float32(1.0) - hx, np.float32(1.0) - hy, np.float32(1.0) - hz
        a0, a1, a2 = gx * re, gx * im, gx * w
        b0, b1, b2 = hx * re, hx * im, hx * w
        add_pair(sums, at, gz * gy, a0, a1, a2, b0, b1, b2)
        add_pair(sums, at + row, gz * hy, a0, a1, a2, b0, b1, b2)
        add_pair(sums, at + plane, hz * gy, a0, a1, a2, b0, b1, b2)
        add_pair(sums, at + plane + row, hz * hy, a0, a1, a2, b0, b1, b2)


@njit(inline="always", fastmath=True, cache=True, error_model="numpy")
def _write_ctf(p: Real, y: np.float32, last: int, mode: int, further: Real, ctf: Real) -> None:
    """Write the CTF of a row; `further` is added to its argument where it is not empty."""
    constant, square = p[0] + p[3] * y * y, p[7] * y * y
    for i in range(last + 1):
        x = np.float32(i)
        q = square + x * (p[6] * y + x * p[5])
        ctf[i] = constant + x * (p[2] * y + x * p[1]) + p[4] * q * q
    if len(further):
        for i in range(last + 1):
            ctf[i] += further[i]
    if mode == _FULL:
        for i in range(last + 1):
            ctf[i] = _sine(ctf[i])
    elif mode == _FLIPPED:
        for i in range(last + 1):
            ctf[i] = abs(_sine(ctf[i]))
    else:
        for i in range(last + 1):
            ctf[i] = np.float32(1.0)


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
    radius: int,
    mode: int,
    side: int,
    scratch: Real,
    place: Short,
    sums: Real,
) -> None:
    """Add images to the sums of a half volume.

    Each step is a loop of its own over a row, so that all but the last become vectors; a row's
    cells are asked for while its values are worked out.

    Args:
        images_ft: `[b, n, n // 2 + 1, 2]`, transforms with the origin at the first pixel.
        geometry: `[b, 8]`: cycles a Fourier pixel along x and y that move the image, then the
            padded axes of the slice, (x, y, z) of kx and (x, y, z) of ky.
        phases: `[b, 8]`, the CTF's argument in turns: constant, factors of kx^2, 2 kx ky and
            ky^2, that of q^2, and q's factors of kx^2, 2 kx ky and ky^2.
        odd, even: `[g, n, n // 2 + 1]`, further phases in turns, or `[0, 0, 0]` for none.
        group: `[b]`, into the former two.
        radius: last shell used.
        mode: 0 for images as they are, 1 for flipped phases, 2 for no CTF.
        side: of the half volume.
        scratch: `[9, radius + 1]`, written to.
        place: `[radius + 1]`, written to.
        sums: `[side * side * (side // 2 + 1) * 4]`, added to.
    """
    n = images_ft.shape[1]
    edge = (radius + 0.5) * (radius + 0.5)
    reach = min(radius, (n - 1) // 2)  # Nyquist's row and column have no sign
    cx, sx, re, im, we = scratch[0], scratch[1], scratch[2], scratch[3], scratch[4]
    where = scratch[5], scratch[6], scratch[7], scratch[8]
    nothing = scratch[0, :0]
    for b in range(images_ft.shape[0]):
        g = geometry[b]
        for i in range(radius + 1):
            cx[i] = _sine(g[0] * np.float32(i) + np.float32(0.25))
            sx[i] = _sine(g[0] * np.float32(i))
        for j in range(-reach, reach + 1):
            y = np.float32(j)
            row = j % n
            last = min(reach, int(np.sqrt(edge - j * j)))
            _find_cells(side, g, y, last, place, where)
            _fetch_cells(sums, side, last, place)
            further = even[group[b], row] if len(even) else nothing
            _write_ctf(phases[b], y, last, mode, further, we)
            cy, sy = _sine(g[1] * y + np.float32(0.25)), _sine(g[1] * y)
            line = images_ft[b, row]
            for i in range(last + 1):
                c = cx[i] * cy - sx[i] * sy
                s = cx[i] * sy + sx[i] * cy
                re[i] = we[i] * (line[i, 0] * c - line[i, 1] * s)
                im[i] = we[i] * (line[i, 0] * s + line[i, 1] * c)
                we[i] *= we[i]
            if len(odd):
                turn = odd[group[b], row]
                for i in range(last + 1):
                    c, s = _sine(np.float32(0.25) - turn[i]), _sine(-turn[i])
                    re[i], im[i] = re[i] * c - im[i] * s, re[i] * s + im[i] * c
            if j <= 0:  # half of the kx = 0 column says it all; the origin is its own mate
                factor = np.float32(0.5) if j == 0 else np.float32(0.0)
                re[0] *= factor
                im[0] *= factor
                we[0] *= factor
            _add_cells(sums, side, last, place, where, (re, im, we))


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
    radius: int,
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
        images_ft, phases, odd, even, group, radius, side, sums: as of `insert_images`.
        geometry: `[b, 11]`: as of `insert_images`, then the padded axis of kz.
        bend: `[b]`, signed height of the sphere in Fourier pixels over q.
        thickness: diameter of the particle over the side of the box.
    """
    n = images_ft.shape[1]
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
                part = np.float32(0.5) if i == 0 and j == 0 else np.float32(1.0)
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
