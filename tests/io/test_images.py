import contextlib
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image

from verglas.core.errors import FormatError
from verglas.io.images import (
    ImageRows,
    open_images,
    stretch_contrast,
    write_jpeg,
    write_png,
)
from verglas.io.mrc import write_mrc
from verglas.io.tiff import write_tiff


def _image(shape, seed=1):
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".mrc", ".mrcs", ".map", ".tif", ".tiff", ".png"])
def test_every_format_gives_the_same_rows(tmp_path, suffix):
    image = _image((20, 30))
    path = tmp_path / f"a{suffix}"
    if suffix == ".png":
        write_png(path, image)
    elif suffix.startswith(".tif"):
        write_tiff(path, image, 1.5)
    else:
        write_mrc(path, image, 1.5)
    reader = open_images(path)
    assert reader.shape == (1, 20, 30)
    assert reader.pixel_size_angst == (None if suffix == ".png" else 1.5)
    np.testing.assert_array_equal(reader.read_all()[0], image)
    np.testing.assert_array_equal(reader.read([0, 0]), [image, image])


def test_first_bytes_decide_before_the_suffix(tmp_path):
    image = _image((20, 30))
    write_tiff(tmp_path / "a.tif", image)
    (tmp_path / "a.tif").rename(tmp_path / "a.mrc")
    np.testing.assert_array_equal(open_images(tmp_path / "a.mrc").read_all()[0], image)


def test_sixteen_bit_png_keeps_its_values(tmp_path):
    picture = (np.arange(600, dtype=np.uint16) * 100).reshape(20, 30)
    Image.fromarray(picture).save(tmp_path / "a.png")
    np.testing.assert_array_equal(open_images(tmp_path / "a.png").read_all()[0], picture[::-1])


def test_jpeg_is_close_to_the_picture(tmp_path):
    y, x = np.mgrid[0:60, 0:80]
    smooth = np.rint(128 + 60 * np.sin(x / 9) * np.cos(y / 11)).astype(np.uint8)
    write_jpeg(tmp_path / "a.jpg", smooth, quality=95)
    back = open_images(tmp_path / "a.jpg").read_all()[0]
    assert np.abs(back - smooth).max() < 6


def test_colours_become_grey(tmp_path):
    colours = np.zeros((4, 5, 3), np.uint8)
    colours[..., 0] = 200
    write_png(tmp_path / "a.png", colours)
    back = open_images(tmp_path / "a.png").read_all()
    assert back.shape == (1, 4, 5)
    assert set(np.unique(back)) == {60.0}  # 0.299 x 200


def test_contrast_is_stretched_between_percentiles():
    grey = stretch_contrast(np.arange(101.0), (10, 90))
    assert grey[:11].max() == 0
    assert grey[90:].min() == 255
    assert grey[50] == 128


def test_contrast_of_flat_and_broken_images_is_defined():
    assert stretch_contrast(np.full((3, 3), 7.0)).max() == 0
    assert stretch_contrast(np.full((3, 3), np.nan)).max() == 0
    broken = np.array([np.nan, np.inf, -np.inf, 0.0, 1.0])
    np.testing.assert_array_equal(stretch_contrast(broken, (0, 100)), [0, 255, 0, 0, 255])


def test_thumbnails_average_blocks(tmp_path):
    image = np.kron(np.array([[10, 20], [30, 40]], np.uint8), np.ones((50, 50), np.uint8))
    write_png(tmp_path / "a.png", image, max_side_px=2)
    np.testing.assert_array_equal(
        open_images(tmp_path / "a.png").read_all()[0], [[10, 20], [30, 40]]
    )


def test_thumbnail_of_a_very_long_image_keeps_a_row(tmp_path):
    write_png(tmp_path / "a.png", _image((2, 1000)), max_side_px=100)
    assert open_images(tmp_path / "a.png").shape[1] >= 1


def test_unsuitable_arrays_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"image must be \[h, w\]"):
        write_png(tmp_path / "a.png", np.zeros((2, 3, 4)))
    assert list(tmp_path.iterdir()) == []


