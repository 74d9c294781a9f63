"""Rings against the plain transform, and turning and shifting on them."""

import math

import pytest
import torch

from tests.tolerance import FFT32, assert_close_to_peak
from verglas.kernels.fourier import fourier_shift, irfft2, rfft2
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import (
    RingGrid,
    RingWaves,
    ring_grid,
    ring_orders,
    ring_shift_waves,
    rings_of_images,
    rings_of_orders,
    rings_to_images,
    shifted_rings,
)

SUM32 = 3 * FFT32  # sums of a few hundred terms
GRID = RingGrid(radius=9, n_half=30, n_orders=25)


def compact_images(n, count=2, seed=0):
    """Smooth images within 0.3 of the box."""
    noise = torch.randn(count, n, n, generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise[:, None], 5, 1, 2)[:, 0]
    return smooth * soft_circle(n, 0.2 * n, 0.1 * n)


def rings(images, grid=GRID):
    n = images.shape[-1]
    return rings_of_images(images, RingWaves.make(grid, n, radius_px=0.35 * n))


@pytest.mark.parametrize("n", [24, 25])
@pytest.mark.parametrize("count", [1, 3])
def test_rings_hold_the_transform_of_the_image(n, count):
    images = compact_images(n, count)
    found, images_ft = rings(images), rfft2(images)
    across, down = found[..., 0], found[..., 15]  # angles 0 and 90 degrees
    assert found.shape == (2, count, 9, 30)
    for part, value in ((0, images_ft.real), (1, images_ft.imag)):
        assert_close_to_peak(across[part], value[:, 0, 1:10], SUM32)
        assert_close_to_peak(down[part], value[:, 1:10, 0], SUM32)


def test_orders_give_the_rings_back():
    found = rings(compact_images(24))
    orders = ring_orders(found, GRID)
    assert orders.shape == (25, 2, 9)
    assert_close_to_peak(rings_of_orders(orders, GRID), found, 2e-3)  # orders end at 24


@pytest.mark.parametrize("n", [24, 25])
def test_rings_give_the_band_limited_image_back(n):
    images = compact_images(n)
    waves = RingWaves.make(GRID, n, radius_px=0.35 * n)
    once = rings_to_images(rings_of_images(images, waves), waves)
    disc = soft_circle(n, 0.35 * n - 1, 0) > 0
    kx = torch.arange(n // 2 + 1).double()
    ky = torch.fft.fftfreq(n).double() * n
    inside = (kx.square() + ky[:, None].square()).sqrt() <= 9.5
    band = irfft2(rfft2(images) * inside, shape=(n, n))
    # rings know the mean grey value only through their neighbours
    difference = ((once - band) * disc)[:, disc]
    difference = difference - difference.mean(1, keepdim=True)
    assert difference.abs().max() < 0.05 * band.abs().max()


def test_turning_an_image_is_a_phase_of_each_order():
    images = compact_images(25)  # odd: a quarter turn maps pixels on pixels
    turned = torch.rot90(images, 1, (1, 2))
    order = torch.arange(25.0)
    # a quarter turn carries row y to column x: the ring moves by a quarter of a turn
    phase = torch.polar(torch.ones(25), order * math.pi / 2)[:, None, None]
    assert_close_to_peak(
        ring_orders(rings(turned), GRID), ring_orders(rings(images), GRID) * phase, SUM32
    )


def test_shifting_rings_shifts_the_image():
    images = compact_images(24)
    shifts = torch.tensor([[0.0, 0.0], [1.5, -0.7]], dtype=torch.float64)
    moved = shifted_rings(rings(images), ring_shift_waves(GRID, shifts, 24))
    assert moved.shape == (2, 2, 2, 9, 30)
    assert_close_to_peak(moved[:, :, 0], rings(images), SUM32)
    whole = irfft2(
        fourier_shift(
            rfft2(images), shifts[1].float().expand(2, 2), shape=(24, 24), pixel_size_angst=1.0
        ),
        shape=(24, 24),
    )
    expected = rings_of_images(whole, RingWaves.make(GRID, 24, radius_px=11))
    assert_close_to_peak(moved[:, :, 1], expected, 2e-2)  # what leaves the disc


def test_larger_images_need_more_samples_and_orders():
    small = ring_grid(20, sampled_part=0.5, compared_part=0.4)
    large = ring_grid(20, sampled_part=0.9, compared_part=0.8)
    assert small.n_half < large.n_half
    assert math.pi * 20 * 0.4 < small.n_orders < large.n_orders
