"""Soft masks and the automatic outline."""

import numpy as np
import pytest
import torch

from tests.tolerance import assert_close_to_peak, assert_exact
from verglas.kernels.filters import gaussian
from verglas.kernels.masks import auto_mask, otsu_threshold, soft_circle, soft_sphere


def distances(box, n_axes):
    axis = np.arange(box) - box // 2
    return np.sqrt(sum(a**2 for a in np.meshgrid(*[axis] * n_axes, indexing="ij")))


@pytest.mark.parametrize("box", [16, 17])
@pytest.mark.parametrize(("make", "n_axes"), [(soft_circle, 2), (soft_sphere, 3)])
def test_mask_is_a_cosine_of_the_distance_from_the_centre(make, n_axes, box):
    mask = make(box, 4.0, 3.0)
    assert mask.dtype == torch.float32
    d = distances(box, n_axes)
    expected = 0.5 + 0.5 * np.cos(np.pi * np.clip((d - 4) / 3, 0, 1))
    np.testing.assert_allclose(mask, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("box", [16, 17])
def test_hard_mask_counts_the_voxels_of_a_ball(box):
    assert_exact(soft_sphere(box, 5.0, 0.0), distances(box, 3) <= 5)
    assert_exact(soft_circle(box, 5.0, 0.0), distances(box, 2) <= 5)


def test_otsu_splits_two_gaussians_halfway():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20000, generator=generator)
    values[10000:] += 8
    assert otsu_threshold(values) == pytest.approx(4, abs=0.3)
    with pytest.raises(ValueError, match="not all equal"):
        otsu_threshold(torch.ones(10))


def ball_map(n, *, noise=0.3, extra=None):
    volume = soft_sphere(n, n * 0.2, 2.0)[None].clone()
    if extra is not None:
        volume[0] += extra
    return volume + noise * torch.randn(1, n, n, n, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("n", [48, 49])
def test_mask_of_a_noisy_ball_is_the_ball_moved_out(n):
    pixel = 2.0
    mask = auto_mask(ball_map(n), pixel_size_angst=pixel, dilate_angst=6.0, edge_angst=8.0)
    assert mask.shape == (1, n, n, n)
    assert mask.dtype == torch.float32
    d = distances(n, 3)
    radius = n * 0.2 + 1
    # the outline of a 15 Å map is good to about 1.5 voxels of 2 Å
    assert (mask[0][d < radius + 3 - 1.5] == 1).all()
    assert (mask[0][d > radius + 3 + 4 + 1.5] == 0).all()
    assert 0 <= mask.min() <= mask.max() == 1


def test_small_distant_components_are_dropped_and_large_ones_kept():
    n = 48
    grid = torch.stack(torch.meshgrid(*[torch.arange(n)] * 3, indexing="ij"))
    corner = torch.tensor([24, 24, 40])[:, None, None, None]
    d = (grid - corner).square().sum(0)
    speck, lobe = (d <= 3**2).float(), (d <= 6**2).float()
    options = {"pixel_size_angst": 4.0, "dilate_angst": 0.0, "edge_angst": 4.0}
    dropped = auto_mask(ball_map(n, noise=0.05, extra=speck), **options)
    kept = auto_mask(ball_map(n, noise=0.05, extra=lobe), **options)
    assert dropped[0, 24, 24, 40] == 0
    assert kept[0, 24, 24, 40] == 1


def test_given_threshold_and_distances_shape_the_mask():
    smooth = gaussian(ball_map(40, noise=0.0), sigma_angst=2.0, pixel_size_angst=2.0)
    low, high = (
        auto_mask(smooth, pixel_size_angst=2.0, threshold=t, dilate_angst=0.0, edge_angst=0.0)
        for t in (0.2, 0.8)
    )
    assert low.sum() > high.sum() > 0
    assert (low >= high).all()
    wide = auto_mask(smooth, pixel_size_angst=2.0, threshold=0.8, dilate_angst=4.0, edge_angst=0.0)
    assert wide.sum() > high.sum()


def test_masks_of_a_batch_are_made_one_by_one_and_the_input_stays():
    volumes = torch.cat([ball_map(32), 5 * ball_map(32).flip(1)])
    before = volumes.clone()
    masks = auto_mask(volumes, pixel_size_angst=3.0)
    for i in range(2):
        assert_close_to_peak(masks[i : i + 1], auto_mask(volumes[i : i + 1], pixel_size_angst=3.0))
    assert_exact(volumes, before)


def test_maps_without_an_outline_are_refused():
    with pytest.raises(ValueError, match="not all equal"):
        auto_mask(torch.zeros(1, 16, 16, 16), pixel_size_angst=2.0)
    with pytest.raises(ValueError, match="above the mask threshold"):
        auto_mask(ball_map(16), pixel_size_angst=2.0, threshold=1e6)
    with pytest.raises(ValueError, match="cubic"):
        auto_mask(torch.zeros(1, 16, 16, 8), pixel_size_angst=2.0)
    with pytest.raises(ValueError, match="radius_px"):
        soft_circle(8, -1.0, 2.0)
