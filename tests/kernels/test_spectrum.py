"""Periodograms, averages over rings and bins, and smooth backgrounds."""

import numpy as np
import pytest
import scipy.signal
import torch
from scipy import ndimage

from tests.tolerance import STAT, assert_close_to_peak, assert_exact
from verglas.kernels.filters import gaussian
from verglas.kernels.spectrum import (
    average_periodogram,
    bin_average,
    box_background,
    radial_average,
    spline_background,
    tile_periodograms,
)


def noise(shape, *, n=1, seed=0):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("window", ["hann", "none"])
@pytest.mark.parametrize("tile", [32, 33])
def test_white_noise_is_flat_at_its_variance(tile, window):
    power = average_periodogram(3 * noise((400, 500)) + 100, tile_px=tile, window=window)
    profile = radial_average(power)[0]
    # means and their neighbours, which the window mixes with them, are removed
    assert profile[3:].mean().item() == pytest.approx(9, rel=0.01)
    assert (profile[3:] - 9).abs().max() < 0.6


@pytest.mark.parametrize("n_batch", [1, 2])
def test_each_tile_equals_a_scipy_periodogram(n_batch):
    images = noise((70, 64), n=n_batch)
    tiles = tile_periodograms(images, tile_px=32, step_px=16)
    assert tiles.shape == (n_batch, 4, 3, 32, 17)
    window = np.hanning(33)[:32]
    window = window[:, None] * window
    for row, top in enumerate((0, 13, 25, 38)):
        tile = images[-1, top : top + 32, 16:48].double().numpy()
        spectrum = np.abs(np.fft.rfft2((tile - tile.mean()) * window)) ** 2
        expected = spectrum / (32**2 * (window**2).mean())
        assert_close_to_peak(tiles[-1, row, 1], expected)


def test_average_is_the_mean_of_the_tiles():
    images = noise((70, 90), n=2)
    tiles = tile_periodograms(images, tile_px=24, step_px=12)
    assert_close_to_peak(average_periodogram(images, tile_px=24), tiles.mean((1, 2)))
    whole = average_periodogram(images[:, :24, :24], tile_px=24, step_px=24)
    assert_close_to_peak(whole, tiles[:, 0, 0])


def test_profile_of_a_row_equals_scipy_welch():
    # one row of noise repeated: all power lies at ky = 0, tiles as scipy cuts them
    row = noise((512,))[0]
    images = row.expand(1, 64, 512)
    power = average_periodogram(images, tile_px=64, window="none")[0, 0]
    _, expected = scipy.signal.welch(
        row.numpy(), window="boxcar", nperseg=64, noverlap=32, return_onesided=False
    )
    # 64 equal rows put 64 times the power of one row on ky = 0
    assert_close_to_peak(power[1:32] / 64, expected[1:32])


def test_tiles_cover_the_image_to_its_border():
    images = torch.zeros(1, 50, 50)
    images[0, -1, -1] = 1
    assert tile_periodograms(images, tile_px=16, step_px=8, window="none")[0, -1, -1].sum() > 0


def test_ring_average_counts_the_left_out_half():
    power = torch.zeros(1, 6, 4)
    power[0, 1, 0], power[0, 5, 0], power[0, 0, 1] = 1, 1, 5
    # the ring of radius 1 holds (0, 1), (0, -1), and (1, 0) with its mate, and the diagonals
    assert radial_average(power)[0, 1].item() == pytest.approx((1 + 1 + 5 + 5) / 8)
    assert radial_average(power, n_shells=2).shape == (1, 2)


def test_bins_average_what_falls_in_them():
    values = torch.tensor([[1.0, 2.0, 3.0, 4.0, 50.0, 60.0], [1, 1, 1, 1, 1, 7]])
    positions = torch.tensor([[0.2, 0.4, 1.4, 0.6, 9.0, torch.nan], [2, 2, 2, 2, -1, 2.2]])
    mean, count = bin_average(values, positions, n_bins=3)
    assert_exact(count, [[2, 2, 0], [0, 0, 5]])
    np.testing.assert_allclose(mean, [[1.5, 3.5, 0], [0, 0, 2.2]])
    assert mean.dtype == torch.float64
    with pytest.raises(ValueError, match="shapes differ"):
        bin_average(values, positions[:1], n_bins=3)


@pytest.mark.parametrize("n", [16, 17])
@pytest.mark.parametrize("width", [1, 3, 9])
def test_box_background_equals_scipy_on_the_whole_plane(n, width):
    image = gaussian(noise((n, n)), sigma_angst=1.0, pixel_size_angst=1.0)
    whole = torch.fft.fft2(image).abs().square()
    expected = ndimage.uniform_filter(whole[0].double().numpy(), width, mode="wrap")
    smooth = box_background(whole[..., : n // 2 + 1], width_px=width)
    assert smooth.dtype == torch.float32
    assert_close_to_peak(smooth[0], expected[:, : n // 2 + 1])


def test_spline_reproduces_a_cubic_and_smooths_a_ripple():
    x = torch.linspace(0, 1, 200, dtype=torch.float64)
    cubic = 2 - x + 3 * x**2 - 5 * x**3
    profiles = torch.stack([cubic, cubic + 0.5 * torch.cos(2 * torch.pi * 30 * x)])
    fit = spline_background(profiles, n_knots=5)
    torch.testing.assert_close(fit[0], cubic, rtol=0, atol=1e-9)
    assert (fit[1] - cubic)[10:-10].abs().max() < 0.05


def test_spline_starts_where_told():
    profile = torch.ones(1, 50)
    profile[0, :5] = 1000
    fit = spline_background(profile, n_knots=3, first=5)
    assert fit.dtype == torch.float32
    torch.testing.assert_close(fit, torch.ones(1, 50), rtol=0, atol=1e-5)


def test_spline_averages_noise():
    fit = spline_background(noise((1000,), n=20), n_knots=4)
    # seven coefficients from 1000 samples: variance 7 / 1000
    assert fit.square().mean().item() == pytest.approx(0.007, rel=STAT * (2 / 140) ** 0.5)


def test_inputs_stay_and_wrong_arguments_are_refused():
    images = noise((20, 20))
    before = images.clone()
    average_periodogram(images, tile_px=10)
    assert_exact(images, before)
    with pytest.raises(ValueError, match="tile_px"):
        average_periodogram(images, tile_px=21)
    with pytest.raises(ValueError, match="window"):
        average_periodogram(images, tile_px=10, window="hamming")
    with pytest.raises(ValueError, match="width_px"):
        box_background(torch.ones(1, 8, 5), width_px=4)
    with pytest.raises(ValueError, match="n_knots"):
        spline_background(torch.ones(1, 8), n_knots=9)
    with pytest.raises(ValueError, match="squares or cubes"):
        radial_average(torch.ones(1, 8, 6))
