"""Fourier components of a reference map inside a band, and shell statistics on them."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.resample import band_box
from verglas.kernels.fourier import fourier_resize3, rfft3, rfft_grid

__all__ = ["ReferenceBand", "reference_band", "shell_correlation", "shell_mean"]


@dataclass(frozen=True)
class ReferenceBand:
    """Independent Fourier components of a reference, shell 1 to `n_shells - 1`.

    Attributes:
        frequencies_per_angst: `[n, 3]` x, y, z.
        values: `[n]` complex.
        shell: `[n]` int64; shells are one Fourier voxel wide.
        n_shells: one more than the highest shell.
        length_angst: length of the box.
    """

    frequencies_per_angst: Tensor
    values: Tensor
    shell: Tensor
    n_shells: int
    length_angst: float

    def cut(self, n_shells: int) -> "ReferenceBand":
        """Return the components below shell `n_shells`."""
        kept = self.shell < n_shells
        return ReferenceBand(
            frequencies_per_angst=self.frequencies_per_angst[kept],
            values=self.values[kept],
            shell=self.shell[kept],
            n_shells=min(n_shells, self.n_shells),
            length_angst=self.length_angst,
        )

    def thin(self, limit: int) -> "ReferenceBand":
        """Return about `limit` components, evenly spaced in storage order, if there are more."""
        step = -(-self.values.numel() // limit)
        if step <= 1:
            return self
        kept = slice(None, None, step)
        return ReferenceBand(
            frequencies_per_angst=self.frequencies_per_angst[kept],
            values=self.values[kept],
            shell=self.shell[kept],
            n_shells=self.n_shells,
            length_angst=self.length_angst,
        )


def reference_band(
    volume: Tensor, *, pixel_size_angst: float, resolution_angst: float
) -> ReferenceBand:
    """Transform a volume and list its components down to a resolution.

    The redundant half of the x = 0 plane is left out, and so is the mean.

    Args:
        volume: `[n, n, n]`, masked.
    """
    size = int(volume.shape[0])
    length = size * pixel_size_angst
    box = band_box(size, pixel_size_angst, resolution_angst)
    resized = fourier_resize3(volume[None], shape=(box,) * 3) if box < size else volume[None]
    volume_ft = rfft3(resized)[0]
    grid = rfft_grid((box,) * 3, length / box, device=volume.device, dtype=torch.float64)
    shell = (grid.norm(dim=-1) * length).round().long()
    n_shells = min(int(length / resolution_angst), (box - 1) // 2) + 1
    x, y, z = grid.unbind(-1)
    unique = (x > 0) | (y > 0) | ((y == 0) & (z > 0))
    index = torch.nonzero(((shell > 0) & (shell < n_shells) & unique).reshape(-1))[:, 0]
    return ReferenceBand(
        frequencies_per_angst=grid.reshape(-1, 3)[index],
        values=volume_ft.reshape(-1)[index],
        shell=shell.reshape(-1)[index],
        n_shells=n_shells,
        length_angst=length,
    )


def shell_mean(values: Tensor, band: ReferenceBand) -> Tensor:
    """Average real `[n]` values over each shell, `[n_shells]` float64; 0 for empty shells."""
    sums = torch.zeros(band.n_shells, dtype=torch.float64, device=values.device)
    sums.index_add_(0, band.shell, values.double())
    counts = torch.bincount(band.shell, minlength=band.n_shells)
    return sums / counts.clamp(min=1)


def shell_correlation(values: Tensor, band: ReferenceBand) -> Tensor:
    """Correlate `[n]` components with the reference's, shell by shell, `[n_shells]` float64."""
    cross = shell_mean((band.values.conj() * values).real, band)
    power = shell_mean(values.abs().square(), band)
    power_reference = shell_mean(band.values.abs().square(), band)
    return cross / (power * power_reference).sqrt().clamp(min=torch.finfo(torch.float64).tiny)
