"""The gain is estimated to counting statistics, and references are turned as they must lie."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from verglas.algorithms.gain import (
    ORIENTATIONS,
    brightness,
    find_orientation,
    invert_gain,
    residual_gain,
    turn,
)

SHAPE = (144, 160)


def true_gain(shape=SHAPE, contrast=0.05, seed=0):
    """Pixels that differ by 5 %, columns by 2 %."""
    rng = np.random.default_rng(seed)
    sensitivity = 1.0 + rng.normal(0.0, contrast, shape) + rng.normal(0.0, 0.02, shape[1])
    gain = 1.0 / np.clip(sensitivity, 0.3, 3.0)
    return (gain / gain.mean()).astype(np.float32)


def movie_sums(gain, n_movies, counts, seed=1, structure=0.05):
    """Sums of movies of different light and structure, with counting noise."""
    rng = np.random.default_rng(seed)
    for _ in range(n_movies):
        field = gaussian_filter(rng.normal(size=gain.shape), 6.0)
        light = counts * rng.uniform(0.6, 1.4) * (1.0 + structure * field / field.std())
        yield rng.poisson(np.maximum(light / gain, 0.0)).astype(np.float32)


def estimate(sums):
    sums = list(sums)
    counted = np.sum(sums, axis=0)
    first = invert_gain(counted, np.sum([brightness(s, None, 20.0) for s in sums], axis=0))
    return invert_gain(counted, np.sum([brightness(s, first.gain, 3.0) for s in sums], axis=0))


@pytest.mark.parametrize(("n_movies", "counts"), [(20, 75.0), (40, 20.0), (24, 100.0)])
def test_error_is_that_of_counting(n_movies, counts):
    # structure of 5 % in each movie, of which 1 % is left; 800 to 2400 counts a pixel in all
    gain = true_gain()
    fit = estimate(movie_sums(gain, n_movies, counts))
    error = fit.gain / gain
    error = error / error.mean() - 1.0
    assert error.std() <= 1.3 / np.sqrt(fit.counts)
    assert fit.n_bad == 0


def test_pixels_that_cannot_count_are_marked():
    gain = true_gain()
    sums = list(movie_sums(gain, 10, 100.0))
    for image in sums:
        image[10, 12], image[50, 60] = 0.0, 3e4
    fit = estimate(sums)
    assert fit.n_bad == 2
    assert fit.gain[10, 12] == 0.0
    assert fit.gain[50, 60] == 0.0


@pytest.mark.parametrize("is_inverse", [False, True])
@pytest.mark.parametrize("orientation", range(8))
@pytest.mark.parametrize("shape", [(128, 128), (96, 128)])
def test_orientation_and_kind_of_a_reference_are_found(orientation, is_inverse, shape):
    # contrast 2 %, 150 counts a pixel
    gain = true_gain(shape, contrast=0.02, seed=orientation)
    (counted,) = movie_sums(gain, 1, 150.0)
    lying = gain if not is_inverse else 1.0 / gain
    # the reference lies so that `orientation` brings it back
    back = next(i for i in range(8) if np.array_equal(turn(turn(lying, i), orientation), lying))
    found = find_orientation(counted, turn(lying, back))
    assert (found.orientation, found.is_inverse) == (orientation, is_inverse)
    assert found.is_certain
    assert found.is_identity == (orientation == 0 and not is_inverse)


def test_reference_of_another_camera_is_not_certain():
    (counted,) = movie_sums(true_gain(seed=1), 1, 150.0)
    assert not find_orientation(counted, true_gain(seed=2)).is_certain


def test_reference_of_another_size_is_named():
    with pytest.raises(ValueError, match="64 x 64 pixels, the frames 160 x 144"):
        find_orientation(np.ones(SHAPE, np.float32), np.ones((64, 64), np.float32))


def test_eight_ways_differ():
    image = np.arange(12.0, dtype=np.float32).reshape(3, 4)
    ways = {turn(image, i).tobytes() for i in range(len(ORIENTATIONS))}
    assert len(ways) == 8


def test_quarter_turn_takes_x_to_y():
    image = np.zeros((5, 5), np.float32)
    image[2, 4] = 1.0  # at +x of the middle
    assert turn(image, 1)[4, 2] == 1.0  # at +y


def test_residual_is_what_the_reference_lacks():
    gain = true_gain()
    fit = estimate(movie_sums(gain, 20, 200.0))
    wrong = gain * np.random.default_rng(5).normal(1.0, 0.03, SHAPE).astype(np.float32)
    assert residual_gain(fit, gain)[1] < 0.01
    assert residual_gain(fit, wrong)[1] == pytest.approx(0.03, rel=0.15)


def test_movies_without_counts_are_refused():
    with pytest.raises(ValueError, match="must have counted something"):
        invert_gain(np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32))
