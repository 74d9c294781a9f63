"""How the beam destroys what it looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["critical_exposure_e_per_angst2", "remaining_amplitude"]

Floats = NDArray[np.float64]

# Exposures at 300 kV times these: Grant & Grigorieff 2015 for 200 kV, Peet et al. 2019 for 100.
_VOLTAGES_KV, _FACTORS = (100.0, 200.0, 300.0), (0.532, 0.8, 1.0)


def critical_exposure_e_per_angst2(frequency_per_angst: Floats, voltage_kv: float) -> Floats:
    """Exposure after which the amplitude at a frequency has fallen to `exp(-1/2)`.

    Convention: infinite at frequency 0.

    References:
        Grant & Grigorieff 2015, doi:10.7554/eLife.06980, eq. 3.
    """
    k = np.maximum(np.asarray(frequency_per_angst, np.float64), 1e-12)
    factor = np.interp(voltage_kv, _VOLTAGES_KV, _FACTORS)
    return np.asarray((0.24499 * k**-1.6649 + 2.8141) * factor)


def remaining_amplitude(
    frequency_per_angst: Floats, dose_e_per_angst2: float, voltage_kv: float
) -> Floats:
    """Part of the amplitude that is left after an exposure, 0..1."""
    critical = critical_exposure_e_per_angst2(frequency_per_angst, voltage_kv)
    return np.asarray(np.exp(-dose_e_per_angst2 / (2 * critical)))
