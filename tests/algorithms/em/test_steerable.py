"""Seeds of classification: drawn from how particles vary about their radial average."""

import torch

from tests.algorithms.em.model_images import draw_views, in_plane, make_setting
from verglas.algorithms.em.steerable import draw_deviations, ring_covariance
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import RingGrid

BOX, RADIUS = 24, 8
GRID = RingGrid(RADIUS, 40, 12)


def covariance_of(noise, energy):
    setting = make_setting(box=BOX, radius=RADIUS, planar=True, energy=energy)
    n = 150
    views = draw_views(setting, in_plane(n), torch.zeros(n, 2).double(), noise=noise)
    weight = (views.ctf.square() * views.inverse_noise).mean()
    mean_weight = torch.full((RADIUS + 1,), float(weight))
    average = torch.zeros(views.disc.n_coefficients, dtype=torch.complex64)
    mask = soft_circle(BOX, 8, 3)
    return ring_covariance(views, average, mean_weight, mask, GRID), mean_weight


def test_products_are_hermitian_and_add_over_chunks():
    found, _ = covariance_of(1.0, 10.0)
    assert found.products.shape == (12, RADIUS, RADIUS)
    torch.testing.assert_close(found.products, found.products.mH, rtol=1e-3, atol=1e-3)
    assert float(found.n_views) == 150


def test_particles_vary_more_than_noise_in_the_orders_that_they_have():
    signal, _ = covariance_of(1.0, 200.0)
    noise, _ = covariance_of(1.0, 1e-6)
    largest = [torch.linalg.eigvalsh(c.products)[:, -1] for c in (signal, noise)]
    assert largest[0][2] > 3 * largest[1][2]


def test_draws_differ_and_leave_out_intensity_and_shift():
    found, weight = covariance_of(1.0, 200.0)
    drawn = draw_deviations(found, weight, GRID, n=5, seed=3)
    assert drawn.shape == (12, 5, RADIUS)
    assert float(drawn[:2].abs().max()) == 0
    assert len({round(float(v), 6) for v in drawn.abs().sum((0, 2))}) == 5
    again = draw_deviations(found, weight, GRID, n=5, seed=3)
    torch.testing.assert_close(drawn, again)
