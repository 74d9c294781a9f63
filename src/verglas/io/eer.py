"""Read and write EER files: every electron that the detector saw, raw frame by raw frame.

A file is a BigTIFF with a page of coded events for each of hundreds to thousands of raw
frames. Frames of a movie are sums of raw frames, rendered when asked for; raw frames that
do not fill the last one are left out.

Convention: rows are flipped on reading and writing, as for TIFF.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from verglas.core.checks import check_range
from verglas.core.errors import FormatError
from verglas.core.files import atomic_path
from verglas.io._files import decoding, require_file
from verglas.io._tiff_pages import TiffPage, walk_pages

__all__ = ["EerEvents", "EerReader", "open_eer", "write_eer"]

_WHAT = "an EER file"
_METRES = {"m": 1e10, "nm": 10.0, "pm": 0.01, "um": 1e4}
_BITS, _COMPRESSION = (7, 2, 2), 65001


@dataclass(frozen=True)
class EerReader:
    """A checked EER file.

    Attributes:
        path: of the file.
        pages: its raw frames.
        shape: rows and columns of the detector.
        pixel_size_angst: of the detector's pixels, or None where the camera did not say.
        dose_e_per_angst2: of all raw frames, as the camera says, or None.
    """

    path: Path
    pages: tuple[TiffPage, ...]
    shape: tuple[int, int]
    pixel_size_angst: float | None
    dose_e_per_angst2: float | None

    def render(self, first: int, n_raw: int, *, upsampling: int = 1) -> NDArray[np.unsignedinteger]:
        """Sum raw frames.

        Args:
            first: raw frame, from 0.
            n_raw: how many are summed.
            upsampling: 1, 2 or 4 pixels along a side of a detector pixel.

        Returns:
            `[h * upsampling, w * upsampling]`, 8 bits up to 255 raw frames, 16 beyond.
        """
        from verglas.io._eer_codec import SHORT, add_events

        height, width = (upsampling * side for side in self.shape)
        counts = np.zeros((height, width), np.uint8 if n_raw < 256 else np.uint16)
        with self.path.open("rb") as file:
            for page in self.pages[first : first + n_raw]:
                parts = []
                for offset, n_bytes in page.pieces:
                    file.seek(offset)
                    parts.append(file.read(n_bytes))
                data = np.frombuffer(b"".join(parts), np.uint8)
                bits = np.array(page.eer_bits, np.int64)
                done = add_events(data, counts, upsampling, bits, page.eer_version == 0)
                if done < 0:
                    what = "end too soon" if done == SHORT else "lie outside the detector"
                    raise FormatError(
                        f"{str(self.path)!r} is damaged: events of raw frame {page.index} {what}",
                        "copy the file again, or leave the movie out",
                    )
        return counts


def open_eer(path: Path) -> EerReader:
    """Check an EER file without decoding its events.

    Args:
        path: of the file.
    """
    size = require_file(path, _WHAT)
    with decoding(path, _WHAT):
        pages = walk_pages(path, size)
    frames = tuple(page for page in pages if page.eer_bits)
    if not frames:
        raise FormatError(
            f"{str(path)!r} holds no electron events, expected {_WHAT}",
            "give it its proper suffix, .tif for a TIFF movie",
        )
    if len({page.shape for page in frames}) > 1:
        raise FormatError(f"{str(path)!r} is damaged: its raw frames differ in size")
    shape = frames[0].shape
    if any(side % 4 for side in shape):
        raise FormatError(
            f"{str(path)!r} has raw frames of {shape[1]} x {shape[0]} pixels, "
            "expected multiples of 4",
            "the file is damaged; copy it again",
        )
    text = next((page.eer_metadata for page in pages if page.eer_metadata), "")
    pixel = _length_angst(text, "sensorPixelSize.width") or _length_angst(text, "sensorPixelSize")
    return EerReader(path, frames, shape, pixel, _total_dose(text, pixel))


def _item(metadata: str, name: str) -> tuple[float, str] | None:
    """Find a number of the camera's XML and its unit."""
    pattern = rf'<item\s+name="{re.escape(name)}"([^>]*)>\s*([-+0-9.eE]+)\s*</item>'
    found = re.search(pattern, metadata)
    if found is None:
        return None
    unit = re.search(r'unit="([^"]*)"', found[1])
    try:
        return float(found[2]), "" if unit is None else unit[1]
    except ValueError:
        return None


def _length_angst(metadata: str, name: str) -> float | None:
    value, unit = _item(metadata, name) or (0.0, "")
    size = value * _METRES.get(unit or "m", 0.0)
    # the sensor's own pixels of micrometres are no pixels of the specimen
    return float(f"{size:.7g}") if 0.01 <= size <= 100.0 else None


