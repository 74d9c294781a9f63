"""Numbers and times as people read them."""

import pytest

from verglas.cli._words import duration_text, metric_text, number_text, rate_text, value_text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.94, "9.9 s"),
        (12.4, "12 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (200, "3 min 20 s"),
        (7500, "2 h 05 min"),
    ],
)
def test_duration(seconds, text):
    assert duration_text(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3"),
        (3.0, "3"),
        (1.5, "1.5"),
        (0.98765, "0.9877"),
        (7.123456, "7.123"),
        (19500.25, "19500"),
        (1e-7, "1e-07"),
        (float("nan"), "nan"),
    ],
)
def test_number(value, text):
    assert number_text(value) == text


def test_slow_rate_is_told_as_time_per_item():
    assert rate_text(12.3) == "12/s"
    assert rate_text(0.25) == "4.0 s each"


def test_metric_has_its_unit():
    assert metric_text("resolution_angst", 7.1234) == "resolution 7.123 Å"
    assert metric_text("n_particles", 2000.0) == "n particles 2000"


def test_long_values_are_cut():
    assert len(value_text("x" * 200)) == 60
    assert value_text(None) == ""
    assert value_text(True) == "True"
