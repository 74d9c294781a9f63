import numpy as np
import pytest

from verglas.simulate.damage import critical_exposure_e_per_angst2, remaining_amplitude
from verglas.simulate.detector import DetectorConfig, draw_detector


def _draw(shape=(200, 300), **changed):
    return draw_detector(DetectorConfig(**changed), shape, np.random.default_rng(1))


def test_the_gain_undoes_the_response():
    detector = _draw(detected_fraction=0.8)
    alive = detector.gain > 0
    product = (detector.response * detector.gain)[alive]
    np.testing.assert_allclose(product, 0.8, rtol=1e-5)
    assert not detector.response[~alive].any()


def test_columns_differ_from_each_other():
    """Spread of the columns' means: their own 2 %, and 1 % of every other one."""
    detector = _draw(pixel_spread=0.0, shading=0.0, dead_fraction=0.0, column_spread=0.02)
    columns = detector.response.mean(axis=0)
    assert np.ptp(detector.response, axis=0).max() < 1e-5
    assert 0.015 < columns.std() / columns.mean() < 0.03
    assert abs(columns[1::2].mean() - columns[::2].mean()) / columns.mean() > 0.01


def test_defects_name_every_bad_pixel_and_column():
    detector = _draw(hot_fraction=5e-4, dead_fraction=5e-4, dead_columns=2)
    marked = np.zeros((200, 300), bool)
    for x, y, width, height in detector.defects:
        marked[y : y + height, x : x + width] = True
    np.testing.assert_array_equal(marked, (detector.hot > 0) | (detector.gain == 0))
    assert (detector.hot > 0).sum() == 30
    assert (detector.gain == 0).all(axis=0).sum() == 2


def test_critical_exposures_are_those_of_the_paper():
    """Grant & Grigorieff 2015 eq. 3 worked out: 0.24499 x 10^1.6649 + 2.8141 at 1/10 Å."""
    expected = 0.24499 * 10**1.6649 + 2.8141
    assert critical_exposure_e_per_angst2(np.array(0.1), 300.0) == pytest.approx(expected)
    assert critical_exposure_e_per_angst2(np.array(0.1), 200.0) == pytest.approx(0.8 * expected)
    assert remaining_amplitude(np.array(0.1), expected, 300.0) == pytest.approx(np.exp(-0.5))
    assert remaining_amplitude(np.array(0.0), 100.0, 300.0) == pytest.approx(1.0)


def test_bad_detectors_are_refused():
    with pytest.raises(ValueError, match="detected fraction"):
        DetectorConfig(detected_fraction=0.0)
    with pytest.raises(ValueError, match="bad pixels"):
        DetectorConfig(dead_columns=-1)
