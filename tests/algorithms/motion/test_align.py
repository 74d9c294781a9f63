"""Alignment recovers simulated motion; sizes and counts are stated in each test."""

import numpy as np
import pytest

from tests.algorithms.motion.simulated import ArrayMovie, drift, moving_movie, rms
from verglas.algorithms.motion.align import AlignConfig, align_movie
from verglas.algorithms.motion.field import MotionField, MotionOrder

PIXEL = 1.2
N_FRAMES = 16
WHOLE = AlignConfig(max_points=0, with_halves=False)


def bend(u, v, f):
    ramp = (1.0 - np.exp(-f / 5.0)) / (1.0 - np.exp(-(N_FRAMES - 1) / 5.0))
    return ramp * (3.0 * u + 2.0 * v * v), ramp * (2.0 * u * v - 3.0 * v)


def true_field(path, local, shape, n=6):
    places = (np.arange(n) + 0.5) / n
    v, u = np.meshgrid(places - 0.5, places - 0.5, indexing="ij")
    moves = [np.stack(local(u, v, f), axis=-1) + path[f] for f in range(len(path))]
    return np.stack(moves), PIXEL * places * shape[1], PIXEL * places * shape[0]


@pytest.fixture(scope="module")
def bent():
    """384 x 384 x 16, 3 counts a pixel and frame, contrast 0.1, local motion of 1-2 px."""
    path = drift(N_FRAMES, 3)
    movie = moving_movie(384, path, local=bend, counts=3.0, contrast=0.1, seed=4)
    return path, movie, align_movie(movie, AlignConfig(), pixel_size_angst=PIXEL)


@pytest.mark.parametrize("seed", [0, 1])
def test_path_of_the_whole_frame_is_found_to_a_tenth_of_a_pixel(seed):
    # 320 x 320 x 24, 1.44 counts a pixel (1 e/A^2 at 1.2 A), contrast 0.15
    path = drift(24, seed)
    movie = moving_movie(320, path, counts=1.44, contrast=0.15, seed=seed)
    found = align_movie(movie, WHOLE, pixel_size_angst=PIXEL)
    assert rms(found.motion.path_angst / PIXEL - path) <= 0.1


def test_large_jumps_are_followed():
    # 256 x 256 x 10, 3 counts a pixel, contrast 0.15, 20 pixels between two frames
    path = drift(10, 5)
    path[1:] += (14.0, -14.0)
    movie = moving_movie(256, path - path.mean(axis=0), counts=3.0, contrast=0.15, seed=6)
    found = align_movie(movie, WHOLE, pixel_size_angst=PIXEL)
    assert rms(found.motion.path_angst / PIXEL - path) <= 0.2


def test_local_motion_is_found_to_a_fifth_of_a_pixel(bent):
    path, movie, found = bent
    truth, x, y = true_field(path, bend, movie.shape)
    assert found.motion.order.is_local
    assert rms(found.motion.on_grid(x, y) / PIXEL - truth) <= 0.2


def dome(u, v, f):
    ramp = (1.0 - np.exp(-f / 3.0)) / (1.0 - np.exp(-(N_FRAMES - 1) / 3.0))
    flat = 1.0 - 4.0 * (u * u + v * v)
    return ramp * 8.0 * u * flat, ramp * 8.0 * v * flat


@pytest.mark.parametrize("seed", [4, 6])
def test_doming_is_followed_without_choosing_an_order(seed):
    # 320 x 320 x 16, 3 counts a pixel, contrast 0.1: cubic in space, 0.34 px RMS about the whole
    # frame; splines chosen by held-out patches leave 0.23-0.25 px
    path = drift(N_FRAMES, seed)
    movie = moving_movie(320, path, local=dome, counts=3.0, contrast=0.1, seed=seed)
    config = AlignConfig(patch_angst=80.0, with_halves=False)
    found = align_movie(movie, config, pixel_size_angst=PIXEL)
    truth, x, y = true_field(path, dome, movie.shape)
    assert rms(found.motion.on_grid(x, y) / PIXEL - truth) <= 0.2


def test_whole_frame_alone_is_worse_where_motion_is_local(bent):
    path, movie, found = bent
    truth, x, y = true_field(path, bend, movie.shape)
    whole = found.motion.without_local().on_grid(x, y) / PIXEL
    assert rms(whole - truth) > 0.3


def test_held_out_patches_refuse_local_motion_that_is_not_there():
    # 256 x 256 x 12, 1.5 counts a pixel, contrast 0.08: the motion is that of the whole frame
    movie = moving_movie(256, drift(12, 7), counts=1.5, contrast=0.08, seed=8)
    config = AlignConfig(patch_angst=80.0, with_halves=False)
    found = align_movie(movie, config, pixel_size_angst=PIXEL)
    assert found.motion.order == MotionOrder()
    assert len(found.trials) >= 2


