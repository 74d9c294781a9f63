"""Walk the directories of a TIFF file and check them before a decoder allocates anything.

Decoders believe tags. Here every offset must lie in the file, directories must not form a
ring, and a page must not claim more pixels than its compressed bytes can hold.
Reference: TIFF 6.0 (Adobe 1992) and BigTIFF.
"""

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from verglas.core.errors import FormatError
from verglas.io._files import MAX_DEFLATE_RATIO

__all__ = ["TiffPage", "walk_pages"]

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TYPE_BYTES |= {16: 8, 17: 8, 18: 8}
_INTEGER_TYPES = {
    1: "u1",
    3: "u2",
    4: "u4",
    6: "i1",
    8: "i2",
    9: "i4",
    13: "u4",
    16: "u8",
    17: "i8",
}
# Most pixels' bytes that one stored byte can stand for, by compression tag.
_MAX_RATIO = {
    1: ("none", 1),
    5: ("LZW", 4096),
    7: ("JPEG", 1024),
    8: ("deflate", MAX_DEFLATE_RATIO),
    32773: ("PackBits", 64),
    32946: ("deflate", MAX_DEFLATE_RATIO),
    50000: ("zstd", 1 << 15),
    # electron events: pixels of one bit that a run of 8, 7 or up to 14 bits can skip
    65000: ("EER", 32),
    65001: ("EER", 32),
    65002: ("EER", 2048),
}
_MAX_ENTRIES = 4096
_MAX_PAGES = 1 << 20
_REDUCED = 1  # bit of tag 254: a thumbnail of another page
_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 277, 278, 279
_X_RESOLUTION, _RESOLUTION_UNIT, _DESCRIPTION = 282, 296, 270
_TILE_WIDTH, _TILE_HEIGHT, _TILE_OFFSETS, _TILE_BYTES = 322, 323, 324, 325
_SAMPLE_FORMAT = 339
_EER_METADATA, _EER_SKIP_BITS = 65001, 65007  # then the bits along x and along y
_EER_COMPRESSION = {65000: (8, 2, 2), 65001: (7, 2, 2), 65002: (7, 2, 2)}


@dataclass(frozen=True)
class TiffPage:
    """What one directory says, checked.

    Attributes:
        index: among all directories of the file.
        shape: rows, columns.
        resolution: pixels per unit along x; 0 where there is none.
        resolution_unit: 1 none, 2 inch, 3 centimetre.
        description: free text.
        pieces: where each strip or tile lies in the file: offset and bytes.
        eer_bits: of a run, and of the place in the pixel along x and y; None for pixels.
        eer_metadata: what the camera says, as XML.
        eer_version: 0 for the first form of the codes, which wasted bits.
        dtype: of the pixels once decoded, as numpy writes it.
    """

    index: int
    shape: tuple[int, int]
    resolution: float
    resolution_unit: int
    description: str
    pieces: tuple[tuple[int, int], ...] = ()
    eer_bits: tuple[int, int, int] | None = None
    eer_metadata: str = ""
    eer_version: int = 0
    dtype: str = "u1"


@dataclass(frozen=True)
class _Layout:
    order: str
    offset: str  # struct code of an offset
    count: str  # struct code of the number of entries
    entry_bytes: int
    inline_bytes: int


@dataclass(frozen=True)
class _Tag:
    kind: int
    count: int
    position: int  # of the value in the file


def walk_pages(path: Path, size: int) -> list[TiffPage]:
    """Check every page of a TIFF file; thumbnails of other pages are left out.

    Args:
        path: of the file.
        size: of the file in bytes.
    """
    pages = []
    seen: set[int] = set()
    with path.open("rb") as file:
        layout, position = _read_magic(path, file)
        while position:
            if position in seen or len(seen) >= _MAX_PAGES:
                raise _damaged(path, "its directories form a ring")
            seen.add(position)
            tags, position = _read_directory(path, file, size, layout, position)
            page = _Directory(path, file, size, layout, tags).check(len(seen) - 1)
            if page is not None:
                pages.append(page)
    if not pages:
        raise _damaged(path, "it holds no image")
    return pages


