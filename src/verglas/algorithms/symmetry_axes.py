"""Find the point group of a map made without one, and bring its axes to the standard ones.

For a trial placement of a group, slices of the map in directions that the group makes equal are
compared, shell by shell. Where the map has the group all pairs of mates correlate as two
equal signals with noise do, in every subgroup as much as in the whole; a group with an operator too
many has pairs that do not. So the largest group counts whose score holds up against the best.
Self-rotation functions: Rossmann & Blow 1962, doi:10.1107/S0365110X62000067.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.resample import MapPose, resample_volume
from verglas.kernels.disc import HalfDisc, half_disc
from verglas.kernels.fourier import fourier_shift, irfft3, rfft3
from verglas.kernels.healpix import healpix_angles
from verglas.kernels.slices import extract_slices, volume_to_half_volume
from verglas.kernels.so3 import (
    euler_to_matrix,
    orientation_grid,
    random_rotations,
    rotation_from_vector,
)
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

__all__ = [
    "FIRST_SHELL",
    "GROUPS",
    "SymmetryAxes",
    "centre_of_mass_angst",
    "centred",
    "choose_group",
    "find_axes",
    "place_on_axes",
]

GROUPS = (
    *(f"C{n}" for n in range(2, 13)),
    *(f"D{n}" for n in range(2, 9)),
    "T",
    "O",
    "I2",
)
_N_COARSE = 6
_N_DIRECTIONS = 40  # slices compared once few placements are left
_N_KEPT = 12
_N_CHANCE = 100
_COARSE_ORDER = 3
_FINE_STEPS = 5
_SLICES_AT_ONCE = 20_000
FIRST_SHELL = 3  # coarser shells of a round particle are symmetric about any axis
_HOLDS_UP = 0.85  # of the best score; one false operator of C2 in D2 leaves about 0.4
_SYMMETRIC = 0.4  # least score over chance for any symmetry; globules without reach 0.28
_CENTRINGS = 2


@dataclass(frozen=True)
class SymmetryAxes:
    """Where the axes of a group lie in a map.

    Attributes:
        symmetry: the group.
        rotation_map_to_ref: `[3, 3]`, turns the map so that its axes are the standard ones.
        score: mean correlation of a slice with its symmetry mates, in [-1, 1].
        null_score: what chance gives: the median over placements, or for Cn and Dn the
            correlation half-way between mates, if more; a rod looks alike from all sides.
        by_shell: `[s]`, the correlation by shell, 0 in shells not used.
    """

    symmetry: str
    rotation_map_to_ref: Tensor
    score: float
    null_score: float
    by_shell: Tensor

    @property
    def contrast(self) -> float:
        """Score over chance, 1 for a perfect group."""
        return (self.score - self.null_score) / max(1e-6, 1 - self.null_score)


@dataclass(frozen=True)
class _Probe:
    """A map and the directions that are compared."""

    half_volume: Tensor
    disc: HalfDisc
    directions: Tensor
    operators: Tensor

    def correlations(self, trials: Tensor) -> Tensor:
        """Return `[q, s]`, correlation of mates by shell for each trial placement."""
        used = self.disc.shell >= FIRST_SHELL
        frequencies, shell = self.disc.frequencies_px[used], self.disc.shell[used]
        n, n_directions = len(self.operators), len(self.directions)
        parts = []
        for some in torch.split(trials, max(1, _SLICES_AT_ONCE // (n_directions * n))):
            rotations = torch.einsum(
                "vij,gjk,qkl->qvgil", self.directions, self.operators, some
            ).reshape(-1, 3, 3)
            slices = extract_slices(self.half_volume, rotations, frequencies)
            mates = slices.view(len(some), n_directions, n, -1)
            single = mates.abs().square().sum(2)
            pairs = (mates.sum(2).abs().square() - single) / (n - 1)
            sums = torch.zeros(2, len(some), self.disc.radius + 1)
            sums[0].index_add_(1, shell, pairs.sum(1))
            sums[1].index_add_(1, shell, single.sum(1))
            parts.append(sums[0] / sums[1].clamp_min(1e-30))
        return torch.cat(parts)

    def scores(self, trials: Tensor) -> Tensor:
        """Return `[q]`, the mean over shells."""
        return self.correlations(trials)[:, FIRST_SHELL:].mean(1)


def centre_of_mass_angst(volume: Tensor, *, pixel_size_angst: float) -> Tensor:
    """Return `[3]`, x, y, z of the centre of a map's stronger density.

    The centre of mass of a symmetric particle lies on all its axes.

    Args:
        volume: `[n, n, n]`.
        pixel_size_angst: of the map.
    """
    n = volume.shape[0]
    weight = (volume - 0.25 * volume.max()).clamp_min(0).double()
    axis = (torch.arange(n, dtype=torch.float64) - n // 2) * pixel_size_angst
    total = weight.sum().clamp_min(1e-30)
    sums = [(weight.sum(other) * axis).sum() / total for other in ((0, 1), (0, 2), (1, 2))]
    return torch.stack(sums)


def find_axes(
    volume: Tensor, *, symmetry: str, radius: int, generator: torch.Generator
) -> SymmetryAxes:
    """Search all placements of a point group for the one that the map obeys best.

    Args:
        volume: `[n, n, n]`, centred on its centre of symmetry.
        symmetry: point group other than C1.
        radius: shells compared, in Fourier pixels.
        generator: of the random directions.

    Returns:
        The best placement.
    """
    probe = _Probe(
        half_volume=volume_to_half_volume(volume[None], radius=radius)[0],
        disc=half_disc(volume.shape[-1], radius),
        directions=random_rotations(_N_DIRECTIONS, generator=generator),
        operators=symmetry_operators(symmetry),
    )
    trials = _placements(symmetry)
    coarse = replace(probe, directions=probe.directions[:_N_COARSE]).scores(trials)
    kept = coarse.topk(min(_N_KEPT, len(coarse))).indices
    best, value = trials[kept], coarse[kept]
    chance = probe.scores(trials[:: max(1, len(trials) // _N_CHANCE)])
    step = math.radians(60 / 2**_COARSE_ORDER) / 2
    corners = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3)
    for _ in range(_FINE_STEPS):
        around = torch.einsum("mij,qjk->qmik", rotation_from_vector(corners * step), best)
        value, which = probe.scores(around.reshape(-1, 3, 3)).view(len(best), -1).max(1)
        best = around[torch.arange(len(best)), which]
        order = value.argsort(descending=True)[: max(3, len(best) // 2)]
        best, value, step = best[order], value[order], step / 2
    null = float(chance.median())
    if symmetry[0] in "CD":
        null = max(null, _half_way_score(probe, best[0], int(symmetry[1:])))
    return SymmetryAxes(
        symmetry=symmetry,
        rotation_map_to_ref=best[0],
        score=float(value[0]),
        null_score=null,
        by_shell=probe.correlations(best[:1])[0],
    )


def _half_way_score(probe: _Probe, placement: Tensor, fold: int) -> float:
    """Correlate slices turned about the main axis by odd multiples of half its angle.

    C2n has the pairs of Cn, n - 1 to each slice, and n pairs half-way between.
    """
    single, double = (
        float(replace(probe, operators=symmetry_operators(f"C{n}")).scores(placement[None])[0])
        for n in (fold, 2 * fold)
    )
    return ((2 * fold - 1) * double - (fold - 1) * single) / fold


def _placements(symmetry: str) -> Tensor:
    """Return `[q, 3, 3]`: for Cn directions of the axis, else one of each set of equal ones."""
    if not symmetry.startswith("C"):
        # the grid leaves out r g for each r; here g r is the same placement, so take inverses
        return orientation_grid(_COARSE_ORDER, symmetry=symmetry).mT.contiguous()
    pixels = torch.arange(12 * 4 ** (_COARSE_ORDER + 1))
    rot, tilt = healpix_angles(pixels, order=_COARSE_ORDER + 1).unbind(1)
    half = tilt <= 90
    return euler_to_matrix(torch.stack([rot[half], tilt[half], torch.zeros_like(rot[half])], 1))


def choose_group(found: Sequence[SymmetryAxes]) -> SymmetryAxes | None:
    """Choose the largest group whose score holds up against the best; None for C1.

    Args:
        found: of `find_axes` for every group in question.
    """
    best = max(found, key=lambda axes: axes.contrast)
    if best.contrast < _SYMMETRIC:
        return None
    holding = [axes for axes in found if axes.contrast >= _HOLDS_UP * best.contrast]
    return max(holding, key=lambda axes: (len(symmetry_operators(axes.symmetry)), axes.score))


def place_on_axes(volume: Tensor, axes: SymmetryAxes, *, pixel_size_angst: float) -> Tensor:
    """Turn a map onto the standard axes, and move it to where its mates agree best.

    Args:
        volume: `[n, n, n]`.
        axes: of `find_axes`.
        pixel_size_angst: of the map.

    Returns:
        `[n, n, n]`, not symmetrised.
    """
    n = volume.shape[0]
    operators = symmetry_operators(axes.symmetry)
    shift = torch.zeros(3, dtype=torch.float64)
    turned = volume
    for _ in range(_CENTRINGS + 1):
        pose = MapPose(axes.rotation_map_to_ref, shift)
        turned = resample_volume(
            volume,
            pose,
            pixel_size_angst=pixel_size_angst,
            box=n,
            output_pixel_size_angst=pixel_size_angst,
        )
        mean = symmetrise_volume(turned[None], operators)[0]
        shift = shift + _offset_angst(mean, turned, pixel_size_angst)
    return turned


def _offset_angst(reference: Tensor, volume: Tensor, pixel_size_angst: float) -> Tensor:
    """Return `[3]`, the whole-voxel move that brings a map onto a reference, in Å."""
    n = volume.shape[0]
    product = rfft3(reference[None]) * rfft3(volume[None]).conj()
    where = int(irfft3(product, shape=(n, n, n))[0].argmax())
    z, y, x = where // (n * n), where // n % n, where % n
    return torch.tensor([x, y, z], dtype=torch.float64).sub(n // 2) * pixel_size_angst


def centred(volume: Tensor, *, pixel_size_angst: float) -> Tensor:
    """Return a map moved so that its centre of mass is the centre of the box."""
    centre = centre_of_mass_angst(volume, pixel_size_angst=pixel_size_angst)
    moved = fourier_shift(
        rfft3(volume[None]),
        -centre[None],
        shape=tuple(volume.shape),
        pixel_size_angst=pixel_size_angst,
    )
    return irfft3(moved, shape=tuple(volume.shape))[0]
