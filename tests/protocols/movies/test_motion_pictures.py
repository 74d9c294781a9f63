"""Pictures of motion show what happened."""

import numpy as np
import scipy.fft

from verglas.algorithms.motion.field import MotionField, MotionOrder
from verglas.protocols.movies._motion_pictures import draw_motion, draw_spectra


def motion(path):
    return MotionField((500.0, 400.0), path, MotionOrder(), np.zeros((0, 0, 2)), np.zeros(0))


def test_path_is_drawn_where_it_goes():
    path = np.stack([np.linspace(0.0, 10.0, 9), np.zeros(9)], axis=1)
    picture = draw_motion(motion(path))
    assert picture.shape == (600, 600, 3)
    ink = (picture == (28, 70, 104)).all(axis=2)[:560]
    rows, columns = np.nonzero(ink)
    assert rows.std() < 4
    assert columns.max() - columns.min() > 300


def test_one_frame_is_a_dot():
    assert draw_motion(motion(np.zeros((1, 2)))).std() > 0


def ring_spread(half, *, is_left):
    """How much the mean grey value differs from ring to ring."""
    size = half.shape[0]
    x = np.arange(half.shape[1]) - (half.shape[1] if is_left else 0)
    ring = np.hypot(np.arange(size)[:, None] - size // 2, x[None]).astype(int)
    means = np.bincount(ring.ravel(), half.ravel()) / np.maximum(np.bincount(ring.ravel()), 1)
    return means[20 : size // 2].std()


def test_rings_appear_on_the_side_of_the_aligned_sum():
    noise = np.random.default_rng(0).normal(size=(600, 600)).astype(np.float32)
    k = np.hypot(np.fft.fftfreq(600)[:, None], np.fft.rfftfreq(600)[None])
    ft = scipy.fft.rfft2(noise) * (1.0 + 0.8 * np.cos(150.0 * k))
    ringed = scipy.fft.irfft2(ft, s=noise.shape).astype(np.float32)
    picture = draw_spectra(noise, ringed).astype(float)
    middle = picture.shape[1] // 2
    before = ring_spread(picture[:, :middle], is_left=True)
    assert picture.shape == (256, 256)
    assert ring_spread(picture[:, middle:], is_left=False) > 3.0 * before


def test_a_binned_sum_is_drawn_beside_the_whole_one():
    noise = np.random.default_rng(1).normal(size=(300, 280)).astype(np.float32)
    picture = draw_spectra(noise, noise[::2, ::2])
    assert picture.shape[0] == picture.shape[1]
    assert picture.std() > 10
