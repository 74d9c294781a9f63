"""Read and write MRC files: images, stacks, movies and maps.

Files are memory-mapped and read as float32 in z, y, x order, so that a stack of any size
costs the memory of the images asked for. Sizes are checked against the file before anything
is allocated. Readers are strict; `permissive=True` accepts the deviations that common
programs leave in their headers, and says so in a warning.
"""

import gzip
import struct
import warnings
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verglas.core.errors import FormatError
from verglas.io._files import MAX_DEFLATE_RATIO, decoding, is_gzip, require_file
from verglas.io._mrc_header import HEADER_BYTES, MrcHeader, parse_header
from verglas.io._mrc_writer import MrcMode, MrcStackWriter

__all__ = [
    "MrcHeader",
    "MrcMode",
    "MrcReader",
    "MrcStackWriter",
    "open_mrc",
    "read_header",
    "read_mrc",
    "write_mrc",
]

_WHAT = "an MRC file"
_CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class MrcReader:
    """An open MRC file; an image source.

    Attributes:
        path: of the file.
        header: its checked header.
        offset: bytes before the data.
        is_compressed: whether the file is gzip; then all data are held in memory.
    """

    path: Path
    header: MrcHeader
    offset: int
    is_compressed: bool

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of images or sections, rows, columns."""
        return self.header.shape

    @property
    def pixel_size_angst(self) -> float | None:
        """Pixel size along x, or None where the file does not say."""
        return self.header.pixel_size_angst

    def read(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Read some sections.

        Args:
            indices: `[n]`, counted from 0 along z; any order, repeats allowed.

        Returns:
            `[n, h, w]`, a copy.
        """
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        outside = chosen[(chosen < 0) | (chosen >= self.shape[0])]
        if outside.size:
            raise FormatError(
                f"image {int(outside[0])} of {str(self.path)!r} does not exist: "
                f"it holds {self.shape[0]}, counted from 0",
                "the table and the stack do not belong together, or the stack is incomplete",
            )
        if self.header.axis_order[2] != 3:
            return np.ascontiguousarray(self._oriented(self._raw)[chosen])
        is_mapped = not (self.is_compressed or self.header.is_complex)
        picked = self._read_sections(chosen) if is_mapped else self._raw[chosen]
        return self._oriented(picked, copy=False)

    def read_all(self) -> NDArray[np.float32]:
        """Read everything: `[z, y, x]`, a copy."""
        return self._oriented(self._raw)

    def section(self, index: int) -> NDArray[np.generic]:
        """Read one section in the type of the file, from several threads at once if need be.

        Args:
            index: along the slowest axis of the file, which must be z.

        Returns:
            `[h, w]`, a copy in the machine's byte order.
        """
        header = self.header
        if header.axis_order != (1, 2, 3) or not 0 <= index < header.stored_shape[0]:
            raise ValueError(f"section {index} of {header.stored_shape} cannot be read alone")
        read: NDArray[np.generic] = (
            self._raw[index] if self.is_compressed else self._read_sections([index])[0]
        )
        if header.is_packed:
            return _unpack_nibbles(read, header.stored_shape[2])
        return read.astype(header.dtype.newbyteorder("="), copy=self.is_compressed)

    def _read_sections(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.generic]:
        """Read sections by their position in the file; a file cut short is noticed.

        Reading costs half of what copying from mapped memory does, whose pages come one by one.
        """
        shape = (len(indices), self.header.stored_shape[1], self.header.row_items)
        sections = np.empty(shape, self.header.dtype)
        with self.path.open("rb", buffering=0) as file:
            for section, index in zip(sections, indices, strict=True):
                file.seek(self.offset + int(index) * section.nbytes)
                view = section.reshape(-1).view(np.uint8).data
                filled = 0
                while filled < section.nbytes and (got := file.readinto(view[filled:])):
                    filled += got
                if filled < section.nbytes:
                    raise FormatError(
                        f"{str(self.path)!r} was cut short while it was read: section {index} has "
                        f"{filled} of {section.nbytes} bytes",
                        "copy the file again; it may still be being written",
                    )
        return sections

    @cached_property
    def _raw(self) -> NDArray[np.generic]:
        header = self.header
        if header.is_complex:
            raise FormatError(
                f"{str(self.path)!r} holds a Fourier transform (mode {header.mode}), "
                "expected images or a map",
                "transform it back with the program that wrote it",
            )
        shape = (*header.stored_shape[:2], header.row_items)
        if self.is_compressed:
            data = _gunzip_data(self.path, self.offset, header.data_bytes)
            return np.frombuffer(data, header.dtype).reshape(shape)
        return np.memmap(self.path, header.dtype, mode="r", offset=self.offset, shape=shape)

    def _oriented(self, raw: NDArray[np.generic], *, copy: bool = True) -> NDArray[np.float32]:
        if self.header.is_packed:
            raw = _unpack_nibbles(raw, self.header.stored_shape[2])
        stored_axes = self.header.axis_order[::-1]
        order = [stored_axes.index(axis) for axis in (3, 2, 1)]
        turned = raw.transpose(order)
        if not copy:
            return np.ascontiguousarray(turned, dtype=np.float32)
        return np.array(turned, dtype=np.float32, order="C")


