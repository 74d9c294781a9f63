"""Compact averages from sums along rings."""

import math

import torch
from scipy.special import jv

from verglas.algorithms.em.average import CompactSpace, RingSums, Shrinkage, _bessel
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import RingWaves, images_of_orders, ring_grid, ring_orders
from verglas.kernels.rings import rings_of_images as transform

N, RADIUS = 40, 12
GRID = ring_grid(RADIUS, sampled_part=1.0, compared_part=0.7)
MASK = soft_circle(N, 8.0, 3.0)
COMPACT = CompactSpace.make(MASK, radius=RADIUS, n_orders=GRID.n_orders)
WAVES = RingWaves.make(GRID, N, radius_px=N / 2)


def orders_of(images):
    return ring_orders(transform(images, WAVES), GRID).transpose(0, 1)


def low_passed(images):
    return images_of_orders(orders_of(images), N)


def test_waves_are_bessel_functions():
    at = torch.tensor([0.0, 3.3, 7.0], dtype=torch.float64)
    found = _bessel(at, N, RADIUS, 12)
    z = 2 * math.pi / N * 7.0 * torch.arange(1, RADIUS + 1).double()
    expected = jv(torch.arange(12)[None].numpy(), z[:, None].numpy())
    torch.testing.assert_close(found[2], torch.from_numpy(expected), rtol=1e-10, atol=1e-12)


def test_a_compact_image_comes_back_from_its_rings():
    # one of the 40 px, low-passed to 12 rings; the edge of the mask blurs, hence not exact
    noise = torch.randn(2, N, N, generator=torch.Generator().manual_seed(0))
    image = low_passed(low_passed(noise) * MASK)
    sums = RingSums(
        orders_of(image).to(torch.complex128), torch.ones(2, RADIUS, dtype=torch.float64)
    )
    found = COMPACT.solve(sums, torch.full((RADIUS,), 1e-4, dtype=torch.float64))
    error = (images_of_orders(found, N) - image).square().mean((1, 2))
    assert (error < 0.01 * image.square().mean((1, 2))).all()


def spread_sums():
    """Sums of a compact image that a CTF with zeros has spread beyond what is looked at."""
    generator = torch.Generator().manual_seed(1)
    image = low_passed(torch.randn(1, N, N, generator=generator) * MASK) * MASK
    radii = torch.arange(1, RADIUS + 1)
    weight = 500 * (0.01 + torch.sin(math.pi * radii / 8) ** 2)
    spread = images_of_orders(orders_of(image) * weight, N) * soft_circle(N, 15.0, 1.0)
    return low_passed(image), RingSums(
        orders_of(spread).to(torch.complex128), weight.double()[None]
    )


def test_what_the_ctf_spread_beyond_the_disc_does_not_spoil_a_compact_average():
    # the mask reaches to 11 px, the disc to 16, the spread image to 21
    image, sums = spread_sums()
    found = COMPACT.solve(sums, torch.full((RADIUS,), 1e-3, dtype=torch.float64))
    divided = sums.numerator / sums.denominator[:, None]
    errors = [
        float((low_passed(images_of_orders(orders, N) * MASK) - image).square().mean())
        for orders in (found, divided)
    ]
    assert errors[0] < 0.3 * errors[1]
    assert errors[0] < 0.1 * float(image.square().mean())


def test_one_class_or_many_at_once_are_the_same():
    _, sums = spread_sums()
    two = RingSums.join([sums, sums])
    many = RingSums(
        torch.cat([sums.numerator, two.numerator]), torch.cat([sums.denominator, two.denominator])
    )
    variance = torch.ones(RADIUS, dtype=torch.float64)
    whole = COMPACT.solve(many, variance)
    torch.testing.assert_close(whole[1:], COMPACT.solve(two, variance))


def test_a_class_that_knows_little_stays_at_the_radial_average():
    # two classes seen by 1000 views and by next to none, of one radial average
    generator = torch.Generator().manual_seed(0)
    radial = orders_of(MASK[None])[:, :1].real
    weight = torch.tensor([1000.0, 1e-6], dtype=torch.float64)[:, None]
    parts = []
    for _ in range(2):
        shape = 2, GRID.n_orders, RADIUS
        noise = torch.complex(*torch.randn(2, *shape, generator=generator, dtype=torch.float64))
        noise *= weight[:, None].sqrt() * 0.3
        noise[:, 0] = noise[:, 0].real + 0j
        signal = torch.zeros(shape, dtype=torch.complex128)
        signal[:, :1] = (weight[:, None] * radial).to(torch.complex128)
        parts.append(RingSums(signal + noise, weight.expand(2, RADIUS)))
    shrinkage = Shrinkage.learn(parts, COMPACT, tau=1.0)
    assert (shrinkage.radial - radial[0, 0]).abs().max() < 0.02 * radial.abs().max()
    found = shrinkage.averages(parts[0])
    apart = (found[1] - found[0]).abs().square().mean().sqrt()
    noise = 0.3 / float(weight[1, 0]) ** 0.5
    assert apart < 0.01 * noise
    assert apart < 0.1 * radial.square().mean().sqrt()
