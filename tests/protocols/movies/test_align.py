"""Movies on disk become micrographs; what is wrong with one is named."""

import numpy as np
import polars as pl
import pytest

from tests.protocols.movies.made import N_FRAMES, movies_on_disk
from verglas.algorithms.gain import turn
from verglas.algorithms.motion.field import MotionField
from verglas.core.errors import UserError
from verglas.io.mrc import read_mrc, write_mrc
from verglas.protocols.movies import align
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

FAST = {"patch_angst": 60.0, "threads": 1}


def run(root, data, **params):
    ctx = LocalContext(root)
    out = align.run(ctx, align.AlignParams(**{**FAST, **params}), align.Inputs(movies=data))
    return ctx, out.micrographs


def read(data, column, row=0):
    return read_mrc(data.root / data.rows()[column][row])


def test_protocol_declares_what_it_should():
    check_protocol(align.run)


def test_movies_become_micrographs_with_their_motion(tmp_path):
    data, truth = movies_on_disk(tmp_path)
    ctx, made = run(tmp_path, data)
    assert ctx.warnings == []
    assert made.traits >= {"frame_shifts", "half_images", "dose", "image"}
    rows = made.rows()
    assert rows["item_id"].to_list() == [0, 1, 2]
    for i, path in enumerate(truth):
        shifts = np.stack([rows[f"frame_shift_{axis}_angst"][i].to_numpy() for axis in "xy"], 1)
        error = -shifts / 1.2 - path
        assert np.sqrt(((error - error.mean(axis=0)) ** 2).sum(axis=1).mean()) < 0.5
    assert rows["dose_e_per_angst2"][0] == 16.0
    assert rows["image_width_px"][0] == 96
    (image,), pixel = read(made, "image_path")
    (odd,), _ = read(made, "odd_image_path")
    (even,), _ = read(made, "even_image_path")
    assert pixel == pytest.approx(1.2)
    np.testing.assert_allclose(odd + even, image, atol=1e-2)
    assert image.mean() == pytest.approx(4.0 * N_FRAMES, rel=0.05)


def test_written_motion_is_that_of_the_table(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    _, made = run(tmp_path, data)
    rows = made.rows()
    with np.load(tmp_path / rows["local_motion_path"][0]) as arrays:
        motion = MotionField.from_arrays(dict(arrays))
    np.testing.assert_allclose(-motion.path_angst[:, 0], rows["frame_shift_x_angst"][0].to_list())


def test_binned_micrograph_has_a_larger_pixel(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    _, made = run(tmp_path, data, binning=2.0, write_halves=False)
    assert made.optics["pixel_size_angst"].to_list() == [2.4]
    (image,), pixel = read(made, "image_path")
    assert image.shape == (48, 48)
    assert pixel == pytest.approx(2.4)
    assert "half_images" not in made.traits


def test_unknown_exposure_is_said_and_leaves_frames_alike(tmp_path):
    data, _ = movies_on_disk(tmp_path, 2, dose=0.0)
    ctx, made = run(tmp_path, data)
    assert any("exposure of 2 of 2 movies is not known" in text for text in ctx.warnings)
    (image,), _ = read(made, "image_path")
    (plain,), _ = read(made, "unweighted_image_path")
    np.testing.assert_array_equal(image, plain)


def test_truncated_movie_among_others_is_skipped_and_named(tmp_path):
    data, _ = movies_on_disk(tmp_path)
    broken = tmp_path / "movie_1.mrc"
    broken.write_bytes(broken.read_bytes()[:-3000])
    ctx, made = run(tmp_path, data)
    assert made.rows()["item_id"].to_list() == [0, 2]
    assert any("movie_1.mrc" in text for text in ctx.warnings)


def test_all_movies_broken_is_an_error(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    (tmp_path / "movie_0.mrc").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no movie could be aligned"):
        run(tmp_path, data)


def test_single_frame_is_its_own_sum(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    one = data.with_columns(pl.DataFrame({"item_id": [0], "last_frame": [0]}))
    ctx, made = run(tmp_path, one)
    assert any("one frame only" in text for text in ctx.warnings)
    assert made.rows()["travel_angst"][0] == 0.0


def with_gain(data, name):
    rows = data.rows(["item_id"]).with_columns(gain_path=pl.lit(name))
    return data.with_columns(rows)


def test_gain_of_another_size_is_named_with_advice(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    write_mrc(tmp_path / "gain.mrc", np.ones((64, 96), np.float32), 1.2)
    ctx = LocalContext(tmp_path)
    with pytest.raises(UserError):
        align.run(ctx, align.AlignParams(**FAST), align.Inputs(movies=with_gain(data, "gain.mrc")))
    (text,) = [text for text in ctx.warnings if "gain.mrc" in text]
    assert "96 x 64 pixels, the frames 96 x 96" in text
    assert "camera" in text


def test_gain_that_lies_wrongly_is_named_with_advice(tmp_path):
    gain = np.random.default_rng(0).normal(1.0, 0.15, (96, 96)).clip(0.5, 2.0).astype(np.float32)
    data, _ = movies_on_disk(tmp_path, 1, gain=gain, counts=20.0)
    write_mrc(tmp_path / "right.mrc", gain, 1.2)
    write_mrc(tmp_path / "wrong.mrc", turn(gain, 4), 1.2)
    assert run(tmp_path / ".", with_gain(data, "right.mrc"))[0].warnings == []
    ctx = LocalContext(tmp_path, job="0002-local")
    align.run(ctx, align.AlignParams(**FAST), align.Inputs(movies=with_gain(data, "wrong.mrc")))
    (text,) = ctx.warnings
    assert "does not fit as it lies, but mirrored in x" in text
    assert "movies.estimate_gain" in text


def test_defects_may_be_lines_of_text(tmp_path):
    data, _ = movies_on_disk(tmp_path, 1)
    (tmp_path / "defects.txt").write_text("10 20 3 2\n", "utf-8")
    rows = data.rows(["item_id"]).with_columns(defects_path=pl.lit("defects.txt"))
    _, made = run(tmp_path, data.with_columns(rows))
    assert made.rows()["n_defects"][0] == 6


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    def inputs(root):
        return align.Inputs(movies=movies_on_disk(root, 5)[0])

    check_resume(align.run, inputs, align.AlignParams(**FAST, write_halves=False), tmp_path)
