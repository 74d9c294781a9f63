import gzip
import itertools
import os
import struct
import tracemalloc
import warnings
from pathlib import Path

import mrcfile
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verglas.core.errors import FormatError
from verglas.io.mrc import MrcStackWriter, open_mrc, read_header, read_mrc, write_mrc

MODES = ("float32", "float16", "int16", "uint16", "int8", "uint4")


def _integers(shape, low=0, high=15, seed=1):
    return np.random.default_rng(seed).integers(low, high + 1, shape).astype(np.float32)


def _patch(path: Path, offset: int, *values: int, order: str = "<") -> None:
    data = bytearray(path.read_bytes())
    struct.pack_into(f"{order}{len(values)}i", data, offset, *values)
    path.write_bytes(data)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("shape", [(1, 5, 8), (4, 6, 7), (3, 1, 1)])
def test_every_mode_is_read_back_as_written(tmp_path, mode, shape):
    array = _integers(shape)
    write_mrc(tmp_path / "a.mrc", array, 1.05, mode)
    back, pixel_size_angst = read_mrc(tmp_path / "a.mrc")
    np.testing.assert_array_equal(back, array)
    assert back.dtype == np.float32
    assert pixel_size_angst == 1.05


@settings(max_examples=40, deadline=None)
@given(
    st.tuples(st.integers(1, 4), st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from(MODES),
    st.floats(0.1, 100),
    st.booleans(),
    st.integers(0, 2**32 - 1),
)
def test_files_survive_a_round_trip(tmp_path_factory, shape, mode, pixel, is_stack, seed):
    path = tmp_path_factory.mktemp("mrc") / "a.mrc"
    array = _integers(shape, seed=seed)
    write_mrc(path, array, pixel, mode, is_stack=is_stack)
    back, pixel_size_angst = read_mrc(path)
    np.testing.assert_array_equal(back, array)
    assert pixel_size_angst == pytest.approx(pixel, rel=1e-6)


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode != "uint4"])
@pytest.mark.parametrize("is_stack", [True, False])
def test_written_files_are_valid_for_mrcfile(tmp_path, mode, is_stack):
    path = tmp_path / "a.mrc"
    array = _integers((3, 5, 8))
    write_mrc(path, array, 2.5, mode, is_stack=is_stack)
    assert mrcfile.validate(path)
    with mrcfile.open(path) as mrc:
        np.testing.assert_array_equal(mrc.data.astype(np.float32), array)
        assert mrc.is_image_stack() == is_stack
        assert (mrc.voxel_size.x, mrc.voxel_size.y, mrc.voxel_size.z) == (2.5, 2.5, 2.5)
        assert mrc.header.nversion == 20140
        assert [label.strip() for label in mrc.get_labels()] == ["verglas"]
        assert tuple(mrc.nstart.tolist()) == (0, 0, 0)


def test_header_statistics_are_those_of_the_stored_values(tmp_path):
    array = np.random.default_rng(2).normal(3, 2, (5, 40, 50))
    write_mrc(tmp_path / "a.mrc", array, 1.0, "float16")
    stored = read_mrc(tmp_path / "a.mrc")[0].astype(np.float64)
    claimed = read_header(tmp_path / "a.mrc").statistics
    assert claimed.minimum == stored.min()
    assert claimed.maximum == stored.max()
    assert claimed.mean == pytest.approx(stored.mean(), rel=1e-6)
    assert claimed.rms == pytest.approx(stored.std(), rel=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "int16", "uint16", "float16", "float32"])
def test_files_of_mrcfile_are_read_alike(tmp_path, dtype):
    array = np.random.default_rng(3).integers(0, 100, (3, 4, 5)).astype(dtype)
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(array)
        mrc.voxel_size = 1.5
    back, pixel_size_angst = read_mrc(tmp_path / "a.mrc")
    np.testing.assert_array_equal(back, array.astype(np.float32))
    assert pixel_size_angst == 1.5


def test_big_endian_files_are_read(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4) - 9
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(array.astype(">i2"))
    assert (tmp_path / "a.mrc").read_bytes()[212:214] == b"\x11\x11"
    np.testing.assert_array_equal(read_mrc(tmp_path / "a.mrc")[0], array)


