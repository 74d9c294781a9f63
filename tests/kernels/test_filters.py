"""Isotropic filters."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.kernels.filters import (
    apply_b_factor,
    band_pass,
    filter_by_shell,
    gaussian,
    high_pass,
    low_pass,
    low_pass_weights,
    whiten,
)
from verglas.kernels.fsc import shell_average

SHAPES = [(32, 32), (31, 33), (24, 40), (12, 12, 12), (11, 11, 11)]
PASS = {"resolution_angst": 6.0, "pixel_size_angst": 1.5}
FILTERS = {
    "low": lambda x: low_pass(x, **PASS),
    "high": lambda x: high_pass(x, **PASS),
    "band": lambda x: band_pass(
        x, low_resolution_angst=20.0, high_resolution_angst=6.0, pixel_size_angst=1.5
    ),
    "gaussian": lambda x: gaussian(x, sigma_angst=2.0, pixel_size_angst=1.5),
    "b_factor": lambda x: apply_b_factor(x, b_factor_angst2=50.0, pixel_size_angst=1.5),
    "curve": lambda x: filter_by_shell(x, torch.tensor([[1.0, 0.5, 0.25]])),
}


def noise(shape, *, n=2, seed=0):
    return 1 + torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


def wave(shape, cycles):
    """A cosine with whole numbers of cycles along x."""
    x = torch.arange(shape[-1]) / shape[-1]
    return torch.cos(2 * torch.pi * cycles * x).expand(1, *shape).clone()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_shape_and_are_linear_and_work_item_by_item(name, shape):
    x, apply = noise(shape), FILTERS[name]
    before = x.clone()
    y = apply(x)
    assert y.shape == x.shape
    assert y.dtype == x.dtype
    assert_close_to_peak(apply(3 * x), 3 * y, 2e-5)
    assert_close_to_peak(torch.cat([apply(x[:1]), apply(x[1:])]), y)
    assert_exact(x, before)


@pytest.mark.parametrize("shape", [(32, 32), (12, 12, 12)])
@pytest.mark.parametrize("name", FILTERS)
def test_filters_keep_the_centre_of_a_point(name, shape):
    point = torch.zeros(1, *shape)
    centre = tuple(n // 2 for n in shape)
    point[(0, *centre)] = 1
    y = FILTERS[name](point)
    assert np.unravel_index(int(y.argmax()), y.shape[1:]) == centre
    torch.testing.assert_close(y.movedim(-1, 1), y)


@pytest.mark.parametrize(("cycles", "gain"), [(0, 1), (8, 1), (17, 1), (20, 0.5), (23, 0), (30, 0)])
def test_low_pass_keeps_halves_and_removes_waves(cycles, gain):
    # 80 pixels of 1.5 Å: 6 Å is 20 cycles, the edge runs from 17.5 to 22.5
    x = wave((80, 80), cycles)
    assert (low_pass(x, **PASS) - gain * x).abs().max() < 1e-5
    assert (high_pass(x, **PASS) - (1 - gain) * x).abs().max() < 1e-5


def test_low_pass_of_coarse_detail_still_keeps_the_mean():
    x = noise((16, 16))
    y = low_pass(x, resolution_angst=1000.0, pixel_size_angst=1.0)
    torch.testing.assert_close(y.mean((1, 2)), x.mean((1, 2)))
    assert y.std((1, 2)).max() < 1e-3
    assert low_pass_weights((16, 16), resolution_angst=1000.0, pixel_size_angst=1.0)[0, 0] == 1


def test_hard_edge_is_allowed():
    weights = low_pass_weights((16, 16), resolution_angst=3.0, pixel_size_angst=1.0, edge_px=0)
    assert set(weights.unique().tolist()) <= {0.0, 1.0}


def test_band_pass_is_the_difference_of_low_passes_far_apart():
    x = noise((64, 64))
    y = band_pass(x, low_resolution_angst=12.0, high_resolution_angst=4.0, pixel_size_angst=1.0)
    fine = low_pass(x, resolution_angst=4.0, pixel_size_angst=1.0)
    coarse = low_pass(x, resolution_angst=12.0, pixel_size_angst=1.0)
    assert_close_to_peak(y, fine - coarse)
    with pytest.raises(ValueError, match="must exceed"):
        band_pass(x, low_resolution_angst=4.0, high_resolution_angst=12.0, pixel_size_angst=1.0)


def test_gaussian_equals_scipy():
    x = noise((40, 40), n=1)
    expected = ndimage.gaussian_filter(x[0].double().numpy(), 2.0, mode="wrap", truncate=8)
    y = gaussian(x, sigma_angst=3.0, pixel_size_angst=1.5)
    # scipy samples the kernel in real space; at 2 pixels the difference is small
    assert_close_to_peak(y[0], expected, 1e-4)
    assert_close_to_peak(gaussian(x, sigma_angst=0.0, pixel_size_angst=1.5), x)


def test_b_factor_scales_each_wave_and_is_undone_by_its_negative():
    x = wave((40, 40), 10)
    k = 10 / 60
    y = apply_b_factor(x, b_factor_angst2=50.0, pixel_size_angst=1.5)
    assert_close_to_peak(y, x * np.exp(-50 * k**2 / 4))
    assert_close_to_peak(apply_b_factor(y, b_factor_angst2=-50.0, pixel_size_angst=1.5), x)


@pytest.mark.parametrize("shape", [(32, 32), (31, 31), (24, 40), (12, 12, 12)])
def test_whitened_arrays_have_a_flat_spectrum_of_one(shape):
    x = gaussian(noise(shape), sigma_angst=0.6, pixel_size_angst=1.0)
    y = whiten(x)
    assert y.mean().abs() < 1e-5
    axes = tuple(range(1, x.ndim))
    power = torch.fft.rfftn(y, dim=axes).abs().square() / np.prod(shape)
    n_shells = min(shape) // 2 + 1
    profile = shell_average(power, shape=shape, n_shells=n_shells)[:, 1:]
    torch.testing.assert_close(profile, torch.ones_like(profile), rtol=1e-4, atol=0)


def test_whitening_leaves_empty_shells_empty():
    y = whiten(wave((16, 16), 3))
    assert torch.isfinite(y).all()
    assert torch.isfinite(whiten(torch.zeros(1, 8, 8))).all()
    power = torch.fft.rfft2(y).abs().square()
    assert power[0, 0, 3] > 1e3 * power[0, 0, 6]


def test_curve_over_shells_is_interpolated_and_held_at_its_end():
    for cycles, gain in ((0, 1.0), (1, 0.5), (2, 0.0), (3, 0.25), (7, 0.25)):
        x = wave((16, 16), cycles)
        y = filter_by_shell(x, torch.tensor([[1.0, 0.5, 0.0, 0.25]]))
        assert (y - gain * x).abs().max() < 1e-6
    two = filter_by_shell(noise((8, 8)), torch.tensor([[1.0], [0.0]]))
    assert_close_to_peak(two[0], noise((8, 8))[0])
    assert (two[1] == 0).all()


def test_gradients_are_right():
    x = noise((5, 6), n=1).double().requires_grad_()
    for name in ("low", "high", "gaussian", "b_factor"):
        assert torch.autograd.gradcheck(FILTERS[name], x, atol=1e-4)


def test_wrong_arguments_are_refused():
    with pytest.raises(ValueError, match=r"\[b, h, w\]"):
        low_pass(torch.zeros(4, 4), **PASS)
    with pytest.raises(ValueError, match="resolution_angst"):
        low_pass(noise((4, 4)), resolution_angst=0.0, pixel_size_angst=1.0)
    with pytest.raises(ValueError, match="pixel_size_angst"):
        gaussian(noise((4, 4)), sigma_angst=1.0, pixel_size_angst=-1.0)
    with pytest.raises(ValueError, match="weights"):
        filter_by_shell(noise((4, 4)), torch.ones(3, 4))
