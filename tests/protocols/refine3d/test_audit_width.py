from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from verglas.algorithms.em.refine_start import initial_state
from verglas.algorithms.em.refine_state import RefineConfig
from verglas.protocols.refine3d import _gold
from verglas.sdk.testing import LocalContext

CONFIG = RefineConfig(box=24, pixel_size_angst=4.0, diameter_angst=60.0)
ROWS = pl.DataFrame({"item_id": np.arange(60), "half_set": np.arange(60) % 2 + 1})


def first_half_needs_more(rows, task, *, config, state, wanted):
    """Stand for an audit: four times what it began with in the first half, no more in the other."""
    width = int(task.load(state)["width"]) * (4 if rows["half_set"][0] == 1 else 1)
    return rows.select("item_id", recall=pl.lit(0.99), planned=pl.lit(0.7), width=width)


@pytest.fixture
def state(monkeypatch):
    monkeypatch.setattr(_gold, "audit_half", first_half_needs_more)
    return initial_state(CONFIG, torch.ones(24, 24, 24), torch.ones(1, CONFIG.max_radius + 1))


def test_both_halves_search_as_widely_as_either_needs(state, tmp_path):
    found, recall = _gold._audited(LocalContext(tmp_path), ROWS, CONFIG, state, 20)
    assert (found.width, recall) == (4, pytest.approx(0.99))


def test_an_audit_begins_with_half_of_what_was_needed(state, tmp_path):
    before = replace(state, width=8, n_polished=1)
    found, _ = _gold._audited(LocalContext(tmp_path), ROWS, CONFIG, before, 20)
    assert found.width == 4 * 4
