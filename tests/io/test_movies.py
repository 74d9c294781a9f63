import gzip
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tifffile

from verglas.core.errors import FormatError
from verglas.io.eer import write_eer
from verglas.io.movies import open_movie
from verglas.io.mrc import write_mrc
from verglas.io.tiff import write_tiff

from .eer_files import count_events, draw_events

SHAPE = (32, 48)


def _frames(n=5, dtype="uint8", seed=3):
    return np.random.default_rng(seed).integers(0, 15, (n, *SHAPE)).astype(dtype)


def _tiff(path, frames, **options):
    with tifffile.TiffWriter(path) as writer:
        for frame in frames:
            writer.write(frame[::-1], photometric="minisblack", contiguous=False, **options)


@pytest.mark.parametrize("mode", ["int8", "int16", "uint16", "float16", "float32", "uint4"])
@pytest.mark.parametrize("suffix", [".mrc", ".mrcs", ".mrc.gz"])
def test_mrc_frames_keep_their_type(tmp_path, mode, suffix):
    dtype = "uint8" if mode == "uint4" else mode
    frames = _frames(dtype=dtype)
    write_mrc(tmp_path / "a.mrc", frames, 1.1, mode, is_stack=True)
    path = tmp_path / f"a{suffix}"
    data = (tmp_path / "a.mrc").read_bytes()
    path.write_bytes(gzip.compress(data) if suffix == ".mrc.gz" else data)
    with open_movie(path) as movie:
        assert (movie.form, movie.n_frames, movie.shape) == ("mrc", 5, SHAPE)
        assert movie.pixel_size_angst == pytest.approx(1.1)
        for index in (4, 0, 2):
            frame = movie.frame(index)
            assert frame.dtype == movie.dtype == np.dtype(dtype)
            np.testing.assert_array_equal(frame, frames[index])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "lzw"},
        {"compression": "lzw", "predictor": True},
        {"compression": "zlib"},
        {"compression": "zstd"},
        {"compression": "zlib", "tile": (16, 16)},
        {"compression": "lzw", "rowsperstrip": 7},
    ],
)
def test_tiff_frames_keep_their_type_and_rows_go_up(tmp_path, options, dtype):
    frames = _frames(dtype=dtype)
    if dtype == "float32" and options.get("predictor"):
        options = options | {"predictor": 3}
    _tiff(tmp_path / "a.tif", frames, **options)
    with open_movie(tmp_path / "a.tif") as movie:
        assert (movie.form, movie.n_frames, movie.shape) == ("tiff", 5, SHAPE)
        frame = movie.frame(3)
        assert frame.dtype == movie.dtype == np.dtype(dtype)
        assert frame.flags.c_contiguous
        np.testing.assert_array_equal(frame, frames[3])


@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_eer_fractions_are_sums_of_raw_frames(tmp_path, upsampling):
    raw = [draw_events(SHAPE, 200, seed) for seed in range(11)]
    write_eer(tmp_path / "a.eer", raw, SHAPE, 0.8)
    with open_movie(
        tmp_path / "a.eer", eer_frames_per_fraction=3, eer_upsampling=upsampling
    ) as movie:
        # the last two raw frames fill no fraction
        assert (movie.form, movie.n_frames, movie.n_raw_frames) == ("eer", 3, 11)
        assert movie.shape == tuple(upsampling * side for side in SHAPE)
        assert movie.pixel_size_angst == pytest.approx(0.8 / upsampling)
        for index in range(3):
            expected = sum(
                count_events(events, SHAPE, upsampling) for events in raw[3 * index : 3 * index + 3]
            )
            np.testing.assert_array_equal(movie.frame(index), expected)


def test_eer_without_a_number_gives_about_forty_frames(tmp_path):
    write_eer(tmp_path / "a.eer", [draw_events((8, 8), 3)] * 130, (8, 8), 1.0)
    assert open_movie(tmp_path / "a.eer").n_frames == 43
    write_eer(tmp_path / "a.eer", [draw_events((8, 8), 3)] * 7, (8, 8), 1.0)
    assert open_movie(tmp_path / "a.eer").n_frames == 7