def test_byte_order_is_found_without_a_machine_stamp(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(array.astype(">i2"))
    _patch(tmp_path / "a.mrc", 212, 0)
    np.testing.assert_array_equal(read_mrc(tmp_path / "a.mrc")[0], array)


def test_four_bit_rows_end_on_a_byte_and_begin_in_the_lower_half(tmp_path):
    write_mrc(tmp_path / "a.mrc", np.array([[1, 2, 3], [4, 5, 6]]), 1.0, "uint4")
    assert (tmp_path / "a.mrc").read_bytes()[1024:] == bytes([0x21, 0x03, 0x54, 0x06])


@pytest.mark.parametrize(
    ("stamp", "flags", "claimed", "first"),
    [
        (0, 0, (-5.0, 100.0), -56.0),  # MRC2014: signed
        (1146047817, 1, (0.0, 255.0), -56.0),  # IMOD says signed
        (1146047817, 0, (0.0, 100.0), 200.0),  # IMOD says unsigned
        (0, 0, (0.0, 200.0), 200.0),  # the range cannot be signed
    ],
)
def test_bytes_are_signed_by_flag_then_by_range(tmp_path, stamp, flags, claimed, first):
    path = tmp_path / "a.mrc"
    write_mrc(path, np.array([[-56, 3]]), 1.0, "int8")
    _patch(path, 152, stamp, flags)
    data = bytearray(path.read_bytes())
    struct.pack_into("<2f", data, 76, *claimed)
    path.write_bytes(data)
    assert read_mrc(path)[0][0, 0, 0] == first


@pytest.mark.parametrize("words", [(1, 2, 3), (2, 1, 3), (3, 1, 2), (3, 2, 1), (2, 3, 1)])
def test_axes_are_brought_into_z_y_x_order(tmp_path, words):
    """The voxel at x, y, z is the same whichever axis runs fastest in the file."""
    volume = _integers((4, 5, 6), high=100)
    stored = volume.transpose([3 - axis for axis in reversed(words)])
    write_mrc(tmp_path / "a.mrc", stored, 1.0)
    _patch(tmp_path / "a.mrc", 64, *words)
    reader = open_mrc(tmp_path / "a.mrc")
    assert reader.shape == (4, 5, 6)
    np.testing.assert_array_equal(reader.read_all(), volume)
    np.testing.assert_array_equal(reader.read([3, 1]), volume[[3, 1]])


def test_extended_header_is_stepped_over(tmp_path):
    array = _integers((2, 3, 4))
    write_mrc(tmp_path / "a.mrc", array, 1.0)
    data = (tmp_path / "a.mrc").read_bytes()
    (tmp_path / "a.mrc").write_bytes(data[:1024] + b"x" * 96 + data[1024:])
    _patch(tmp_path / "a.mrc", 92, 96)
    np.testing.assert_array_equal(read_mrc(tmp_path / "a.mrc")[0], array)


@pytest.mark.parametrize("n_members", [1, 3])
def test_gzip_is_looked_through(tmp_path, n_members):
    array = _integers((3, 40, 50))
    write_mrc(tmp_path / "a.mrc", array, 1.5)
    data = (tmp_path / "a.mrc").read_bytes()
    step = len(data) // n_members
    starts = [i * step for i in range(n_members)] + [len(data)]
    parts = [gzip.compress(data[a:b]) for a, b in itertools.pairwise(starts)]
    (tmp_path / "a.mrc.gz").write_bytes(b"".join(parts))
    back, pixel_size_angst = read_mrc(tmp_path / "a.mrc.gz")
    np.testing.assert_array_equal(back, array)
    assert pixel_size_angst == 1.5


def test_gzip_with_a_header_claiming_more_is_refused(tmp_path):
    write_mrc(tmp_path / "a.mrc", np.zeros((2, 100, 100)), 1.5)
    _patch(tmp_path / "a.mrc", 8, 1 << 20)
    (tmp_path / "a.mrc.gz").write_bytes(gzip.compress((tmp_path / "a.mrc").read_bytes()))
    with pytest.raises(FormatError, match="does not hold what its header says"):
        read_mrc(tmp_path / "a.mrc.gz")


def test_only_the_images_asked_for_are_read(tmp_path):
    array = _integers((7, 4, 5))
    write_mrc(tmp_path / "a.mrcs", array, 1.0)
    reader = open_mrc(tmp_path / "a.mrcs")
    np.testing.assert_array_equal(reader.read([6, 0, 6]), array[[6, 0, 6]])
    np.testing.assert_array_equal(reader.read(np.array([], dtype=np.int64)), array[:0])


def test_missing_image_of_a_stack_is_named(tmp_path):
    write_mrc(tmp_path / "a.mrcs", _integers((7, 4, 5)), 1.0)
    with pytest.raises(FormatError, match=r"image 7 of .*a.mrcs' does not exist: it holds 7"):
        open_mrc(tmp_path / "a.mrcs").read([0, 7])


def test_reading_returns_a_copy(tmp_path):
    write_mrc(tmp_path / "a.mrc", _integers((2, 3, 4)), 1.0)
    reader = open_mrc(tmp_path / "a.mrc")
    reader.read_all()[:] = -1
    assert reader.read_all().min() >= 0


def test_missing_empty_and_foreign_files_are_explained(tmp_path):
    with pytest.raises(FormatError, match="does not exist; check the path"):
        open_mrc(tmp_path / "none.mrc")
    with pytest.raises(FormatError, match="is a folder"):
        open_mrc(tmp_path)
    (tmp_path / "empty.mrc").touch()
    with pytest.raises(FormatError, match="is empty, expected an MRC file; it was probably"):
        open_mrc(tmp_path / "empty.mrc")
    (tmp_path / "short.mrc").write_bytes(b"x" * 100)
    with pytest.raises(FormatError, match="got 100 bytes, expected at least 1024"):
        open_mrc(tmp_path / "short.mrc")
    (tmp_path / "text.mrc").write_text("some text, long enough for a header\n" * 100)
    with pytest.raises(FormatError, match=r"got mode .*, expected one of 0, 1, 2"):
        open_mrc(tmp_path / "text.mrc")


def test_truncated_file_is_refused_with_both_sizes(tmp_path):
    write_mrc(tmp_path / "a.mrc", _integers((2, 30, 40)), 1.0)
    os.truncate(tmp_path / "a.mrc", 5000)
    with pytest.raises(FormatError, match="truncated: got 5000 bytes, expected 10624") as caught:
        open_mrc(tmp_path / "a.mrc", permissive=True)
    assert "copy the file again" in str(caught.value)


def test_transforms_are_refused_when_read(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(np.ones((4, 5), np.complex64))
    assert read_header(tmp_path / "a.mrc").is_complex
    with pytest.raises(FormatError, match="holds a Fourier transform"):
        read_mrc(tmp_path / "a.mrc")


def _spoil_map_id(path: Path) -> None:
    _patch(path, 208, 0)


def _spoil_extended_length(path: Path) -> None:
    _patch(path, 92, 1000)


def _spoil_axis_order(path: Path) -> None:
    _patch(path, 64, 0, 0, 0)


def _append_bytes(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"x" * 10)


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (_spoil_map_id, "map id"),
        (_spoil_extended_length, "extended header of 1000 bytes where only 0 fit"),
        (_spoil_axis_order, "axis order 0, 0, 0"),
        (_append_bytes, "10 bytes after the data"),
    ],
)
def test_known_deviations_need_permission_and_warn(tmp_path, spoil, name):
    array = _integers((2, 3, 4))
    write_mrc(tmp_path / "a.mrc", array, 1.0)
    spoil(tmp_path / "a.mrc")
    with pytest.raises(FormatError, match=f"breaks the MRC format: {name}.*permissive=True"):
        read_mrc(tmp_path / "a.mrc")
    with pytest.warns(UserWarning, match=name):
        back, _ = read_mrc(tmp_path / "a.mrc", permissive=True)
    np.testing.assert_array_equal(back, array)


