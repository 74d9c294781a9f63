"""Frames are corrected before anything else is done with them."""

import numpy as np
import pytest

from tests.algorithms.motion.simulated import ArrayMovie
from verglas.algorithms.motion.frames import Correction, open_frames
from verglas.algorithms.motion.oversample import even_size
from verglas.algorithms.motion.serial import Serial


def opened(frames, **correction):
    with Serial() as pool:
        return open_frames(ArrayMovie(frames), range(len(frames)), Correction(**correction), pool)


def counts(shape=(8, 80, 90), mean=4.0, seed=0):
    return np.random.default_rng(seed).poisson(mean, shape).astype(np.uint8)


def test_hot_and_dead_pixels_are_found_and_replaced():
    frames = counts((30, 80, 90))
    frames[:, 10, 20] = 60
    frames[:, 40, 50] = 0
    found = opened(frames)
    assert found.survey.n_found == 2
    corrected = np.stack([found.corrected(f) for f in range(30)])
    assert corrected[:, 10, 20].mean() == pytest.approx(4.0, abs=1.5)
    assert corrected[:, 40, 50].mean() == pytest.approx(4.0, abs=1.5)
    # copies of different neighbours: the noise of a pixel stays
    assert corrected[:, 10, 20].std() > 1.0


def test_noise_alone_has_next_to_no_outliers():
    assert opened(counts((20, 400, 400), 1.0)).survey.n_found <= 1


def test_given_defects_and_zeros_of_the_gain_are_replaced():
    frames = counts()
    gain, defects = np.ones((80, 90), np.float32), np.zeros((80, 90), bool)
    gain[5], defects[:, 7] = 0.0, True
    found = opened(frames, gain=gain, defects=defects)
    assert found.survey.n_defects == 90 + 80 - 1
    assert found.corrected(0)[5].mean() == pytest.approx(4.0, abs=1.0)


def test_gain_and_dark_are_applied():
    frames = counts((4, 64, 64), 20.0)
    gain = np.random.default_rng(1).uniform(0.9, 1.1, (64, 64)).astype(np.float32)
    dark = np.full((64, 64), 2.0, np.float32)
    found = opened(frames, gain=gain, dark=dark)
    np.testing.assert_allclose(found.corrected(1), (frames[1] - 2.0) * gain, rtol=1e-5)


def test_hit_in_one_frame_is_taken_out():
    frames = counts()
    frames[2, 30, 30] = 250
    assert opened(frames).corrected(2).max() < 30


def test_pixels_that_are_not_numbers_are_replaced():
    frames = counts().astype(np.float32)
    frames[1, 3, 4] = np.nan
    found = opened(frames)
    assert found.survey.n_not_finite == 1
    assert np.isfinite(found.corrected(1)).all()


def test_frame_full_of_them_is_refused():
    frames = counts().astype(np.float32)
    frames[3, :40] = np.nan
    with pytest.raises(ValueError, match="frame 3 holds 3600 pixels that are not numbers"):
        opened(frames)


@pytest.mark.parametrize("shape", [(90, 80), (40, 45)])
def test_gain_of_another_size_is_named(shape):
    with pytest.raises(ValueError, match=f"gain reference has {shape[1]} x {shape[0]} pixels"):
        opened(counts(), gain=np.ones(shape, np.float32))


@pytest.mark.parametrize(("length", "expected"), [(1024, 1024), (3710, 3750), (3838, 3840), (7, 8)])
def test_padded_sizes_are_even_and_fast(length, expected):
    assert even_size(length) == expected
