from dataclasses import replace

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST, draw_views, make_setting
from verglas.algorithms.em import expectation
from verglas.algorithms.em.audit import WIDEST, audit_search
from verglas.algorithms.em.expectation import Level, Search, expect
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


def test_a_search_that_keeps_the_posterior_stays_as_planned(scene):
    views, references, still = scene
    found = audit_search(views, references, _search(max_cells=128), shifts_angst=still, wanted=0.95)
    assert found.width == 1
    assert float(found.recall.mean()) > 0.95
    assert torch.equal(found.recall, found.planned)


def test_a_stingy_search_is_widened_until_no_more_is_found(scene):
    views, references, still = scene
    stingy = _search(min_cells=1, max_cells=32)
    found = audit_search(views, references, stingy, shifts_angst=still, wanted=0.95)
    assert found.width > 1
    assert float(found.planned.mean()) < 0.9 < float(found.recall.mean())
    assert float(found.recall.max()) <= 1.0
    again = audit_search(
        views, references, stingy, shifts_angst=still, width=found.width, wanted=0.95
    )
    assert again.width == found.width


def test_a_search_is_not_widened_without_end(scene):
    views, references, still = scene
    stingy = _search(min_cells=1, max_cells=1)
    found = audit_search(views, references, stingy, shifts_angst=still, wanted=1.1)
    assert found.width == WIDEST


def test_ends_of_climbs_are_compared(scene):
    views, references, still = scene
    search = _search(polish=Polish(8, 8, 8, n_starts=1))
    found = audit_search(views, references, search, shifts_angst=still, wanted=0.9)
    assert float(found.recall.mean()) > 0.7
    # ending in the same place counts as found, however the evidence was sampled
    assert (found.recall == 1.0).any()


def test_wider_searches_carry_more_cells_or_more_starts():
    grid = _search().widened(4)
    assert (grid.max_cells, grid.polish) == (256, None)
    polished = _search(polish=Polish(8, 8, 8)).widened(4)
    assert (polished.max_cells, polished.polish.n_starts) == (128, 12)


def test_views_on_the_ladder_in_blocks_give_the_same_sums(scene, monkeypatch):
    views, references, still = scene

    def expected():
        return expect(views, references, _search(), n_groups=1, shifts_angst=still)

    whole_poses, whole = expected()
    monkeypatch.setattr(expectation, "_views_at_once", lambda search, n: 5)
    poses, sums = expected()
    torch.testing.assert_close(poses.loglik, whole_poses.loglik, rtol=1e-6, atol=1e-4)
    torch.testing.assert_close(
        sums.denominator, whole.denominator, rtol=1e-3, atol=1e-4 * float(whole.denominator.max())
    )