def _total_dose(metadata: str, pixel_size_angst: float | None) -> float | None:
    """Exposure of the whole file, where unit and value make sense."""
    value, unit = _item(metadata, "totalDose") or (0.0, "")
    area = {"e/m^2": 1e20, "e/nm^2": 100.0, "e/A^2": 1.0, "e/Å^2": 1.0}
    if pixel_size_angst is not None:
        area |= dict.fromkeys(("e/pixel", "e/px"), pixel_size_angst**2)
    dose = value / area.get(unit.replace("²", "^2"), np.inf)
    return dose if 0.01 <= dose <= 1e4 else None


@dataclass(frozen=True)
class EerEvents:
    """The events of one raw frame, at most one in a pixel.

    Attributes:
        rows, columns: `[n]` of the detector, row 0 at y = 0, sorted by nothing.
        x_parts, y_parts: `[n]` quarters of the pixel, 0 to 3, along x and y.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    x_parts: NDArray[np.uint8]
    y_parts: NDArray[np.uint8]


def write_eer(
    path: Path,
    frames: Iterable[EerEvents],
    shape: tuple[int, int],
    pixel_size_angst: float,
    *,
    is_first_form: bool = False,
) -> int:
    """Write raw frames as they come; all of them or nothing.

    Args:
        path: final name; an existing file is replaced.
        frames: events of each raw frame.
        shape: rows and columns of the detector, multiples of 4.
        pixel_size_angst: of the detector's pixels.
        is_first_form: codes of 8 bits a run, as prototypes wrote them.

    Returns:
        Number of raw frames.
    """
    if min(shape) < 4 or any(side % 4 for side in shape):
        raise ValueError(f"sides must be multiples of 4: got {shape[1]} x {shape[0]} pixels")
    check_range("pixel_size_angst", pixel_size_angst, gt=0)
    name = '<item name="sensorPixelSize.{}" unit="m">{:.7g}</item>'
    items = "".join(name.format(side, pixel_size_angst * 1e-10) for side in ("height", "width"))
    metadata = f"<metadata>{items}</metadata>".encode()
    count = 0
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(struct.pack("<2sHHHQ", b"II", 43, 8, 0, 16))
        next_field = 8  # where the offset of the next directory is to be written
        for events in frames:
            data = _encode(events, shape, is_first_form=is_first_form)
            position = file.tell()
            position += position % 2
            file.seek(next_field)
            file.write(struct.pack("<Q", position))
            file.seek(position)
            compression = 65000 if is_first_form else _COMPRESSION
            next_field = _write_page(file, shape, compression, data, metadata)
            metadata = b""
            count += 1
    return count


def _write_page(
    file: IO[bytes], shape: tuple[int, int], compression: int, data: bytes, metadata: bytes
) -> int:
    """Write a directory, its data and the camera's text; return where the next offset goes."""
    position = file.tell()
    tags = [
        (256, 4, 1, shape[1]),
        (257, 4, 1, shape[0]),
        (259, 3, 1, compression),
        (273, 16, 1, 0),  # offset and bytes of the data are filled in below
        (278, 4, 1, shape[0]),
        (279, 16, 1, len(data)),
    ]
    if metadata:
        tags.append((65001, 7, len(metadata), 0))
    end = position + 8 + 20 * len(tags) + 8
    file.write(struct.pack("<Q", len(tags)))
    for code, kind, n, value in tags:
        value = {273: end, 65001: end + len(data)}.get(code, value)
        file.write(struct.pack("<HHQQ", code, kind, n, value))
    file.write(struct.pack("<Q", 0))
    file.write(data)
    file.write(metadata)
    return end - 8


def _encode(events: EerEvents, shape: tuple[int, int], *, is_first_form: bool) -> bytes:
    """Sort and encode the events of one raw frame."""
    from verglas.io._eer_codec import encode_events

    height, width = shape
    places = (height - 1 - events.rows) * width + events.columns
    order = np.argsort(places)
    places = places[order]
    if places.size and (places[0] < 0 or places[-1] >= height * width):
        raise ValueError("events must lie on the detector")
    if np.any(np.diff(places) == 0):
        raise ValueError("a pixel holds at most one event of a raw frame")
    bits = np.array((8, 2, 2) if is_first_form else _BITS, np.int64)
    room = np.zeros(2 * places.size + height * width // 50 + 16, np.uint8)
    y_parts = (3 - events.y_parts[order]).astype(np.uint8)
    x_parts = events.x_parts[order].astype(np.uint8)
    n = encode_events(places, x_parts, y_parts, height * width, bits, is_first_form, room)
    return room[: n + n % 2].tobytes()  # other readers want pairs of bytes