def test_unsuitable_files_are_explained(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        open_images(tmp_path / "none.mrc")
    (tmp_path / "empty.png").touch()
    with pytest.raises(FormatError, match="is empty, expected an image"):
        open_images(tmp_path / "empty.png")
    (tmp_path / "a.txt").write_text("text")
    with pytest.raises(FormatError, match=r"got suffix '.txt', expected MRC, TIFF, PNG or JPEG"):
        open_images(tmp_path / "a.txt")
    (tmp_path / "a.png").write_text("text")
    with pytest.raises(FormatError, match="is not a PNG or JPEG picture: it begins with b'text'"):
        open_images(tmp_path / "a.png")


def test_truncated_png_is_refused(tmp_path):
    write_png(tmp_path / "a.png", _image((50, 50)))
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(FormatError, match="cannot be read as a PNG or JPEG picture"):
        open_images(tmp_path / "a.png").read_all()


@pytest.mark.parametrize("side", [9000, 65000])
def test_picture_that_claims_too_many_pixels_is_refused(tmp_path, side):
    write_png(tmp_path / "a.png", _image((8, 8)))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[16:24] = side.to_bytes(4, "big") * 2
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(FormatError, match=r"more than its .* bytes can hold|too large"):
        open_images(tmp_path / "a.png")


def test_chunk_that_claims_too_many_bytes_allocates_nothing(tmp_path):
    write_png(tmp_path / "a.png", _image((8, 8)))
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[33:37] = (1 << 30).to_bytes(4, "big")  # length of the first IDAT chunk
    (tmp_path / "a.png").write_bytes(data)
    tracemalloc.start()
    with contextlib.suppress(FormatError):  # the pixels may all be there
        open_images(tmp_path / "a.png").read_all()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 24


def test_rows_of_a_table_are_read_across_files(tmp_path):
    stacks = [_image((3, 6, 7), seed) for seed in range(2)]
    for i, stack in enumerate(stacks):
        write_mrc(tmp_path / f"{i}.mrcs", stack, 1.2)
    paths = [tmp_path / "0.mrcs", tmp_path / "1.mrcs", tmp_path / "0.mrcs"]
    rows = ImageRows(paths, [2, 0, 1])
    assert rows.shape == (3, 6, 7)
    assert rows.pixel_size_angst == 1.2
    expected = np.stack([stacks[0][2], stacks[1][0], stacks[0][1]]).astype(np.float32)
    np.testing.assert_array_equal(rows.read_all(), expected)
    np.testing.assert_array_equal(rows.read([2, 1]), expected[[2, 1]])


def test_rows_of_several_sizes_are_refused(tmp_path):
    write_mrc(tmp_path / "a.mrc", _image((6, 7)), 1.2)
    write_mrc(tmp_path / "b.mrc", _image((6, 8)), 1.2)
    rows = ImageRows([tmp_path / "a.mrc", tmp_path / "b.mrc"], [0, 0])
    with pytest.raises(FormatError, match=r"holds images of 8 x 6 pixels, expected 7 x 6 as in"):
        rows.read_all()


def test_rows_keep_only_so_many_files_open(tmp_path):
    paths = [tmp_path / f"{i}.mrc" for i in range(70)]
    for i, path in enumerate(paths):
        write_mrc(path, np.full((2, 2), i), 1.0)
    rows = ImageRows(paths, [0] * 70)
    assert rows.read_all()[:, 0, 0].tolist() == list(range(70))
    assert len(rows._open) == 64


@pytest.mark.data
def test_real_pictures_are_read(shared_data):
    folder = shared_data / "micrographs" / "betagal_EMPIAR-10017"
    image = open_images(folder / "Falcon_2012_06_12-14_33_35_0.jpg").read_all()
    mask = open_images(folder / "Falcon_2012_06_12-14_33_35_0_mask.png").read_all()
    assert image.shape == mask.shape
