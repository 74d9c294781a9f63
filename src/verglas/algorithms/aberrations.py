"""Aberrations of an optics group beyond defocus, astigmatism and nominal Cs.

An image's transform is `exp(i odd(k)) sin(gamma + even(k)) P(M k)`. Both phases are sums of
Zernike polynomials of the frequency in 1/Å; beam tilt is the coma that a tilted beam makes
through Cs. Signs, order and units are RELION's, so that numbers may be exchanged: its even
phase is subtracted, and a beam tilt t gives `odd = -2 pi Cs lambda^2 |k|^2 (k . t)`.

References:
    Zivanov et al. 2020, doi:10.1107/S2052252520000081 (aberrations from particles);
    Erickson & Klug 1971, doi:10.1098/rstb.1971.0040 (the phase of a beam tilt).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verglas.kernels.electron import electron_wavelength_angst

__all__ = [
    "ABERRATION_COLUMNS",
    "EVEN_TERMS",
    "ODD_TERMS",
    "Aberrations",
    "coma_per_mrad",
    "radial_factors",
    "zernike",
]

Double = NDArray[np.float64]

ODD_TERMS = ((-1, 1), (1, 1), (-3, 3), (-1, 3), (1, 3), (3, 3))
"""(m, n) of the odd polynomials in order: shift y, x; trefoil y; coma y, x; trefoil x."""

EVEN_TERMS = (
    (0, 0),
    (-2, 2),
    (0, 2),
    (2, 2),
    (-4, 4),
    (-2, 4),
    (0, 4),
    (2, 4),
    (4, 4),
)
"""(m, n) of the even polynomials: constant; astigmatism, defocus; tetrafoil, ..., Cs in (0, 4)."""

_COMA_Y, _COMA_X, _SHIFT_Y, _SHIFT_X = 3, 4, 0, 1
_MATRIX = tuple(f"magnification_{i}{j}" for i in (0, 1) for j in (0, 1))
ABERRATION_COLUMNS = (
    "beam_tilt_x_mrad",
    "beam_tilt_y_mrad",
    "odd_zernike",
    "even_zernike",
    *_MATRIX,
)
"""Columns of the optics table that hold them."""


@dataclass(frozen=True)
class Aberrations:
    """Of one optics group.

    Attributes:
        odd: factors of `ODD_TERMS`, radians; what beam tilt does is among them.
        even: factors of `EVEN_TERMS`, radians, to be subtracted from the CTF's argument.
        magnification: `[4]`, rows of the matrix from an image's frequencies to the map's.
    """

    odd: tuple[float, ...] = ()
    even: tuple[float, ...] = ()
    magnification: tuple[float, float, float, float] = (1.0, 0.0, 0.0, 1.0)

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> "Aberrations":
        """Take them from a row of the optics table, or of one joined with it."""
        odd = _floats(row.get("odd_zernike"))
        tilt = [_number(row.get(f"beam_tilt_{axis}_mrad"), 0.0) for axis in "xy"]
        if any(tilt):
            odd = odd + [0.0] * (len(ODD_TERMS) - len(odd))
            per_mrad = coma_per_mrad(
                _number(row["voltage_kv"], 0.0), _number(row["spherical_aberration_mm"], 0.0)
            )
            terms = ((_COMA_X, _SHIFT_X), (_COMA_Y, _SHIFT_Y))
            for value, (coma, shift) in zip(tilt, terms, strict=True):
                odd[coma] += per_mrad * value
                odd[shift] += 2 * per_mrad * value
        unit = (1.0, 0.0, 0.0, 1.0)
        xx, xy, yx, yy = (_number(row.get(n), u) for n, u in zip(_MATRIX, unit, strict=True))
        return Aberrations(tuple(odd), tuple(_floats(row.get("even_zernike"))), (xx, xy, yx, yy))

    def to_row(self, voltage_kv: float, spherical_aberration_mm: float) -> dict[str, Any]:
        """Write them as columns; coma becomes beam tilt where there is Cs to make it."""
        odd = list(self.odd) + [0.0] * (len(ODD_TERMS) - len(self.odd))
        per_mrad = coma_per_mrad(voltage_kv, spherical_aberration_mm)
        row: dict[str, Any] = {}
        for axis, coma, shift in (("x", _COMA_X, _SHIFT_X), ("y", _COMA_Y, _SHIFT_Y)):
            tilt = odd[coma] / per_mrad if per_mrad else 0.0
            row[f"beam_tilt_{axis}_mrad"] = tilt
            odd[coma] -= per_mrad * tilt
            odd[shift] -= 2 * per_mrad * tilt
        row["odd_zernike"] = odd
        row["even_zernike"] = list(self.even)
        return row | dict(zip(_MATRIX, self.magnification, strict=True))

    @property
    def matrix(self) -> Double:
        """`[2, 2]`, from an image's frequencies to the map's."""
        return np.array(self.magnification).reshape(2, 2)

    @property
    def is_magnified(self) -> bool:
        """Whether the matrix is not the identity."""
        return self.magnification != (1.0, 0.0, 0.0, 1.0)

    def odd_phase_rad(self, frequencies_per_angst: Double) -> Double:
        """Return the phase that the transform carries, at `[..., 2]` frequencies of the map."""
        return _sum(self.odd, ODD_TERMS, frequencies_per_angst)

    def even_phase_rad(self, frequencies_per_angst: Double) -> Double:
        """Return what is added to the CTF's argument, at `[..., 2]` frequencies of the map."""
        return -_sum(self.even, EVEN_TERMS, frequencies_per_angst)


def coma_per_mrad(voltage_kv: float, spherical_aberration_mm: float) -> float:
    """Return the factor of the coma polynomial that a beam tilt of 1 mrad makes."""
    wavelength = electron_wavelength_angst(voltage_kv)
    # Cs in Å times 1e-3 rad; 3 r^3 is the leading term of the polynomial
    return -2 * math.pi * spherical_aberration_mm * 1e7 * 1e-3 * wavelength**2 / 3


def zernike(term: tuple[int, int], frequencies_per_angst: Double) -> Double:
    """Evaluate a Zernike polynomial, not normalised, at any radius.

    Args:
        term: (m, n); the sine for m < 0, else the cosine.
        frequencies_per_angst: `[..., 2]`, x and y.

    Returns:
        `[...]`.
    """
    m, n = term
    x, y = frequencies_per_angst[..., 0], frequencies_per_angst[..., 1]
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    order = abs(m)
    radial = np.zeros_like(radius)
    for power, factor in radial_factors(order, n).items():
        radial = radial + factor * radius**power
    wave: Double = np.sin(order * angle) if m < 0 else np.cos(order * angle)
    return radial * wave


def radial_factors(order: int, n: int) -> dict[int, int]:
    """Return the factor of each power of the radius in a radial Zernike polynomial."""
    factors = {}
    for k in range((n - order) // 2 + 1):
        factor = (-1) ** k * math.factorial(n - k)
        factor //= math.factorial(k) * math.factorial((n + order) // 2 - k)
        factors[n - 2 * k] = factor // math.factorial((n - order) // 2 - k)
    return factors


def _sum(factors: Sequence[float], terms: Sequence[tuple[int, int]], frequencies: Double) -> Double:
    total = np.zeros(frequencies.shape[:-1])
    for factor, term in zip(factors, terms, strict=False):
        if factor:
            total = total + factor * zernike(term, frequencies)
    return total


def _floats(value: Sequence[float] | None) -> list[float]:
    return [] if value is None else [float(v) for v in value]


def _number(value: float | None, default: float) -> float:
    return default if value is None else float(value)
