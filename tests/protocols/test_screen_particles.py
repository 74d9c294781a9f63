"""Odd images are put aside, usual ones stay."""

import numpy as np
import polars as pl
import pytest
import torch

from verglas.algorithms.screening import family_scores, measure_images
from verglas.core.errors import ParamsError
from verglas.io.mrc import write_mrc
from verglas.model import PARTICLES, make_dataset
from verglas.protocols.particles.screen import Inputs, ScreenParams, run
from verglas.sdk.testing import LocalContext, check_protocol

BOX, PIXEL, DIAMETER = 48, 4.0, 120.0
N_GOOD, N_BAD = 300, 12


def images(seed=0):
    """Blobs in noise of deviation 1, then stripes, crystals, empty halves and heaps."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    radius = np.hypot(x, y) * PIXEL
    body = 1.2 * np.clip((0.5 * DIAMETER - radius) / 10 + 0.5, 0, 1)
    good = body + rng.standard_normal((N_GOOD, BOX, BOX))
    bad = rng.standard_normal((N_BAD, BOX, BOX)) + body
    for i in range(N_BAD):
        if i % 4 == 0:
            bad[i] += 4 * np.sin(x / 1.5)
        elif i % 4 == 1:
            bad[i] += 8.0 * (np.hypot(x - 12, y - 9) < 6)
        elif i % 4 == 2:
            bad[i, :, : BOX // 2] = 6.0
        else:
            bad[i] *= 1 + 5 * (np.hypot(x + 10, y) < 9)
    return np.concatenate([good, bad]).astype(np.float32)


def particles(root, stack, **columns):
    write_mrc(root / "stack.mrcs", stack, PIXEL, is_stack=True)
    rows = {
        "image_path": ["stack.mrcs"] * len(stack),
        "image_slice": list(range(len(stack))),
        "optics_group": [1] * len(stack),
        **columns,
    }
    optics = pl.DataFrame({"optics_group": [1], "pixel_size_angst": [PIXEL], "box_px": [BOX]})
    return make_dataset(PARTICLES, pl.DataFrame(rows), root=root, optics=optics)


def screen(root, stack, **params):
    ctx = LocalContext(root)
    given = ScreenParams(**({"diameter_angst": DIAMETER} | params))
    return run(ctx, given, Inputs(particles=particles(root, stack))), ctx


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "particles.screen"


def test_odd_images_go_and_usual_ones_stay(tmp_path):
    """300 usual and 12 odd images: all odd ones rejected, at most 2 % of the others."""
    outputs, ctx = screen(tmp_path, images())
    rejected = outputs.rejected.rows()["image_slice"].to_list()
    assert set(range(N_GOOD, N_GOOD + N_BAD)) <= set(rejected)
    assert len(rejected) - N_BAD <= 0.02 * N_GOOD
    assert ctx.metrics["n_kept"] == outputs.particles.n_items
    assert {"z_score", "ssnr_db", "variance_ratio"} <= set(outputs.particles.columns)


@pytest.mark.parametrize(
    "params",
    [{"min_ssnr_db": 0.0}, {"max_ssnr_db": 0.0}, {"max_variance_ratio": 1.2}],
)
def test_each_rule_cuts_its_own_measure(tmp_path, params):
    outputs, _ = screen(tmp_path, images(), max_z_score=None, **params)
    name, limit = next(iter(params.items()))
    column = name.partition("_")[2]
    kept, rejected = outputs.particles.rows()[column], outputs.rejected.rows()[column]
    if name.startswith("min"):
        assert kept.min() >= limit
        assert rejected.is_empty() or rejected.max() < limit
    else:
        assert kept.is_empty() or kept.max() <= limit
        assert rejected.is_empty() or rejected.min() > limit


def test_signal_over_noise_is_in_decibels():
    """A flat body of height 2 in noise of variance 1: 10 log10(4) = 6.0 dB."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:BOX, :BOX] - BOX // 2
    body = 2.0 * (np.hypot(x, y) * PIXEL <= 0.5 * DIAMETER)
    stack = torch.from_numpy(body + rng.standard_normal((50, BOX, BOX)))
    found = measure_images(stack, pixel_size_angst=PIXEL, diameter_angst=DIAMETER)
    assert found.ssnr_db.mean() == pytest.approx(6.02, abs=0.3)
    assert found.variance_ratio.mean() == pytest.approx(1.0, abs=0.1)


def test_measures_do_not_depend_on_quarter_turns():
    stack = torch.from_numpy(images()[:5, :, :]).double()
    odd = stack[:, 1:, 1:]  # an odd box turns onto itself
    a = measure_images(odd, pixel_size_angst=PIXEL, diameter_angst=DIAMETER)
    b = measure_images(torch.rot90(odd, 1, (1, 2)), pixel_size_angst=PIXEL, diameter_angst=DIAMETER)
    assert np.allclose(a.families["histogram"], b.families["histogram"], atol=1e-4)
    assert np.allclose(a.ssnr_db, b.ssnr_db, atol=1e-3)


def test_scores_of_normal_numbers_are_normal_in_the_tail():
    """2,000 rows of five correlated measures: 1-5 of 1,000 beyond 2.75 (0.3 % expected)."""
    rng = np.random.default_rng(2)
    values = rng.standard_normal((2000, 5)) @ rng.standard_normal((5, 5))
    scores = family_scores(values)
    assert 0.001 <= (scores > 2.75).mean() <= 0.006
    assert family_scores(values[:5]).max() == 0.0
    assert family_scores(np.ones((50, 3))).max() == 0.0


def test_missing_size_and_missing_pixels(tmp_path):
    with pytest.raises(ParamsError, match="needs diameter_angst"):
        screen(tmp_path, images()[:20], diameter_angst=None)
    stack = torch.from_numpy(images()[:40]).clone()
    stack[3] = torch.nan
    found = measure_images(stack, pixel_size_angst=PIXEL, diameter_angst=DIAMETER)
    assert all(np.isfinite(values).all() for values in found.families.values())
    assert np.isfinite(found.ssnr_db).all()
