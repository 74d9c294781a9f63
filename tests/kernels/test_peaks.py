"""Local maxima and greedy exclusion."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerance import assert_exact
from verglas.kernels.filters import gaussian
from verglas.kernels.peaks import exclude_neighbours, find_peaks


def spots(shape, centres_xy, heights, sigma=2.0):
    y, x = np.mgrid[: shape[0], : shape[1]]
    image = np.zeros(shape)
    for (cx, cy), height in zip(centres_xy, heights, strict=True):
        image += height * np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / (2 * sigma**2))
    return torch.from_numpy(image).float()[None]


def greedy(points, scores, distance):
    """One by one, as the definition says."""
    kept = []
    for i in np.argsort(-scores, kind="stable"):
        if all(np.hypot(*(points[i] - points[j])) >= distance for j in kept):
            kept.append(i)
    return np.array(kept, dtype=int)


def test_peaks_are_found_to_a_fraction_of_a_pixel_best_first():
    centres = [(10.3, 20.6), (40.0, 8.25), (25.5, 44.9)]
    peaks = find_peaks(spots((60, 50), centres, [1, 3, 2]), min_distance_px=5, threshold=0.5)
    assert_exact(peaks.map_index, [0, 0, 0])
    np.testing.assert_allclose(peaks.position_px, [centres[i] for i in (1, 2, 0)], atol=0.03)
    assert peaks.score.tolist() == sorted(peaks.score.tolist(), reverse=True)
    # a parabola through a Gaussian is off by a few hundredths of a pixel
    assert peaks.position_px.dtype == torch.float64


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30), st.integers(0, 5)), max_size=40),
    st.floats(0.5, 12),
)
def test_rounds_give_what_the_one_by_one_loop_gives(rows, distance):
    table = np.array(rows, dtype=float).reshape(-1, 3)
    points, scores = table[:, :2], table[:, 2]
    kept = exclude_neighbours(points, scores, min_distance_px=distance)
    assert_exact(kept, greedy(points, scores, distance))


def test_a_large_noise_map_equals_the_one_by_one_loop():
    scores = gaussian(
        torch.randn(1, 120, 150, generator=torch.Generator().manual_seed(0)),
        sigma_angst=1.5,
        pixel_size_angst=1.0,
    )
    peaks = find_peaks(scores, min_distance_px=9, threshold=0.0)
    everything = find_peaks(scores, min_distance_px=0, threshold=0.0)
    points = everything.position_px.round().numpy()
    kept = greedy(points, everything.score.numpy(), 9)
    # rounding a refined position may give the next pixel, so positions are compared loosely
    assert len(kept) == pytest.approx(len(peaks.score), abs=2)
    distance = np.linalg.norm(
        peaks.position_px.numpy()[:, None] - peaks.position_px.numpy(), axis=-1
    )
    np.fill_diagonal(distance, 99)
    assert distance.min() > 9 - 1.5


def test_points_at_the_radius_itself_may_both_stay():
    points = np.array([[0.0, 0.0], [5.0, 0.0], [9.9, 0.0]])
    kept = exclude_neighbours(points, np.array([3.0, 2.0, 1.0]), min_distance_px=5)
    assert_exact(kept, [0, 1])


def test_a_point_beaten_by_a_dropped_one_stays():
    points = np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 0.0]])
    kept = exclude_neighbours(points, np.array([3.0, 2.0, 1.0]), min_distance_px=5)
    assert_exact(kept, [0, 2])


def test_threshold_border_and_number_limit_what_is_found():
    image = spots((40, 40), [(3, 20), (20, 20), (30, 30)], [3, 2, 1])
    options = {"min_distance_px": 4.0, "threshold": 0.5}
    assert len(find_peaks(image, **options).score) == 3
    assert len(find_peaks(image, **options, border_px=5).score) == 2
    assert len(find_peaks(image, **options, max_peaks=1).score) == 1
    assert len(find_peaks(image, min_distance_px=4.0, threshold=1.5).score) == 2
    assert len(find_peaks(image, min_distance_px=4.0, threshold=9.0).score) == 0


def test_maps_of_a_batch_do_not_compete():
    first, second = spots((30, 30), [(10, 10)], [1]), spots((30, 30), [(11, 10), (20, 25)], [2, 1])
    peaks = find_peaks(torch.cat([first, second]), min_distance_px=6, threshold=0.5)
    assert_exact(peaks.map_index, [0, 1, 1])
    alone = find_peaks(second, min_distance_px=6, threshold=0.5)
    assert_exact(peaks.position_px[1:], alone.position_px)


def test_plateaus_borders_and_missing_pixels_do_no_harm():
    flat = torch.ones(1, 12, 12)
    peaks = find_peaks(flat, min_distance_px=100, threshold=0.5)
    assert len(peaks.score) == 1
    assert torch.isfinite(peaks.position_px).all()
    corner = torch.zeros(1, 8, 8)
    corner[0, 0, 7] = 1
    assert_exact(find_peaks(corner, min_distance_px=3, threshold=0.5).position_px, [[7, 0]])
    holes = spots((20, 20), [(10, 10)], [1])
    holes[0, 3, 3], holes[0, 10, 12] = torch.nan, torch.inf
    found = find_peaks(holes, min_distance_px=1, threshold=0.5)
    assert torch.isfinite(found.score).all()


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match="dimensions"):
        find_peaks(torch.zeros(4, 4), min_distance_px=1, threshold=0)
    with pytest.raises(ValueError, match="min_distance_px"):
        find_peaks(torch.zeros(1, 4, 4), min_distance_px=-1, threshold=0)
