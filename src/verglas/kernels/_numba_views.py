"""CPU loops over views at one pose each, compiled by numba; see `_machine_code`.

They allocate nothing: what they write to is handed in. The likelihood and its derivatives are
those of `_numba_pose_likelihood`.
"""

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from verglas.kernels._numba_images import _sine
from verglas.kernels._numba_pose_likelihood import (
    _between,
    _cell,
    _grid,
    _normal_block,
    _shifted,
    _write_symmetric,
)

__all__ = ["fit_shells", "normals", "whiten"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Whole = NDArray[np.int64]
Short = NDArray[np.int32]

_BLOCK = 1024  # coefficients whose sum is kept in single precision


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def whiten(
    images_ft: Real,
    phases: Real,
    odd: Real,
    even: Real,
    group: Whole,
    inverse_noise: Real,
    frequencies: Short,
    shell: Whole,
    signal: Real,
    weight: Real,
    total: Double,
) -> None:
    """Turn images into `CTF X / sigma^2` and `CTF^2 / sigma^2` on a half-disc.

    Args:
        images_ft: `[b, n, n // 2 + 1, 2]`, transforms with the origin at the first pixel.
        phases: `[b, 8]`, the CTF's argument, see `image_tables.ctf_phases`.
        odd, even: `[g, n, n // 2 + 1]`, further phases in turns, or `[0, 0, 0]` for none.
        group: `[b]`, into the former two.
        inverse_noise: `[b, s]`, 1 / sigma^2 by shell.
        frequencies: `[2, k]`, x and y of the half-disc.
        shell: `[k]`.
        signal: `[b, 2 k]`, real and imaginary parts in turn; written to.
        weight: `[b, k]`, written to.
        total: `[b, s]`, |X|^2 / sigma^2, added to.
    """
    n = images_ft.shape[1]
    to_centre = np.float32(n // 2) / np.float32(n)
    has_aberrations = odd.shape[0] > 0
    for b in range(images_ft.shape[0]):
        p = phases[b]
        for k in range(frequencies.shape[1]):
            kx, ky = frequencies[0, k], frequencies[1, k]
            x, y = np.float32(kx), np.float32(ky)
            row = ky % n
            q = p[5] * x * x + p[6] * x * y + p[7] * y * y
            t = p[0] + p[1] * x * x + p[2] * x * y + p[3] * y * y + p[4] * q * q
            turn = to_centre * np.float32(kx + ky)
            if has_aberrations:
                t += even[group[b], row, kx]
                turn -= odd[group[b], row, kx]
            cosine, sine = _sine(turn + np.float32(0.25)), _sine(turn)
            re, im = images_ft[b, row, kx, 0], images_ft[b, row, kx, 1]
            ctf = _sine(t)
            inverse = inverse_noise[b, shell[k]]
            w = ctf * inverse
            signal[b, 2 * k] = w * (re * cosine - im * sine)
            signal[b, 2 * k + 1] = w * (re * sine + im * cosine)
            weight[b, k] = w * ctf
            total[b, shell[k]] += (re * re + im * im) * inverse


@njit(inline="always", fastmath=True, error_model="numpy")
def _fill_tables(shift: Double, box: int, reach: int, tables: Real) -> tuple[Any, Any, Any, Any]:
    """Write the phases of a shift, as `_real_tables` makes them."""
    step_x, step_y = -2 * np.pi * shift[0] / box, -2 * np.pi * shift[1] / box
    for k in range(reach + 1):
        tables[0, k], tables[1, k] = np.cos(step_x * k), np.sin(step_x * k)
        cosine, sine = np.cos(step_y * k), np.sin(step_y * k)
        tables[2, reach + k], tables[3, reach + k] = cosine, sine
        tables[2, reach - k], tables[3, reach - k] = cosine, -sine
    return tables[0, : reach + 1], tables[1, : reach + 1], tables[2], tables[3]


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def normals(
    volume: Real,
    size: int,
    view: Whole,
    signal: Real,
    weight: Real,
    rotations: Real,
    shifts: Double,
    frequencies: Short,
    n_used: int,
    reach: int,
    box: int,
    tables: Real,
    scratch: Double,
    out: Double,
    normal: Double,
) -> None:
    """Score views at one pose each, with gradient and Gauss-Newton matrix.

    Args:
        volume: flat, real and imaginary parts in turn, of a half volume of odd side.
        size: that side.
        view: `[p]`, which view each pose is for.
        signal, weight: of all views, see `whiten`.
        rotations: `[p, 3, 3]`, times the padding.
        shifts: `[p, 2]`, in pixels.
        frequencies: `[2, k]`.
        n_used: coefficients, from the first.
        reach: largest frequency.
        box: side of the images.
        tables: `[4, 2 reach + 1]`, written to.
        scratch: `[21]`, written to.
        out: `[p, 6]`, score and gradient; written to.
        normal: `[p, 5, 5]`, written to.
    """
    cycle = np.float32(2 * np.pi / box)
    grid = _grid(size, volume.size)
    for i in range(len(view)):
        parts = _fill_tables(shifts[i], box, reach, tables)
        for j in range(21):
            scratch[j] = 0.0
        at = view[i]
        for first in range(0, n_used, _BLOCK):
            last = min(n_used, first + _BLOCK)
            _normal_block(
                volume,
                grid,
                signal[at],
                weight[at],
                rotations[i],
                parts,
                frequencies,
                cycle,
                first,
                last,
                scratch,
            )
        for j in range(6):
            out[i, j] = scratch[j]
        _write_symmetric(scratch[6:], normal[i])


@njit(fastmath=True, cache=True, nogil=True, error_model="numpy")
def fit_shells(
    volume: Real,
    size: int,
    view: Whole,
    signal: Real,
    weight: Real,
    rotations: Real,
    shifts: Double,
    frequencies: Short,
    shell: Whole,
    reach: int,
    box: int,
    tables: Real,
    cross: Double,
    power: Double,
) -> None:
    """Add up `<CTF P, X>` and `|CTF P|^2`, both over sigma^2, by shell.

    Args:
        volume, size, view, signal, weight, rotations, shifts, frequencies, reach, box, tables: as
            for `normals`.
        shell: `[k]`.
        cross, power: `[s]`, added to.
    """
    grid = _grid(size, volume.size)
    for i in range(len(view)):
        parts = _fill_tables(shifts[i], box, reach, tables)
        m = rotations[i]
        at = view[i]
        for k in range(frequencies.shape[1]):
            kx, ky = frequencies[0, k], frequencies[1, k]
            u, v = np.float32(kx), np.float32(ky)
            sign, place, fx, fy, fz = _cell(
                u * m[0, 0] + v * m[1, 0],
                u * m[0, 1] + v * m[1, 1],
                u * m[0, 2] + v * m[1, 2],
                grid,
            )
            re, _, _, _ = _between(volume, place, grid, fx, fy, fz)
            im, _, _, _ = _between(volume, np.uint32(place + 1), grid, fx, fy, fz)
            sr, si = _shifted(signal[at], parts, k, kx, ky + np.int32(reach))
            cross[shell[k]] += float(re * sr + sign * im * si)
            power[shell[k]] += float(weight[at, k] * (re * re + im * im))
