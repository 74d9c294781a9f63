"""The benchmark of picking and extraction counts as a person would."""

import numpy as np
import pytest

from tests.algorithms.fields import field
from verglas.api.bench_preprocess_picks import KnownField, measure_picks


def test_clear_particles_are_found_and_cut_out():
    """15 balls of 120 Å in a field of 900 x 1000 pixels of 1.5 Å with defocus 1.8 µm."""
    image, position_px = field(np.random.default_rng(3), 15)
    known = KnownField(np.asarray(image, np.float32), position_px)
    found = measure_picks([known], pixel_size_angst=1.5, diameter_angst=120.0)
    assert found.recall == 1.0
    assert found.precision == pytest.approx(1.0, abs=0.07)
    assert found.distance_median_angst < 6.0
    assert found.cpu_s > 0
    assert found.particles_per_cpu_s > 0


def test_particles_at_the_border_count_neither_way():
    image, position_px = field(np.random.default_rng(3), 15)
    missing = np.concatenate([position_px, [[10.0, 500.0]]])
    fields = [KnownField(np.asarray(image, np.float32), places) for places in (missing,)]
    found = measure_picks(fields, pixel_size_angst=1.5, diameter_angst=120.0)
    assert found.recall == 1.0
