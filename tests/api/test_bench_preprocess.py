"""The measures of the benchmark of motion are right on made-up sums and motions."""

import numpy as np
import pytest
import scipy.fft

from verglas.algorithms.motion.field import MotionField, MotionOrder
from verglas.api.bench_preprocess import bench_motion, frc_bands, motion_error_px
from verglas.core.errors import UserError

PIXEL = 1.2


def test_equal_images_correlate_perfectly_wherever_they_lie():
    image = np.random.default_rng(0).normal(size=(256, 256))
    phase = np.fft.fftfreq(256)[:, None] * 3.25 + np.fft.rfftfreq(256)[None] * -1.5
    moved = scipy.fft.irfft2(scipy.fft.rfft2(image) * np.exp(-2j * np.pi * phase), s=image.shape)
    assert min(frc_bands(moved, image, PIXEL)) > 0.98


def test_noise_lowers_the_correlation_as_it_should():
    rng = np.random.default_rng(1)
    image = rng.normal(size=(512, 512))
    bands = frc_bands(image + rng.normal(size=image.shape), image, PIXEL)
    assert np.mean(bands) == pytest.approx(np.sqrt(0.5), abs=0.03)


def test_error_of_a_motion_is_free_of_a_constant():
    path = np.cumsum(np.random.default_rng(2).normal(size=(6, 2)), axis=0)
    found = MotionField(
        (100.0, 100.0), path * PIXEL, MotionOrder(), np.zeros((0, 0, 2)), np.zeros(0)
    )
    gy, gx = np.mgrid[0:4, 0:4] * 20.0
    grid = np.broadcast_to(path[:, :, None, None], (6, 2, 4, 4)) + 3.0
    truth = {"grid": grid, "gx": gx, "gy": gy, "apix": PIXEL}
    assert motion_error_px(found.as_arrays(), truth) < 1e-9
    off = (
        grid + np.array([0.3, -0.3] * 3)[:, None, None, None] * np.array([1.0, 0.0])[:, None, None]
    )
    assert motion_error_px(found.as_arrays(), truth | {"grid": off}) == pytest.approx(0.3)


def test_folder_without_movies_is_named(tmp_path):
    with pytest.raises(UserError, match="holds 0 movies, expected two or more"):
        bench_motion(None, tmp_path)
