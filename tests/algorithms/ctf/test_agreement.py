"""Estimates of one CTF are compared by phase and averaged."""

import math

import numpy as np
import pytest

from verglas.algorithms.ctf.agreement import Estimates, agreement_res_angst, find_consensus

WAVE = 0.0196875


def _estimates(defocus, *, error=None, phase=0.0, astigmatism=0.0):
    defocus = np.atleast_2d(np.array(defocus, float))
    return Estimates(
        defocus=defocus,
        astigmatism=np.zeros_like(defocus) + astigmatism + 0j,
        phase_shift=np.zeros_like(defocus) + phase,
        error=np.full_like(defocus, 10.0) if error is None else np.atleast_2d(error),
        wavelength_angst=np.full(len(defocus), WAVE),
    )


@pytest.mark.parametrize("difference", [57.0, 228.0, -1000.0])
def test_difference_of_defocus_gives_the_closed_form(difference):
    """`sqrt(2 lambda d)`: 57 Å of defocus are 1.5 Å of resolution at 300 kV."""
    found = agreement_res_angst(
        np.array([difference]), np.array([0j]), np.array([0.0]), np.array([WAVE])
    )
    assert found[0] == pytest.approx(math.sqrt(2 * WAVE * abs(difference)), rel=1e-2)


def test_equal_estimates_agree_to_the_finest_resolution():
    zero = np.zeros(1)
    assert agreement_res_angst(zero, zero + 0j, zero, np.array([WAVE]))[0] == pytest.approx(1.0)


def test_astigmatism_counts_by_its_mean_over_directions():
    """The mean of |cos| is 2/pi."""
    found = agreement_res_angst(
        np.array([0.0]), np.array([500.0 + 0j]), np.array([0.0]), np.array([WAVE])
    )
    assert found[0] == pytest.approx(math.sqrt(2 * WAVE * 500.0 * 2 / math.pi), rel=0.05)


def test_phase_shift_and_defocus_that_balance_agree_further():
    """A quarter turn less of phase is made up by defocus at 4 Å."""
    extra = 0.4 * math.pi / (math.pi * WAVE * 4.0**-2)
    one = np.array([WAVE])
    alone = agreement_res_angst(np.array([extra]), np.zeros(1) + 0j, np.zeros(1), one)
    both = agreement_res_angst(np.array([extra]), np.zeros(1) + 0j, np.array([-0.4 * math.pi]), one)
    assert both[0] < 0.8 * alone[0]


def test_phase_shifts_half_a_turn_apart_are_equal():
    """sin^2 cannot tell phi from phi + pi."""
    zero = np.zeros(1)
    found = agreement_res_angst(zero, zero + 0j, np.array([math.pi]), np.array([WAVE]))
    assert found[0] == pytest.approx(1.0)


def test_the_outlier_is_left_out_of_the_average():
    found = find_consensus(
        _estimates([20000.0, 20010.0, 20020.0, 26000.0]), n_agreeing=2, max_res_angst=5.0
    )
    assert found.is_used[0].tolist() == [True, True, True, False]
    assert found.defocus[0] == pytest.approx(20010.0)
    assert found.agreement_res_angst[0] < 1.0 + math.sqrt(2 * WAVE * 10.0)


def test_weights_are_inverse_variances():
    error = np.array([[10.0, 20.0]])
    found = find_consensus(
        _estimates([20000.0, 20050.0], error=error), n_agreeing=2, max_res_angst=5.0
    )
    assert found.defocus[0] == pytest.approx(20010.0)
    assert found.error[0] > 10.0


def test_an_incredible_error_does_not_outvote_the_others():
    error = np.array([[0.1, 20.0, 20.0]])
    found = find_consensus(
        _estimates([20300.0, 20000.0, 20000.0], error=error), n_agreeing=2, max_res_angst=9.0
    )
    assert found.defocus[0] < 20210.0


def test_missing_estimates_and_too_few_are_told():
    nan = math.nan
    found = find_consensus(
        _estimates([[20000.0, nan, 20005.0], [20000.0, nan, nan], [nan, nan, nan]]),
        n_agreeing=2,
        max_res_angst=5.0,
    )
    assert found.is_used.sum(axis=1).tolist() == [2, 1, 0]
    assert np.isfinite(found.agreement_res_angst).tolist() == [True, False, False]
    assert found.defocus[1] == pytest.approx(20000.0)


def test_angles_are_averaged_on_the_doubled_circle():
    """5 and 175 degrees mean 0 degrees, not 90."""
    turned = 100.0 * np.exp(2j * np.deg2rad(np.array([[5.0, 175.0]])))
    found = find_consensus(
        _estimates([20000.0, 20000.0], astigmatism=turned), n_agreeing=2, max_res_angst=5.0
    )
    assert np.angle(found.astigmatism[0]) == pytest.approx(0.0, abs=1e-6)
    assert abs(found.astigmatism[0]) == pytest.approx(100.0 * math.cos(math.radians(10.0)))


def test_asking_for_more_than_there_are_is_refused():
    with pytest.raises(ValueError, match="n_agreeing"):
        find_consensus(_estimates([1.0, 2.0]), n_agreeing=3, max_res_angst=5.0)