def _read_magic(path: Path, file: IO[bytes]) -> tuple[_Layout, int]:
    head = file.read(16).ljust(16, b"\0")
    order = {b"II": "<", b"MM": ">"}.get(head[:2])
    version = struct.unpack(f"{order or '<'}H", head[2:4])[0]
    if order is None or version not in (42, 43):
        raise FormatError(
            f"{str(path)!r} is not a TIFF file: it begins with {head[:4]!r}, "
            "expected b'II*\\x00' or b'MM\\x00*'",
            "the file is of another format or damaged; check its suffix, or copy it again",
        )
    if version == 42:
        return _Layout(order, "I", "H", 12, 4), struct.unpack(f"{order}I", head[4:8])[0]
    return _Layout(order, "Q", "Q", 20, 8), struct.unpack(f"{order}Q", head[8:16])[0]


def _read_directory(
    path: Path, file: IO[bytes], size: int, layout: _Layout, position: int
) -> tuple[dict[int, _Tag], int]:
    """Read one directory: where each tag's value lies, and where the next directory is."""
    count = _read_number(path, file, size, position, f"{layout.order}{layout.count}")
    if not 0 < count <= _MAX_ENTRIES:
        raise _damaged(path, f"a directory has {count} entries")
    start = position + struct.calcsize(f"={layout.count}")
    end = start + count * layout.entry_bytes
    following = _read_number(path, file, size, end, f"{layout.order}{layout.offset}")
    file.seek(start)
    entries = file.read(count * layout.entry_bytes)
    tags: dict[int, _Tag] = {}
    for i in range(count):
        at = i * layout.entry_bytes
        code, kind, n = struct.unpack_from(f"{layout.order}HH{layout.offset}", entries, at)
        value_bytes = n * _TYPE_BYTES.get(kind, 1)
        value = start + at + layout.entry_bytes - layout.inline_bytes
        if value_bytes > layout.inline_bytes:
            value = _read_number(path, file, size, value, f"{layout.order}{layout.offset}")
        if value + value_bytes > size:
            raise _damaged(path, f"tag {code} points outside the file")
        tags.setdefault(code, _Tag(kind, n, value))
    return tags, following


def _read_number(path: Path, file: IO[bytes], size: int, position: int, code: str) -> int:
    if position + struct.calcsize(code) > size:
        raise _damaged(path, f"a directory lies outside the file of {size} bytes")
    file.seek(position)
    number: int = struct.unpack(code, file.read(struct.calcsize(code)))[0]
    return number


