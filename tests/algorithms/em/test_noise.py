"""Noise inside the particle's disc, and what the expectation step learns from residuals."""

import dataclasses

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, in_plane, make_setting
from tests.tolerance import STAT
from verglas.algorithms.em.expectation import Level, References, Search, expect
from verglas.algorithms.em.noise import noise_window, windowed_power
from verglas.algorithms.em.prior import updated_noise, updated_scale
from verglas.algorithms.em.search import shift_grid
from verglas.kernels.disc import gather_disc, half_disc, shell_sums
from verglas.kernels.fourier import rfft2
from verglas.kernels.so3 import orientation_grid
from verglas.simulate.noise import NoiseSpectrum, draw_noise, noise_power


def measured_power(coefficients, disc, radius_px):
    """Mean noise power by shell, and its standard error over images."""
    window = noise_window(disc, radius_px)
    count = shell_sums(torch.ones(1, disc.n_coefficients), disc)[0]
    power = windowed_power(coefficients, window)[:, 1:] / count[1:]
    return power.mean(0), power.std(0) / len(power) ** 0.5


@pytest.mark.parametrize(("box", "radius"), [(48, 20), (49, 12), (40, 19)])
@pytest.mark.parametrize("part", [0.25, 0.4])
def test_white_noise_is_measured_without_bias(box, radius, part):
    disc = half_disc(box, radius)
    images = torch.randn(600, box, box, generator=torch.Generator().manual_seed(0))
    power, error = measured_power(gather_disc(rfft2(images), disc), disc, part * box)
    # a real component of a transform of n^2 pixels of variance 1 has n^2 / 2
    deviation = (power / (box**2 / 2) - 1) / (error / (box**2 / 2))
    assert deviation.abs().max() < STAT + 1  # of 20 to 80 shells
    assert abs(float(deviation.mean())) < STAT / len(power) ** 0.5 * 3  # neighbours correlate


def test_coloured_noise_is_measured_within_a_few_percent():
    box, radius = 64, 28
    disc = half_disc(box, radius)
    spectrum = NoiseSpectrum(coloured_fraction=0.7, corner_per_angst=1 / 30)
    items = torch.arange(400).numpy()
    images = draw_noise(items, (box, box), seed=1, spectrum=spectrum, pixel_size_angst=4.0)
    power, _ = measured_power(gather_disc(rfft2(images), disc), disc, 0.35 * box)
    expected = gather_disc(noise_power(spectrum, (box, box), 4.0)[None], disc) * box**2 / 2
    expected = shell_sums(expected, disc)[0] / shell_sums(torch.ones_like(expected), disc)[0]
    ratio = power / expected[1:]
    # the window smears the spectrum over two or three shells, which a steep part feels
    assert (ratio[4:] - 1).abs().max() < 0.05
    assert (ratio[:4] - 1).abs().max() < 0.12


def test_neighbours_outside_the_disc_are_not_taken_for_noise():
    box, radius = 64, 25
    disc = half_disc(box, radius)
    images = torch.randn(300, box, box, generator=torch.Generator().manual_seed(0))
    crowded = images.clone()
    crowded[:, :, -4:] += 3.0
    clean, _ = measured_power(gather_disc(rfft2(images), disc), disc, 0.3 * box)
    found, _ = measured_power(gather_disc(rfft2(crowded), disc), disc, 0.3 * box)
    # a stripe is steep at low frequency, and at the edge of the band
    assert (found / clean - 1)[5:-1].abs().max() < 0.01


def expected_sums(setting, n=600, *, seed=0, used_noise=None, used_scale=None):
    """Sums of images drawn from the model against the true references."""
    generator = torch.Generator().manual_seed(seed)
    rotations = in_plane(24) if setting.planar else orientation_grid(0)[::4]
    shifts = shift_grid(6.3, 6.0)
    row = torch.randint(len(rotations), (n,), generator=generator)
    weight = (-shifts.square().sum(-1) / (2 * 6.0**2)).exp()
    at = torch.multinomial(weight, n, replacement=True, generator=generator)
    n_groups = len(setting.noise_power)
    group = torch.arange(n) % n_groups
    views = draw_views(setting, rotations[row], shifts[at], group=group, seed=seed)
    if used_noise is not None:
        ratio = (used_scale / setting.scale)[group][:, None]
        views = dataclasses.replace(views, noise_power=used_noise[group], ctf=views.ctf * ratio)
    poses, sums = expect(
        views,
        References(setting.half_volumes, torch.zeros(1), 2, setting.planar),
        Search(
            rotations_ref_to_img=rotations,
            levels=(Level(60.0, setting.radius, shifts),),
            shift_prior_angst=6.0,
            noise_radius_angst=0.4 * setting.box * PIXEL_ANGST,
        ),
        n_groups=n_groups,
    )
    return poses, sums


@pytest.mark.parametrize("energy", [2.0, 8.0, 40.0])
def test_residuals_at_drawn_poses_have_the_power_of_the_noise(energy):
    # with a perfect reference, however uncertain the poses are
    setting = make_setting(energy=energy)
    poses, sums = expected_sums(setting, 1500)
    assert energy > 10 or float(poses.weight.median()) < 0.9
    ratio = sums.residual_power / sums.residual_count.clamp_min(1) / setting.noise_power
    count = sums.residual_count[0, 1:]
    assert float((ratio[0, 1:] * count).sum() / count.sum()) == pytest.approx(1, abs=0.02)
    # shells: 2 % beside the statistical error, whose correlation by the window is allowed for
    error = (2 / count).sqrt() * STAT * 1.5
    assert ((ratio[0, 1:] - 1).abs() < 0.03 + error).all()


def test_noise_and_scale_of_groups_are_recovered():
    setting = make_setting(noise=(0.7, 1.0, 1.6), scale=(0.7, 1.0, 1.4), energy=15.0)
    noise = setting.noise_power.mean(0, keepdim=True).expand(3, -1).clone()
    scale = torch.ones(3)
    for _ in range(6):
        _, sums = expected_sums(setting, 1500, used_noise=noise, used_scale=scale)
        noise = updated_noise(sums.residual_power, sums.residual_count, noise)
        scale = updated_scale(scale, sums.scale_cross, sums.scale_power)
    level = (noise / setting.noise_power)[:, 1:].mean(1)
    torch.testing.assert_close(level, torch.ones(3), rtol=0, atol=0.03)
    wanted = setting.scale / setting.scale.log().mean().exp()
    torch.testing.assert_close(scale, wanted, rtol=0.05, atol=0)
