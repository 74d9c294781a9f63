"""The electron's wavelength; apart from the CTF, since it needs no tensors."""

import math

from verglas.core.checks import check_range

__all__ = ["PLANCK_KEV_ANGST", "REST_KEV", "electron_wavelength_angst"]

# CODATA 2018
_PLANCK_J_S = 6.62607015e-34
_ELECTRON_CHARGE_C = 1.602176634e-19
_ELECTRON_MASS_KG = 9.1093837015e-31
_LIGHT_SPEED_M_PER_S = 299792458.0


PLANCK_KEV_ANGST = _PLANCK_J_S * _LIGHT_SPEED_M_PER_S / _ELECTRON_CHARGE_C * 1e7
"""Planck's constant times the speed of light, in keV Å."""

REST_KEV = _ELECTRON_MASS_KG * _LIGHT_SPEED_M_PER_S**2 / _ELECTRON_CHARGE_C * 1e-3
"""Rest energy of an electron."""


def electron_wavelength_angst(voltage_kv: float) -> float:
    """Relativistic wavelength of an electron: `h c / sqrt(E (E + 2 E_0))`.

    References:
        Reimer & Kohl 2008, doi:10.1007/978-0-387-40093-8, eq. 2.5.
    """
    check_range("voltage_kv", voltage_kv, gt=0)
    return PLANCK_KEV_ANGST / math.sqrt(voltage_kv * (voltage_kv + 2 * REST_KEV))
