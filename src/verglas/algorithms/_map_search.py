"""Exhaustive search over rotations, each at its best translation by phase correlation."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from verglas.algorithms._map_band import ReferenceBand, shell_mean
from verglas.algorithms.resample import FourierSampler
from verglas.kernels.so3 import pose_distance_deg

__all__ = ["SearchResult", "distinct_best", "search_rotations"]

# Numbers held at once: samples or shifts times rotations.
_ENTRIES_PER_BATCH = 1 << 20


@dataclass(frozen=True)
class SearchResult:
    """Best translation for each rotation.

    Attributes:
        score: `[n]`, correlation of the whitened maps over the band, in [-1, 1].
        shift_angst: `[n, 3]`, moves the rotated map onto the reference.
    """

    score: Tensor
    shift_angst: Tensor


def _linear_reader(sampler: FourierSampler) -> Tensor:
    """Shift the transform for `grid_sample`: `[1, 2, n, n, n]`, zero frequency at n // 2."""
    return torch.view_as_real(torch.fft.fftshift(sampler.coefficients[0])).permute(3, 0, 1, 2)[None]


def _read_linear(reader: Tensor, frequencies: Tensor, length_angst: float) -> Tensor:
    """Read `[b, n, 3]` frequencies by trilinear interpolation, `[b, n]` complex."""
    size = reader.shape[-1]
    index = frequencies * length_angst + size // 2
    grid = (2 * index / (size - 1) - 1).to(reader.dtype)
    parts = grid_sample(
        reader, grid[None, :, :, None], mode="bilinear", padding_mode="zeros", align_corners=True
    )
    return torch.complex(parts[0, 0, :, :, 0], parts[0, 1, :, :, 0])


@dataclass(frozen=True)
class _ShiftGrid:
    """Separable Fourier sums over a cubic grid of shifts.

    Attributes:
        axis_angst: `[t]`, shifts along each axis.
        waves: `[2 r + 1, t]`, `exp(2 pi i k t)` for k from -r to r voxels.
        allowed: `[t, t, t]`, shifts inside the largest radius.
        place: `[n]`, where the band's components go in a flattened `[2r+1, 2r+1, r+1]`.
    """

    axis_angst: Tensor
    waves: Tensor
    allowed: Tensor
    place: Tensor

    def maps(self, cross: Tensor) -> Tensor:
        """Sum `cross * exp(2 pi i k . t)` over the band, `[b, n]` -> real `[b, t, t, t]`."""
        n_waves, n_shifts = self.waves.shape
        radius = n_waves // 2
        cube = torch.zeros(
            (len(cross), n_waves * n_waves * (radius + 1)), dtype=cross.dtype, device=cross.device
        )
        cube[:, self.place] = cross
        lines = cube.view(-1, radius + 1) @ self.waves[radius:]
        planes = self.waves.T @ lines.view(-1, n_waves, n_shifts)
        planes = planes.view(len(cross), n_waves, n_shifts * n_shifts)
        return (self.waves.T @ planes).real.reshape(len(cross), n_shifts, n_shifts, n_shifts)


def _shift_grid(band: ReferenceBand, max_shift_angst: float) -> _ShiftGrid:
    """Space shifts by a third of the band's resolution."""
    radius = band.n_shells - 1
    device = band.values.device
    spacing = band.length_angst / radius / 3
    steps = math.ceil(max_shift_angst / spacing)
    axis = torch.arange(-steps, steps + 1, device=device) * spacing
    k = torch.arange(-radius, radius + 1, device=device) / band.length_angst
    turns = k[:, None] * axis
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    index = (band.frequencies_per_angst * band.length_angst).round().long()
    width = 2 * radius + 1
    return _ShiftGrid(
        axis_angst=axis,
        waves=torch.polar(torch.ones_like(turns), 2 * math.pi * turns),
        allowed=x * x + y * y + z * z <= (max_shift_angst + spacing) ** 2,
        place=((index[:, 2] + radius) * width + index[:, 1] + radius) * (radius + 1) + index[:, 0],
    )


def search_rotations(
    band: ReferenceBand,
    sampler: FourierSampler,
    rotations_map_to_ref: Tensor,
    *,
    mirrored: bool,
    max_shift_angst: float,
) -> SearchResult:
    """Score every rotation at its best translation, both maps whitened by shell.

    Args:
        band: components of the masked reference.
        sampler: the moving map with `order=1` coefficients.
        rotations_map_to_ref: `[n, 3, 3]` float64.
        mirrored: flip the map along z first.
        max_shift_angst: longest translation.
    """
    reader = _linear_reader(sampler)
    frequencies = band.frequencies_per_angst.to(reader.dtype)
    flip = frequencies.new_tensor([1.0, 1.0, -1.0 if mirrored else 1.0])
    still = _read_linear(reader, (frequencies * flip)[None], sampler.length_angst)[0]
    power = shell_mean(still.abs().square(), band) * shell_mean(band.values.abs().square(), band)
    gain = power.clamp(min=torch.finfo(torch.float32).tiny).rsqrt()
    whitened = band.values * (gain / band.values.numel())[band.shell].to(frequencies.dtype)
    shifts = _shift_grid(band, max_shift_angst)
    n_shifts = len(shifts.axis_angst)
    batch = max(1, _ENTRIES_PER_BATCH // max(n_shifts**3, band.values.numel()))
    scores, places = [], []
    for rotations in torch.split(rotations_map_to_ref.to(frequencies), batch):
        values = _read_linear(reader, (frequencies @ rotations) * flip, sampler.length_angst)
        maps = shifts.maps(values.conj() * whitened)
        best = maps.masked_fill_(~shifts.allowed, -torch.inf).view(len(rotations), -1).max(dim=1)
        scores.append(best.values)
        places.append(best.indices)
    place = torch.cat(places)
    index = torch.stack((place % n_shifts, place // n_shifts % n_shifts, place // n_shifts**2), -1)
    return SearchResult(score=torch.cat(scores), shift_angst=shifts.axis_angst[index].double())


def distinct_best(
    score: Tensor, rotations: Tensor, operators: Tensor, *, count: int, min_distance_deg: float
) -> list[int]:
    """Pick the best rotations that differ from each other by more than a distance.

    Args:
        score: `[n]`.
        rotations: `[n, 3, 3]`.
        operators: `[g, 3, 3]` of the moving map's point group.
    """
    order = torch.argsort(score, descending=True)[: 50 * count].cpu()
    rotations = rotations.cpu()
    kept: list[int] = []
    for candidate in order.tolist():
        if kept:
            repeated = rotations[candidate].expand(len(kept), 3, 3)
            if pose_distance_deg(repeated, rotations[kept], operators).min() < min_distance_deg:
                continue
        kept.append(candidate)
        if len(kept) == count:
            break
    return kept
