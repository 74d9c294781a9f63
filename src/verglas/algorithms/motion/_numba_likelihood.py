"""CPU loops of the motion likelihood, compiled by numba.

For each patch the frames' transforms are turned back by the motion, added, and the sum is
compared with each frame; one pass gives likelihood, gradient and curvature.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["compare_frames", "frame_powers"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Ends = NDArray[np.int32]
Shells = NDArray[np.int32]


@njit(inline="always", fastmath=True, cache=True)
def _powers(angle: float, cosine: Real, sine: Real) -> None:
    """Fill exp(i j angle) for all j, each from the one before."""
    step_re, step_im = np.cos(angle), np.sin(angle)
    re, im = 1.0, 0.0
    for j in range(cosine.shape[0]):
        cosine[j], sine[j] = re, im
        re, im = re * step_re - im * step_im, re * step_im + im * step_re


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
    n_rows, columns = re.shape
    cx, sx = np.empty(columns, np.float32), np.empty(columns, np.float32)
    _powers(2.0 * np.pi * x / size, cx, sx)
    cy, sy = np.empty(n_rows // 2 + 1, np.float32), np.empty(n_rows // 2 + 1, np.float32)
    _powers(2.0 * np.pi * y / size, cy, sy)
    for i in range(n_rows):
        c, s = (cy[i], sy[i]) if 2 * i < n_rows else (cy[n_rows - i], -sy[n_rows - i])
        for j in range(ends[i]):
            a = c * cx[j] - s * sx[j]
            b = s * cx[j] + c * sx[j]
            turned_re = re[i, j] * a - im[i, j] * b
            turned_im = re[i, j] * b + im[i, j] * a
            out_re[i, j], out_im[i, j] = turned_re, turned_im
            sum_re[i, j] += turned_re
            sum_im[i, j] += turned_im


@njit(inline="always", fastmath=True, cache=True)
def _earlier_sums(re: Real, im: Real, memory: Real, ends: Ends, out_re: Real, out_im: Real) -> None:
    """Add to each frame those before it, each times memory to the power of its distance."""
    n_frames, n_rows, _ = re.shape
    out_re[0] = re[0]
    out_im[0] = im[0]
    for f in range(1, n_frames):
        for i in range(n_rows):
            for j in range(ends[i]):
                out_re[f, i, j] = re[f, i, j] + memory[i, j] * out_re[f - 1, i, j]
                out_im[f, i, j] = im[f, i, j] + memory[i, j] * out_im[f - 1, i, j]


@njit(inline="always", fastmath=True, cache=True)
def _by_shell(product: Real, counts: Real, shell: Shells, ends: Ends, power: Double) -> None:
    """Add powers shell by shell."""
    for i in range(product.shape[0]):
        for j in range(ends[i]):
            power[shell[i, j]] += counts[i, j] * product[i, j]


@njit(inline="always", fastmath=True, cache=True)
def _slopes(
    target_re: Real,
    target_im: Real,
    re: Real,
    im: Real,
    ky: Real,
    ends: Ends,
) -> tuple[float, float]:
    """Turn of a frame against its target, times frequency along x and y."""
    along_x, along_y = 0.0, 0.0
    for i in range(re.shape[0]):
        row_x, row_y = np.float32(0.0), np.float32(0.0)
        for j in range(ends[i]):
            cross = target_re[i, j] * im[i, j] - target_im[i, j] * re[i, j]
            row_x += cross * np.float32(j)
            row_y += cross
        along_x += float(row_x)
        along_y += float(ky[i] * row_y)
    return along_x, along_y


@njit(inline="always", fastmath=True, cache=True)
def _near_slopes(
    earlier_re: Real, earlier_im: Real, later_re: Real, later_im: Real, next_re: Real,
    next_im: Real, re: Real, im: Real, memory: Real, weight: Real, is_last: bool, ky: Real,
    ends: Ends, product: Real,
) -> tuple[float, float]:  # fmt: skip
    """Turn of a frame against those near in time, times frequency along x and y.

    The sums over later frames go on by one frame, and the products of the frame with those
    near it are added to `product`.
    """
    along_x, along_y = 0.0, 0.0
    for i in range(re.shape[0]):
        row_x, row_y = np.float32(0.0), np.float32(0.0)
        if not is_last:
            for j in range(ends[i]):
                later_re[i, j] = memory[i, j] * (later_re[i, j] + next_re[i, j])
                later_im[i, j] = memory[i, j] * (later_im[i, j] + next_im[i, j])
        for j in range(ends[i]):
            near_re = earlier_re[i, j] + later_re[i, j]
            near_im = earlier_im[i, j] + later_im[i, j]
            product[i, j] += near_re * re[i, j] + near_im * im[i, j]
            cross = weight[i, j] * (near_re * im[i, j] - near_im * re[i, j])
            row_x += cross * np.float32(j)
            row_y += cross
        along_x += float(row_x)
        along_y += float(ky[i] * row_y)
    return along_x, along_y


@njit(nogil=True, fastmath=True, cache=True)
def frame_powers(re: Real, im: Real, own: Real) -> None:
    """Add the powers of all frames of each patch: `[p, f, r, c]` to `[p, r, c]`."""
    own[:] = 0.0
    n_patches, n_frames, n_rows, n_columns = re.shape
    for p in range(n_patches):
        for f in range(n_frames):
            for i in range(n_rows):
                for j in range(n_columns):
                    own[p, i, j] += re[p, f, i, j] ** 2 + im[p, f, i, j] ** 2


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
    counts: Real,
    shell: Shells,
    size: int,
    gradient: Double,
    power: Double,
    near_power: Double,
) -> None:
    """Evaluate the likelihood of a motion and how it changes, patch by patch.

    Args:
        re, im: `[p, f, r, c]`, transforms of patches in frames: rows of frequencies 0 to
            `(r - 1) / 2` and their negatives, columns 0 to `c - 1`.
        displacement: `[p, f, 2]`, x and y, of a feature in each frame, in pixels of the patch.
        weight: `[p, r, c]`, of the power of the sum of frames; half for column 0.
        near_weight: `[r, c]`, of the products of frames with those near in time.
        memory: `[r, c]`, how much of a frame's signal is in the next one.
        has_near: whether `near_weight` counts.
        ends: `[r]`, columns of each row that count; what lies behind is not looked at.
        counts: `[r, c]`, how often a coefficient counts.
        shell: `[r, c]`, where it counts.
        size: of the patch in pixels.
        gradient: `[p, f, 2]`, gets the derivative of the likelihood by displacement, a pixel.
        power: `[p, shells]`, the power of the sum of frames is added to it.
        near_power: `[p, shells]`, the same of products of frames near in time.
    """
    n_patches, n_frames, n_rows, n_columns = re.shape
    unit = 2.0 * np.pi / size
    ky = np.arange(n_rows).astype(np.float32)
    ky[(n_rows + 1) // 2 :] -= np.float32(n_rows)
    shape = (n_frames, n_rows, n_columns)
    near_shape = (n_frames if has_near else 0, n_rows, n_columns)
    turned_re, turned_im = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
    earlier_re, earlier_im = np.zeros(near_shape, np.float32), np.zeros(near_shape, np.float32)
    later_re, later_im = np.zeros(shape[1:], np.float32), np.zeros(shape[1:], np.float32)
    sum_re, sum_im = np.zeros(shape[1:], np.float32), np.zeros(shape[1:], np.float32)
    product = np.zeros(shape[1:], np.float32)
    for p in range(n_patches):
        sum_re[:] = 0.0
        sum_im[:] = 0.0
        for f in range(n_frames):
            x, y = displacement[p, f]
            _turn(
                re[p, f], im[p, f], x, y, ends, size, turned_re[f], turned_im[f],
                sum_re, sum_im,
            )  # fmt: skip
        product[:] = sum_re * sum_re + sum_im * sum_im
        _by_shell(product, counts, shell, ends, power[p])
        sum_re *= weight[p]
        sum_im *= weight[p]
        for f in range(n_frames):
            along_x, along_y = _slopes(sum_re, sum_im, turned_re[f], turned_im[f], ky, ends)
            gradient[p, f, 0] = -2.0 * unit * along_x
            gradient[p, f, 1] = -2.0 * unit * along_y
        if has_near:
            product[:] = 0.0
            later_re[:] = 0.0
            later_im[:] = 0.0
            _earlier_sums(turned_re, turned_im, memory, ends, earlier_re, earlier_im)
            for back in range(n_frames):
                f = n_frames - 1 - back
                after = min(f + 1, n_frames - 1)
                along_x, along_y = _near_slopes(
                    earlier_re[f], earlier_im[f], later_re, later_im, turned_re[after],
                    turned_im[after], turned_re[f], turned_im[f], memory, near_weight, back == 0,
                    ky, ends, product,
                )  # fmt: skip
                gradient[p, f, 0] -= 2.0 * unit * along_x
                gradient[p, f, 1] -= 2.0 * unit * along_y
            _by_shell(product, counts, shell, ends, near_power[p])
