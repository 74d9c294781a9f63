import numpy as np
import pytest

from verglas.core.checks import check_cubic, check_ndim, check_range, check_same_shape

IMAGE = np.zeros((2, 8, 6))


def test_good_arrays_pass():
    check_ndim("images", IMAGE, 3)
    check_cubic("volumes", np.zeros((1, 4, 4, 4)), n_axes=3)
    check_same_shape("a", IMAGE, "b", IMAGE + 1)


def test_wrong_number_of_dimensions_is_named():
    with pytest.raises(ValueError, match=r"images must have 4 dimensions: got shape \(2, 8, 6\)"):
        check_ndim("images", IMAGE, 4)


def test_oblong_image_is_not_square():
    with pytest.raises(ValueError, match=r"images must be square: got shape \(2, 8, 6\)"):
        check_cubic("images", IMAGE, n_axes=2)


def test_too_few_axes_are_not_cubic():
    with pytest.raises(ValueError, match="volume must be cubic"):
        check_cubic("volume", np.zeros((4, 4)), n_axes=3)


def test_different_shapes_are_both_named():
    with pytest.raises(ValueError, match=r"a and b .* got \(2, 8, 6\) and \(2, 8\)"):
        check_same_shape("a", IMAGE, "b", IMAGE[..., 0])


@pytest.mark.parametrize(
    ("bounds", "value"),
    [
        ({"gt": 0}, 0.0),
        ({"ge": 0}, -1e-9),
        ({"lt": 1}, 1.0),
        ({"le": 1}, 1.1),
        ({}, float("nan")),
        ({"ge": 0}, float("inf")),
    ],
)
def test_number_out_of_range_raises(bounds, value):
    with pytest.raises(ValueError, match="voltage_kv must be"):
        check_range("voltage_kv", value, **bounds)


def test_message_says_what_was_expected():
    with pytest.raises(ValueError, match=r"w must be >= 0 and < 1: got 2$"):
        check_range("w", 2, ge=0, lt=1)


def test_ends_that_are_allowed_pass():
    check_range("w", 0, ge=0, le=1)
    check_range("w", 1, ge=0, le=1)