def read_header(path: Path, *, permissive: bool = False) -> MrcHeader:
    """Read what the head of an MRC file says, checked against the size of the file.

    Args:
        path: of the file; gzip is looked through.
        permissive: accept known deviations with a warning.
    """
    return open_mrc(path, permissive=permissive).header


def open_mrc(path: Path, *, permissive: bool = False) -> MrcReader:
    """Open an MRC file without reading its data.

    Args:
        path: of the file; if it is gzip the data are decompressed at the first read.
        permissive: accept a bad map id, a zero axis order, a stale extended header length
            and trailing bytes, with a warning.
    """
    size = require_file(path, _WHAT)
    is_compressed = is_gzip(path)
    if is_compressed:
        with decoding(path, "a gzip file"), gzip.open(path) as file:
            head = file.read(HEADER_BYTES)
    else:
        with path.open("rb") as file:
            head = file.read(HEADER_BYTES)
    header = parse_header(head, str(path))
    deviations = list(header.deviations)
    offset = HEADER_BYTES + header.extended_bytes
    if is_compressed:
        _check_compressed_size(path, size, offset + header.data_bytes)
    else:
        offset = _check_size(path, size, header, deviations)
    if deviations:
        _tolerate(path, deviations, permissive=permissive)
    return MrcReader(path, header, offset, is_compressed)


def read_mrc(path: Path, *, permissive: bool = False) -> tuple[NDArray[np.float32], float | None]:
    """Read a whole MRC file.

    Args:
        path: of the file, gzip allowed.
        permissive: accept known deviations with a warning.

    Returns:
        `[z, y, x]` (one image has z = 1), and the pixel size in Å or None.
    """
    reader = open_mrc(path, permissive=permissive)
    return reader.read_all(), reader.pixel_size_angst


def write_mrc(
    path: Path,
    array: NDArray[np.generic],
    pixel_size_angst: float,
    mode: MrcMode = "float32",
    *,
    is_stack: bool | None = None,
    origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> None:
    """Write an image, a stack of images or a volume; all of it or nothing.

    Args:
        path: final name; an existing file is replaced.
        array: `[y, x]` or `[z, y, x]`; integer modes round to the nearest.
        pixel_size_angst: along every axis, above 0.
        mode: type in the file.
        is_stack: the sections are images; None means yes for one section and for `.mrcs`.
        origin_angst: coordinate of the first voxel in x, y, z, so that other programs draw a
            map where its atomic model is.
    """
    if array.ndim not in (2, 3):
        raise ValueError(f"array must have 2 or 3 dimensions: got shape {array.shape}")
    sections = array if array.ndim == 3 else array[None]
    if is_stack is None:
        is_stack = len(sections) == 1 or path.suffix == ".mrcs"
    shape = (sections.shape[1], sections.shape[2])
    with MrcStackWriter(
        path, shape, pixel_size_angst, mode, is_stack=is_stack, origin_angst=origin_angst
    ) as writer:
        writer.append(sections)


def _unpack_nibbles(raw: NDArray[np.generic], columns: int) -> NDArray[np.uint8]:
    packed = np.asarray(raw, dtype=np.uint8)
    values = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.uint8)
    values[..., 0::2] = packed & 15
    values[..., 1::2] = packed >> 4
    return values[..., :columns]