@dataclass(frozen=True)
class _Directory:
    path: Path
    file: IO[bytes]
    size: int
    layout: _Layout
    tags: dict[int, _Tag]

    def check(self, index: int) -> TiffPage | None:
        """Check that the page can be what it says; None for a thumbnail."""
        if self._integer(254, 0) & _REDUCED:
            return None
        shape = (self._integer(_HEIGHT, 0), self._integer(_WIDTH, 0))
        bits, samples = self._integer(_BITS, 1), self._integer(_SAMPLES, 1)
        if min(shape) < 1 or bits not in (1, 2, 4, 8, 12, 16, 32, 64):
            raise _damaged(self.path, f"a page has {shape[1]} x {shape[0]} pixels of {bits} bits")
        if samples != 1 or self._integer(_PHOTOMETRIC, 1) > 1:
            raise FormatError(
                f"{str(self.path)!r} holds colours, expected grey values",
                "convert it to greyscale",
            )
        compression = self._integer(_COMPRESSION, 1)
        return TiffPage(
            index,
            shape,
            self._rational(_X_RESOLUTION),
            self._integer(_RESOLUTION_UNIT, 2),
            self._text(_DESCRIPTION),
            self._check_storage(shape, bits, compression),
            self._eer_bits(compression),
            self._text(_EER_METADATA) if _EER_METADATA in self.tags and index < 2 else "",
            max(compression - 65000, 0),
            _dtype(bits, self._integer(_SAMPLE_FORMAT, 1)),
        )

    def _eer_bits(self, compression: int) -> tuple[int, int, int] | None:
        """Bits of the parts of an event's code, from the compression or from tags."""
        bits = _EER_COMPRESSION.get(compression)
        if bits is None or compression != 65002:
            return bits
        run, along_x, along_y = (self._integer(_EER_SKIP_BITS + i, bits[i]) for i in range(3))
        if not (2 <= run <= 14 and 0 <= along_x <= 4 and 0 <= along_y <= 4):
            raise _damaged(self.path, f"events are coded in {run} + {along_x} + {along_y} bits")
        return run, along_x, along_y

    def _check_storage(
        self, shape: tuple[int, int], bits: int, compression: int
    ) -> tuple[tuple[int, int], ...]:
        if compression not in _MAX_RATIO:
            known = ", ".join(sorted({name for name, _ in _MAX_RATIO.values()} - {"EER"}))
            raise FormatError(
                f"{str(self.path)!r} is compressed in a way that is not read: "
                f"got TIFF compression {compression}, expected one of {known}",
                "write it again with deflate or zstd",
            )
        is_tiled = _TILE_OFFSETS in self.tags
        offsets = self._integers(_TILE_OFFSETS if is_tiled else _STRIP_OFFSETS)
        n_bytes = self._integers(_TILE_BYTES if is_tiled else _STRIP_BYTES)
        if is_tiled:
            tile = (self._integer(_TILE_HEIGHT, 0), self._integer(_TILE_WIDTH, 0))
        else:
            rows = self._integer(_ROWS_PER_STRIP, shape[0])
            tile = (min(max(rows, 0), shape[0]), shape[1])
        if min(tile) < 1 or max(tile) > 1 << 24:
            raise _damaged(self.path, f"a page has pieces of {tile[1]} x {tile[0]} pixels")
        expected = -(-shape[0] // tile[0]) * -(-shape[1] // tile[1])
        if not len(offsets) == len(n_bytes) == expected:
            raise _damaged(
                self.path,
                f"a page of {shape[1]} x {shape[0]} pixels has {len(offsets)} pieces, "
                f"expected {expected}",
            )
        if np.any(n_bytes > self.size) or np.any(offsets + n_bytes > self.size):
            raise FormatError(
                f"{str(self.path)!r} is truncated: it has {self.size} bytes, expected at least "
                f"{int((offsets + n_bytes).max())}",
                "copy the file again; it may still be being written",
            )
        claimed = expected * tile[0] * -(-tile[1] * bits // 8) if is_tiled else 0
        claimed = claimed or shape[0] * -(-shape[1] * bits // 8)
        if claimed > int(n_bytes.sum()) * _MAX_RATIO[compression][1] + tile[1] * bits:
            raise _damaged(
                self.path,
                f"a page claims {claimed} bytes of pixels, more than its {int(n_bytes.sum())} "
                "stored bytes can hold",
            )
        return tuple((int(offset), int(n)) for offset, n in zip(offsets, n_bytes, strict=True))

    def _integer(self, code: int, default: int) -> int:
        if code not in self.tags:
            return default
        values = self._integers(code)
        return int(values[0]) if len(values) else default

    def _integers(self, code: int) -> NDArray[np.float64]:
        """Values of an integer tag; float64 holds every offset below 2^53 and cannot overflow."""
        tag = self.tags.get(code)
        if tag is None or tag.kind not in _INTEGER_TYPES:
            raise _damaged(self.path, f"tag {code} is missing or of a wrong type")
        dtype = np.dtype(self.layout.order + _INTEGER_TYPES[tag.kind])
        return np.frombuffer(self._value(tag), dtype, tag.count).astype(np.float64)

    def _rational(self, code: int) -> float:
        tag = self.tags.get(code)
        if tag is None or tag.kind != 5 or tag.count < 1:
            return 0.0
        top, bottom = struct.unpack(f"{self.layout.order}2I", self._value(tag)[:8])
        return float(top / bottom) if bottom else 0.0

    def _text(self, code: int) -> str:
        tag = self.tags.get(code)
        return "" if tag is None else self._value(tag).decode("utf-8", "replace").strip("\0 ")

    def _value(self, tag: _Tag) -> bytes:
        self.file.seek(tag.position)
        return self.file.read(tag.count * _TYPE_BYTES.get(tag.kind, 1))


def _dtype(bits: int, sample_format: int) -> str:
    """Type that holds pixels of so many bits; formats are 1 whole, 2 signed, 3 real."""
    size = max(8, 1 << (bits - 1).bit_length())
    letter = {2: "i", 3: "f"}.get(sample_format, "u")
    return f"{'u' if letter == 'f' and size < 16 else letter}{size // 8}"


def _damaged(path: Path, what: str) -> FormatError:
    return FormatError(
        f"{str(path)!r} is a damaged TIFF file: {what}", "copy or export the file again"
    )
