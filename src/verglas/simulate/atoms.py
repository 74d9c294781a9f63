"""Atoms as arrays: the form in which the simulator takes every specimen.

An atomic model that was read from a file, and a phantom made from a seed, both become one
`Atoms`; what follows knows neither residues nor chains.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import gemmi
import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Atoms", "centred", "concatenate", "mass_kda", "radius_angst", "transformed"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Atoms:
    """Positions in x, y, z with what the scattering of each atom needs.

    Attributes:
        positions_angst: `[n, 3]`, x, y, z about the origin that becomes the box centre.
        atomic_number: `[n]`, 1 is hydrogen.
        b_factor_angst2: `[n]`, isotropic displacement: amplitude times `exp(-B k^2 / 4)`.
        occupancy: `[n]`, in 0..1.
    """

    positions_angst: Floats
    atomic_number: Integers
    b_factor_angst2: Floats
    occupancy: Floats

    def __post_init__(self) -> None:
        n = len(self.positions_angst)
        if self.positions_angst.shape != (n, 3):
            raise ValueError(f"positions must be [n, 3]: got {self.positions_angst.shape}")
        for name in ("atomic_number", "b_factor_angst2", "occupancy"):
            if getattr(self, name).shape != (n,):
                raise ValueError(f"{name} must be [{n}]: got {getattr(self, name).shape}")

    def __len__(self) -> int:
        return len(self.positions_angst)

    @classmethod
    def from_arrays(
        cls,
        positions_angst: ArrayLike,
        atomic_number: ArrayLike,
        b_factor_angst2: ArrayLike = 20.0,
        occupancy: ArrayLike = 1.0,
    ) -> Atoms:
        """Build from anything array-like; single numbers hold for every atom."""
        positions = np.array(positions_angst, dtype=np.float64).reshape(-1, 3)
        n = len(positions)
        return cls(
            positions,
            np.broadcast_to(np.asarray(atomic_number, np.int64), n).copy(),
            np.broadcast_to(np.asarray(b_factor_angst2, np.float64), n).copy(),
            np.broadcast_to(np.asarray(occupancy, np.float64), n).copy(),
        )


def _weights(atoms: Atoms) -> Floats:
    elements, inverse = np.unique(atoms.atomic_number, return_inverse=True)
    weights = np.array([gemmi.Element(int(z)).weight for z in elements])
    return np.asarray(weights[inverse] * atoms.occupancy, dtype=np.float64)


def mass_kda(atoms: Atoms) -> float:
    """Add up the atoms' masses by occupancy, in kilodalton."""
    return float(_weights(atoms).sum() / 1000)


def centred(atoms: Atoms) -> Atoms:
    """Move the centre of mass to the origin."""
    weights = _weights(atoms)
    centre = weights @ atoms.positions_angst / weights.sum()
    return replace(atoms, positions_angst=atoms.positions_angst - centre)


def radius_angst(atoms: Atoms) -> float:
    """Return the distance of the outermost atom from the origin."""
    return float(np.linalg.norm(atoms.positions_angst, axis=1).max(initial=0.0))


def transformed(atoms: Atoms, rotation_ref_to_ref: Floats, offset_angst: ArrayLike = 0.0) -> Atoms:
    """Turn the atoms about the origin (column vectors), then move them."""
    moved = atoms.positions_angst @ np.asarray(rotation_ref_to_ref).T + np.asarray(offset_angst)
    return replace(atoms, positions_angst=moved)


def concatenate(parts: Sequence[Atoms]) -> Atoms:
    """Join several sets of atoms in the order given."""
    return Atoms(
        np.concatenate([part.positions_angst for part in parts]),
        np.concatenate([part.atomic_number for part in parts]),
        np.concatenate([part.b_factor_angst2 for part in parts]),
        np.concatenate([part.occupancy for part in parts]),
    )
