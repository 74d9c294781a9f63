"""How much memory a refinement takes at its peak: in maximisation, where all maps meet.

Measured (`update` of `refine.py`, boxes of 96 and 128): 109 bytes a voxel of the half volume in
C1, 123 to 132 in O, of which the sums of both halves are 24 and what is made of them 24 more.
Views and scores come in blocks of a set size, so the number of particles does not count.
"""

from verglas.core.units import BYTES_PER_GB
from verglas.kernels.slices import half_volume_size

__all__ = ["refinement_memory_gb"]

_BYTES_PER_VOXEL = 135
_REST_GB = 1.0  # interpreter and libraries 0.5, a block of views and its scores


def refinement_memory_gb(radius: int, *, padding: int = 2, n_references: int = 1) -> float:
    """Return the memory that one process needs to refine to a shell, in GB.

    Args:
        radius: last shell.
        padding: oversampling of half volumes.
        n_references: maps in each half.
    """
    m = half_volume_size(radius, padding)
    voxels = m * m * (m // 2 + 1)
    return _REST_GB + n_references * voxels * _BYTES_PER_VOXEL / BYTES_PER_GB
