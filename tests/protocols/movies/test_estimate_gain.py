"""The gain of movies on disk is estimated, and a reference is turned as it must lie."""

import numpy as np
import polars as pl
import pytest

from tests.protocols.movies.made import movies_on_disk
from verglas.algorithms.gain import turn
from verglas.core.errors import FormatError, UserError
from verglas.io.mrc import read_mrc, write_mrc
from verglas.protocols.movies import estimate_gain
from verglas.sdk.testing import LocalContext, check_protocol

N_MOVIES = 6


@pytest.fixture(scope="module")
def gain():
    sensitivity = np.random.default_rng(0).normal(1.0, 0.1, (96, 96)).clip(0.5, 2.0)
    return (1.0 / sensitivity / (1.0 / sensitivity).mean()).astype(np.float32)


@pytest.fixture
def project(tmp_path, gain):
    """6 movies of 96 x 96 x 8, 10 counts a pixel and frame: 480 in all, contrast 0.02."""
    return tmp_path, movies_on_disk(tmp_path, N_MOVIES, gain=gain, counts=10.0, contrast=0.02)[0]


def run(root, data, **params):
    ctx = LocalContext(root)
    out = estimate_gain.run(
        ctx, estimate_gain.GainParams(**params), estimate_gain.Inputs(movies=data)
    )
    return ctx, out.movies


def gain_of(data):
    (path,) = set(data.rows()["gain_path"])
    return read_mrc(data.root / path)[0][0]


def test_protocol_declares_what_it_should():
    check_protocol(estimate_gain.run)


def test_estimate_is_good_to_counting_statistics(project, gain):
    ctx, made = run(*project)
    error = gain_of(made) / gain
    assert (error / error.mean()).std() < 1.3 / np.sqrt(480)
    assert ctx.metrics["counts_per_pixel"] == pytest.approx(480, rel=0.1)
    assert "gain" in made.traits


@pytest.mark.parametrize("is_inverse", [False, True])
@pytest.mark.parametrize("way", [0, 3, 5])
def test_movies_carry_the_reference_as_it_must_lie(project, gain, way, is_inverse):
    root, data = project
    lying = turn(1.0 / gain if is_inverse else gain, way)
    write_mrc(root / "reference.mrc", lying, 1.0)
    ctx, made = run(root, data, reference="reference.mrc", n_movies=3)
    np.testing.assert_allclose(gain_of(made), gain, rtol=1e-4)
    assert bool(ctx.warnings) == (way != 0 or is_inverse)
    assert ctx.metrics["residual_gain"] < 0.03


def test_reference_of_another_camera_is_not_used(project):
    root, data = project
    other = np.random.default_rng(9).normal(1.0, 0.1, (96, 96)).astype(np.float32)
    write_mrc(root / "other.mrc", other, 1.0)
    rows = data.rows(["item_id"]).with_columns(gain_path=pl.lit("other.mrc"))
    ctx, made = run(root, data.with_columns(rows))
    assert any("fits in no way that stands out" in text for text in ctx.warnings)
    assert made.rows()["gain_path"][0].endswith("gain_estimated.mrc")


def test_reference_of_another_size_is_refused(project):
    root, data = project
    write_mrc(root / "small.mrc", np.ones((48, 48), np.float32), 1.0)
    with pytest.raises(FormatError, match="48 x 48 pixels, the frames 96 x 96"):
        run(root, data, reference="small.mrc")


def test_unreadable_movies_are_skipped(project):
    root, data = project
    (root / "movie_2.mrc").write_bytes(b"broken")
    ctx, made = run(root, data)
    assert any("movie_2.mrc" in text for text in ctx.warnings)
    assert made.n_items == N_MOVIES


def test_no_readable_movie_is_an_error(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    (tmp_path / "movie_0.mrc").write_bytes(b"broken")
    with pytest.raises(UserError, match="no movie could be read"):
        run(tmp_path, data)


def test_using_a_reference_that_is_not_there_is_refused(project):
    with pytest.raises(UserError, match="no gain reference to use"):
        run(*project, use="reference")
