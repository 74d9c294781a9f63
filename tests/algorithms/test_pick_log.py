"""Particles of any shape are found from their diameter alone, and nothing is found in noise."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.algorithms.fields import field, n_matched
from verglas.algorithms.picking._mixture import split_heights
from verglas.algorithms.picking.log import LogPickConfig, Picks, pick_particles

_REAL = Path(__file__).parents[3] / "shared/data/micrographs/apoferritin_EMPIAR-10146"


def _pick(image, diameter_angst, **config) -> Picks:
    return pick_particles(
        torch.from_numpy(image),
        pixel_size_angst=1.5,
        config=LogPickConfig(diameter_angst, diameter_angst, **config),
    )


@pytest.mark.parametrize(
    ("kind", "n", "diameter", "n_ice"),
    [
        ("ball", 60, 120.0, 0),
        ("ball", 60, 120.0, 2),
        ("ball", 15, 250.0, 0),
        ("ball", 5, 250.0, 1),
        ("shell", 60, 130.0, 0),
        ("rod", 15, 250.0, 0),
    ],
)
def test_particles_are_found(kind, n, diameter, n_ice):
    """Match within 0.3 diameters; F1 at least 0.95, centres within 0.05 diameters."""
    image, truth = field(
        np.random.default_rng(1), n, kind=kind, diameter_angst=diameter, n_ice=n_ice
    )
    found = _pick(image, diameter).position_px.numpy()
    hits = n_matched(found, truth, 0.3 * diameter / 1.5)
    assert 2 * hits / (len(found) + len(truth)) >= 0.95
    nearest = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1)).min(axis=1)
    assert np.median(nearest) * 1.5 < 0.05 * diameter


def test_noise_gives_almost_no_picks():
    image = np.random.default_rng(2).standard_normal((1000, 1000)).astype(np.float32)
    picks = _pick(image, 130.0)
    assert len(picks.score) <= 3
    assert not picks.split.is_bimodal


def test_blank_margin_is_never_picked():
    image, _ = field(np.random.default_rng(3), 60, diameter_angst=120.0)
    image[:, :200] = image.mean()
    image[700:] = 0.0
    found = _pick(image, 120.0).position_px.numpy()
    assert len(found) >= 20
    assert found[:, 0].min() >= 198
    assert found[:, 1].max() <= 702


def test_picks_keep_their_distance():
    image, _ = field(np.random.default_rng(4), 60, diameter_angst=120.0)
    found = _pick(image, 120.0, min_distance_angst=110.0).position_px.numpy()
    apart = np.hypot(*(found[:, None] - found[None]).transpose(2, 0, 1))
    assert apart[~np.eye(len(found), dtype=bool)].min() >= 110.0 / 1.5 - 3.0


def test_grey_scale_and_outliers_do_not_matter():
    image, _ = field(np.random.default_rng(5), 40, diameter_angst=120.0)
    plain = _pick(image, 120.0)
    scaled = 700.0 * image + 3000.0
    scaled[100:103, 200:203] = 1e6
    other = _pick(scaled, 120.0)
    hits = n_matched(plain.position_px.numpy(), other.position_px.numpy(), 5.0)
    assert hits >= 0.95 * max(len(plain.score), len(other.score))


def test_higher_threshold_keeps_the_best():
    image, _ = field(np.random.default_rng(6), 40, diameter_angst=120.0)
    few, many = _pick(image, 120.0, threshold_shift=1.0), _pick(image, 120.0)
    assert len(few.score) <= len(many.score)
    assert torch.equal(few.score, many.score[: len(few.score)])


def test_self_template_beats_plain_laplacian_on_hollow_particles():
    image, truth = field(np.random.default_rng(7), 60, kind="shell", diameter_angst=130.0)
    scores = []
    for n_rounds in (0, 3):
        found = _pick(image, 130.0, n_rounds=n_rounds).position_px.numpy()
        hits = n_matched(found, truth, 26.0)
        scores.append(2 * hits / (len(found) + len(truth)))
    assert scores[1] >= scores[0]


def test_not_a_number_counts_as_blank():
    image, _ = field(np.random.default_rng(8), 20, diameter_angst=120.0)
    image[:50] = np.nan
    assert torch.isfinite(_pick(image, 120.0).position_px).all()


def test_two_populations_of_heights_are_parted():
    rng = np.random.default_rng(9)
    noise = 0.08 + 0.025 * (rng.gumbel(size=300) - 0.577)
    heights = np.concatenate([noise, rng.normal(0.35, 0.04, 60)])
    split = split_heights(heights, floor=0.1)
    assert split.is_bimodal
    assert 0.15 < split.threshold < 0.29
    assert abs(split.particle_fraction - 1 / 6) < 0.03
    assert not split_heights(noise, floor=0.1).is_bimodal


@pytest.mark.parametrize("heights", [[], [0.1], [0.2] * 50])
def test_degenerate_heights_are_noise(heights):
    split = split_heights(np.array(heights), floor=0.1)
    assert not split.is_bimodal
    assert np.isfinite(split.threshold)


@pytest.mark.data
@pytest.mark.skipif(not _REAL.exists(), reason="needs the shared apoferritin images")
def test_real_apoferritin_is_picked():
    """Recall and precision >= 0.93 within 20 px against the reference, diameter 130 Å given."""
    mrcfile = pytest.importorskip("mrcfile")
    reference: dict[str, list[tuple[float, float]]] = {}
    with (_REAL / "reference_picks.csv").open() as file:
        for row in csv.DictReader(file):
            reference.setdefault(row["micrograph"], []).append((float(row["x"]), float(row["y"])))
    hits = n_found = n_truth = 0
    for name, truth in reference.items():
        image = mrcfile.read(_REAL / name).astype(np.float32)
        found = _pick(image, 130.0).position_px.numpy()
        hits += n_matched(found, np.array(truth), 20.0)
        n_found, n_truth = n_found + len(found), n_truth + len(truth)
    assert hits / n_found >= 0.96
    assert hits / n_truth >= 0.96
