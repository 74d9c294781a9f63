"""The power of vitreous ice: structured noise that passes through the CTF.

The ice is a gas of water molecules whose places are correlated as in amorphous ice and which
the beam stirs during the exposure. No free constant: its strength follows from the thickness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from verglas.simulate.scattering import (
    VOLT_ANGST2,
    WATER_PER_ANGST3,
    interaction_rad_per_volt_angst,
    water_amplitude_angst,
)

__all__ = ["ice_phase_power", "stirring", "stirring_rate_angst2", "structure_factor"]

Floats = NDArray[np.float64]

# Low-density amorphous ice: 0.06 from its compressibility, first maximum at 3.7 Å.
_FLOOR, _RISE_PER_ANGST = 0.06, 0.24
_PEAK, _PEAK_PER_ANGST, _PEAK_WIDTH_PER_ANGST = 0.9, 0.269, 0.04
_STIRRED_ANGST2_PER_DOSE = 1.0  # mean square displacement in 3D: McMullan 2015, table 1


def structure_factor(frequency_per_angst: Floats) -> Floats:
    """Approximate the structure factor of amorphous ice; tends to 1 at high frequency."""
    k = frequency_per_angst
    rise = (1 - _FLOOR) * (1 - np.exp(-((k / _RISE_PER_ANGST) ** 4)))
    peak = _PEAK * np.exp(-(((k - _PEAK_PER_ANGST) / _PEAK_WIDTH_PER_ANGST) ** 2))
    return np.asarray(_FLOOR + rise + peak)


def stirring(frequency_per_angst: Floats, dose_e_per_angst2: float) -> Floats:
    """Power that is left after averaging an exposure over diffusing molecules, 0..1.

    The correlation of two moments falls off as `exp(-x |t - t'|)`; averaged over both it is
    `2 (exp(-x) - 1 + x) / x^2`.

    References:
        McMullan, Vinothkumar & Henderson 2015, doi:10.1016/j.ultramic.2015.05.017.
    """
    x = stirring_rate_angst2(dose_e_per_angst2) * frequency_per_angst**2
    safe = np.maximum(x, 1e-3)
    return np.where(x < 1e-3, 1 - x / 3, 2 * (np.exp(-safe) - 1 + safe) / safe**2)


def stirring_rate_angst2(dose_e_per_angst2: float) -> float:
    """Decay of the correlation over an exposure: it falls to `exp(-rate k^2)`, Å^2."""
    return 2 * np.pi**2 * _STIRRED_ANGST2_PER_DOSE * dose_e_per_angst2 / 3


def ice_phase_power(
    frequency_per_angst: Floats,
    *,
    thickness_angst: float,
    voltage_kv: float,
    dose_e_per_angst2: float,
) -> Floats:
    """Evaluate the power of the phase that a layer of ice gives the electrons.

    Args:
        frequency_per_angst: any shape.
        thickness_angst: of the layer.
        voltage_kv: acceleration voltage.
        dose_e_per_angst2: exposure over which the molecules move.

    Returns:
        rad^2 Å^2, same shape: divided by the area of a pixel, it is the power per pixel.
    """
    k = frequency_per_angst
    phase = interaction_rad_per_volt_angst(voltage_kv) * VOLT_ANGST2 * water_amplitude_angst(k)
    molecules = WATER_PER_ANGST3 * thickness_angst
    power = molecules * phase**2 * structure_factor(k) * stirring(k, dose_e_per_angst2)
    return np.asarray(power)