@pytest.mark.parametrize(
    ("array", "mode", "message"),
    [
        (np.array([[1.0, 70000.0]]), "float16", "float16 holds -65504 to 65504: got 1 to 70000"),
        (np.array([[-1.0, 2.0]]), "uint16", "uint16 holds 0 to 65535: got -1 to 2"),
        (np.array([[0, 16]]), "uint4", "uint4 holds 0 to 15: got 0 to 16"),
        (np.array([[np.nan, 1.0]]), "float32", "images must be finite"),
        (np.zeros(3), "float32", "2 or 3 dimensions"),
        (np.zeros((0, 3, 3)), "float32", "no image was written"),
        (np.zeros((1, 3, 3)), "int32", "mode must be one of"),
    ],
)
def test_writer_refuses_what_the_file_cannot_hold(tmp_path, array, mode, message):
    with pytest.raises(ValueError, match=message):
        write_mrc(tmp_path / "a.mrc", array, 1.0, mode)
    assert list(tmp_path.iterdir()) == []


def test_pixel_size_must_be_positive(tmp_path):
    with pytest.raises(ValueError, match="pixel_size_angst must be > 0"):
        write_mrc(tmp_path / "a.mrc", np.zeros((2, 2)), 0.0)


def test_header_without_pixel_size_gives_none(tmp_path):
    with mrcfile.new(tmp_path / "a.mrc") as mrc:
        mrc.set_data(np.zeros((4, 5), np.float32))
    assert read_mrc(tmp_path / "a.mrc")[1] is None


