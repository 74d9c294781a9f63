"""Half volumes as numpy arrays, needed where torch is not loaded; `slices` says what they are."""

import math

import numpy as np
from numpy.typing import NDArray

from verglas.kernels.real_fft import rfftn

__all__ = ["half_volume_of", "half_volume_size"]


def half_volume_size(radius: int, padding: int) -> int:
    """Return the odd side of a half volume that holds slices up to a radius."""
    return 2 * (math.ceil((radius + 0.5) * padding) + 1) + 1


def half_volume_of(
    volume: NDArray[np.float32], *, radius: int, padding: int = 2
) -> NDArray[np.complex64]:
    """Transform one volume as `slices.volume_to_half_volume` does, without tensors.

    Args:
        volume: `[n, n, n]`, real, centred at n // 2.
        radius: largest shell needed, in Fourier pixels of the box n.
        padding: oversampling factor.

    Returns:
        `[m, m, m // 2 + 1]`, `m = half_volume_size(radius, padding)`.
    """
    n = volume.shape[-1]
    period = n * padding
    window = np.sinc((np.arange(n) - n // 2) / period) ** 2
    scale = (1 / window).astype(np.float32)
    # the centre voxel becomes the origin, so that no phases are left to multiply by
    padded = np.zeros((period,) * 3, np.float32)
    padded[:n, :n, :n] = volume * scale[:, None, None] * scale[:, None] * scale
    padded = np.roll(padded, (-(n // 2),) * 3, (0, 1, 2))
    volume_ft = rfftn(padded, 3)
    m = half_volume_size(radius, padding)
    usable = min(m // 2, (period - 1) // 2)
    wanted = np.arange(-usable, usable + 1) % period
    inner = slice(m // 2 - usable, m // 2 + usable + 1)
    out = np.zeros((m, m, m // 2 + 1), np.complex64)
    out[inner, inner, : usable + 1] = volume_ft[wanted][:, wanted, : usable + 1]
    return out
