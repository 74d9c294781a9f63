import numpy as np
import pytest
import torch

from verglas.simulate.noise import NoiseSpectrum, draw_noise, item_generator, noise_power

PINK = NoiseSpectrum(coloured_fraction=0.6, corner_per_angst=1 / 30)


def mean_power(noise):
    return (torch.fft.rfft2(noise.double()).abs() ** 2).mean(0) / noise[0].numel()


def test_white_noise_is_flat_with_variance_one():
    noise = draw_noise(np.arange(400), (32, 32), seed=1)
    power = mean_power(noise)[:, 1:16]
    # a coefficient's power is exponential: standard error 1/sqrt(n) each
    assert abs(float(power.mean()) - 1) < 4 / np.sqrt(400 * power.numel())
    for band in (power[:, :5], power[:, 10:]):
        assert abs(float(band.mean()) - 1) < 4 / np.sqrt(400 * band.numel())


def test_white_noise_pixels_are_uncorrelated():
    noise = draw_noise(np.arange(200), (32, 32), seed=2)
    for neighbour in (noise.roll(1, 1), noise.roll(1, 2), noise.roll((1, 1), (1, 2))):
        assert abs(float((noise * neighbour).mean())) < 4 / np.sqrt(noise.numel())


@pytest.mark.parametrize("shape", [(32, 32), (31, 33)])
def test_coloured_noise_has_the_stated_spectrum_and_variance_one(shape):
    expected = noise_power(PINK, shape, 2.0)
    noise = draw_noise(np.arange(600), shape, seed=3, spectrum=PINK, pixel_size_angst=2.0)
    measured = mean_power(noise)
    ratio = (measured / expected)[:, 1:15]
    assert abs(float(ratio.mean()) - 1) < 4 / np.sqrt(600 * ratio.numel())
    assert float(noise.var()) == pytest.approx(1, abs=0.03)
    assert float(expected[0, 1] / expected[0, 14]) > 3


def test_noise_of_an_item_does_not_depend_on_its_batch():
    together = draw_noise(np.arange(10), (16, 16), seed=5, spectrum=PINK)
    alone = draw_noise(np.array([7]), (16, 16), seed=5, spectrum=PINK)
    torch.testing.assert_close(together[7:8], alone, rtol=1e-6, atol=1e-6)


def test_other_seed_and_other_item_give_independent_noise():
    first = draw_noise(np.array([0, 1]), (64, 64), seed=0)
    second = draw_noise(np.array([0]), (64, 64), seed=1)
    for a, b in ((first[0], first[1]), (first[0], second[0])):
        assert abs(float((a * b).mean())) < 4 / 64


def test_generators_of_different_keys_differ():
    draws = {item_generator(0, *key).integers(2**62) for key in ((0,), (1,), (0, 0), (0, 1))}
    assert len(draws) == 4


def test_spectrum_refuses_a_fraction_above_one():
    with pytest.raises(ValueError, match="fraction"):
        NoiseSpectrum(coloured_fraction=1.2)
