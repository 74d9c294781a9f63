"""Centroids of broad correlation peaks are the middles of long particles."""

import numpy as np
import pytest
import torch

from tests.algorithms.fields import field
from verglas.algorithms.picking.centring import centroid_of_top
from verglas.algorithms.picking.log import LogPickConfig, pick_particles


def _ridge(x, y, angle, length, shape=(80, 90)):
    """A ridge with an even top, as long particles make it."""
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(float)
    across = -(columns - x) * np.sin(angle) + (rows - y) * np.cos(angle)
    along = (columns - x) * np.cos(angle) + (rows - y) * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length, 0)
    return np.exp(-(across**2 + beyond**2) / 18)


def test_a_pick_anywhere_on_a_ridge_comes_to_its_middle():
    """Within 0.02 diameters (30 px), from 5 px along a ridge of 12 px."""
    score = torch.from_numpy(_ridge(44.3, 38.6, 0.7, 6.0))
    start = torch.tensor([[44.3 + 5 * np.cos(0.7), 38.6 + 5 * np.sin(0.7)]])
    found = centroid_of_top(score, start, diameter_px=30.0)
    assert float((found - torch.tensor([[44.3, 38.6]])).norm()) < 0.02 * 30


def test_a_round_peak_keeps_its_place_and_the_border_is_no_particle():
    score = torch.from_numpy(_ridge(3.0, 40.0, 0.0, 0.0) + _ridge(60.25, 41.5, 0.0, 0.0))
    found = centroid_of_top(score, torch.tensor([[60.0, 41.0], [3.0, 40.0]]), diameter_px=24.0)
    assert float((found[0] - torch.tensor([60.25, 41.5])).norm()) < 0.05
    assert float((found[1] - torch.tensor([3.0, 40.0])).norm()) < 1.0
    empty = centroid_of_top(score, torch.zeros(0, 2), diameter_px=24.0)
    assert empty.shape == (0, 2)


def test_nothing_to_follow_moves_nothing():
    start = torch.tensor([[10.0, 12.0]], dtype=torch.float64)
    torch.testing.assert_close(centroid_of_top(torch.zeros(40, 40), start, diameter_px=20.0), start)


@pytest.mark.parametrize("seed", [1, 2])
def test_rods_are_picked_at_their_middles(seed):
    """Rods of 250 Å in `field`: RMS distance at most 0.05 diameters."""
    image, truth = field(np.random.default_rng(seed), 15, kind="rod", diameter_angst=250.0)
    config = LogPickConfig(250.0, 250.0)
    picks = pick_particles(torch.from_numpy(image), pixel_size_angst=1.5, config=config)
    distance = np.linalg.norm(picks.position_px.numpy()[:, None] - truth[None], axis=2).min(axis=0)
    near = distance[distance < 0.3 * 250 / 1.5]
    assert len(near) >= 0.9 * len(truth)
    assert np.sqrt((near**2).mean()) <= 0.05 * 250 / 1.5
