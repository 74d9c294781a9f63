"""The matched filter finds particles by their templates, and its scores are sigmas."""

import math

import numpy as np
import pytest
import torch

from tests.algorithms.fields import n_matched, scatter
from tests.algorithms.thon import ctf as true_ctf
from verglas.algorithms.picking.template import (
    MicrographCtf,
    TemplatePickConfig,
    pick_with_templates,
)
from verglas.algorithms.picking.template_bank import TemplateBank, bank_of_images, bank_of_volume
from verglas.kernels.so3 import random_rotations

PIXEL, DIAMETER = 3.0, 150.0
SHAPE = (288, 320)
CTF = {"pixel_size_angst": PIXEL, "defocus_angst": 18000.0, "astigmatism_angst": 300.0}
CTF |= {"angle_deg": 40.0, "cs_mm": 2.7, "kv": 300.0}
KNOWN = MicrographCtf(18150.0, 17850.0, 40.0, 0.0, 300.0, 2.7, 0.07)


def specimen(n=250, seed=5):
    """Blobs of 9 Å that make an asymmetric elongated body; `[n, 3]`, x, y, z in Å."""
    rng = np.random.default_rng(seed)
    points = rng.standard_normal((n, 3))
    points *= rng.uniform(size=(n, 1)) ** (1 / 3) / np.linalg.norm(points, axis=1, keepdims=True)
    points *= [62.0, 30.0, 40.0]
    points[: n // 4, 1] += 25.0 + points[: n // 4, 0] * 0.3
    return points - points.mean(axis=0)


def draw(points, shape, centre_px):
    """Sum of blobs of 9 Å about a point of an image, or of a volume in three dimensions."""
    total = np.zeros(shape)
    axes = np.ogrid[tuple(slice(0, n) for n in shape)][::-1]
    for point in points:
        place = point[: len(shape)] / PIXEL + centre_px
        near = sum((axis - x) ** 2 for axis, x in zip(axes, place, strict=True))
        total += np.exp(-near * PIXEL**2 / (2 * 9.0**2))
    return total


def micrograph(n, *, noise=1.0, seed=1, contrast=0.25):
    """Turned copies of the specimen under a CTF; noise is not white, and has deviation `noise`."""
    rng = np.random.default_rng(seed)
    truth = scatter(rng, n, shape=SHAPE, pixel_size_angst=PIXEL, diameter_angst=DIAMETER)
    turns = random_rotations(max(1, len(truth)), generator=torch.Generator().manual_seed(seed))
    counts = np.zeros(SHAPE)
    for place, turn in zip(truth, turns.numpy(), strict=False):
        blobs = (specimen() @ turn.T)[:, :2] / PIXEL + place
        column, row = blobs.round().astype(int).T
        np.add.at(counts, (row.clip(0, SHAPE[0] - 1), column.clip(0, SHAPE[1] - 1)), 1.0)
    transfer, square = true_ctf(SHAPE, **CTF)
    blob = 2 * math.pi * (9.0 / PIXEL) ** 2 * np.exp(-2 * (math.pi * 9.0) ** 2 * square)
    signal = np.fft.irfft2(np.fft.rfft2(counts) * blob * contrast * transfer, s=SHAPE)
    coloured = np.sqrt(0.5 + 1.0 / (1 + square * 100.0**2))
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal(SHAPE)) * coloured, s=SHAPE)
    return (noise * field - signal).astype(np.float32), truth


@pytest.fixture(scope="module")
def bank():
    volume = draw(specimen(), (64, 64, 64), 32.0)
    return bank_of_volume(
        torch.from_numpy(volume),
        pixel_size_angst=PIXEL,
        diameter_angst=DIAMETER,
        resolution_angst=25.0,
    )


def pick(image, bank, *, ctf=KNOWN, **config):
    return pick_with_templates(
        torch.from_numpy(image),
        pixel_size_angst=PIXEL,
        bank=bank,
        config=TemplatePickConfig(**config),
        ctf=ctf,
    )


def f1(picks, truth):
    found = picks.position_px.numpy()
    hits = n_matched(found, truth, 0.3 * DIAMETER / PIXEL)
    return 2 * hits / max(1, len(found) + len(truth))


