"""Sum half volumes over a point group, on the CPU and without tensors.

A point group is a product of signed permutations of the axes, which move voxels exactly, and a
few representatives, which are interpolated: none for O, D2 and D4, 4 for I, n - 1 for other Cn.
"""

import numpy as np
from numpy.typing import NDArray

from verglas.kernels.point_groups import split_operators

__all__ = ["symmetrise_channels"]


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
    from verglas.kernels import _numba_slices

    exact, representatives = split_operators(operators)
    if len(representatives) > 1:
        turned = channels.copy()
        others = np.ascontiguousarray(representatives[1:], dtype=np.float32)
        _numba_slices.add_interpolated(channels, others, turned)
        channels = turned
    out = np.zeros_like(channels)
    _numba_slices.add_orbits(np.ascontiguousarray(channels), exact, out)
    return out
