"""How far several estimates of one CTF agree, and their average.

Two estimates agree up to the frequency where their phases differ by 90 degrees, averaged over
direction: there one would add what the other subtracts. For a difference d of the defocus alone
that is `sqrt(2 lambda d)` in Å. Tables are small, so all is numpy.
"""

import math
import warnings
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Consensus", "Estimates", "agreement_res_angst", "find_consensus"]

Floats = NDArray[np.floating[Any]]
Complex = NDArray[np.complexfloating[Any, Any]]

_FINEST_ANGST = 1.0
_N_FREQUENCIES = 400
_N_DIRECTIONS = 12
_MOST_ESTIMATES = 8


@dataclass(frozen=True)
class Estimates:
    """Estimates `[m, e]` of m micrographs by e programs; NaN where one has none.

    Attributes:
        defocus: mean, Å.
        astigmatism: `[m, e]` complex, half the difference times `exp(2 i angle)`, Å.
        phase_shift: radians.
        error: standard error of the mean defocus, Å; NaN where it is not known.
        wavelength_angst: `[m]`.
    """

    defocus: Floats
    astigmatism: Complex
    phase_shift: Floats
    error: Floats
    wavelength_angst: Floats


@dataclass(frozen=True)
class Consensus:
    """What the estimates have in common, `[m]` each.

    Attributes:
        agreement_res_angst: to which enough estimates stay within 90 degrees; infinite where
            there are too few.
        is_used: `[m, e]`, estimates that were averaged.
        defocus, astigmatism, phase_shift: weighted averages, as in `Estimates`.
        error: of the mean defocus. The estimates share one image, so that averaging does not make
            it smaller; their spread is part of it.
    """

    agreement_res_angst: Floats
    is_used: NDArray[np.bool_]
    defocus: Floats
    astigmatism: Complex
    phase_shift: Floats
    error: Floats


def agreement_res_angst(
    defocus: Floats,
    astigmatism: Complex,
    phase_shift: Floats,
    wavelength_angst: Floats,
) -> Floats:
    """Resolution to which a difference of two CTFs stays below 90 degrees of phase.

    Args:
        defocus, astigmatism, phase_shift: `[m]`, differences, as in `Estimates`.
        wavelength_angst: `[m]`.

    Returns:
        `[m]`, Å, never finer than 1 Å; infinite where the phase shifts alone differ by as much.

    References:
        Sorzano et al. 2007, doi:10.1016/j.jsb.2007.08.013, for CTF criteria of Xmipp.
    """
    square = np.linspace(0.0, _FINEST_ANGST**-2, _N_FREQUENCIES)
    twice = np.arange(_N_DIRECTIONS) * (2.0 * math.pi / _N_DIRECTIONS)
    along = defocus[:, None] + (astigmatism[:, None] * np.exp(-1j * twice)).real
    slope = math.pi * wavelength_angst[:, None] * along
    shift = np.abs((phase_shift + 0.5 * math.pi) % math.pi - 0.5 * math.pi)
    shift = np.copysign(shift, phase_shift)
    phase = np.abs(slope[:, :, None] * square + shift[:, None, None]).mean(axis=1)
    return 1.0 / np.sqrt(np.maximum(_first_crossing(square, phase), 1e-12))


def _first_crossing(square: Floats, phase: Floats) -> Floats:
    """First squared frequency where a phase `[m, k]` reaches 90 degrees, interpolated."""
    beyond = phase >= 0.5 * math.pi
    first = np.where(beyond.any(axis=1), beyond.argmax(axis=1), phase.shape[1])
    rows = np.arange(len(phase))
    high = np.clip(first, 1, phase.shape[1] - 1)
    low = high - 1
    rise = np.maximum(phase[rows, high] - phase[rows, low], 1e-12)
    part = np.clip((0.5 * math.pi - phase[rows, low]) / rise, 0.0, 1.0)
    found = square[low] + part * (square[high] - square[low])
    return np.where(first == 0, 0.0, np.where(first >= phase.shape[1], square[-1], found))


def _pairwise(estimates: Estimates) -> Floats:
    """Agreement of all pairs, `[m, e, e]`; infinite where one is missing."""
    m, e = estimates.defocus.shape
    result = np.full((m, e, e), np.inf)
    result[:, range(e), range(e)] = np.where(np.isnan(estimates.defocus), np.inf, _FINEST_ANGST)
    for a, b in combinations(range(e), 2):
        both = ~np.isnan(estimates.defocus[:, a] + estimates.defocus[:, b])
        result[both, a, b] = result[both, b, a] = agreement_res_angst(
            estimates.defocus[both, a] - estimates.defocus[both, b],
            estimates.astigmatism[both, a] - estimates.astigmatism[both, b],
            estimates.phase_shift[both, a] - estimates.phase_shift[both, b],
            estimates.wavelength_angst[both],
        )
    return result


def find_consensus(estimates: Estimates, *, n_agreeing: int, max_res_angst: float) -> Consensus:
    """Find the estimates that agree, and average them by inverse variance.

    Of all ways to choose `n_agreeing` estimates the one is taken whose worst pair agrees to the
    finest resolution. Further estimates that agree with all of these to `max_res_angst` are
    averaged with them. One weight serves all parameters of an estimate, since its errors of
    defocus and phase shift balance each other.

    Args:
        estimates: of each micrograph.
        n_agreeing: how many must agree; 1 asks for no agreement.
        max_res_angst: coarsest resolution that counts as agreement of a further estimate.
    """
    m, e = estimates.defocus.shape
    if not 1 <= n_agreeing <= e or e > _MOST_ESTIMATES:
        raise ValueError(f"n_agreeing must be in 1 ... {e}, of at most 8: got {n_agreeing}")
    pairs = _pairwise(estimates)
    groups = list(combinations(range(e), n_agreeing))
    worst = np.stack([pairs[:, group][:, :, group].max(axis=(1, 2)) for group in groups], axis=1)
    best = worst.argmin(axis=1)
    core = np.zeros((m, e), bool)
    core[np.arange(m)[:, None], np.array(groups)[best]] = True
    reached = np.where(core[:, None, :], pairs, 0.0).max(axis=2)
    used = (core | (reached <= max_res_angst)) & ~np.isnan(estimates.defocus)
    return _average(estimates, used, worst[np.arange(m), best])


def _average(estimates: Estimates, used: NDArray[np.bool_], reached: Floats) -> Consensus:
    error = np.where(used, estimates.error, np.nan)
    known = np.isfinite(error) & (error > 0)
    with np.errstate(invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of rows without any error
        typical = np.nan_to_num(np.nanmedian(np.where(known, error, np.nan), axis=1), nan=1.0)
    # an error said to be far below the others' is not believed
    error = np.maximum(np.where(known, error, typical[:, None]), 0.5 * typical[:, None])
    weight = np.where(used, error**-2, 0.0)
    weight = weight / np.maximum(weight.sum(axis=1, keepdims=True), 1e-300)

    def mean(values: Complex) -> Complex:
        total: Complex = (weight * np.where(used, values, 0.0)).sum(axis=1)
        return total

    defocus = mean(estimates.defocus + 0j).real
    offset = np.where(used, estimates.defocus - defocus[:, None], 0.0)
    own = (weight * error**2).sum(axis=1)
    twice = mean(np.exp(2j * estimates.phase_shift))
    return Consensus(
        agreement_res_angst=reached,
        is_used=used,
        defocus=defocus,
        astigmatism=mean(estimates.astigmatism),
        phase_shift=0.5 * np.angle(twice) % math.pi,
        error=np.sqrt(own + (weight * offset**2).sum(axis=1)),
    )
