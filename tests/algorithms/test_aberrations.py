import math

import numpy as np
import pytest

from verglas.algorithms.aberrations import (
    EVEN_TERMS,
    ODD_TERMS,
    Aberrations,
    zernike,
)

K = np.random.default_rng(0).uniform(-0.3, 0.3, (50, 2))


def test_beam_tilt_is_coma_by_the_formula():
    row = {
        "beam_tilt_x_mrad": 0.3,
        "beam_tilt_y_mrad": -0.2,
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
    }
    phase = Aberrations.of_row(row).odd_phase_rad(K)
    # 2 pi Cs lambda^2 k^2 (k . t), Cs in A, t in rad; negative as in RELION
    tilt = np.array([0.3e-3, -0.2e-3])
    expected = -2 * math.pi * 2.7e7 * 0.0196875**2 * (K**2).sum(1) * (K @ tilt)
    np.testing.assert_allclose(phase, expected, rtol=1e-4, atol=1e-9)


def test_columns_give_the_same_phases_back():
    rng = np.random.default_rng(1)
    given = Aberrations(tuple(rng.normal(size=6)), tuple(rng.normal(size=9)), (1.01, 0.0, 0.1, 0.9))
    row = given.to_row(300.0, 2.7)
    assert row["odd_zernike"][3] == row["odd_zernike"][4] == 0
    back = Aberrations.of_row(row | {"voltage_kv": 300.0, "spherical_aberration_mm": 2.7})
    np.testing.assert_allclose(back.odd_phase_rad(K), given.odd_phase_rad(K), atol=1e-12)
    np.testing.assert_allclose(back.even_phase_rad(K), given.even_phase_rad(K), atol=1e-12)
    assert back.magnification == given.magnification


def test_without_cs_coma_stays_a_polynomial():
    given = Aberrations((0.0, 0.0, 0.0, 2.0, -3.0, 0.0))
    row = given.to_row(300.0, 0.0)
    assert row["beam_tilt_x_mrad"] == row["beam_tilt_y_mrad"] == 0
    assert row["odd_zernike"] == list(given.odd)


def test_groups_without_columns_have_none():
    assert Aberrations.of_row({}) == Aberrations()
    assert not Aberrations.of_row({"even_zernike": None}).is_magnified


@pytest.mark.parametrize("term", ODD_TERMS + EVEN_TERMS)
def test_polynomials_are_one_at_the_rim_and_of_their_parity(term):
    m, n = term
    angle = math.pi / (2 * abs(m)) if m < 0 else 0.0
    rim = np.array([[math.cos(angle), math.sin(angle)]])
    assert zernike(term, rim)[0] == pytest.approx(1.0)
    np.testing.assert_allclose(zernike(term, -K), (-1) ** n * zernike(term, K), atol=1e-12)
