"""The electron's wavelength; apart from the CTF, since it needs no tensors."""

import math

from verglas.core.checks import check_range

__all__ = ["electron_wavelength_angst"]

# CODATA 2018
_PLANCK_J_S = 6.62607015e-34
_ELECTRON_CHARGE_C = 1.602176634e-19
_ELECTRON_MASS_KG = 9.1093837015e-31
_LIGHT_SPEED_M_PER_S = 299792458.0


def electron_wavelength_angst(voltage_kv: float) -> float:
    """Relativistic wavelength of an electron.

    References:
        Reimer & Kohl 2008, doi:10.1007/978-0-387-40093-8, eq. 2.5.
    """
    check_range("voltage_kv", voltage_kv, gt=0)
    energy_j = _ELECTRON_CHARGE_C * voltage_kv * 1e3
    rest_j = _ELECTRON_MASS_KG * _LIGHT_SPEED_M_PER_S**2
    momentum_c_j = math.sqrt(energy_j * (energy_j + 2 * rest_j))
    return _PLANCK_J_S * _LIGHT_SPEED_M_PER_S / momentum_c_j * 1e10
