"""Sample a moved specimen, compiled by numba: cubic splines on a grid of twice the pixels."""

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["warp_frame"]

Image = NDArray[np.float32]
Real = NDArray[np.float64]


@njit(inline="always", cache=True)
def _weights(t: np.float32, out: Image) -> None:
    """Cubic B-spline at the four nodes about a place `t` beyond the second, 0 to 1."""
    s = np.float32(1.0) - t
    sixth = np.float32(1.0 / 6.0)
    out[0] = s * s * s * sixth
    out[1] = (np.float32(4.0) - np.float32(6.0) * t * t + np.float32(3.0) * t * t * t) * sixth
    out[2] = (np.float32(4.0) - np.float32(6.0) * s * s + np.float32(3.0) * s * s * s) * sixth
    out[3] = t * t * t * sixth


@njit(inline="always", cache=True)
def _bend(c: Real, u: float, v: float) -> float:
    """Evaluate a polynomial of third order without constant."""
    linear = c[0] * u + c[1] * v
    square = c[2] * u * u + c[3] * v * v + c[4] * u * v
    cubic = c[5] * u * u * u + c[6] * u * v * v + c[7] * v * v * v + c[8] * u * u * v
    total: float = linear + square + cubic
    return total


@njit(nogil=True, cache=True)
def warp_frame(
    nodes: Image, out: Image, whole: Real, bend: Real, first_px: tuple[int, int]
) -> None:
    """Fill a frame with the specimen where it lies now.

    Args:
        nodes: `[2H, 2W]`, spline coefficients of the resting specimen, with a margin.
        out: `[h, w]`, written.
        whole: x and y by which everything moved, pixels.
        bend: `[2, 9]`, coefficients of the further motion along x and y, pixels, over places
            that run from -0.5 to 0.5 across the frame.
        first_px: row and column of the frame's first pixel in the specimen.
    """
    height, width = out.shape
    last_y, last_x = nodes.shape[0] - 3, nodes.shape[1] - 3
    wx, wy = np.empty(4, np.float32), np.empty(4, np.float32)
    for i in range(height):
        for j in range(width):
            # the field is a property of the specimen: take it where the point came from
            rest_x, rest_y = j - whole[0], i - whole[1]
            x, y = rest_x, rest_y
            for _ in range(3):
                u, v = x / width - 0.5, y / height - 0.5
                x, y = rest_x - _bend(bend[0], u, v), rest_y - _bend(bend[1], u, v)
            x, y = (x + first_px[1]) * 2, (y + first_px[0]) * 2
            column = min(max(int(np.floor(x)), 1), last_x)
            row = min(max(int(np.floor(y)), 1), last_y)
            _weights(np.float32(x - column), wx)
            _weights(np.float32(y - row), wy)
            total = np.float32(0.0)
            for a in range(4):
                line = np.float32(0.0)
                for b in range(4):
                    line += wx[b] * nodes[row - 1 + a, column - 1 + b]
                total += wy[a] * line
            out[i, j] = total
