"""HEALPix pixels against astropy-healpix."""

import astropy.units as u
import astropy_healpix
import numpy as np
import pytest
import torch

from tests.tolerance import F64, assert_exact
from verglas.kernels.healpix import healpix_angles, healpix_pixels


def random_angles(n, seed=0):
    rng = np.random.default_rng(seed)
    colatitude = np.degrees(np.arccos(rng.uniform(-1, 1, n)))
    return torch.from_numpy(np.stack([rng.uniform(-180, 180, n), colatitude], axis=-1))


@pytest.mark.parametrize("order", range(6))
def test_pixel_centres_equal_astropy(order):
    pixels = torch.arange(12 * 4**order)
    lon, lat = astropy_healpix.healpix_to_lonlat(pixels.numpy(), 2**order, order="nested")
    angles = healpix_angles(pixels, order=order)
    assert angles.dtype == torch.float64
    np.testing.assert_allclose(angles[:, 0], lon.deg, **F64)
    np.testing.assert_allclose(angles[:, 1], 90 - lat.deg, **F64)


@pytest.mark.parametrize("order", [0, 1, 4, 9])
def test_pixels_of_random_directions_equal_astropy(order):
    angles = random_angles(20000)
    lon, lat = angles[:, 0].numpy() * u.deg, (90 - angles[:, 1].numpy()) * u.deg
    expected = astropy_healpix.lonlat_to_healpix(lon, lat, 2**order, order="nested")
    assert_exact(healpix_pixels(angles, order=order), expected)


@pytest.mark.parametrize("order", [0, 3, 8])
def test_every_centre_lies_in_its_pixel(order):
    pixels = torch.arange(12 * 4**order)
    assert_exact(healpix_pixels(healpix_angles(pixels, order=order), order=order), pixels)


def test_children_of_a_pixel_are_numbered_four_p_to_four_p_plus_three():
    children = torch.arange(12 * 4**3)
    parents = healpix_pixels(healpix_angles(children, order=3), order=2)
    assert_exact(parents, children // 4)


def test_pixels_have_equal_areas():
    counts = torch.bincount(healpix_pixels(random_angles(120000), order=1), minlength=48)
    expected = 120000 / 48
    # chi-square of 47 degrees of freedom, 4 standard deviations
    chi_square = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_square - 47) < 4 * (2 * 47) ** 0.5


def test_poles_have_a_pixel_and_bad_orders_are_refused():
    poles = torch.tensor([[0.0, 0.0], [359.999999, 0.0], [90.0, 180.0], [0.0, 180.0]])
    pixels = healpix_pixels(poles, order=5)
    assert ((pixels >= 0) & (pixels < 12 * 4**5)).all()
    with pytest.raises(ValueError, match="order"):
        healpix_angles(torch.zeros(1, dtype=torch.int64), order=-1)
