"""Weights of frames by radiation damage, as a few combinations of frames.

References: Grant & Grigorieff 2015, doi:10.7554/eLife.06980.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["DosePlan", "critical_exposure", "dose_weights", "plan_dose"]

Double = NDArray[np.float64]

_VOLTAGES_KV = (100.0, 200.0, 300.0)
_SCALES = (0.532, 0.8, 1.0)
_LARGEST_ERROR = 1e-3


def critical_exposure(frequency_per_angst: Double, voltage_kv: float) -> Double:
    """Exposure after which the signal has fallen to 1/e, in e/A^2.

    Measured at 300 kV; at 200 and 100 kV it is 0.8 and 0.532 of that, and in between, and
    beyond, the logarithm is interpolated.

    Args:
        frequency_per_angst: any shape; 0 gives infinity.
        voltage_kv: of the microscope.

    References:
        Grant & Grigorieff 2015, doi:10.7554/eLife.06980, eq. 3.
    """
    scale = math.exp(float(np.interp(math.log(voltage_kv), np.log(_VOLTAGES_KV), np.log(_SCALES))))
    with np.errstate(divide="ignore"):
        power = np.asarray(frequency_per_angst, dtype=np.float64) ** -1.6649
    return np.asarray(scale * (0.24499 * power + 2.8141))


def dose_weights(
    frequency_per_angst: Double,
    *,
    frame_dose_e_per_angst2: Double,
    pre_exposure_e_per_angst2: float,
    voltage_kv: float,
) -> Double:
    """Fading of the signal in each frame: `[f, k]`.

    Args:
        frequency_per_angst: `[k]`.
        frame_dose_e_per_angst2: `[f]`, exposure of each frame; counted to its end.
        pre_exposure_e_per_angst2: before the first frame.
        voltage_kv: of the microscope.
    """
    exposure = pre_exposure_e_per_angst2 + np.cumsum(frame_dose_e_per_angst2)
    critical = critical_exposure(frequency_per_angst, voltage_kv)
    return np.asarray(np.exp(-0.5 * exposure[:, None] / critical[None]))


@dataclass(frozen=True)
class DosePlan:
    """Weights by frame and frequency as a product of few terms.

    Attributes:
        mix: `[r, f]`, how much of each frame is in each sum; the first is 1 for all.
        frequency_per_angst: `[k]`, where `filters` are known, rising.
        filters: `[r, k]`, by which the transforms of the sums are multiplied and added; the
            result has the noise of the plain sum at every frequency.
    """

    mix: Double
    frequency_per_angst: Double
    filters: Double


def plan_dose(weights: Double, frequency_per_angst: Double) -> DosePlan:
    """Write weights as a sum of few products, to within 1e-3 of the largest.

    Args:
        weights: `[f, k]`.
        frequency_per_angst: `[k]`, rising.
    """
    n_frames = len(weights)
    mean = weights.mean(axis=0)
    left, values, right = np.linalg.svd(weights - mean, full_matrices=False)
    n_terms = 0
    while n_terms < len(values):
        product = (left[:, :n_terms] * values[:n_terms]) @ right[:n_terms]
        if np.abs(weights - mean - product).max() <= _LARGEST_ERROR:
            break
        n_terms += 1
    mix = np.concatenate([np.ones((1, n_frames)), left[:, :n_terms].T])
    filters = np.concatenate([mean[None], values[:n_terms, None] * right[:n_terms]])
    power = (weights**2).mean(axis=0)
    return DosePlan(mix, frequency_per_angst, filters / np.sqrt(np.maximum(power, 1e-30)))
