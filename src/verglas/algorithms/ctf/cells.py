"""Small cells of radius and direction that the pixels of a spectrum are averaged in.

Cells are sorted by shell, so that every sum over a shell is a difference of cumulative sums.
Phases are averaged exactly, being linear in the parameters.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = [
    "N_SECTORS",
    "Cells",
    "make_cells",
    "radial_basis",
    "repeat_shells",
    "shell_sums",
    "spline_basis",
]

N_SECTORS = 60  # over 180 degrees; 3 degrees blur 1000 Å of astigmatism by 0.3 radians at 3 Å
_KNOT_PER_ANGST = 0.025


@dataclass(frozen=True)
class Cells:
    """Which pixels belong together.

    Attributes:
        index: `[n]`, cell of each pixel of the spectrum.
        count: `[c]`, pixels in a cell, float32.
        shell_end: `[s]`, one past the last cell of each shell.
        sector: `[c]`, direction of a cell, see `N_SECTORS`.
        radius: `[s]`, mean frequency of each shell.
    """

    index: Tensor
    count: Tensor
    shell_end: Tensor
    sector: Tensor
    radius: Tensor

    def mean(self, values: Tensor) -> Tensor:
        """Average `[..., n]` pixel values over cells: `[..., c]`, in double precision."""
        rows = values.reshape(-1, values.shape[-1])
        n = len(self.count)
        sums = [torch.bincount(self.index, weights=row, minlength=n) for row in rows]
        return (torch.stack(sums) / self.count).reshape(*values.shape[:-1], n)

    def spread(self, shells: Tensor) -> Tensor:
        """Repeat `[s]` shell values for their cells, in float32."""
        return repeat_shells(shells, self.shell_end)


def repeat_shells(shells: Tensor, shell_end: Tensor) -> Tensor:
    """Repeat `[..., s]` shell values for their cells, in float32."""
    start = torch.cat([shell_end.new_zeros(1), shell_end[:-1]])
    return shells.float().repeat_interleave(shell_end - start, dim=-1)


def shell_sums(values: Tensor, end: Tensor) -> Tensor:
    """Add `[..., c]` values of cells within shells: `[..., s]` in float64."""
    total = values.cumsum(dim=-1, dtype=torch.float64)[..., end - 1]
    return torch.diff(total, dim=-1, prepend=torch.zeros_like(total[..., :1]))


def make_cells(spectrum: TileSpectrum) -> Cells:
    """Group pixels by half steps of radius and by sectors of direction."""
    radius = spectrum.radius_per_angst
    shell = (radius / (0.5 * spectrum.step_per_angst)).round().long()
    angle = torch.atan2(spectrum.y_per_angst, spectrum.x_per_angst)
    sector = (angle * N_SECTORS / math.pi).round().long() % N_SECTORS
    key = shell * N_SECTORS + sector
    count = torch.bincount(key)
    used = count > 0
    index = (used.cumsum(0) - 1)[key]
    keys = torch.nonzero(used)[:, 0]
    _, in_shell = torch.unique_consecutive(keys // N_SECTORS, return_counts=True)
    end = in_shell.cumsum(0)
    pixels = count[used]
    total = torch.bincount(index, weights=radius, minlength=len(pixels))
    centre = shell_sums(total, end) / shell_sums(pixels.double(), end)
    return Cells(index, pixels.float(), end, keys % N_SECTORS, centre)


def spline_basis(position: Tensor, *, low: float, high: float, n_intervals: int) -> Tensor:
    """Evaluate uniform cubic B-splines: `[n, n_intervals + 3]`, rows sum to 1."""
    scaled = ((position - low) / (high - low) * n_intervals).clamp(0.0, n_intervals * (1 - 1e-9))
    centres = torch.arange(n_intervals + 3).to(position) - 1.0
    distance = (scaled[:, None] - centres).abs()
    inner = 2.0 / 3.0 - distance.square() + 0.5 * distance**3
    outer = (2.0 - distance).clamp(min=0.0) ** 3 / 6.0
    return torch.where(distance < 1.0, inner, outer)


def radial_basis(radius: Tensor, *, knot_per_angst: float = _KNOT_PER_ANGST) -> Tensor:
    """Splines over the band of some shells, with knots about so far apart: `[s, m]`."""
    low, high = float(radius[0]), float(radius[-1])
    n_intervals = max(4, round((high - low) / knot_per_angst))
    return spline_basis(radius, low=low, high=high, n_intervals=n_intervals)
