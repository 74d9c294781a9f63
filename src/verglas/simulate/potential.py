"""Electrostatic potential of atoms as a volume, and its exact projections.

Both are sums over atoms in Fourier space, band-limited at the box's Nyquist frequency, so
that nothing is aliased and a projection is the volume's central slice, computed without the
volume. Values are volts; a projection is the sum of voxels over z, as everywhere in verglas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.kernels.fourier import irfft3, rfft3, rfft_grid
from verglas.simulate._spread import (
    fine_size,
    kernel_transform,
    spread_projections,
    spread_volume,
)
from verglas.simulate.atoms import Atoms
from verglas.simulate.scattering import VOLT_ANGST2, Solvent, basis_at, form_factors
from verglas.simulate.solvent import displaced_ice

__all__ = ["Projector", "potential_volume", "prepare_projector", "project_atoms"]

_EDGE_PER_LIMIT = 0.1  # width of the soft cut at the resolution limit, as a part of it


def _low_pass(frequency: NDArray[np.float64], resolution_angst: float) -> NDArray[np.float64]:
    """Cut with a cosine edge whose middle is the limit."""
    limit = 1 / resolution_angst
    place = (frequency - limit) / (_EDGE_PER_LIMIT * limit)
    return 0.5 - 0.5 * np.sin(np.pi * np.clip(place, -0.5, 0.5))


def _one_axis(size_px: int, fine_px: int, *, half: bool) -> NDArray[np.float64]:
    """Inverse of the spreading kernel's transform along an axis; 0 at the Nyquist frequency.

    The Nyquist entry of an even box stands for two frequencies at once and is left out.
    """
    index = np.fft.rfftfreq(size_px, 1 / size_px) if half else np.fft.fftfreq(size_px, 1 / size_px)
    inverse = 1 / kernel_transform(index / fine_px)
    return np.where(np.abs(index) * 2 == size_px, 0.0, inverse)


def _crop_full_axis(array_ft: Tensor, size_px: int, dim: int) -> Tensor:
    """Keep the lowest frequencies of an unshifted full axis."""
    positive = (size_px + 1) // 2
    negative = size_px - positive
    parts = (
        array_ft.narrow(dim, 0, positive),
        array_ft.narrow(dim, array_ft.shape[dim] - negative, negative),
    )
    return torch.cat(parts, dim)


def potential_volume(
    atoms: Atoms,
    *,
    box_px: int,
    pixel_size_angst: float,
    resolution_angst: float | None = None,
    b_factor_angst2: float = 0.0,
    solvent: Solvent | Literal["bulk"] = "ice",
) -> Tensor:
    """Grid the potential of atoms in a cubic box.

    Convention: the origin of the atoms is at index `box_px // 2` of each axis; atoms beyond
    the box enter on its other side.

    Args:
        resolution_angst: soft low-pass at this resolution; none keeps all to Nyquist.
        b_factor_angst2: added to every atom's own.
        solvent: `ice` subtracts the ice that each atom displaces, as projections do, `bulk` the
            ice that all of them displace together, which is nearer to nature.

    Returns:
        `[box_px, box_px, box_px]`, volt.
    """
    grid = rfft_grid((box_px,) * 3, pixel_size_angst, dtype=torch.float64)
    frequency = torch.linalg.vector_norm(grid, dim=-1).numpy()
    factors = form_factors(
        atoms,
        max_frequency_per_angst=float(frequency.max()),
        solvent="vacuum" if solvent == "bulk" else solvent,
    )
    fine_px = fine_size(box_px)
    places = atoms.positions_angst * (fine_px / (box_px * pixel_size_angst))
    full, half = (_one_axis(box_px, fine_px, half=is_half) for is_half in (False, True))
    limits = np.exp(-b_factor_angst2 * frequency**2 / 4)
    if resolution_angst is not None:
        limits *= _low_pass(frequency, resolution_angst)
    common = full[:, None, None] * full[:, None] * half * limits
    common *= VOLT_ANGST2 / pixel_size_angst**3
    total = torch.zeros(frequency.shape, dtype=torch.complex64)
    if solvent == "bulk":
        ice = displaced_ice(atoms, box_px=box_px, pixel_size_angst=pixel_size_angst)
        total -= rfft3(ice[None])[0] * torch.from_numpy(limits.astype(np.float32))
    for weights, curve in zip(factors.coefficients.T, basis_at(factors, frequency), strict=True):
        fine = torch.from_numpy(
            spread_volume(places, np.ascontiguousarray(weights), size_px=fine_px)
        )
        kept = torch.fft.rfftn(fine)[..., : box_px // 2 + 1]
        kept = _crop_full_axis(_crop_full_axis(kept, box_px, 0), box_px, 1)
        total += kept * torch.from_numpy((common * curve).astype(np.float32))
    return irfft3(total[None], shape=(box_px,) * 3)[0]


@dataclass(frozen=True)
class Projector:
    """Atoms made ready to be projected many times on one grid.

    Attributes:
        places_px: `[n, 3]`, positions in pixels of the fine grid.
        weights: `[n, rank]`.
        basis_ft: `[rank, box_px, box_px // 2 + 1]`, curves with the spreading undone.
        box_px: size of the projections.
        fine_px: size of the fine grid.
    """

    places_px: NDArray[np.float64]
    weights: NDArray[np.float32]
    basis_ft: Tensor
    box_px: int
    fine_px: int


def prepare_projector(
    atoms: Atoms,
    *,
    box_px: int,
    pixel_size_angst: float,
    b_factor_angst2: float = 0.0,
    solvent: Solvent = "ice",
) -> Projector:
    """Work out all that the projections of one specimen share; arguments as for a volume."""
    grid = rfft_grid((box_px,) * 2, pixel_size_angst, dtype=torch.float64)
    frequency = torch.linalg.vector_norm(grid, dim=-1).numpy()
    factors = form_factors(atoms, max_frequency_per_angst=float(frequency.max()), solvent=solvent)
    fine_px = fine_size(box_px)
    full, half = (_one_axis(box_px, fine_px, half=is_half) for is_half in (False, True))
    common = full[:, None] * half * (VOLT_ANGST2 / pixel_size_angst**3)
    common *= np.exp(-b_factor_angst2 * frequency**2 / 4)
    return Projector(
        places_px=atoms.positions_angst * (fine_px / (box_px * pixel_size_angst)),
        weights=factors.coefficients,
        basis_ft=torch.from_numpy((basis_at(factors, frequency) * common).astype(np.float32)),
        box_px=box_px,
        fine_px=fine_px,
    )


def project_atoms(projector: Projector, rotations_ref_to_img: NDArray[np.float64]) -> Tensor:
    """Project the potential exactly: turn the atoms, drop z, sum in Fourier space.

    Convention: an atom at `r` appears at `(rotation_ref_to_img @ r)[:2]`; the result is the
    central slice of `potential_volume`'s transform, so its image is the sum over z.

    Args:
        rotations_ref_to_img: `[b, 3, 3]`.

    Returns:
        `[b, box_px, box_px // 2 + 1]` complex64, unshifted, phase origin at the centre; volt.
    """
    box = projector.box_px
    fine = spread_projections(
        projector.places_px,
        projector.weights,
        np.ascontiguousarray(rotations_ref_to_img, dtype=np.float64),
        size_px=projector.fine_px,
    )
    kept = torch.fft.rfft2(torch.from_numpy(fine))[..., : box // 2 + 1]
    return (_crop_full_axis(kept, box, 2) * projector.basis_ft).sum(1)
