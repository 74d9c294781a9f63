from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.core.errors import FormatError
from verglas.io.mrc import read_mrc
from verglas.io.tiff import open_tiff, read_tiff, write_tiff

DEMO = Path(__file__).resolve().parents[2] / "data" / "apoferritin"
DTYPES = ("uint8", "int8", "uint16", "int16", "float32")


def _image(shape, dtype="uint8", seed=1):
    return np.random.default_rng(seed).integers(0, 100, shape).astype(dtype)


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20)),
    st.sampled_from(DTYPES),
    st.sampled_from(["none", "deflate", "zstd"]),
    st.booleans(),
    st.floats(0.05, 900),
)
def test_files_survive_a_round_trip(tmp_path_factory, shape, dtype, compression, predict, pixel):
    path = tmp_path_factory.mktemp("tiff") / "a.tif"
    array = _image(shape, dtype)
    write_tiff(path, array, pixel, compression=compression, is_predicted=predict)
    back, pixel_size_angst = read_tiff(path)
    np.testing.assert_array_equal(back, array.astype(np.float32))
    assert pixel_size_angst == pytest.approx(pixel, rel=1e-6)


def test_top_line_of_the_picture_is_the_last_row(tmp_path):
    picture = np.array([[1, 2], [3, 4], [5, 6]], np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", picture)
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif")[0][0], picture[::-1])
    write_tiff(tmp_path / "b.tif", picture[::-1])
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "b.tif"), picture)


@pytest.mark.parametrize(
    "options",
    [
        {"compression": "lzw"},
        {"compression": "packbits"},
        {"compression": "zstd", "predictor": True},
        {"tile": (16, 32)},
        {"tile": (16, 16), "compression": "zlib"},
        {"rowsperstrip": 7},
        {"bigtiff": True},
        {"byteorder": ">"},
    ],
)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_layouts_of_other_writers_are_read(tmp_path, options, dtype):
    array = _image((3, 37, 45), dtype)
    with tifffile.TiffWriter(
        tmp_path / "a.tif",
        bigtiff=options.get("bigtiff", False),
        byteorder=options.get("byteorder", "<"),
    ) as writer:
        kept = {k: v for k, v in options.items() if k not in ("bigtiff", "byteorder")}
        for image in array:
            writer.write(image, photometric="minisblack", contiguous=False, **kept)
    np.testing.assert_array_equal(read_tiff(tmp_path / "a.tif")[0], array[:, ::-1])


def test_only_the_images_asked_for_are_read(tmp_path):
    array = _image((5, 6, 7))
    write_tiff(tmp_path / "a.tif", array)
    reader = open_tiff(tmp_path / "a.tif")
    assert reader.shape == (5, 6, 7)
    np.testing.assert_array_equal(reader.read([4, 0, 4]), array[[4, 0, 4]])
    with pytest.raises(FormatError, match=r"image 5 of .* does not exist: it holds 5"):
        reader.read([5])


@pytest.mark.parametrize(
    ("resolution", "unit", "expected"),
    [
        ((2e8 / 3, 2e8 / 3), "CENTIMETER", 1.5),
        ((2.54e8, 2.54e8), "INCH", 1.0),
        ((72, 72), "INCH", None),  # a printer's resolution
        ((1e8, 1e8), "NONE", None),
    ],
)
def test_resolution_tag_gives_the_pixel_size(tmp_path, resolution, unit, expected):
    tifffile.imwrite(tmp_path / "a.tif", _image((4, 5)), resolution=resolution, resolutionunit=unit)
    assert open_tiff(tmp_path / "a.tif").pixel_size_angst == expected


def test_imagej_unit_gives_the_pixel_size(tmp_path):
    tifffile.imwrite(
        tmp_path / "a.tif", _image((4, 5)), imagej=True, resolution=(5, 5), metadata={"unit": "nm"}
    )
    assert open_tiff(tmp_path / "a.tif").pixel_size_angst == 2.0


def test_file_without_resolution_gives_no_pixel_size(tmp_path):
    write_tiff(tmp_path / "a.tif", _image((4, 5)))
    assert open_tiff(tmp_path / "a.tif").pixel_size_angst is None


