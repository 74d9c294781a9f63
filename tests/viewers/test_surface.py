"""Surfaces of maps: what is seen, from where, and at which level."""

import numpy as np
import pytest

from verglas.viewers.maps import slices_picture, surface_picture
from verglas.viewers.surface import (
    VIEWS,
    Surface,
    choose_level,
    shrink_volume,
    view_matrix,
    without_dust,
)

N = 48
AXIS = np.arange(N) - N // 2
Z, Y, X = np.meshgrid(AXIS, AXIS, AXIS, indexing="ij")


def ball(x=0.0, y=0.0, z=0.0, radius=12.0):
    """A smooth ball; 0.5 lies on its surface."""
    distance = np.sqrt((X - x) ** 2 + (Y - y) ** 2 + (Z - z) ** 2)
    return (1 / (1 + np.exp(distance - radius))).astype(np.float32)


def test_outline_of_a_ball_has_its_area():
    picture = np.asarray(Surface(ball(), level=0.5).render(side_px=96))
    area = np.count_nonzero(picture[..., 3]) / 4
    assert area == pytest.approx(np.pi * 12**2, rel=0.02)


@pytest.mark.parametrize("angles", [angles for _, angles in VIEWS])
def test_point_appears_where_the_convention_says(angles):
    """A point at r in the reference lies at `matrix @ r` in the view, y upwards."""
    place = np.array([9.0, -4.0, 6.0])
    x, y, _ = view_matrix(*angles) @ place
    volume = ball(*place, radius=5.0)
    picture = np.asarray(Surface(volume, level=0.5).render(angles, side_px=96))
    rows, columns = np.nonzero(picture[..., 3])
    assert (columns.mean() - 47.5) / 2 == pytest.approx(x, abs=0.4)
    assert (47.5 - rows.mean()) / 2 == pytest.approx(y, abs=0.4)


def test_view_matrix_has_the_row_of_the_convention():
    rot, tilt = np.deg2rad(30.0), np.deg2rad(50.0)
    expected = [np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)]
    assert view_matrix(30.0, 50.0, 15.0)[2] == pytest.approx(expected)


def test_nearer_ball_hides_the_other():
    both = Surface(ball(z=12, radius=8) + ball(z=-12, radius=5), level=0.5).render(side_px=96)
    alone = Surface(ball(z=12, radius=8), level=0.5).render(side_px=96)
    assert np.array_equal(np.asarray(both), np.asarray(alone))


def test_level_lies_between_particle_and_noise():
    noise = np.random.default_rng(1).normal(0, 0.05, (N,) * 3)
    level = choose_level(ball() + noise, pixel_size_angst=3.0)
    assert 4 * 0.05 < level < 1.0


def test_level_of_a_flat_map_is_a_number():
    assert np.isfinite(choose_level(np.zeros((16,) * 3, np.float32), pixel_size_angst=1.0))


def test_dust_goes_and_the_particle_stays():
    volume = ball(radius=10) + ball(x=20, radius=0.8)
    clean, radius = without_dust(volume, 0.4)
    assert radius == pytest.approx(10.5, abs=1.0)
    centre = clean.shape[0] // 2
    assert clean[centre, centre, centre] == volume[N // 2, N // 2, N // 2]


def test_shrinking_keeps_centre_and_grey_values():
    small, wider = shrink_volume(ball(x=8.0), 24)
    assert (small.shape, wider) == ((24,) * 3, 2.0)
    weight = np.clip(small, 0, None)
    x = (weight.sum(axis=(0, 1)) * (np.arange(24) - 12)).sum() / weight.sum()
    assert 2 * x == pytest.approx(8.0, abs=0.2)
    assert small.max() == pytest.approx(1.0, abs=0.1)


def test_pictures_of_a_map_are_made_with_and_without_mask():
    mask = ball(radius=16)
    for given in (None, mask):
        surface = surface_picture(ball(), "s", pixel_size_angst=2.0, mask=given)
        slices = slices_picture(ball(), "c", pixel_size_angst=2.0, mask=given)
        assert surface.caption.startswith("Surface at a grey value")
        assert ("mask" in slices.caption) == (given is not None)


def test_flat_map_is_drawn():
    flat = np.zeros((16, 16, 16), np.float32)
    assert surface_picture(flat, "s", pixel_size_angst=1.0).caption == "The map is flat."
    assert slices_picture(flat, "c", pixel_size_angst=1.0).png