def test_stack_is_written_piece_by_piece(tmp_path):
    array = _integers((5, 6, 7))
    with MrcStackWriter(tmp_path / "a.mrcs", (6, 7), 1.2) as writer:
        writer.append(array[0])
        writer.append(array[1:])
        assert writer.n_images == 5
        assert not (tmp_path / "a.mrcs").exists()
    reader = open_mrc(tmp_path / "a.mrcs")
    np.testing.assert_array_equal(reader.read_all(), array)
    assert reader.header.space_group == 0
    assert reader.header.statistics.mean == pytest.approx(array.mean(dtype=np.float64), rel=1e-6)
    assert mrcfile.validate(tmp_path / "a.mrcs")


def _interrupting_image(shape):
    class Interrupting(np.ndarray):
        def astype(self, *args, **kwargs):
            raise KeyboardInterrupt

    return np.zeros(shape).view(Interrupting)


def test_interrupted_stack_leaves_the_old_file(tmp_path):
    write_mrc(tmp_path / "a.mrcs", np.ones((1, 6, 7)), 1.0)
    with (
        pytest.raises(KeyboardInterrupt),
        MrcStackWriter(tmp_path / "a.mrcs", (6, 7), 1.0) as writer,
    ):
        writer.append(_interrupting_image((6, 7)))
    assert [file.name for file in tmp_path.iterdir()] == ["a.mrcs"]
    assert read_mrc(tmp_path / "a.mrcs")[0].min() == 1


def test_image_of_another_size_is_refused_by_the_stack(tmp_path):
    with (
        pytest.raises(ValueError, match=r"must have shape \(6, 7\): got \(7, 6\)"),
        MrcStackWriter(tmp_path / "a.mrcs", (6, 7), 1.0) as writer,
    ):
        writer.append(np.zeros((7, 6)))


def test_opening_a_large_stack_costs_no_memory(tmp_path):
    path = tmp_path / "a.mrcs"
    write_mrc(path, np.ones((1, 1000, 1000)), 1.0)
    _patch(path, 8, 500)
    os.truncate(path, 1024 + 500 * 4_000_000)  # sparse: 2 GB
    tracemalloc.start()
    image = open_mrc(path).read([400])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert image.shape == (1, 1000, 1000)
    assert peak < 20e6


@pytest.mark.data
def test_real_files_are_read_as_mrcfile_does(shared_data):
    paths = [
        path
        for path in sorted(shared_data.rglob("*"))
        if path.name.removesuffix(".gz").endswith((".mrc", ".mrcs", ".map"))
    ]
    assert len(paths) > 20
    for path in paths:
        back, _ = read_mrc(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data, header = mrcfile.read(path), read_header(path)
        stored_axes = header.axis_order[::-1]
        data = data.reshape(header.stored_shape)
        expected = data.transpose([stored_axes.index(axis) for axis in (3, 2, 1)])
        np.testing.assert_array_equal(back, expected.astype(np.float32), err_msg=path.name)


@pytest.mark.data
def test_real_header_fields_are_understood(shared_data):
    epu = read_header(shared_data / "micrographs" / "epu2.9_example.mrc.gz")
    assert (epu.mode, epu.extended_type, epu.shape) == (6, "FEI2", (1, 4096, 4096))
    crystal = read_header(shared_data / "maps" / "EMD-3001.map")
    assert crystal.shape == (73, 25, 43)
    assert crystal.voxel_size_angst == pytest.approx((17.93 / 40, 4.71 / 12, 33.03 / 72))


def test_origin_of_a_map_is_kept(tmp_path):
    path = tmp_path / "map.mrc"
    write_mrc(path, np.zeros((4, 4, 4), np.float32), 1.5, origin_angst=(1.0, -2.0, 30.5))
    assert read_header(path).origin_angst == (1.0, -2.0, 30.5)
    with mrcfile.open(path) as file:
        assert file.header.origin.tolist() == (1.0, -2.0, 30.5)