def test_standard_error_agrees_with_the_errors_made():
    # 256 x 256 x 16, 2 counts, contrast 0.12: mean of three movies, both axes
    squares, stated = [], []
    for seed in range(3):
        path = drift(16, seed)
        movie = moving_movie(256, path, counts=2.0, contrast=0.12, seed=seed)
        found = align_movie(movie, WHOLE, pixel_size_angst=PIXEL)
        squares.append(rms(found.motion.path_angst - path * PIXEL) ** 2)
        stated.append(2.0 * found.error_angst**2)
    assert 0.6 < np.sqrt(np.mean(squares) / np.mean(stated)) < 1.6


def test_a_film_at_one_side_does_not_spoil_the_motion_of_the_other():
    # 320 x 320 x 12, 3 counts a pixel, contrast 0.08 beside a film of 0.25; local motion 0.6 px RMS
    path = drift(12, 2)
    movie = moving_movie(320, path, local=bend, counts=3.0, contrast=0.08, seed=5, film=0.25)
    config = AlignConfig(patch_angst=90.0, with_halves=False)
    found = align_movie(movie, config, pixel_size_angst=PIXEL)
    truth, x, y = true_field(path, bend, movie.shape)
    assert found.motion.order.is_local
    assert rms(found.motion.on_grid(x, y) / PIXEL - truth) <= 0.15


def test_first_frame_is_the_reference(bent):
    _, _, found = bent
    x = np.linspace(0.0, 400.0, 5)
    assert np.abs(found.motion.at(x, x)[0]).max() < 1e-9


def test_threads_do_not_change_the_result():
    movie = moving_movie(128, drift(6, 1), counts=4.0, contrast=0.2)
    config = AlignConfig(patch_angst=60.0)
    one, two = (
        align_movie(movie, config, pixel_size_angst=PIXEL, threads=threads) for threads in (1, 2)
    )
    np.testing.assert_allclose(one.motion.path_angst, two.motion.path_angst, atol=1e-3)
    np.testing.assert_allclose(one.sums.image, two.sums.image, atol=1e-2 * one.sums.image.std())


def test_frame_alone_is_its_own_sum():
    movie = moving_movie(96, np.zeros((1, 2)), counts=4.0)
    found = align_movie(movie, AlignConfig(), pixel_size_angst=PIXEL)
    error = found.sums.image - movie.frame(0)
    assert error.std() < 0.05 * movie.frame(0).std()
    assert found.sums.odd is None


@pytest.mark.parametrize("level", [0.0, -5.0])
def test_frames_without_counts_are_aligned(level):
    # 160 x 160 x 6, 4 counts a pixel, contrast 0.2, about a level that tells of no exposure
    path = drift(6, 1)
    frames = moving_movie(160, path, counts=4.0, contrast=0.2).frames.astype(np.float32)
    movie = ArrayMovie(frames - frames.mean() + level)
    found = align_movie(movie, WHOLE, pixel_size_angst=PIXEL)
    assert rms(found.motion.path_angst / PIXEL - path) <= 0.3


@pytest.mark.parametrize("n_frames", [2, 3])
def test_few_frames_are_aligned(n_frames):
    # 160 x 160, 8 counts a pixel, contrast 0.2
    path = drift(n_frames, 1)
    movie = moving_movie(160, path, counts=8.0, contrast=0.2)
    found = align_movie(movie, AlignConfig(patch_angst=60.0), pixel_size_angst=PIXEL)
    assert rms(found.motion.path_angst / PIXEL - path) <= 0.3


def test_constant_frames_are_left_out():
    movie = moving_movie(96, drift(6, 2), counts=4.0, contrast=0.2)
    movie.frames[3] = 7
    found = align_movie(movie, WHOLE, pixel_size_angst=PIXEL)
    assert found.survey.constant == (3,)
    assert found.survey.used == (0, 1, 2, 4, 5)
    assert found.sums.image.mean() == pytest.approx(5 * 4.0, rel=0.05)


def test_movie_of_constant_frames_is_refused():
    with pytest.raises(ValueError, match="all 3 frames are constant"):
        align_movie(ArrayMovie(np.ones((3, 64, 64), np.uint8)), WHOLE, pixel_size_angst=1.0)


def test_motion_survives_being_written(bent):
    motion = bent[2].motion
    again = MotionField.from_arrays(motion.as_arrays())
    x = np.linspace(0.0, 400.0, 7)
    np.testing.assert_array_equal(again.at(x, x), motion.at(x, x))
