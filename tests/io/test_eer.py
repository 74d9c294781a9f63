import numpy as np
import pytest
import tifffile

from verglas.core.errors import FormatError
from verglas.io.eer import EerEvents, _total_dose, open_eer, write_eer
from verglas.io.tiff import open_tiff

from .eer_files import count_events, draw_events

SHAPE = (64, 96)
COUNTS = (0, 1, 60, 700, 64 * 96)


@pytest.mark.parametrize("is_first_form", [False, True])
@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_events_come_back_where_they_were(tmp_path, upsampling, is_first_form):
    frames = [draw_events(SHAPE, n, seed=n) for n in COUNTS]
    assert write_eer(tmp_path / "a.eer", frames, SHAPE, 0.7, is_first_form=is_first_form) == 5
    reader = open_eer(tmp_path / "a.eer")
    assert reader.shape == SHAPE
    assert reader.pixel_size_angst == pytest.approx(0.7)
    for index, events in enumerate(frames):
        rendered = reader.render(index, 1, upsampling=upsampling)
        np.testing.assert_array_equal(rendered, count_events(events, SHAPE, upsampling))


@pytest.mark.parametrize("upsampling", [1, 2, 4])
def test_another_reader_sees_the_same_events(tmp_path, upsampling):
    frames = [draw_events(SHAPE, n, seed=n) for n in COUNTS]
    write_eer(tmp_path / "a.eer", frames, SHAPE, 0.7)
    with tifffile.TiffFile(tmp_path / "a.eer", superres={1: 0, 2: 1, 4: 2}[upsampling]) as file:
        assert file.is_eer
        for page, events in zip(file.pages, frames, strict=True):
            expected = count_events(events, SHAPE, upsampling)
            np.testing.assert_array_equal(page.asarray()[::-1], expected)


def test_raw_frames_are_summed_and_wide_sums_get_sixteen_bits(tmp_path):
    frames = [draw_events((8, 8), 64)] * 300
    write_eer(tmp_path / "a.eer", frames, (8, 8), 1.0)
    reader = open_eer(tmp_path / "a.eer")
    assert reader.render(0, 255).dtype == np.uint8
    assert (reader.render(0, 255) == 255).all()
    assert (reader.render(0, 300) == 300).all()


def test_codes_of_any_width_are_read(tmp_path):
    """The third form names its bits in tags: here 7 + 2 + 2, written over the second."""
    events = draw_events(SHAPE, 500)
    write_eer(tmp_path / "a.eer", [events], SHAPE, 1.0)
    data = bytearray((tmp_path / "a.eer").read_bytes())
    at = data.index((259).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[at + 12 : at + 14] = (65002).to_bytes(2, "little")
    (tmp_path / "a.eer").write_bytes(data)
    counts = open_eer(tmp_path / "a.eer").render(0, 1)
    np.testing.assert_array_equal(counts, count_events(events, SHAPE))


def _cut_strip(path, n_bytes):
    """Shorten the bytes that the only page claims."""
    data = bytearray(path.read_bytes())
    at = data.index((279).to_bytes(2, "little") + (16).to_bytes(2, "little"))
    data[at + 12 : at + 20] = n_bytes.to_bytes(8, "little")
    path.write_bytes(data)
    return int.from_bytes(data[at + 12 : at + 20], "little")


def test_an_odd_number_of_bytes_is_read(tmp_path):
    """Of 8 x 16 pixels with an event each 176 bytes are needed; the spare one goes."""
    events = draw_events((8, 16), 128)
    write_eer(tmp_path / "a.eer", [events], (8, 16), 1.0)
    _cut_strip(tmp_path / "a.eer", 177)
    assert (open_eer(tmp_path / "a.eer").render(0, 1) == 1).all()


def test_events_that_end_too_soon_are_refused(tmp_path):
    write_eer(tmp_path / "a.eer", [draw_events(SHAPE, 900)], SHAPE, 1.0)
    _cut_strip(tmp_path / "a.eer", 801)
    with pytest.raises(FormatError, match=r"events of raw frame 0 end too soon"):
        open_eer(tmp_path / "a.eer").render(0, 1)


def test_a_file_cut_short_is_refused_at_opening(tmp_path):
    write_eer(tmp_path / "a.eer", [draw_events(SHAPE, 900)] * 5, SHAPE, 1.0)
    data = (tmp_path / "a.eer").read_bytes()
    (tmp_path / "a.eer").write_bytes(data[:-700])
    with pytest.raises(FormatError, match=r"truncated|outside the file"):
        open_eer(tmp_path / "a.eer")


def test_a_size_that_the_bytes_cannot_hold_is_refused(tmp_path):
    write_eer(tmp_path / "a.eer", [draw_events(SHAPE, 9)], SHAPE, 1.0)
    data = bytearray((tmp_path / "a.eer").read_bytes())
    for tag in (256, 257):
        at = data.index(tag.to_bytes(2, "little") + (4).to_bytes(2, "little"))
        data[at + 12 : at + 16] = (1 << 16).to_bytes(4, "little")
    (tmp_path / "a.eer").write_bytes(data)
    with pytest.raises(FormatError, match=r"more than its|pieces"):
        open_eer(tmp_path / "a.eer")


def test_the_camera_s_units_are_understood(tmp_path):
    write_eer(tmp_path / "a.eer", [draw_events(SHAPE, 9)], SHAPE, 0.0706)
    data = (tmp_path / "a.eer").read_bytes()
    text = b'name="sensorPixelSize.width" unit="m">7.06e-12'
    assert data.count(text) == 1
    same_length = b'name="sensorPixelSize.width" unit="nm">0.0706 '
    (tmp_path / "a.eer").write_bytes(data.replace(text, same_length[: len(text)]))
    assert open_eer(tmp_path / "a.eer").pixel_size_angst == pytest.approx(0.706)


@pytest.mark.parametrize(
    ("unit", "value", "expected"),
    [
        ("e/pixel", 20.0, 20.0 / 0.7**2),
        ("e/m^2", 4e21, 40.0),
        ("e/nm²", 4000.0, 40.0),
        ("e/A^2", 40.0, 40.0),
        ("furlong", 40.0, None),
        ("e/m^2", 40.0, None),
    ],
)
def test_the_camera_s_exposure_is_believed_where_its_unit_is_known(unit, value, expected):
    text = f'<metadata><item name="totalDose" unit="{unit}">{value}</item></metadata>'
    found = _total_dose(text, 0.7)
    assert found is None if expected is None else found == pytest.approx(expected)


def test_events_are_not_read_as_images_nor_images_as_events(tmp_path):
    write_eer(tmp_path / "a.eer", [draw_events(SHAPE, 9)], SHAPE, 1.0)
    with pytest.raises(FormatError, match=r"holds electron events .* it is a movie"):
        open_tiff(tmp_path / "a.eer")
    tifffile.imwrite(tmp_path / "b.eer", np.zeros((8, 8), np.uint8))
    with pytest.raises(FormatError, match="holds no electron events"):
        open_eer(tmp_path / "b.eer")


def test_two_events_of_a_pixel_are_not_written(tmp_path):
    once, part = np.zeros(2, np.int64), np.zeros(2, np.uint8)
    with pytest.raises(ValueError, match="at most one event"):
        write_eer(tmp_path / "a.eer", [EerEvents(once, once, part, part)], SHAPE, 1.0)
    assert not (tmp_path / "a.eer").exists()
