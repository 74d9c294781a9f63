"""How strongly atoms scatter electrons, and a small common basis for all of their curves.

Amplitudes are the five-Gaussian fits of International Tables C 4.3.2.2 (Peng), times the
isotropic displacement factor, less the ice that the atom displaces. Any molecule's curves
(element x B factor) lie close to a few common functions of frequency, so that gridding atoms
costs a few transforms whatever the number of elements and B factors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import gemmi
import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

from verglas.kernels.ctf import electron_wavelength_angst
from verglas.simulate.atoms import Atoms, Floats, Integers

__all__ = [
    "SOLVENT_B_ANGST2",
    "VOLT_ANGST2",
    "WATER_PER_ANGST3",
    "FormFactors",
    "Solvent",
    "basis_at",
    "form_factors",
    "interaction_rad_per_volt_angst",
    "scattering_amplitude_angst",
    "water_amplitude_angst",
]

Solvent = Literal["vacuum", "ice"]

VOLT_ANGST2 = 47.87765
"""h^2 / (2 pi m e): potential in volt from scattering amplitude in Å per Å^3 (CODATA 2018)."""

WATER_PER_ANGST3 = 0.0311
"""Molecules in vitreous ice of 0.93 g/cm^3."""

_REST_ENERGY_KEV = 510.99895
SOLVENT_B_ANGST2 = 50.0
"""Softness of the edge of bulk solvent, as crystallographic refinement finds it."""

# Solvent displaced by an atom, Å^3: Fraser, MacRae & Suzuki 1978, J. Appl. Cryst. 11:693
# (H C N O P S) and Svergun, Barberato & Koch 1995, J. Appl. Cryst. 28:768 (the metals).
_DISPLACED_ANGST3 = {
    1: 5.15, 6: 16.44, 7: 2.49, 8: 9.13, 12: 17.16, 15: 5.73, 16: 19.86,
    20: 31.89, 25: 9.20, 26: 7.99, 29: 8.78, 30: 9.85,
}  # fmt: skip


def interaction_rad_per_volt_angst(voltage_kv: float) -> float:
    """Return the phase, in radian, that one volt of potential over one Å gives an electron.

    References:
        Kirkland 2010, Advanced Computing in Electron Microscopy, eq. 5.6; 6.526e-4 at 300 kV.
    """
    wavelength = electron_wavelength_angst(voltage_kv)
    relativistic = (_REST_ENERGY_KEV + voltage_kv) / (2 * _REST_ENERGY_KEV + voltage_kv)
    return 2 * np.pi / (wavelength * voltage_kv * 1000) * relativistic


def scattering_amplitude_angst(atomic_number: int, frequency_per_angst: Floats) -> Floats:
    """Evaluate the amplitude of a neutral atom at rest, in Å.

    Args:
        atomic_number: up to 98; heavier elements have no published fit.
        frequency_per_angst: any shape.
    """
    coefficients = gemmi.Element(int(atomic_number)).c4322
    if atomic_number < 1 or coefficients is None:
        raise ValueError(f"no electron scattering factor for atomic number {atomic_number}")
    a, b = np.array(coefficients.a), np.array(coefficients.b)
    square = np.asarray(frequency_per_angst, np.float64)[..., None] ** 2
    return np.asarray((a * np.exp(-b * square / 4)).sum(-1))


def water_amplitude_angst(frequency_per_angst: Floats) -> Floats:
    """Evaluate the amplitude of a water molecule as its three atoms in one place, in Å."""
    hydrogen, oxygen = (scattering_amplitude_angst(z, frequency_per_angst) for z in (1, 8))
    return np.asarray(2 * hydrogen + oxygen)


def _displaced_ice(atomic_number: int, frequency: Floats) -> Floats:
    """Amplitude of the ice in the place of the atom: a Gaussian of the atom's volume."""
    water = water_amplitude_angst(np.zeros(1))
    radius = gemmi.Element(atomic_number).vdw_r
    volume = _DISPLACED_ANGST3.get(atomic_number, 4 / 3 * np.pi * radius**3)
    shape = np.exp(-(np.pi * volume ** (2 / 3) + SOLVENT_B_ANGST2 / 4) * frequency**2)
    return np.asarray(water * WATER_PER_ANGST3 * volume * shape)


@dataclass(frozen=True)
class FormFactors:
    """Amplitude of atom i at frequency k: `sum_j coefficients[i, j] * curves[k, j]`.

    Attributes:
        coefficients: `[n, rank]` float32, with the occupancy.
        frequency_per_angst: `[m]`, rising from 0.
        curves: `[m, rank]`, in Å.
    """

    coefficients: NDArray[np.float32]
    frequency_per_angst: Floats
    curves: Floats


def _amplitudes(atoms: Atoms, frequency: Floats, solvent: Solvent) -> tuple[Floats, Integers]:
    """Return the curve of each distinct (element, B) and, for each atom, which is its own."""
    pairs = np.stack([atoms.atomic_number, atoms.b_factor_angst2], 1)
    distinct, inverse = np.unique(pairs, axis=0, return_inverse=True)
    numbers = distinct[:, 0].astype(np.int64)
    curves = np.empty((len(distinct), len(frequency)))
    for number in np.unique(numbers):
        mine = numbers == number
        damping = np.exp(-distinct[mine, 1:] * frequency**2 / 4)
        curves[mine] = scattering_amplitude_angst(number, frequency) * damping
        if solvent == "ice":
            curves[mine] -= _displaced_ice(int(number), frequency)
    return curves, inverse.reshape(-1).astype(np.int64)


def form_factors(
    atoms: Atoms,
    *,
    max_frequency_per_angst: float,
    solvent: Solvent = "ice",
    tolerance: float = 1e-3,
) -> FormFactors:
    """Find the few curves that make up the amplitudes of all atoms.

    The error is relative to the root-mean-square amplitude at each frequency, so that the
    finest detail is as exact as the coarsest.

    Args:
        max_frequency_per_angst: last frequency of the table.
        solvent: `ice` subtracts the ice that each atom displaces, `vacuum` nothing.
        tolerance: largest root-mean-square error of the atoms' curves.
    """
    if not len(atoms):
        raise ValueError("no atoms: nothing to grid")
    frequency = np.linspace(0, max_frequency_per_angst, 192)
    curves, inverse = _amplitudes(atoms, frequency, solvent)
    counts = np.bincount(inverse, minlength=len(curves)).astype(np.float64)
    scale = np.sqrt(counts @ curves**2 / counts.sum())
    scaled = curves / scale
    values, vectors = np.linalg.eigh((scaled * counts[:, None]).T @ scaled)
    left_over = np.cumsum(np.clip(values, 0, None)) / values.sum()
    rank = int((left_over > tolerance**2).sum())
    basis = vectors[:, ::-1][:, :rank]
    weights = (scaled @ basis)[inverse] * atoms.occupancy[:, None]
    return FormFactors(weights.astype(np.float32), frequency, basis * scale[:, None])


def basis_at(factors: FormFactors, frequency_per_angst: Floats) -> Floats:
    """Evaluate the common curves.

    Args:
        frequency_per_angst: any shape; values past the end of the table take its last entry.

    Returns:
        `[rank, ...]`, in Å.
    """
    spline = CubicSpline(factors.frequency_per_angst, factors.curves)
    inside = np.minimum(frequency_per_angst, factors.frequency_per_angst[-1])
    return np.moveaxis(np.asarray(spline(inside)), -1, 0)
