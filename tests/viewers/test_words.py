"""Names, numbers and times as a person reads them."""

import math

import pytest

from verglas.viewers.words import (
    axis_title,
    count_text,
    quantity_text,
    seconds_text,
    title_of,
    value_text,
)


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("fit_res_angst", "Fit resolution"),
        ("max_fit_res_angst", "Largest fit resolution"),
        ("n_classes", "Number of classes"),
        ("ctf", "CTF"),
        ("fsc_05_angst", "FSC at 0.5"),
        ("label", "Label"),
    ],
)
def test_names_become_titles_without_unit(name, title):
    assert title_of(name) == title


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("fit_res_angst", 4.5, "4.5 Å"),
        ("tilt_angle_deg", 30, "30°"),
        ("voltage_kv", 300.0, "300 kV"),
        ("b_factor_angst2", -45.8, "\u221245.8 Å²"),
        ("n_items", 12345, "12\u202f345"),
        ("box_px", None, "not set"),
        ("symmetry", "O", "O"),
        ("invert", True, "yes"),
    ],
)
def test_quantities_carry_their_unit(name, value, text):
    assert quantity_text(name, value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([], "none"),
        (["/d/a.mrc", "/d/b.mrc"], "a.mrc, b.mrc in /d"),
        ([f"/d/{i}.mrc" for i in range(6)], "0.mrc, 1.mrc, … 5.mrc (6 in all) in /d"),
        ([1, 2.5], "1, 2.5"),
        (math.inf, "∞"),
        (math.nan, "none"),
    ],
)
def test_values_are_written_briefly(value, text):
    assert value_text(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.96, "10 s"),
        (75, "1 min 15 s"),
        (3599.6, "1 h 0 min"),
        (7800, "2 h 10 min"),
        (200_000, "2 d 7 h"),
    ],
)
def test_times_have_one_or_two_units(seconds, text):
    assert seconds_text(seconds) == text


def test_counts_have_singular_and_plural():
    assert count_text(1, "micrographs") == "1 micrograph"
    assert count_text(2, "classes2d") == "2 class averages"
    assert count_text(0, "curves") == "0 curves"


def test_axes_show_defocus_in_micrometres():
    assert axis_title("defocus_u_angst") == "defocus u (µm)"
    assert axis_title("fit_res_angst") == "fit resolution (Å)"
    assert axis_title("score") == "score"
