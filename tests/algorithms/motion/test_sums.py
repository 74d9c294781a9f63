"""Sums lose nothing to interpolation, and weigh frames as the dose says."""

import numpy as np
import pytest
import scipy.fft

from tests.algorithms.motion.simulated import ArrayMovie, drift, moving_movie
from verglas.algorithms.motion.align import AlignConfig, align_movie
from verglas.algorithms.motion.dose import critical_exposure, dose_weights, plan_dose
from verglas.algorithms.motion.field import MotionField, MotionOrder
from verglas.algorithms.motion.frames import Correction, open_frames
from verglas.algorithms.motion.oversample import FineGrid
from verglas.algorithms.motion.serial import Serial
from verglas.algorithms.motion.sums import add_frames

SIZE = 256


def no_local(path):
    return MotionField(
        (SIZE - 1.0, SIZE - 1.0), path, MotionOrder(), np.zeros((0, 0, 2)), np.zeros(0)
    )


def add(frames, motion, binning=1.0, **options):
    with Serial() as pool:
        opened = open_frames(ArrayMovie(frames), range(len(frames)), Correction(), pool)
        grid = FineGrid(opened.shape, opened.padded_shape, binning)
        return add_frames(
            opened, motion, grid, pixel_size_angst=1.0, pool=pool, threads=1,
            **{"plan": None, "with_halves": False} | options,
        )  # fmt: skip


def ring_power(image, low, high):
    ft = scipy.fft.rfft2(image)
    k = np.hypot(np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None])
    return float((np.abs(ft[(k >= low) & (k < high)]) ** 2).mean())


@pytest.mark.parametrize("is_local", [False, True])
def test_less_than_two_per_cent_of_the_power_at_nyquist_is_lost(is_local):
    # white noise, one frame and another half a pixel (or 0 to 6 pixels, unevenly) away
    noise = np.random.default_rng(0).normal(10.0, 1.0, (2, SIZE, SIZE)).astype(np.float32)
    motion = no_local(np.array([[0.0, 0.0], [0.5, 0.5]]))
    if is_local:
        order = MotionOrder(3, 3, 2)
        bent = np.random.default_rng(1).normal(0.0, 2.0, (9, 1, 2))
        motion = MotionField(motion.extent_angst, motion.path_angst, order, bent, np.zeros(9))
    moved = add(noise, motion).plain - add(noise[:1], no_local(np.zeros((1, 2)))).plain
    middle = (slice(16, -16),) * 2
    window = np.hanning(SIZE - 32)[:, None] * np.hanning(SIZE - 32)[None]
    for low, high in ((0.1, 0.3), (0.45, 0.5)):
        before = ring_power((noise[1] - 10.0)[middle] * window, low, high)
        after = ring_power((moved - 10.0)[middle] * window, low, high)
        assert after == pytest.approx(before, rel=0.02)


def test_whole_shift_is_that_of_a_fourier_phase():
    noise = np.random.default_rng(2).normal(0.0, 1.0, (SIZE, SIZE))
    k = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    ft = scipy.fft.rfft2(noise) * (k < 0.48)
    still = scipy.fft.irfft2(ft, s=noise.shape)
    x, y = 2.3, -4.6  # displacement of the second frame
    phase = np.fft.fftfreq(SIZE)[:, None] * y + np.fft.rfftfreq(SIZE)[None] * x
    moved = scipy.fft.irfft2(ft * np.exp(-2j * np.pi * phase), s=noise.shape)
    frames = np.stack([still, moved]).astype(np.float32)
    total = add(frames, no_local(np.array([[0.0, 0.0], [x, y]]))).plain
    middle = (slice(12, -12),) * 2
    assert (total - 2 * still)[middle].std() < 0.02 * (2 * still).std()


def test_binning_keeps_places_and_grey_values():
    y, x = np.mgrid[:SIZE, :SIZE]
    blob = 5.0 + 40.0 * np.exp(-((x - 100.0) ** 2 + (y - 60.0) ** 2) / (2 * 8.0**2))
    noise = np.random.default_rng(3).normal(0.0, 0.01, blob.shape)
    total = add((blob + noise)[None].astype(np.float32), no_local(np.zeros((1, 2))), 2.5).plain
    assert total.shape == (103, 103)
    assert np.unravel_index(total.argmax(), total.shape) == (24, 40)
    assert total.max() == pytest.approx(45.0, rel=0.01)


def test_halves_add_to_the_whole():
    movie = moving_movie(96, drift(7, 0), counts=3.0)
    sums = align_movie(movie, AlignConfig(), pixel_size_angst=1.2, frame_dose_e_per_angst2=2.0).sums
    np.testing.assert_allclose(sums.odd + sums.even, sums.image, atol=1e-3)
    assert sums.odd.mean() / sums.even.mean() == pytest.approx(4 / 3, rel=0.02)


def test_dose_weights_leave_noise_white_and_the_mean_alone():
    frames = np.random.default_rng(4).poisson(6.0, (12, SIZE, SIZE)).astype(np.uint8)
    k = np.linspace(0.0, 0.75, 200)
    plan = plan_dose(weights_of(k, 12, 3.0), k)
    sums = add(frames, no_local(np.zeros((12, 2))), plan=plan)
    assert sums.image.mean() == pytest.approx(72.0, rel=0.01)
    for low, high in ((0.05, 0.1), (0.2, 0.3), (0.45, 0.5)):
        assert ring_power(sums.image, low, high) == pytest.approx(
            ring_power(sums.plain, low, high), rel=0.06
        )


def weights_of(k, n_frames, dose, voltage_kv=300.0):
    return dose_weights(
        k,
        frame_dose_e_per_angst2=np.full(n_frames, dose),
        pre_exposure_e_per_angst2=0.0,
        voltage_kv=voltage_kv,
    )


def test_critical_exposure_is_that_of_the_paper():
    # Grant & Grigorieff 2015: 0.24499 k^-1.6649 + 2.8141 at 300 kV, 0.8 of it at 200 kV
    expected = 0.24499 * 0.25**-1.6649 + 2.8141
    assert critical_exposure(np.array([0.25]), 300.0)[0] == pytest.approx(expected)
    assert critical_exposure(np.array([0.25]), 200.0)[0] == pytest.approx(0.8 * expected)


def test_few_terms_give_the_weights():
    k = np.linspace(0.0, 0.5, 300)
    weights = weights_of(k, 50, 1.0)
    plan = plan_dose(weights, k)
    made = plan.mix.T @ plan.filters * np.sqrt((weights**2).mean(axis=0))
    assert np.abs(made - weights).max() < 1.1e-3
    assert len(plan.mix) <= 6
