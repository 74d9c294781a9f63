"""Cutting and normalising boxes."""

import numpy as np
import pytest
import torch

from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.kernels.crop import level_boxes, normalise_boxes, remove_dust, window_boxes


def noise(shape, *, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def far_from_centre(n, radius):
    y, x = np.mgrid[:n, :n] - n // 2
    return np.hypot(x, y) > radius


@pytest.mark.parametrize("box", [4, 5])
def test_boxes_are_centred_on_x_y_and_inside(box):
    image = torch.arange(600.0).reshape(20, 30)
    centres = torch.tensor([[10, 7], [3, 17], [2, 2]])
    boxes, is_inside = window_boxes(image, centres, box=box)
    assert boxes.shape == (3, box, box)
    assert is_inside.all()
    for i, (x, y) in enumerate(centres.tolist()):
        assert boxes[i, box // 2, box // 2] == image[y, x]
        top, left = y - box // 2, x - box // 2
        assert_exact(boxes[i], image[top : top + box, left : left + box])


@pytest.mark.parametrize("box", [4, 5])
def test_boxes_over_the_border_repeat_it_and_are_reported(box):
    image = noise((9, 11))
    centres = torch.tensor([[0, 4], [10, 8], [5, -3], [-40, 50], [5, 4], [2, 2], [1, 2]])
    boxes, is_inside = window_boxes(image, centres, box=box)
    padded = np.pad(image.numpy(), 70, mode="edge")
    for i, (x, y) in enumerate(centres.tolist()):
        top, left = y + 70 - box // 2, x + 70 - box // 2
        assert_exact(boxes[i], padded[top : top + box, left : left + box])
    assert_exact(is_inside, [False, False, False, False, True, True, False])


def test_no_centres_give_no_boxes_and_the_image_stays():
    image = noise((9, 9))
    before = image.clone()
    boxes, is_inside = window_boxes(image, torch.zeros(0, 2, dtype=torch.int64), box=4)
    assert boxes.shape == (0, 4, 4)
    assert is_inside.shape == (0,)
    assert_exact(image, before)


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("n_batch", [1, 3])
def test_background_of_normalised_boxes_is_flat_with_unit_deviation(n, n_batch):
    y, x = np.mgrid[:n, :n] / n
    ramp = torch.from_numpy(500 + 20 * x - 30 * y).float()
    images = 4 * noise((n_batch, n, n)) + ramp
    images[:, n // 2 - 5 : n // 2 + 5, n // 2 - 5 : n // 2 + 5] += 50
    normal = normalise_boxes(images, radius_px=12)
    assert normal.dtype == torch.float32
    background = far_from_centre(n, 12)
    values = normal.double().numpy()[:, background]
    np.testing.assert_allclose(values.mean(1), 0, atol=1e-5)
    np.testing.assert_allclose(values.std(1), 1, rtol=1e-5)
    slopes = np.polynomial.polynomial.polyfit(x[background], values.T, 1)[1]
    np.testing.assert_allclose(slopes, 0, atol=0.3)
    # the particle stands out by its height in standard deviations
    assert normal[:, n // 2, n // 2].mean().item() == pytest.approx(50 / 4, abs=2)


def test_plane_equals_a_float64_least_squares_fit():
    n, radius = 24, 8
    images = noise((2, n, n)).cumsum(2) + 1000
    y, x = np.mgrid[:n, :n]
    design = np.stack([np.ones_like(x), x, y], axis=-1).reshape(-1, 3).astype(float)
    background = far_from_centre(n, radius).ravel()
    for i in range(2):
        flat = images[i].double().numpy().ravel()
        fit = np.linalg.lstsq(design[background], flat[background], rcond=None)[0]
        residual = flat - design @ fit
        expected = (residual / residual[background].std()).reshape(n, n)
        assert_close_to_peak(normalise_boxes(images, radius_px=radius)[i], expected, 1e-4)


def test_without_ramp_only_the_level_goes():
    images = noise((2, 16, 16)) + torch.arange(16.0)
    normal = normalise_boxes(images, radius_px=5, ramp=False)
    background = far_from_centre(16, 5)
    values = images.double().numpy()[:, background]
    scale = values.std(1)[:, None, None]
    expected = (images.numpy() - values.mean(1)[:, None, None]) / scale
    assert_close_to_peak(normal, expected)


def test_constant_boxes_stay_finite():
    assert_exact(normalise_boxes(torch.full((1, 8, 8), 7.0), radius_px=2), np.zeros((1, 8, 8)))


def test_normalising_twice_changes_nothing_and_works_item_by_item():
    images = 3 * noise((2, 20, 20)) + 5
    before = images.clone()
    once = normalise_boxes(images, radius_px=6)
    assert_close_to_peak(normalise_boxes(once, radius_px=6), once)
    alone = torch.cat([normalise_boxes(images[i : i + 1], radius_px=6) for i in range(2)])
    assert_close_to_peak(alone, once)
    assert_exact(images, before)


def test_dust_is_replaced_and_the_rest_stays():
    images = noise((2, 32, 32))
    images[0, 3, 4], images[1, 5, 6] = 1000, -800
    clean = remove_dust(
        images,
        n_sigma_bright=6,
        n_sigma_dark=float("inf"),
        generator=torch.Generator().manual_seed(1),
    )
    changed = clean != images
    assert changed.sum() == 1
    assert changed[0, 3, 4]
    again = remove_dust(
        images,
        n_sigma_bright=6,
        n_sigma_dark=6,
        generator=torch.Generator().manual_seed(1),
    )
    assert (again != images).sum() == 2
    assert_exact(again[0], clean[0])


def test_wrong_arguments_are_refused():
    image = noise((8, 8))
    with pytest.raises(ValueError, match="whole numbers"):
        window_boxes(image, torch.zeros(1, 2), box=4)
    with pytest.raises(ValueError, match="whole numbers"):
        window_boxes(image, torch.zeros(2, dtype=torch.int64), box=4)
    with pytest.raises(ValueError, match="dimensions"):
        window_boxes(image[None], torch.zeros(1, 2, dtype=torch.int64), box=4)
    with pytest.raises(ValueError, match="background pixels"):
        normalise_boxes(image[None], radius_px=100)


@pytest.mark.parametrize("box", [24, 25])
@pytest.mark.parametrize("ramp", [True, False])
def test_levelled_boxes_equal_windows_less_their_plane(box, ramp):
    """The compiled loops (float32) against the formulas on tensors (float64)."""
    image = 300 + 5 * noise((70, 80)) + torch.arange(80.0)
    centres = torch.tensor([[40, 30], [box // 2, box // 2], [79 - (box - 1) // 2, 50]])
    arguments = {"box": box, "radius_px": 9.3, "ramp": ramp}
    found = level_boxes(image, centres, **arguments)
    expected = level_boxes(image.double(), centres, **arguments)
    windows, _ = window_boxes(image.double(), centres, box=box)
    background = windows[:, far_from_centre(box, 9.3)]
    assert_close_to_peak(found.boxes, expected.boxes)
    assert_close_to_peak(found.background_mean, background.mean(1), 1e-6)
    assert_close_to_peak(found.background_std, background.std(1, correction=0), 1e-6)
    if not ramp:
        level = background.mean(1)[:, None, None]
        assert_close_to_peak(found.boxes, windows - level)


def test_compiled_normalisation_equals_the_formulas_on_tensors():
    images = 1000 + 3 * noise((3, 31, 31)).cumsum(1)
    found = normalise_boxes(images, radius_px=11)
    assert_close_to_peak(found, normalise_boxes(images.double(), radius_px=11), 1e-4)


def test_a_box_that_leaves_the_image_is_refused_when_levelled():
    with pytest.raises(ValueError, match="must lie in the image"):
        level_boxes(noise((20, 20)), torch.tensor([[3, 10]]), box=8, radius_px=2)