@pytest.mark.parametrize("form", ["mrc", "tiff", "eer"])
def test_threads_read_at_once(tmp_path, form):
    frames = np.minimum(_frames(24), 1)
    path = tmp_path / f"a.{form}"
    if form == "mrc":
        write_mrc(path, frames, 1.0, "int8", is_stack=True)
    elif form == "tiff":
        _tiff(path, frames, compression="zlib")
    else:
        raw = [draw_events(SHAPE, 100, seed) for seed in range(24)]
        frames = np.stack([count_events(events, SHAPE) for events in raw])
        write_eer(path, raw, SHAPE, 1.0)
    with (
        open_movie(path, eer_frames_per_fraction=1) as movie,
        ThreadPoolExecutor(8) as pool,
    ):
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(24), 3))
        for index, frame in zip(order, pool.map(movie.frame, order), strict=True):
            np.testing.assert_array_equal(frame, frames[index])


def test_an_image_is_a_movie_of_one_frame(tmp_path):
    write_mrc(tmp_path / "a.mrc", _frames(1)[0], 1.0, "int8")
    write_tiff(tmp_path / "a.tif", _frames(1)[0])
    assert open_movie(tmp_path / "a.mrc").n_frames == 1
    assert open_movie(tmp_path / "a.tif").n_frames == 1


def test_a_frame_outside_is_named(tmp_path):
    write_tiff(tmp_path / "a.tif", _frames())
    with (
        open_movie(tmp_path / "a.tif") as movie,
        pytest.raises(FormatError, match=r"frame 5 of .* does not exist: it holds 5"),
    ):
        movie.frame(5)


def test_a_closed_movie_opens_again_when_asked(tmp_path):
    frames = _frames()
    write_tiff(tmp_path / "a.tif", frames)
    movie = open_movie(tmp_path / "a.tif")
    for _ in range(2):
        np.testing.assert_array_equal(movie.frame(1), frames[1])
        movie.close()
        movie.close()


@pytest.mark.parametrize("form", ["mrc", "tif", "eer"])
def test_a_truncated_movie_is_refused_at_opening(tmp_path, form):
    path = tmp_path / f"a.{form}"
    if form == "eer":
        write_eer(path, [draw_events(SHAPE, 300)] * 8, SHAPE, 1.0)
    elif form == "mrc":
        write_mrc(path, _frames(), 1.0, "int8", is_stack=True)
    else:
        write_tiff(path, _frames())
    data = path.read_bytes()
    path.write_bytes(data[: int(0.7 * len(data))])
    with pytest.raises(FormatError, match=r"truncated|outside the file|damaged"):
        open_movie(path)


def test_a_movie_that_shrinks_while_it_is_read_is_named(tmp_path):
    write_mrc(tmp_path / "a.mrc", _frames(), 1.0, "int8", is_stack=True)
    with open_movie(tmp_path / "a.mrc") as movie:
        data = (tmp_path / "a.mrc").read_bytes()
        (tmp_path / "a.mrc").write_bytes(data[:-5])
        with pytest.raises(FormatError, match="was cut short while it was read: section 4"):
            movie.frame(4)


def test_damaged_pixels_are_a_format_error(tmp_path):
    _tiff(tmp_path / "a.tif", _frames(), compression="zlib")
    data = bytearray((tmp_path / "a.tif").read_bytes())
    middle = len(data) // 2
    data[middle - 300 : middle + 300] = b"\xff" * 600
    (tmp_path / "a.tif").write_bytes(data)
    with open_movie(tmp_path / "a.tif") as movie, pytest.raises(FormatError, match="TIFF movie"):
        [movie.frame(index) for index in range(movie.n_frames)]


def test_unsuitable_files_are_explained(tmp_path):
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(FormatError, match=r"not a movie that can be read: got suffix '.txt'"):
        open_movie(tmp_path / "a.txt")
    with pytest.raises(FormatError, match="does not exist"):
        open_movie(tmp_path / "none.mrc")
    write_eer(tmp_path / "a.eer", [draw_events(SHAPE, 3)] * 4, SHAPE, 1.0)
    with pytest.raises(FormatError, match="has 4 raw frames, fewer than the 5 of one fraction"):
        open_movie(tmp_path / "a.eer", eer_frames_per_fraction=5)
    with pytest.raises(ValueError, match="must be 1, 2 or 4"):
        open_movie(tmp_path / "a.eer", eer_upsampling=3)
