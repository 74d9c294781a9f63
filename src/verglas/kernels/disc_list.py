"""The half-disc of `disc.py` as numpy arrays: needed where torch is not loaded."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DiscList", "list_disc"]

Whole = NDArray[np.int64]


@dataclass(frozen=True)
class DiscList:
    """Coefficients `kx > 0, or kx = 0 and ky > 0` of an image, nearest shell first.

    Attributes:
        box: image size in pixels.
        frequencies_px: `[k, 2]`, x and y in Fourier pixels.
        index: `[k]`, position in a flattened `[box, box // 2 + 1]` transform.
        shell: `[k]`, nearest whole radius.
        ends: `[radius + 1]`, number of coefficients with shell <= s.
    """

    box: int
    frequencies_px: Whole
    index: Whole
    shell: Whole
    ends: Whole

    @property
    def radius(self) -> int:
        """Largest shell in the list."""
        return len(self.ends) - 1


def list_disc(box: int, radius: int) -> DiscList:
    """List the independent coefficients of a `box x box` image up to a radius.

    Args:
        box: image size.
        radius: largest shell, in Fourier pixels; at most `(box - 1) // 2`, which keeps clear
            of the Nyquist column that has no partner.

    Returns:
        The list, sorted by shell and, within a shell, by angle.
    """
    if not 1 <= radius <= (box - 1) // 2:
        raise ValueError(
            f"radius must be 1..{(box - 1) // 2} for a box of {box} pixels: got {radius}"
        )
    ky, kx = np.meshgrid(np.arange(-radius, radius + 1), np.arange(radius + 1), indexing="ij")
    shell = np.rint(np.hypot(kx, ky)).astype(np.int64)
    inside = (shell <= radius) & ((kx > 0) | (ky > 0))
    kx, ky, shell = kx[inside], ky[inside], shell[inside]
    order = np.argsort(shell * 10.0 + np.arctan2(ky, kx))
    kx, ky, shell = kx[order], ky[order], shell[order]
    return DiscList(
        box=box,
        frequencies_px=np.stack([kx, ky], axis=-1).astype(np.int64),
        index=((ky % box) * (box // 2 + 1) + kx).astype(np.int64),
        shell=shell,
        ends=np.searchsorted(shell, np.arange(radius + 1), side="right").astype(np.int64),
    )
