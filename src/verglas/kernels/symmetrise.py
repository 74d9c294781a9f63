"""Sum half volumes over a point group, on the CPU and without tensors.

A point group is a product of signed permutations of the axes, which move voxels exactly, and a
few representatives, which are interpolated: none for O, D2 and D4, 4 for I, n - 1 for other Cn.
"""

import numpy as np
from numpy.typing import NDArray

from verglas.kernels._machine_code import CompiledLoop
from verglas.kernels.point_groups import split_operators

__all__ = ["symmetrise_channels"]

_add_orbits = CompiledLoop("_numba_slices", "add_orbits", "f4[4] i8[3] u1[3] i8[2] f4[1] f4[4]")


def symmetrise_channels(
    channels: NDArray[np.float32], operators: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Sum a half volume over the rotations of a point group.

    Args:
        channels: `[m, m, m // 2 + 1, c]`, Hermitian on its x = 0 plane; channel 1 is an
            imaginary part, the others are even under inversion.
        operators: `[g, 3, 3]`, the identity first.

    Returns:
        The same shape; the sum, not the mean. Outside the sphere within the box it is 0.
    """
    exact, representatives = split_operators(operators)
    if len(representatives) > 1:
        from verglas.kernels import _numba_slices

        turned = channels.copy()
        others = np.ascontiguousarray(representatives[1:], dtype=np.float32)
        _numba_slices.add_interpolated(channels, others, turned)
        channels = turned
    out = np.zeros_like(channels)
    is_done = np.zeros(channels.shape[:3], np.uint8)
    mates, total = np.empty((len(exact), 4), np.int64), np.empty(channels.shape[3], np.float32)
    _add_orbits(np.ascontiguousarray(channels), exact, is_done, mates, total, out)
    return out
