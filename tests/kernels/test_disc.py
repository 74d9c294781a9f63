"""The half-disc of independent coefficients."""

import pytest
import torch

from tests.tolerance import F64, assert_close_to_peak, assert_exact
from verglas.kernels.disc import gather_disc, half_disc, scatter_disc, shell_sums
from verglas.kernels.fourier import irfft2, rfft2
from verglas.kernels.fsc import shell_index, shell_total


def images(box, n=2):
    return torch.randn(n, box, box, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8), (32, 5)])
def test_list_holds_one_of_each_pair_and_no_origin(box, radius):
    disc = half_disc(box, radius)
    points = {tuple(p) for p in disc.frequencies_px.int().tolist()}
    assert len(points) == disc.n_coefficients
    assert (0, 0) not in points
    assert not points & {(-x, -y) for x, y in points}
    k = torch.arange(-radius, radius + 1).double()
    inside = (k.square() + k[:, None].square()).sqrt().round() <= radius
    assert 2 * len(points) + 1 == int(inside.sum())


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8)])
def test_shells_ascend_and_agree_with_the_shell_index(box, radius):
    disc = half_disc(box, radius)
    assert disc.radius == radius
    assert (disc.shell.diff() >= 0).all()
    assert_exact(shell_index((box, box)).reshape(-1)[disc.index], disc.shell)
    for s in range(radius + 1):
        assert int((disc.shell <= s).sum()) == int(disc.ends[s])


def test_prefix_is_the_list_of_a_smaller_radius():
    small, cut = half_disc(32, 6), half_disc(32, 12).prefix(6)
    assert cut.radius == 6
    for name in ("frequencies_px", "index", "shell", "ends"):
        assert_exact(getattr(cut, name), getattr(small, name))


@pytest.mark.parametrize(("box", "radius"), [(16, 7), (17, 8), (24, 6)])
def test_scattered_coefficients_are_the_band_limited_image(box, radius):
    disc, images_ft = half_disc(box, radius), rfft2(images(box))
    band = (shell_index((box, box)) <= radius).float()
    band[0, 0] = 0
    filtered = irfft2(images_ft * band, shape=(box, box))
    restored = irfft2(scatter_disc(gather_disc(images_ft, disc), disc), shape=(box, box))
    assert_close_to_peak(restored, filtered)


@pytest.mark.parametrize("box", [16, 17])
def test_shell_sums_are_half_of_the_whole_transform(box):
    radius = (box - 1) // 2
    disc = half_disc(box, radius)
    power = rfft2(images(box).double()).abs().square()
    sums = shell_sums(gather_disc(power, disc), disc)
    expected = shell_total(power, shape=(box, box), n_shells=radius + 1) / 2
    expected[:, 0] = 0
    torch.testing.assert_close(sums, expected, **F64)


@pytest.mark.parametrize("radius", [0, 8])
def test_radius_outside_the_box_is_refused(radius):
    with pytest.raises(ValueError, match="radius must be"):
        half_disc(16, radius)