def test_particles_in_any_orientation_are_found(bank):
    """16 particles of 150 Å, noise of deviation about 1: F1 >= 0.93, centres within 0.05 D."""
    image, truth = micrograph(16)
    picks = pick(image, bank)
    assert f1(picks, truth) >= 0.93
    apart = np.hypot(*(picks.position_px.numpy()[:, None] - truth[None]).transpose(2, 0, 1))
    near = apart.min(axis=1)
    assert np.sqrt(np.mean(near[near < 15] ** 2)) * PIXEL <= 0.05 * DIAMETER


def test_the_ctf_raises_scores(bank):
    image, _ = micrograph(8)
    with_ctf, without = pick(image, bank), pick(image, bank, ctf=None)
    assert with_ctf.score[:6].mean() > 1.1 * without.score[:6].mean()


def test_noise_gives_hardly_any_pick(bank):
    """0.5 false picks are allowed an image: at most 3 in two images."""
    found = [len(pick(micrograph(0, seed=s)[0], bank).score) for s in (3, 4)]
    assert sum(found) <= 3


def test_score_of_one_template_is_normal_in_noise():
    """A bank of a single round template: scores have mean 0 and deviation 1 within 10 %."""
    from verglas.algorithms.picking import template

    y, x = np.mgrid[:64, :64] - 32.0
    disc = np.exp(-(x**2 + y**2) / 2 / 8.0**2)
    made = bank_of_images(
        torch.from_numpy(disc)[None],
        pixel_size_angst=PIXEL,
        diameter_angst=100.0,
        resolution_angst=20.0,
    )
    one = TemplateBank(made.basis, made.weights[:1], made.view[:1], made.pixel_size_angst, 100.0)
    seen = {}

    def spy(found, covariance, weights):
        seen["score"] = kept(found, covariance, weights)[0]
        return kept(found, covariance, weights)

    kept = template._best_scores
    template._best_scores = spy
    try:
        pick(micrograph(0, seed=7)[0], one)
    finally:
        template._best_scores = kept
    inner = seen["score"][10:-10, 10:-10]
    assert abs(float(inner.std()) - 1.0) < 0.1
    assert abs(float(inner.mean())) < 0.1


def test_class_averages_serve_as_templates():
    """Two views, turned in the plane by the search alone."""
    image, _ = micrograph(0, seed=9)
    rng = np.random.default_rng(2)
    points = specimen()
    truth = scatter(rng, 8, shape=SHAPE, pixel_size_angst=PIXEL, diameter_angst=DIAMETER)
    for i, place in enumerate(truth):
        angle = rng.uniform(0, 2 * math.pi)
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        body = (points[:, :2] if i % 2 else points[:, 1:]) @ turn.T
        whole = place.astype(int)
        box = (slice(whole[1] - 30, whole[1] + 30), slice(whole[0] - 30, whole[0] + 30))
        image[box] -= 0.05 * draw(body, (60, 60), place - whole + 30)
    averages = np.stack([draw(p, (64, 64), 32.0) for p in (points[:, :2], points[:, 1:])])
    made = bank_of_images(
        torch.from_numpy(averages),
        pixel_size_angst=PIXEL,
        diameter_angst=DIAMETER,
        resolution_angst=20.0,
    )
    picks = pick(image, made, ctf=None)
    assert f1(picks, truth) >= 0.93
    assert set(picks.view.tolist()) == {0, 1}


def test_compression_keeps_the_templates(bank):
    templates = torch.einsum("nr,rab->nab", bank.weights, bank.basis).flatten(1)
    assert float(templates.square().sum(1).min()) > 0.95
    gram = bank.basis.flatten(1) @ bank.basis.flatten(1).T
    assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-4)
    again = TemplateBank.from_arrays(bank.to_arrays())
    assert torch.equal(again.weights, bank.weights)
    assert again.diameter_angst == bank.diameter_angst


def test_threshold_can_be_moved(bank):
    image, _ = micrograph(8, seed=11)
    strict, usual = pick(image, bank, threshold_shift=4.0), pick(image, bank)
    assert len(strict.score) <= len(usual.score)
    assert strict.threshold == pytest.approx(usual.threshold + 4.0)


def test_missing_pixels_are_never_picked(bank):
    image, _ = micrograph(10, seed=12)
    image[:, :120] = np.nan
    found = pick(image, bank).position_px
    assert torch.isfinite(found).all()
    assert float(found[:, 0].min()) > 115.0


def test_empty_templates_are_refused():
    with pytest.raises(ValueError, match="templates are empty"):
        bank_of_images(
            torch.zeros(2, 32, 32), pixel_size_angst=3.0, diameter_angst=60.0, resolution_angst=20.0
        )