def test_thumbnails_inside_the_file_are_left_out(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(_image((8, 9)), subfiletype=0)
        writer.write(_image((4, 5)), subfiletype=1)
    assert open_tiff(tmp_path / "a.tif").shape == (1, 8, 9)


def test_unsuitable_files_are_explained(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        open_tiff(tmp_path / "none.tif")
    (tmp_path / "empty.tif").touch()
    with pytest.raises(FormatError, match="is empty, expected a TIFF file"):
        open_tiff(tmp_path / "empty.tif")
    (tmp_path / "text.tif").write_text("text")
    with pytest.raises(FormatError, match=r"not a TIFF file: it begins with b'text', expected"):
        open_tiff(tmp_path / "text.tif")
    tifffile.imwrite(tmp_path / "rgb.tif", _image((4, 5, 3)), photometric="rgb")
    with pytest.raises(FormatError, match="holds colours, expected grey values; convert it"):
        open_tiff(tmp_path / "rgb.tif")
    tifffile.imwrite(tmp_path / "lzma.tif", _image((4, 5)), compression="lzma")
    with pytest.raises(FormatError, match="got TIFF compression 34925, expected one of JPEG, LZW"):
        open_tiff(tmp_path / "lzma.tif")


def test_pages_of_several_sizes_are_refused(tmp_path):
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(_image((8, 9)))
        writer.write(_image((4, 5)))
    with pytest.raises(FormatError, match="several sizes: 5 x 4, 9 x 8"):
        open_tiff(tmp_path / "a.tif")


def test_truncated_file_is_refused_before_decoding(tmp_path):
    write_tiff(tmp_path / "a.tif", _image((64, 64)), 1.0, compression="none")
    data = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(data[: len(data) - 100])
    with pytest.raises(FormatError, match=r"is truncated: it has .* bytes, expected at least"):
        open_tiff(tmp_path / "a.tif")


def test_page_that_claims_too_many_pixels_is_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", _image((4, 5)), 1.0)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        tags = file.pages[0].tags
        tags["ImageLength"].overwrite(60000)
        tags["ImageWidth"].overwrite(60000)
        tags["RowsPerStrip"].overwrite(60000)
    with pytest.raises(FormatError, match="claims 3600000000 bytes of pixels, more than its"):
        open_tiff(tmp_path / "a.tif")


def test_ring_of_directories_is_refused(tmp_path):
    write_tiff(tmp_path / "a.tif", _image((4, 5)))
    data = bytearray((tmp_path / "a.tif").read_bytes())
    first = int.from_bytes(data[4:8], "little")
    end = first + 2 + 12 * int.from_bytes(data[first : first + 2], "little")
    data[end : end + 4] = first.to_bytes(4, "little")
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(FormatError, match="form a ring"):
        open_tiff(tmp_path / "a.tif")


def test_writer_refuses_what_other_programs_cannot_read(tmp_path):
    with pytest.raises(TypeError, match="must have 8, 16 or 32 bits: got float64"):
        write_tiff(tmp_path / "a.tif", np.zeros((4, 5)))
    with pytest.raises(ValueError, match="2 or 3 dimensions"):
        write_tiff(tmp_path / "a.tif", np.zeros(4, np.uint8))
    with pytest.raises(ValueError, match="pixel_size_angst must be > 0"):
        write_tiff(tmp_path / "a.tif", np.zeros((4, 5), np.uint8), 0.0)
    assert list(tmp_path.iterdir()) == []


def test_demonstration_micrographs_are_whole():
    paths = sorted(DEMO.glob("*.tif"))
    assert len(paths) == 14
    for path in paths:
        reader = open_tiff(path)
        assert reader.shape == (1, 1200, 1240)
        assert reader.pixel_size_angst == 1.5
    assert 110 < reader.read([0]).mean() < 140


@pytest.mark.data
def test_demonstration_micrographs_equal_their_source_but_for_rounding(shared_data):
    for path in sorted(DEMO.glob("*.tif")):
        source = shared_data / "micrographs/apoferritin_EMPIAR-10146" / f"{path.stem}.mrc"
        image, source_image = read_tiff(path)[0], read_mrc(source)[0]
        assert np.corrcoef(image.ravel(), source_image.ravel())[0, 1] > 0.9995


@pytest.mark.data
def test_imagej_stack_is_read(shared_data):
    reader = open_tiff(shared_data / "tomograms" / "13pf_MT.tif")
    assert reader.shape == (36, 206, 94)
    assert reader.pixel_size_angst == 10.52
    expected = tifffile.imread(reader.path)[:, ::-1]
    np.testing.assert_array_equal(reader.read_all(), expected.astype(np.float32))
