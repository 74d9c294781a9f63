"""Mask, resolution, B factor and sharpening from half maps."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.algorithms.blobs import blob_map, with_noise
from tests.tolerance import F64
from verglas.algorithms.postprocess import PostprocessConfig, fit_b_factor, postprocess, sharpen
from verglas.kernels.filters import apply_b_factor, low_pass
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import shell_average
from verglas.kernels.masks import soft_sphere
from verglas.kernels.symmetry import symmetrise_volume, symmetry_operators

BOX, PIXEL = 64, 1.5


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def atoms(n=600, radius_angst=22.0, seed=0):
    """Points spread evenly in a ball: a flat spectrum beyond the first shells."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n, 3))
    points /= np.linalg.norm(points, axis=1)[:, None]
    return points * radius_angst * rng.uniform(0.05, 1, (n, 1)) ** (1 / 3)


def halves(*, b_factor_angst2, noise, seed=1):
    # a Gaussian of sigma s falls off as B = 8 pi^2 s^2: 1.2 Å is 114 Å^2
    truth = blob_map(atoms(), box=BOX, pixel_size_angst=PIXEL, sigma_angst=1.2)
    rest = b_factor_angst2 - 8 * np.pi**2 * 1.2**2
    blurred = apply_b_factor(truth[None], b_factor_angst2=rest, pixel_size_angst=PIXEL)[0]
    return blurred, *(with_noise(blurred, ratio=noise, seed=seed + i) for i in (0, 1))


@pytest.fixture(scope="module")
def processed():
    _, first, second = halves(b_factor_angst2=200.0, noise=0.3)
    return postprocess(first, second, pixel_size_angst=PIXEL, generator=generator())


def test_b_factor_of_the_fall_off_is_found(processed):
    # scatter of the structure factors about a flat spectrum is part of the error
    assert processed.guinier.b_factor_angst2 == pytest.approx(
        -200, abs=max(25.0, 3 * processed.guinier.error_angst2)
    )
    assert processed.b_factor_angst2 == processed.guinier.b_factor_angst2
    assert processed.notes == ()


def test_resolution_lies_where_noise_takes_over(processed):
    truth, first, second = halves(b_factor_angst2=200.0, noise=0.3)
    shells = BOX // 2 + 1
    signal = shell_average(rfft3(truth[None]).abs().square(), shape=(BOX,) * 3, n_shells=shells)[0]
    noise = shell_average(
        rfft3((first - second)[None]).abs().square() / 2, shape=(BOX,) * 3, n_shells=shells
    )[0]
    # under the mask, which holds all of the signal, less of the noise counts
    fsc = signal / (signal + noise * float(processed.mask.square().mean()))
    last = int(torch.nonzero(fsc > 0.143)[-1])
    expected = BOX * PIXEL / (last + 0.5)
    assert processed.resolution_angst == pytest.approx(expected, rel=0.08)
    assert processed.resolution_angst < processed.resolution_05_angst
    assert processed.resolution_angst <= processed.resolution_unmasked_angst


def test_sharpened_map_has_a_flat_spectrum(processed):
    limit = int(BOX * PIXEL / processed.resolution_angst) - 3
    first = int(BOX * PIXEL / 10)
    power = rfft3((processed.volume * processed.mask)[None]).abs().square()
    curve = shell_average(power, shape=(BOX,) * 3, n_shells=limit)[0][first:].sqrt()
    assert float(curve.max() / curve.min()) < 3


