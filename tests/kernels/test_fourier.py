"""Transforms, grids, shifts and Fourier resizing."""

import math

import numpy as np
import pytest
import scipy.signal
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerance import F64, assert_close_to_peak, assert_exact
from verglas.kernels.fourier import (
    fourier_resize2,
    fourier_resize3,
    fourier_shift,
    irfft2,
    irfft3,
    next_fast_size,
    resize_ft,
    rfft2,
    rfft3,
    rfft_grid,
)

SHAPES2 = [(6, 8), (7, 9), (8, 7), (5, 6)]
SHAPES3 = [(4, 6, 8), (5, 7, 6), (6, 5, 9)]


def images(shape, *, n=2, seed=0, dtype=torch.float32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("shape", SHAPES2)
def test_transform_of_images_equals_numpy_about_the_centre(shape, n):
    x = images(shape, n=n)
    expected = np.fft.rfft2(np.fft.ifftshift(x.double().numpy(), axes=(1, 2)))
    images_ft = rfft2(x)
    assert images_ft.dtype == torch.complex64
    assert_close_to_peak(images_ft, expected)


@pytest.mark.parametrize("shape", SHAPES3)
def test_transform_of_volumes_equals_numpy_about_the_centre(shape):
    x = images(shape)
    expected = np.fft.rfftn(np.fft.ifftshift(x.double().numpy(), axes=(1, 2, 3)), axes=(1, 2, 3))
    assert_close_to_peak(rfft3(x), expected)


@pytest.mark.parametrize("shape", SHAPES2 + SHAPES3)
def test_inverse_gives_the_arrays_back(shape):
    x = images(shape)
    forward, backward = (rfft2, irfft2) if len(shape) == 2 else (rfft3, irfft3)
    y = backward(forward(x), shape=shape)
    assert y.dtype == x.dtype
    assert_close_to_peak(y, x)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7)])
