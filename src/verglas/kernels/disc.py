"""The half-disc of independent Fourier coefficients of a real image, sorted by shell.

A real `n x n` image has one independent coefficient per pair (k, -k). The half-disc lists
those up to a radius, nearest shell first, so that every resolution limit is a prefix of the
list and a batch of images is a plain matrix. The origin is left out: the mean grey value of
a particle image carries no information about its pose.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.disc_list import list_disc

__all__ = ["HalfDisc", "gather_disc", "half_disc", "scatter_disc", "shell_sums"]


@dataclass(frozen=True)
class HalfDisc:
    """Coefficients `kx > 0, or kx = 0 and ky > 0` of an image, nearest shell first.

    Attributes:
        box: image size in pixels.
        frequencies_px: `[k, 2]`, x and y in Fourier pixels (1 / box per pixel).
        index: `[k]`, position in a flattened `[box, box // 2 + 1]` transform.
        shell: `[k]`, nearest whole radius.
        ends: `[radius + 1]`, number of coefficients with shell <= s.
    """

    box: int
    frequencies_px: Tensor
    index: Tensor
    shell: Tensor
    ends: Tensor

    @property
    def radius(self) -> int:
        """Largest shell in the list."""
        return len(self.ends) - 1

    @property
    def n_coefficients(self) -> int:
        """Number of complex coefficients."""
        return len(self.index)

    def prefix(self, radius: int) -> "HalfDisc":
        """Return the same list up to a smaller radius."""
        n = int(self.ends[radius])
        return HalfDisc(
            self.box,
            self.frequencies_px[:n],
            self.index[:n],
            self.shell[:n],
            self.ends[: radius + 1],
        )

    def to(self, device: torch.device | str) -> "HalfDisc":
        """Return a copy on another device."""
        return HalfDisc(
            self.box,
            self.frequencies_px.to(device),
            self.index.to(device),
            self.shell.to(device),
            self.ends.to(device),
        )


def half_disc(box: int, radius: int) -> HalfDisc:
    """List the independent coefficients of a `box x box` image up to a radius.

    Args:
        box: image size.
        radius: largest shell, in Fourier pixels; at most `(box - 1) // 2`, which keeps clear
            of the Nyquist column that has no partner.

    Returns:
        The list, sorted by shell and, within a shell, by angle.
    """
    found = list_disc(box, radius)
    return HalfDisc(
        box=box,
        frequencies_px=torch.from_numpy(found.frequencies_px).float(),
        index=torch.from_numpy(found.index),
        shell=torch.from_numpy(found.shell),
        ends=torch.from_numpy(found.ends),
    )


def gather_disc(images_ft: Tensor, disc: HalfDisc) -> Tensor:
    """Take the half-disc out of image transforms.

    Args:
        images_ft: `[b, box, box // 2 + 1]`, unshifted.
        disc: the list.

    Returns:
        `[b, k]`, complex.
    """
    return images_ft.flatten(1)[:, disc.index]


def scatter_disc(coefficients: Tensor, disc: HalfDisc) -> Tensor:
    """Put half-disc coefficients back into image transforms, zero elsewhere.

    Args:
        coefficients: `[b, k]`, complex.
        disc: the list.

    Returns:
        `[b, box, box // 2 + 1]`; the redundant half of the kx = 0 column is filled.
    """
    n, half = disc.box, disc.box // 2 + 1
    images_ft = coefficients.new_zeros(len(coefficients), n * half)
    images_ft[:, disc.index] = coefficients
    images_ft = images_ft.view(-1, n, half)
    column = images_ft[:, 1 : (n + 1) // 2, 0]
    images_ft[:, n - (n - 1) // 2 :, 0] = column.conj().flip(1)
    return images_ft


def shell_sums(values: Tensor, disc: HalfDisc) -> Tensor:
    """Add real values over each shell.

    Args:
        values: `[b, k]`, real.
        disc: the list.

    Returns:
        `[b, radius + 1]`, float64; shell 0 is empty and gives 0.
    """
    sums = values.new_zeros(len(values), disc.radius + 1, dtype=torch.float64)
    return sums.index_add_(1, disc.shell, values.double())