def test_nothing_finer_than_the_resolution_is_left(processed):
    power = rfft3(processed.volume[None]).abs().square()
    curve = shell_average(power, shape=(BOX,) * 3, n_shells=BOX // 2 + 1)[0]
    beyond = int(BOX * PIXEL / processed.resolution_angst) + 4
    assert float(curve[beyond:].sum() / curve.sum()) < 1e-6


def test_noise_gives_no_signal_and_says_so():
    first, second = torch.randn(2, 48, 48, 48, generator=generator(3))
    result = postprocess(first, second, pixel_size_angst=2.0, generator=generator())
    assert result.resolution_angst > 20
    assert result.b_factor_angst2 == 0
    assert result.volume.isfinite().all()
    assert result.notes


@pytest.mark.parametrize("seed", range(4))
def test_noise_of_a_symmetric_map_is_not_taken_for_signal(seed):
    maps = torch.randn(2, BOX, BOX, BOX, generator=generator(seed))
    first, second = symmetrise_volume(maps, symmetry_operators("O"))
    mask = soft_sphere(BOX, BOX / 4, 4.0)
    found = postprocess(
        first,
        second,
        pixel_size_angst=PIXEL,
        generator=generator(),
        config=PostprocessConfig(symmetry="O"),
        mask=mask,
    )
    # a lucky shell among the first few is all that may be left
    assert found.resolution_angst > BOX * PIXEL / 8
    assert found.resolution_angst >= found.resolution_0143_angst


def test_too_few_shells_give_no_b_factor_and_say_so():
    _, first, second = halves(b_factor_angst2=400.0, noise=8.0)
    result = postprocess(first, second, pixel_size_angst=PIXEL, generator=generator())
    assert result.resolution_angst > 7
    assert result.guinier.n_shells == 0
    assert result.b_factor_angst2 == 0
    assert any("not sharpened" in note for note in result.notes)


def test_given_b_factor_low_pass_and_mask_are_used():
    _, first, second = halves(b_factor_angst2=200.0, noise=0.3)
    mask = torch.ones(BOX, BOX, BOX)
    config = PostprocessConfig(b_factor_angst2=-50.0, low_pass_angst=9.0)
    result = postprocess(
        first, second, pixel_size_angst=PIXEL, generator=generator(), config=config, mask=mask
    )
    assert result.b_factor_angst2 == -50.0
    assert torch.equal(result.mask, mask)
    curve = shell_average(
        rfft3(result.volume[None]).abs().square(), shape=(BOX,) * 3, n_shells=BOX // 2 + 1
    )[0]
    assert float(curve[16:].sum() / curve.sum()) < 1e-6


def test_strongest_sharpening_is_limited():
    _, first, second = halves(b_factor_angst2=200.0, noise=0.3)
    config = dataclasses.replace(PostprocessConfig(), max_sharpening_angst2=60.0)
    result = postprocess(
        first, second, pixel_size_angst=PIXEL, generator=generator(), config=config
    )
    assert result.b_factor_angst2 == -60.0
    assert any("stronger than the largest allowed" in note for note in result.notes)


def test_line_is_fitted_exactly():
    # ln A = 3 - B k^2 / 4 with B = 120
    k = torch.arange(33, dtype=torch.float64) / (BOX * PIXEL)
    fit = fit_b_factor(
        3 - 30 * k.square(), box=BOX, pixel_size_angst=PIXEL, from_angst=10.0, to_angst=4.0
    )
    np.testing.assert_allclose([fit.b_factor_angst2, fit.intercept], [-120, 3], rtol=1e-9)
    assert fit.error_angst2 < 1e-6
    # shells 10 to 24 of a box of 96 Å
    assert fit.n_shells == 15


def test_sharpening_multiplies_shells_by_weight_and_b_factor():
    volume = blob_map(atoms(), box=BOX, pixel_size_angst=PIXEL, sigma_angst=2.0)
    sharp = sharpen(
        volume,
        torch.full((BOX // 2 + 1,), 0.5),
        b_factor_angst2=-80.0,
        low_pass_angst=0.1,
        pixel_size_angst=PIXEL,
    )
    ratio = rfft3(sharp[None])[0, 12, 0, 0] / rfft3(volume[None])[0, 12, 0, 0]
    expected = 0.5 * np.exp(80 / 4 * (12 / (BOX * PIXEL)) ** 2)
    np.testing.assert_allclose(complex(ratio), expected, rtol=1e-4)


def test_equal_seeds_give_equal_results():
    _, first, second = halves(b_factor_angst2=200.0, noise=1.0)
    results = [
        postprocess(first, second, pixel_size_angst=PIXEL, generator=generator(7)) for _ in range(2)
    ]
    assert torch.equal(results[0].volume, results[1].volume)
    np.testing.assert_allclose(results[0].fsc.corrected, results[1].fsc.corrected, **F64)


def test_strong_sharpening_of_a_map_with_much_beyond_its_limit_keeps_the_map():
    # exp(-B k^2 / 4) is e^40 at the corners of this box: rounding errors there, if they were
    # boosted before the cut at 6 A, would be all that is left
    generator = torch.Generator().manual_seed(0)
    volume = torch.randn(1, 48, 48, 48, generator=generator)
    volume = low_pass(volume, resolution_angst=7.0, pixel_size_angst=1.5)[0]
    sharp = sharpen(
        volume,
        torch.ones(25),
        b_factor_angst2=-500.0,
        low_pass_angst=6.0,
        pixel_size_angst=1.5,
    )
    back = apply_b_factor(sharp[None], b_factor_angst2=500.0, pixel_size_angst=1.5)[0]
    assert torch.corrcoef(torch.stack([back.flatten(), volume.flatten()]))[0, 1] > 0.99
