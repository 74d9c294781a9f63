"""Curves, views and spectra: what is read off them, and what their texts say."""

import numpy as np
import pytest

from verglas.viewers.curves import curve_pictures, resolution_at
from verglas.viewers.orientations import direction_density, orientation_picture
from verglas.viewers.plots import Line, Mark, histogram_picture, scatter_picture
from verglas.viewers.spectra import profile_picture, rings_picture

K = np.linspace(0, 0.25, 26)
FALLING = 1 - K / 0.25
FSC = "Fourier shell correlation"


def row(label, y=FALLING, **values):
    return {"label": label, "x_per_angst": K.tolist(), "y": y.tolist(), "y_label": FSC, **values}


def test_resolution_is_interpolated():
    line = Line("x", K, FALLING)
    assert resolution_at(line, 0.5) == pytest.approx(8.0)
    assert resolution_at(line, -0.1) is None
    assert resolution_at(Line("x", K, np.zeros(26)), 0.5) is None


def test_half_maps_are_quoted_after_correction():
    rows = [row("unmasked"), row("masked"), row("corrected", FALLING**2)]
    (picture,) = curve_pictures(rows, "c")
    assert picture.caption == "Corrected: 0.5 at 13.65 Å. Corrected: 0.143 at 6.43 Å."


def test_comparison_with_a_model_is_quoted_at_one_half():
    rows = [row("masked"), row("corrected"), row("half maps corrected")]
    (picture,) = curve_pictures(rows, "c")
    assert picture.caption == "Masked: 0.5 at 8.00 Å. Half maps corrected: 0.143 at 4.67 Å."


def test_kinds_of_curves_are_drawn_apart():
    rows = [
        row("corrected"),
        row("Guinier", y_label="ln amplitude"),
        row("Guinier fit", 3 - 50 * K**2, y_label="ln amplitude"),
        row("change", y_label="degrees", x=[float(i) for i in range(26)], x_label="iteration"),
    ]
    pictures = curve_pictures(rows, "c")
    assert [picture.name for picture in pictures] == ["c-1", "c-2", "c-3"]
    assert "B factor of \u2212200 Å²" in pictures[1].caption


def test_curves_without_points_are_left_out():
    assert curve_pictures([{"label": "x", "x_per_angst": None, "y": None}], "c") == []
    assert curve_pictures([row("x", np.zeros(1))], "c") == []


def test_uniform_views_have_density_one():
    n = 20_000
    golden = np.pi * (3 - np.sqrt(5))
    rot = np.rad2deg(golden * np.arange(n)) % 360 - 180
    tilt = np.rad2deg(np.arccos(1 - 2 * (np.arange(n) + 0.5) / n))
    assert direction_density(rot, tilt, width_deg=10.0) == pytest.approx(1.0, abs=0.02)


def test_one_view_is_seen_where_it_is():
    density = direction_density(np.array([90.0]), np.array([30.0]), width_deg=8.0)
    latitude, longitude = np.unravel_index(density.argmax(), density.shape)
    n_latitude, n_longitude = density.shape
    assert (longitude + 0.5) * 360 / n_longitude - 180 == pytest.approx(90, abs=5)
    assert 90 - ((latitude + 0.5) * 180 / n_latitude - 90) == pytest.approx(30, abs=5)


def test_symmetry_is_noted_with_the_views():
    angles = np.array([10.0, 50.0]), np.array([20.0, 90.0])
    assert "symmetry O" in orientation_picture(*angles, "o", symmetry="O").caption
    assert "symmetry" not in orientation_picture(*angles, "o", symmetry="C1").caption


def test_numbers_are_drawn_with_gaps_and_marks():
    values = {"micrographs": np.array([1.0, np.nan, 3.0]), "rejected": np.array([])}
    assert "Median 2" in histogram_picture(values, "fit_res_angst", "h").caption
    points = {"a": (np.array([1e4, 2e4]), np.array([4.0, np.nan]))}
    columns = ("defocus_u_angst", "fit_res_angst")
    picture = scatter_picture(points, columns, "s", marks=[Mark(1e4, 4.0, "why")])
    assert "defocus u (µm)" in picture.svg
    assert "why" in picture.svg


def test_many_shifts_become_a_density():
    shifts = np.random.default_rng(0).normal(0, 3, (2, 6000))
    columns = ("shift_x_angst", "shift_y_angst")
    picture = scatter_picture({"p": (shifts[0], shifts[1])}, columns, "s")
    assert picture.caption == "Root mean square 4.2 Å."
    assert len(picture.svg) < 200_000


def test_spectra_say_how_far_the_rings_reach():
    spectrum = np.full((61, 61), 128.0)
    rings = rings_picture(spectrum, "r", highest_per_angst=0.3, fit_res_angst=4.26, title="m1")
    assert "fitted to 4.3 Å" in rings.alt
    k = np.linspace(0.03, 0.3, 100)
    profile = profile_picture(k, "p", power=0 * k, ctf2=np.sin(900 * k**2) ** 2, title="m1")
    assert profile.caption == "Radial profile of m1 against the fitted CTF."