def _check_size(path: Path, size: int, header: MrcHeader, deviations: list[str]) -> int:
    """Find the offset of the data; sizes that only permissive readers accept are added."""
    offset = HEADER_BYTES + header.extended_bytes
    if size < HEADER_BYTES + header.data_bytes:
        _raise_truncated(path, offset + header.data_bytes, size, header)
    if size < offset + header.data_bytes:
        deviations.append(
            f"extended header of {header.extended_bytes} bytes where only "
            f"{size - HEADER_BYTES - header.data_bytes} fit"
        )
        return size - header.data_bytes
    if size > offset + header.data_bytes:
        deviations.append(f"{size - offset - header.data_bytes} bytes after the data")
    return offset


def _raise_truncated(path: Path, expected: int, got: int, header: MrcHeader) -> None:
    n_z, n_y, n_x = header.stored_shape
    raise FormatError(
        f"{str(path)!r} is truncated: got {got} bytes, expected {expected} for "
        f"{n_x} x {n_y} x {n_z} pixels of mode {header.mode}",
        "copy the file again; it may still be being written",
    )


def _check_compressed_size(path: Path, size: int, expected: int) -> None:
    """Refuse a header that claims more data than the compressed bytes can hold.

    The last four bytes of gzip are the decompressed size modulo 2^32. Only files of several
    members (as parallel compressors write) do not match; those are decompressed to count.
    """
    if expected <= size * MAX_DEFLATE_RATIO:
        with path.open("rb") as file:
            file.seek(max(size - 4, 0))
            tail = file.read(4)
        if len(tail) == 4 and struct.unpack("<I", tail)[0] == expected % 2**32:
            return
        got = _count_decompressed(path, expected)
        if got == expected:
            return
    else:
        got = size * MAX_DEFLATE_RATIO
    raise FormatError(
        f"{str(path)!r} does not hold what its header says: expected {expected} bytes "
        f"after decompression, got {'more' if got > expected else f'at most {got}'}",
        "copy the file again, or decompress it to see what is in it",
    )


def _count_decompressed(path: Path, limit: int) -> int:
    count = 0
    with decoding(path, "a gzip file"), gzip.open(path) as file:
        while count <= limit and (part := file.read(_CHUNK_BYTES)):
            count += len(part)
    return count


def _gunzip_data(path: Path, offset: int, n_bytes: int) -> bytearray:
    data = bytearray(n_bytes)
    view = memoryview(data)
    filled = 0
    with decoding(path, "a gzip file"), gzip.open(path) as file:
        file.seek(offset)
        while filled < n_bytes and (got := file.readinto(view[filled:])):
            filled += got
        if filled < n_bytes or file.read(1):
            raise zlib.error(f"it does not decompress to {offset + n_bytes} bytes")
    return data


def _tolerate(path: Path, deviations: list[str], *, permissive: bool) -> None:
    text = ", ".join(deviations)
    if not permissive:
        raise FormatError(
            f"{str(path)!r} breaks the MRC format: {text}",
            "if another program shows it properly, read it with permissive=True",
        )
    warnings.warn(f"{str(path)!r} breaks the MRC format: {text}; read all the same", stacklevel=4)
