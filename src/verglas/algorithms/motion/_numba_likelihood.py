"""CPU loops of the motion likelihood, compiled by numba.

For each patch the frames' transforms are turned back by the motion, added, and the sum is
compared with each frame; one pass gives likelihood, gradient and curvature.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["compare_frames"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Ends = NDArray[np.int32]


@njit(inline="always", fastmath=True, cache=True)
def _turn(
    re: Real,
    im: Real,
    x: float,
    y: float,
    ends: Ends,
    size: int,
    out_re: Real,
    out_im: Real,
    sum_re: Real,
    sum_im: Real,
) -> None:
    """Multiply a transform by exp(2 pi i k.(x, y)), k in cycles per patch, and add it to sums."""
    n_rows = (re.shape[0] + 1) // 2
    columns = re.shape[1]
    cx, sx = np.empty(columns, np.float32), np.empty(columns, np.float32)
    for j in range(columns):
        angle = 2.0 * np.pi * x * j / size
        cx[j], sx[j] = np.cos(angle), np.sin(angle)
    for i in range(re.shape[0]):
        ky = i if i < n_rows else i - re.shape[0]
        angle = 2.0 * np.pi * y * ky / size
        c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        for j in range(ends[i]):
            a = c * cx[j] - s * sx[j]
            b = s * cx[j] + c * sx[j]
            turned_re = re[i, j] * a - im[i, j] * b
            turned_im = re[i, j] * b + im[i, j] * a
            out_re[i, j], out_im[i, j] = turned_re, turned_im
            sum_re[i, j] += turned_re
            sum_im[i, j] += turned_im


@njit(inline="always", fastmath=True, cache=True)
def _near_sums(re: Real, im: Real, memory: Real, ends: Ends, out_re: Real, out_im: Real) -> None:
    """Add to each frame the others, each times memory to the power of its distance in time."""
    n_frames, n_rows, _ = re.shape
    for i in range(n_rows):
        for j in range(ends[i]):
            out_re[0, i, j] = re[0, i, j]
            out_im[0, i, j] = im[0, i, j]
    for f in range(1, n_frames):
        for i in range(n_rows):
            for j in range(ends[i]):
                out_re[f, i, j] = re[f, i, j] + memory[i, j] * out_re[f - 1, i, j]
                out_im[f, i, j] = im[f, i, j] + memory[i, j] * out_im[f - 1, i, j]
    later_re = np.zeros(re.shape[1:], np.float32)
    later_im = np.zeros(re.shape[1:], np.float32)
    for g in range(n_frames - 1):
        f = n_frames - 2 - g
        for i in range(n_rows):
            for j in range(ends[i]):
                later_re[i, j] = memory[i, j] * (later_re[i, j] + re[f + 1, i, j])
                later_im[i, j] = memory[i, j] * (later_im[i, j] + im[f + 1, i, j])
                out_re[f, i, j] += later_re[i, j]
                out_im[f, i, j] += later_im[i, j]


@njit(inline="always", fastmath=True, cache=True)
def _weigh(
    re: Real, im: Real, other_re: Real, other_im: Real, weight: Real, ends: Ends, power: Double
) -> tuple[float, float]:
    """Multiply two transforms, and then the first one by its weights.

    Returns:
        The weighted product, and the same times squared frequency in cycles per patch.
    """
    n_rows = re.shape[0]
    total, curved = 0.0, 0.0
    for i in range(n_rows):
        ky = i if 2 * i < n_rows else i - n_rows
        row, row_curved = np.float32(0.0), np.float32(0.0)
        for j in range(ends[i]):
            product = re[i, j] * other_re[i, j] + im[i, j] * other_im[i, j]
            power[i, j] += product
            row += weight[i, j] * product
            row_curved += weight[i, j] * product * np.float32(ky * ky + j * j)
        for j in range(ends[i]):
            re[i, j] *= weight[i, j]
            im[i, j] *= weight[i, j]
        total += float(row)
        curved += float(row_curved)
    return total, curved


@njit(inline="always", fastmath=True, cache=True)
def _slopes(
    target_re: Real, target_im: Real, re: Real, im: Real, ends: Ends
) -> tuple[float, float]:
    """Turn of a frame against its target, times frequency along x and y."""
    n_rows = re.shape[0]
    along_x, along_y = 0.0, 0.0
    for i in range(n_rows):
        ky = i if 2 * i < n_rows else i - n_rows
        row_x, row_y = np.float32(0.0), np.float32(0.0)
        for j in range(ends[i]):
            cross = target_re[i, j] * im[i, j] - target_im[i, j] * re[i, j]
            row_x += cross * np.float32(j)
            row_y += cross
        along_x += float(row_x)
        along_y += float(ky * row_y)
    return along_x, along_y


@njit(nogil=True, fastmath=True, cache=True)
def compare_frames(
    re: Real,
    im: Real,
    displacement: Double,
    weight: Real,
    near_weight: Real,
    memory: Real,
    has_near: bool,
    ends: Ends,
    size: int,
    loglik: Double,
    gradient: Double,
    curvature: Double,
    power: Double,
    near_power: Double,
) -> None:
    """Evaluate the likelihood of a motion and how it changes, patch by patch.

    Args:
        re, im: `[p, f, r, c]`, transforms of patches in frames: rows of frequencies 0 to
            `(r - 1) / 2` and their negatives, columns 0 to `c - 1`.
        displacement: `[p, f, 2]`, x and y, of a feature in each frame, in pixels of the patch.
        weight: `[r, c]`, of the power of the sum of frames; half for column 0.
        near_weight: `[r, c]`, of the products of frames with those near in time.
        memory: `[r, c]`, how much of a frame's signal is in the next one.
        has_near: whether `near_weight` counts.
        ends: `[r]`, columns of each row that count; what lies behind is not looked at.
        size: of the patch in pixels.
        loglik: `[p]`, gets the likelihood.
        gradient: `[p, f, 2]`, gets its derivative by displacement, a pixel.
        curvature: `[p]`, gets the weighted powers times squared frequency (radians a
            pixel, mean of x and y).
        power: `[r, c]`, the power of the sum of frames is added to it.
        near_power: `[r, c]`, the same of products of frames near in time.
    """
    n_patches, n_frames, n_rows, n_columns = re.shape
    unit = 2.0 * np.pi / size
    turned_re = np.empty((n_frames, n_rows, n_columns), np.float32)
    turned_im = np.empty((n_frames, n_rows, n_columns), np.float32)
    sum_re = np.empty((n_rows, n_columns), np.float32)
    sum_im = np.empty((n_rows, n_columns), np.float32)
    near_re = np.empty((n_frames if has_near else 0, n_rows, n_columns), np.float32)
    near_im = np.empty((n_frames if has_near else 0, n_rows, n_columns), np.float32)
    for p in range(n_patches):
        sum_re[:] = 0.0
        sum_im[:] = 0.0
        for f in range(n_frames):
            x, y = displacement[p, f]
            _turn(re[p, f], im[p, f], x, y, ends, size, turned_re[f], turned_im[f], sum_re, sum_im)
        total, curved = _weigh(sum_re, sum_im, sum_re, sum_im, weight, ends, power)
        if has_near:
            _near_sums(turned_re, turned_im, memory, ends, near_re, near_im)
            for f in range(n_frames):
                own, own_curved = _weigh(
                    near_re[f], near_im[f], turned_re[f], turned_im[f], near_weight, ends,
                    near_power,
                )  # fmt: skip
                total += own
                curved += own_curved
        loglik[p] = total
        curvature[p] = 0.5 * unit * unit * curved
        for f in range(n_frames):
            along_x, along_y = _slopes(sum_re, sum_im, turned_re[f], turned_im[f], ends)
            if has_near:
                near_x, near_y = _slopes(near_re[f], near_im[f], turned_re[f], turned_im[f], ends)
                along_x += near_x
                along_y += near_y
            gradient[p, f, 0] = -2.0 * unit * along_x
            gradient[p, f, 1] = -2.0 * unit * along_y
