"""Solve the sums of `ctf_refine` for the aberrations of an optics group.

Phases are fitted from the centre outwards: a strong aberration turns the phase round several
times towards high frequencies, and what the lower ones fix there brings the next ring to within
reach. Each step is Fisher scoring: exact slope, expected curvature.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.aberrations import EVEN_TERMS, ODD_TERMS, radial_factors

__all__ = ["fit_even", "fit_odd", "solve_ridge"]

Double = NDArray[np.float64]
SlopeAndWeight = Callable[[Double], tuple[Double, Double]]
_RINGS = 8
_STEPS_A_RING = 4
_LARGEST_STEP_RAD = 1.0
_WEAK_RAD = 100.0  # a prior that only keeps matrices regular


def fit_odd(
    sums: Mapping[str, Double], frequencies_per_angst: Double, terms: Sequence[tuple[int, int]]
) -> tuple[Double, Double]:
    """Fit a phase that is odd under inversion.

    Args:
        sums: with `odd_real`, `odd_imag` and `odd_power`, `[k]`.
        frequencies_per_angst: `[k, 2]`.
        terms: those of `ODD_TERMS` to use, each as `r^n` times its wave.

    Returns:
        Factors of all of `ODD_TERMS` in radians, and the standard deviations of these.
    """

    def slope_and_weight(phase: Double) -> tuple[Double, Double]:
        slope = sums["odd_imag"] * np.cos(phase) - sums["odd_real"] * np.sin(phase)
        return slope, sums["odd_power"]

    return _march(slope_and_weight, frequencies_per_angst, terms, ODD_TERMS)


def fit_even(
    sums: Mapping[str, Double], frequencies_per_angst: Double, terms: Sequence[tuple[int, int]]
) -> tuple[Double, Double]:
    """Fit a phase that adds to the CTF's argument.

    Args:
        sums: with the entries `even_...` of `phase_sums`, `[k]`.
        frequencies_per_angst: `[k, 2]`.
        terms: those of `EVEN_TERMS` to use, each as `r^n` times its wave.

    Returns:
        Factors of all of `EVEN_TERMS` in radians, as RELION counts them (to be subtracted),
        and the standard deviations of these.
    """

    def slope_and_weight(phase: Double) -> tuple[Double, Double]:
        cosine, sine = np.cos(2 * phase), np.sin(2 * phase)
        slope = sums["even_cos"] * np.cos(phase) - sums["even_sin"] * np.sin(phase)
        slope = slope - (sums["even_cos2"] * sine + sums["even_sin2"] * cosine) / 2
        weight = sums["even_power"] + sums["even_cos2"] * cosine - sums["even_sin2"] * sine
        return slope, weight / 2

    factors, deviation = _march(slope_and_weight, frequencies_per_angst, terms, EVEN_TERMS)
    return -factors, deviation


def solve_ridge(slope: Double, information: Double, deviation: Double) -> tuple[Double, Double]:
    """Solve normal equations with a Gaussian prior about zero.

    Args:
        slope: `[..., p]`.
        information: `[..., p, p]`.
        deviation: `[p]`, standard deviation of the prior.

    Returns:
        Solution and its standard deviation, `[..., p]`.
    """
    # in units of the prior, whose scales differ by many orders
    slope = slope * deviation
    information = information * deviation[:, None] * deviation + np.eye(len(deviation))
    covariance = np.linalg.inv(information)
    solution = (covariance @ slope[..., None])[..., 0] * deviation
    spread = np.sqrt(np.diagonal(covariance, axis1=-2, axis2=-1)) * deviation
    return solution, spread


def _march(
    slope_and_weight: SlopeAndWeight,
    frequencies: Double,
    terms: Sequence[tuple[int, int]],
    all_terms: Sequence[tuple[int, int]],
) -> tuple[Double, Double]:
    # Zernike polynomials are all but equal at r << 1, where 1/Å lie: powers of r are not
    radius, angle = np.hypot(*frequencies.T), np.arctan2(*frequencies.T[::-1])
    rim = radius.max()
    basis = np.stack([(radius / rim) ** n * _wave(m, angle) for m, n in terms])
    factors, information = np.zeros(len(terms)), np.eye(len(terms))
    for ring in range(1, _RINGS + 1):
        inside = radius <= rim * (ring / _RINGS)
        part = basis[:, inside]
        for _ in range(_STEPS_A_RING):
            slope, weight = slope_and_weight(factors @ basis)
            information = (part * weight[inside]) @ part.T
            # a step that the ring says little of stays small: it could leave the right turn
            step, _ = solve_ridge(part @ slope[inside], information, np.full(len(terms), 1.0))
            largest = np.abs(step @ part).max()
            factors = factors + step * min(1.0, _LARGEST_STEP_RAD / max(largest, 1e-12))
    change = _zernike_from_powers(terms, all_terms) / rim ** np.array([n for _, n in terms])
    covariance = np.linalg.inv(information + np.eye(len(terms)) / _WEAK_RAD**2)
    return change @ factors, np.sqrt(np.diag(change @ covariance @ change.T))


def _wave(m: int, angle: Double) -> Double:
    wave: Double = np.sin(-m * angle) if m < 0 else np.cos(m * angle)
    return wave


def _zernike_from_powers(
    terms: Sequence[tuple[int, int]], all_terms: Sequence[tuple[int, int]]
) -> Double:
    """Return `[all, terms]`, Zernike factors of each `r^n` times its wave."""
    powers = np.zeros((len(all_terms), len(all_terms)))
    for column, (m, n) in enumerate(all_terms):
        for power, factor in radial_factors(abs(m), n).items():
            powers[all_terms.index((m, power)), column] = factor
    columns = [all_terms.index(term) for term in terms]
    return np.asarray(np.linalg.inv(powers)[:, columns], np.float64)