def test_centred_point_transforms_to_one_everywhere(shape):
    point = torch.zeros(1, *shape)
    point[0, shape[0] // 2, shape[1] // 2] = 1
    assert_close_to_peak(rfft2(point), np.ones((1, shape[0], shape[1] // 2 + 1)))


def test_forward_is_not_scaled_and_energy_holds():
    x = images((6, 8), dtype=torch.float64)
    images_ft = rfft2(x)
    torch.testing.assert_close(images_ft[:, 0, 0].real, x.sum((1, 2)), **F64)
    weight = torch.tensor([1, 2, 2, 2, 1])
    energy = (images_ft.abs().square() * weight).sum((1, 2)) / 48
    torch.testing.assert_close(energy, x.square().sum((1, 2)), **F64)


def test_batch_equals_loop_and_inputs_stay():
    x = images((6, 7))
    before = x.clone()
    whole = rfft2(x)
    parts = torch.cat([rfft2(x[i : i + 1]) for i in range(len(x))])
    assert_close_to_peak(whole, parts)
    copy = whole.clone()
    irfft2(whole, shape=(6, 7))
    fourier_shift(whole, torch.ones(2, 2), shape=(6, 7), pixel_size_angst=1.0)
    resize_ft(whole, shape=(6, 7), new_shape=(4, 4))
    assert_exact(whole, copy)
    assert_exact(x, before)


def test_gradients_flow_through_transforms_shift_and_resize():
    x = images((5, 6), n=1, dtype=torch.float64).requires_grad_()
    shift = torch.tensor([[0.3, -0.7]], dtype=torch.float64, requires_grad=True)

    def moved(x, shift):
        images_ft = fourier_shift(rfft2(x), shift, shape=(5, 6), pixel_size_angst=1.5)
        small = resize_ft(images_ft, shape=(5, 6), new_shape=(4, 4))
        return irfft2(small, shape=(4, 4))

    assert torch.autograd.gradcheck(moved, (x, shift))


@pytest.mark.parametrize("shape", SHAPES2 + SHAPES3)
def test_grid_holds_numpy_frequencies_with_x_first(shape):
    grid = rfft_grid(shape, 1.7)
    axes = [np.fft.fftfreq(n, d=1.7) for n in shape[:-1]] + [np.fft.rfftfreq(shape[-1], d=1.7)]
    expected = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], axis=-1)
    assert grid.dtype == torch.float32
    np.testing.assert_allclose(grid, expected, rtol=1e-6)


@pytest.mark.parametrize("shape", SHAPES2)
def test_whole_pixel_shift_rolls_the_image(shape):
    x = images(shape)
    shift = torch.tensor([[2.0, -3.0], [-1.0, 1.0]])
    moved = irfft2(
        fourier_shift(rfft2(x), shift * 1.5, shape=shape, pixel_size_angst=1.5), shape=shape
    )
    for i in range(2):
        dx, dy = shift[i].int().tolist()
        assert_close_to_peak(moved[i], torch.roll(x[i], (dy, dx), (0, 1)))


def test_shift_of_a_volume_moves_along_x_y_z():
    x = images((5, 6, 7), n=1)
    shift = torch.tensor([[1.0, 2.0, -1.0]])
    volume_ft = fourier_shift(rfft3(x), shift, shape=(5, 6, 7), pixel_size_angst=1.0)
    moved = irfft3(volume_ft, shape=(5, 6, 7))
    assert_close_to_peak(moved[0], torch.roll(x[0], (-1, 2, 1), (0, 1, 2)))


@settings(max_examples=25, deadline=None)
@given(
    st.integers(3, 9),
    st.integers(3, 9),
    st.lists(st.floats(-20, 20), min_size=4, max_size=4),
)
def test_shifts_add_up(h, w, values):
    a, b = torch.tensor(values, dtype=torch.float64).reshape(2, 1, 2)
    x_ft = rfft2(images((h, w), n=1, dtype=torch.float64))

    def move(images_ft, shift):
        return fourier_shift(images_ft, shift, shape=(h, w), pixel_size_angst=1.3)

    torch.testing.assert_close(move(move(x_ft, a), b), move(x_ft, a + b), rtol=1e-9, atol=1e-9)


def test_large_shift_keeps_float32_accuracy():
    x = images((8, 8), n=1)
    near = fourier_shift(rfft2(x), torch.tensor([[0.25, 0.0]]), shape=(8, 8), pixel_size_angst=1.0)
    far = fourier_shift(
        rfft2(x), torch.tensor([[80000.25, 0.0]]), shape=(8, 8), pixel_size_angst=1.0
    )
    assert_close_to_peak(far[..., :-1], near[..., :-1])


@pytest.mark.parametrize("shape", SHAPES2)
@pytest.mark.parametrize("new", [(10, 12), (4, 5), (9, 4), (11, 6), (5, 7), (12, 13)])
def test_resizing_equals_scipy_resample_about_the_centre(shape, new):
    x = images(shape)
    expected = np.fft.ifftshift(x.double().numpy(), axes=(1, 2))
    for axis, n in enumerate(new, start=1):
        expected = scipy.signal.resample(expected, n, axis=axis)
    expected = np.fft.fftshift(expected, axes=(1, 2))
    resized = fourier_resize2(x, shape=new)
    assert resized.shape == (2, *new)
    assert_close_to_peak(resized, expected)


@pytest.mark.parametrize(("shape", "new"), [((6, 6), (9, 8)), ((7, 8), (7, 12)), ((5, 4), (6, 5))])
def test_padding_then_cropping_gives_the_image_back(shape, new):
    x = images(shape)
    assert_close_to_peak(fourier_resize2(fourier_resize2(x, shape=new), shape=shape), x)


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("m", [4, 5, 12, 13])
def test_resizing_keeps_centre_and_mean_of_a_volume(n, m):
    # a smooth blob centred on voxel n // 2 must stay centred and as bright
    def blob(n):
        axis = (torch.arange(n, dtype=torch.float64) - n // 2) / n
        r2 = axis**2 + axis[:, None] ** 2 + axis[:, None, None] ** 2
        return torch.exp(-60 * r2)[None]

    resized = fourier_resize3(blob(n), shape=(m, m, m))
    torch.testing.assert_close(resized.mean(), blob(n).mean(), rtol=1e-12, atol=0)
    assert int(resized.argmax()) == ((m // 2) * m + m // 2) * m + m // 2
    if m >= n:
        assert_close_to_peak(resized, blob(m), 0.02)


@pytest.mark.parametrize("n", [1, 2, 7, 97, 127, 211, 4001])
def test_fast_size_is_even_smooth_and_smallest(n):
    def is_good(m):
        return m % 2 == 0 and math.gcd(m, 30**20) == m

    assert next_fast_size(n) == next(m for m in range(n, 2 * n + 2) if is_good(m))


def test_wrong_shapes_are_refused():
    x = torch.zeros(2, 6, 6)
    with pytest.raises(ValueError, match="dimensions"):
        rfft2(x[0])
    with pytest.raises(ValueError, match="dimensions"):
        rfft3(x)
    with pytest.raises(ValueError, match="end in shape"):
        irfft2(rfft2(x), shape=(6, 8))
    with pytest.raises(ValueError, match="end in shape"):
        fourier_shift(rfft2(x), torch.zeros(1, 2), shape=(6, 6), pixel_size_angst=1.0)
    with pytest.raises(ValueError, match="new shape"):
        resize_ft(rfft2(x), shape=(6, 6), new_shape=(6,))
    with pytest.raises(ValueError, match="pixel_size_angst"):
        rfft_grid((4, 4), 0.0)
    with pytest.raises(ValueError, match="2 or 3 axes"):
        rfft_grid((4,), 1.0)
