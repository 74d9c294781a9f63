"""Constants of the microscope, and how the aberration phase depends on what is fitted."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = ["Optics", "phase_terms", "pixel_phase", "rings_per_step"]


@dataclass(frozen=True)
class Optics:
    """Constants of the microscope that a CTF needs.

    Attributes:
        wavelength_angst: of the electrons.
        spherical_aberration_angst: in Å, not mm.
        contrast_phase: asin of the amplitude contrast, radians; a known phase shift is in it.
    """

    wavelength_angst: float
    spherical_aberration_angst: float
    contrast_phase: float

    @property
    def quartic(self) -> float:
        """Factor of k^4 in the phase, radians Å^4."""
        return -0.5 * math.pi * self.spherical_aberration_angst * self.wavelength_angst**3


def phase_terms(
    x_per_angst: Tensor, y_per_angst: Tensor, optics: Optics, names: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Write the phase chi as an offset and a sum over parameters.

    Args:
        x_per_angst, y_per_angst: `[n]`, frequencies, not 0.
        optics: constants; the aberration is part of the offset unless it is a parameter.
        names: `defocus astigmatism_cos astigmatism_sin` (Å; half the difference along x and at
            45 degrees), `phase_shift` (radians), `spherical_aberration` (mm); others have no phase.

    Returns:
        Offset `[n]` and derivatives `[p, n]`, float64.
    """
    square = x_per_angst.square() + y_per_angst.square()
    quadratic = math.pi * optics.wavelength_angst * square
    per_mm = -0.5e7 * math.pi * optics.wavelength_angst**3 * square.square()
    zero = torch.zeros_like(square)
    terms = {
        "defocus": quadratic,
        "astigmatism_cos": quadratic * (x_per_angst.square() - y_per_angst.square()) / square,
        "astigmatism_sin": quadratic * 2.0 * x_per_angst * y_per_angst / square,
        "phase_shift": torch.ones_like(square),
        "spherical_aberration": per_mm,
    }
    offset = torch.full_like(square, optics.contrast_phase)
    if "spherical_aberration" not in names:
        offset = offset + optics.spherical_aberration_angst * 1e-7 * per_mm
    return offset, torch.stack([terms.get(name, zero) for name in names])


def rings_per_step(
    radius_per_angst: Tensor, optics: Optics, *, defocus_angst: float, step_per_angst: float
) -> Tensor:
    """Rings of the spectrum from one frequency to the next: `[s]`; a ring is pi of phase.

    Args:
        radius_per_angst: `[s]`.
        optics: constants.
        defocus_angst: mean.
        step_per_angst: between frequencies.
    """
    k = radius_per_angst
    slope = (
        2.0 * math.pi * optics.wavelength_angst * defocus_angst * k + 4.0 * optics.quartic * k**3
    )
    return slope.abs() * (step_per_angst / math.pi)


def pixel_phase(spectrum: TileSpectrum, optics: Optics, values: Mapping[str, float]) -> Tensor:
    """Phase chi of every pixel of a spectrum, radians."""
    offset, terms = phase_terms(spectrum.x_per_angst, spectrum.y_per_angst, optics, list(values))
    phase: Tensor = offset + torch.tensor(list(values.values())).to(offset) @ terms
    return phase
