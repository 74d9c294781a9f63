from dataclasses import replace

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, make_setting
from verglas.algorithms.em.audit import recall_of_search
from verglas.algorithms.em.expectation import Level, Search
from verglas.algorithms.em.polish import Polish
from verglas.algorithms.em.references import References
from verglas.algorithms.em.search import shift_grid
from verglas.kernels.so3 import orientation_grid, random_rotations

N = 12


@pytest.fixture(scope="module")
def scene():
    """12 views of 20 px, 12 log units each from nothing, without shifts."""
    setting = make_setting()
    still = torch.zeros(N, 2, dtype=torch.float64)
    rotations = random_rotations(N, generator=torch.Generator().manual_seed(0))
    views = draw_views(setting, rotations, still)
    return views, References(setting.half_volumes, torch.zeros(1), 2, planar=False), still


def _search(**changes):
    one = shift_grid(0.9 * PIXEL_ANGST, PIXEL_ANGST)
    levels = (Level(30.0, 5, one), Level(15.0, 8, one))
    return replace(Search(orientation_grid(1), levels, shift_prior_angst=2.0), **changes)


def test_a_generous_search_keeps_the_posterior(scene):
    views, references, still = scene
    recall = recall_of_search(views, references, _search(max_cells=128), shifts_angst=still)
    assert float(recall.mean()) > 0.95


def test_a_stingy_search_is_found_out(scene):
    views, references, still = scene
    stingy = _search(kept_mass=0.2, min_cells=1, max_cells=1)
    recall = recall_of_search(views, references, stingy, shifts_angst=still)
    assert float(recall.mean()) < 0.9
    assert float(recall.max()) <= 1.0


def test_ends_of_climbs_are_compared(scene):
    views, references, still = scene
    search = _search(polish=Polish(8, 8, 8))
    recall = recall_of_search(views, references, search, shifts_angst=still)
    assert set(recall.tolist()) <= {0.0, 1.0}
    assert float(recall.mean()) > 0.7
