"""Shell sums, Fourier shell correlation and resolution."""

import numpy as np
import pytest
import torch

from tests.tolerance import F64, STAT, assert_exact
from verglas.kernels.fourier import fourier_shift, irfft3, rfft2, rfft3
from verglas.kernels.fsc import (
    fourier_shell_correlation,
    resolution_at,
    shell_average,
    shell_count,
    shell_index,
    shell_total,
)


def noise(shape, *, n=2, seed=0, dtype=torch.float32):
    return torch.randn(n, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def whole_shells(shape):
    """Shell of every coefficient of the whole transform, in numpy."""
    longest = max(shape)
    axes = np.meshgrid(*[np.fft.fftfreq(n) * longest for n in shape], indexing="ij")
    return np.round(np.sqrt(sum(a**2 for a in axes))).astype(int)


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (6, 8, 8), (9, 9, 9), (12, 8), (5, 9)])
def test_shell_index_and_count_equal_the_whole_transform(shape):
    shells = whole_shells(shape)
    index = shell_index(shape)
    assert index.dtype == torch.int64
    assert_exact(index, shells[..., : shape[-1] // 2 + 1])
    n_shells = shells.max() + 1
    assert_exact(shell_count(shape, n_shells=n_shells), np.bincount(shells.ravel()))


@pytest.mark.parametrize("shape", [(8, 8), (7, 7), (8, 8, 8), (7, 7, 7)])
def test_correlation_equals_numpy_over_the_whole_transform(shape):
    a, b = noise(shape, seed=1).double(), noise(shape, seed=2).double() + noise(shape, seed=1)
    forward = rfft2 if len(shape) == 2 else rfft3
    n_shells = shape[0] // 2 + 1
    fsc = fourier_shell_correlation(forward(a), forward(b), n_shells=n_shells)
    assert fsc.dtype == torch.float64
    shells = whole_shells(shape).ravel()
    axes = tuple(range(1, a.ndim))
    a_ft, b_ft = (np.fft.fftn(x.numpy(), axes=axes).reshape(2, -1) for x in (a, b))
    for i in range(2):
        cross = np.bincount(shells, (a_ft[i] * b_ft[i].conj()).real)
        power = np.bincount(shells, abs(a_ft[i]) ** 2) * np.bincount(shells, abs(b_ft[i]) ** 2)
        np.testing.assert_allclose(fsc[i], (cross / np.sqrt(power))[:n_shells], **F64)


def test_correlation_with_itself_is_one_and_with_its_negative_minus_one():
    a_ft = rfft3(noise((9, 9, 9)))
    one = fourier_shell_correlation(a_ft, a_ft, n_shells=5)
    torch.testing.assert_close(one, torch.ones(2, 5).double(), rtol=0, atol=1e-7)
    torch.testing.assert_close(fourier_shell_correlation(a_ft, -3 * a_ft, n_shells=5), -one)


def test_correlation_is_symmetric_and_does_not_mind_scale_or_common_shift():
    a_ft, b_ft = rfft3(noise((8, 8, 8), seed=1)), rfft3(noise((8, 8, 8), seed=2))
    plain = fourier_shell_correlation(a_ft, b_ft, n_shells=4)
    torch.testing.assert_close(fourier_shell_correlation(b_ft, a_ft, n_shells=4), plain)
    shift = torch.tensor([[1.3, 0.2, -2.0]]).expand(2, 3)
    moved = [
        fourier_shift(x, shift, shape=(8, 8, 8), pixel_size_angst=1.0) for x in (1e8 * a_ft, b_ft)
    ]
    torch.testing.assert_close(
        fourier_shell_correlation(*moved, n_shells=4), plain, rtol=0, atol=1e-6
    )


def test_independent_noise_does_not_correlate():
    n = 32
    a_ft, b_ft = rfft3(noise((n,) * 3, n=1, seed=1)), rfft3(noise((n,) * 3, n=1, seed=2))
    fsc = fourier_shell_correlation(a_ft, b_ft, n_shells=n // 2)[0, 1:]
    independent = shell_count((n,) * 3, n_shells=n // 2)[1:] / 2
    assert (fsc.abs() * (2 * independent).sqrt() < STAT).all()


def test_signal_to_noise_ratio_sets_the_correlation():
    """FSC = S / (S + N); here 1 / (1 + 1)."""
    signal = noise((40,) * 3, n=1, seed=3)
    halves = [rfft3(signal + noise((40,) * 3, n=1, seed=seed)) for seed in (4, 5)]
    fsc = fourier_shell_correlation(*halves, n_shells=20)[0, 8:]
    assert fsc.mean().item() == pytest.approx(0.5, abs=0.02)


def test_empty_shells_and_empty_maps_give_zero():
    zero = torch.zeros(1, 6, 6, 4, dtype=torch.complex64)
    assert_exact(fourier_shell_correlation(zero, zero, n_shells=12), np.zeros((1, 12)))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_correlation_survives_extreme_grey_scales(scale):
    a_ft = scale * rfft3(noise((8, 8, 8)))
    fsc = fourier_shell_correlation(a_ft, a_ft, n_shells=5)
    torch.testing.assert_close(fsc, torch.ones(2, 5).double(), rtol=0, atol=1e-6)


def test_batch_equals_loop_and_inputs_stay():
    a_ft, b_ft = rfft3(noise((8, 8, 8), seed=1)), rfft3(noise((8, 8, 8), seed=2))
    before = a_ft.clone()
    whole = fourier_shell_correlation(a_ft, b_ft, n_shells=5)
    parts = [
        fourier_shell_correlation(a_ft[i : i + 1], b_ft[i : i + 1], n_shells=5) for i in range(2)
    ]
    torch.testing.assert_close(whole, torch.cat(parts), **F64)
    assert_exact(a_ft, before)


def test_average_is_total_over_count_and_white_noise_is_flat():
    shape = (64, 64)
    power = rfft2(noise(shape, n=3)).abs().square() / 64**2
    average = shell_average(power, shape=shape, n_shells=33)
    total = shell_total(power, shape=shape, n_shells=33)
    count = shell_count(shape, n_shells=33)
    torch.testing.assert_close(average, total / count.clamp(min=1))
    # the power of one complex coefficient has a standard deviation of its mean
    assert ((average[:, 1:] - 1).abs() * (count[1:] / 2).sqrt() < STAT).all()


def test_totals_over_all_shells_hold_the_energy():
    x = noise((9, 8), n=1, dtype=torch.float64)
    power = rfft2(x).abs().square() / 72
    n_shells = int(shell_index((9, 8)).max()) + 1
    total = shell_total(power, shape=(9, 8), n_shells=n_shells)
    torch.testing.assert_close(total.sum(), x.square().sum(), **F64)


CURVES = [
    ([1, 1, 0.9, 0.5, 0.1, 0.0, 0.0], 3 + (0.5 - 0.143) / 0.4, "falls once"),
    ([1, 1, 0.1, 0.9, 0.5, 0.1, 0.0], 4 + (0.5 - 0.143) / 0.4, "a dip of one shell"),
    ([1, 1, 0.1, 0.1, 0.5, 0.1, 0.0], 4 + (0.5 - 0.143) / 0.4, "a dip of two shells"),
    ([1, 1, 0.0, 0.0, 0.0, 0.9, 0.0], 1 + 0.857, "a rise after three shells"),
    ([1, 1, 1, 1, 1, 1, 1], 6, "never falls"),
    ([1, 1, 1, 1, 1, 1, 0.0], 5 + 0.857, "falls in the last shell"),
    ([1, 0.143, 0.0, 0.0, 0.0, 0.0, 0.0], 1, "touches the threshold"),
    ([0, 1, 0.0, 0.0, 0.0, 0.0, 0.0], 1 + 0.857, "shell 0 does not count"),
]


@pytest.mark.parametrize(("curve", "shell", "why"), CURVES)
def test_resolution_is_the_first_lasting_crossing(curve, shell, why):
    fsc = torch.tensor([curve])
    resolution = resolution_at(fsc, 0.143, box=12, pixel_size_angst=1.5)
    assert resolution.item() == pytest.approx(18 / shell, rel=1e-6), why


def test_curve_without_signal_has_infinite_resolution():
    curves = torch.tensor([[1.0, 0.1, 0.0, 0.0, 0.0], [1.0, torch.nan, 0.1, 0.0, 0.0]])
    assert torch.isinf(resolution_at(curves, 0.143, box=8, pixel_size_angst=1.0)).all()


def test_resolution_of_a_batch_equals_single_curves():
    curves = torch.tensor([curve for curve, _, _ in CURVES])
    together = resolution_at(curves, 0.5, box=12, pixel_size_angst=1.0)
    alone = [resolution_at(c[None], 0.5, box=12, pixel_size_angst=1.0) for c in curves]
    torch.testing.assert_close(together, torch.cat(alone), equal_nan=True)


def test_band_limited_map_against_itself_plus_noise_crosses_at_its_limit():
    """A map with signal up to shell 10 of 32 voxels of 2 Å resolves 6.4 Å."""
    n = 32
    white_ft = rfft3(noise((n,) * 3, n=1, seed=7)) * (shell_index((n,) * 3) <= 10)
    signal = 10 * irfft3(white_ft, shape=(n,) * 3)
    halves = [rfft3(signal + noise((n,) * 3, n=1, seed=seed)) for seed in (8, 9)]
    fsc = fourier_shell_correlation(*halves, n_shells=17)
    resolution = resolution_at(fsc, 0.143, box=n, pixel_size_angst=2.0)
    assert 64 / 11 < resolution.item() < 64 / 10


def test_wrong_shapes_are_refused():
    a_ft = rfft3(noise((8, 8, 8)))
    with pytest.raises(ValueError, match="same shape"):
        fourier_shell_correlation(a_ft, a_ft[:1], n_shells=4)
    with pytest.raises(ValueError, match="squares or cubes"):
        fourier_shell_correlation(a_ft[:, :6], a_ft[:, :6], n_shells=4)
    with pytest.raises(ValueError, match="do not fit"):
        shell_total(torch.zeros(1, 8, 4), shape=(8, 8), n_shells=4)
    with pytest.raises(ValueError, match="n_shells"):
        fourier_shell_correlation(a_ft, a_ft, n_shells=0)
    with pytest.raises(ValueError, match="dimensions"):
        resolution_at(torch.zeros(5), 0.5, box=8, pixel_size_angst=1.0)
