"""Parse and write the 1024 bytes at the head of an MRC file.

Nothing here touches the data: a header is parsed, made plausible and only then believed.
References: Cheng et al. 2015, doi:10.1016/j.jsb.2015.04.002 (MRC2014); IMOD's notes on its
use of the extra words (signed bytes, 4-bit mode 101).
"""

import math
import struct
from dataclasses import dataclass
from typing import Literal

import numpy as np

from verglas.core.errors import FormatError

__all__ = ["HEADER_BYTES", "MODE_OF", "MrcHeader", "Statistics", "format_header", "parse_header"]

HEADER_BYTES = 1024
MODE_OF = {"int8": 0, "int16": 1, "float32": 2, "uint16": 6, "float16": 12, "uint4": 101}
_PACKED_MODE = 101
# Modes 3 and 4 are transforms: pairs of int16 or float32.
_TYPE_OF = {0: "i1", 1: "i2", 2: "f4", 3: "i2", 4: "f4", 6: "u2", 12: "f2", 101: "u1"}
_MAX_SIDE = 1 << 24  # no detector, stack or map comes near
_IMOD_STAMP = 1146047817
_STAMPS = {b"\x44\x44": "<", b"\x44\x41": "<", b"\x11\x11": ">"}
_SENSIBLE_PIXEL_ANGST = (1e-3, 1e6)


@dataclass(frozen=True)
class Statistics:
    """Smallest, largest and mean value, and deviation from the mean, of all data."""

    minimum: float
    maximum: float
    mean: float
    rms: float


@dataclass(frozen=True)
class MrcHeader:
    """What the head of an MRC file says, checked to be possible.

    Attributes:
        stored_shape: sections, rows, columns as they lie in the file.
        mode: 0 int8, 1 int16, 2 float32, 3 and 4 transforms, 6 uint16, 12 float16, 101 4 bits.
        byte_order: `<` or `>`.
        is_signed: whether bytes of mode 0 are signed.
        axis_order: which of x, y, z (1, 2, 3) the columns, rows and sections are.
        space_group: 0 images, 1 a volume, 401 and above a stack of volumes.
        grid: intervals along x, y, z of the cell.
        cell_angst: lengths of the cell along x, y, z.
        start: index of the first column, row and section; kept for information.
        origin_angst: of the volume in x, y, z; kept for information.
        extended_bytes: size of the extended header.
        extended_type: its four letters.
        version: of the format, 20140 for MRC2014; 0 before.
        statistics: as the writer claims.
        labels: the texts.
        deviations: names of the rules that the file breaks.
    """

    stored_shape: tuple[int, int, int]
    mode: int
    byte_order: Literal["<", ">"]
    is_signed: bool
    axis_order: tuple[int, int, int]
    space_group: int
    grid: tuple[int, int, int]
    cell_angst: tuple[float, float, float]
    start: tuple[int, int, int]
    origin_angst: tuple[float, float, float]
    extended_bytes: int
    extended_type: str
    version: int
    statistics: Statistics
    labels: tuple[str, ...]
    deviations: tuple[str, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Size along z, y, x, whatever the order in the file."""
        length = dict(zip(self.axis_order, reversed(self.stored_shape), strict=True))
        return length[3], length[2], length[1]

    @property
    def is_volume(self) -> bool:
        """Whether the sections belong together as a volume."""
        return self.space_group > 0 and self.shape[0] > 1

    @property
    def is_complex(self) -> bool:
        """Whether the data are a Fourier transform."""
        return self.mode in (3, 4)

    @property
    def is_packed(self) -> bool:
        """Whether two pixels share a byte."""
        return self.mode == _PACKED_MODE

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """Type of the numbers in the file (of the parts, for transforms; bytes, if packed)."""
        name = "u1" if self.mode == 0 and not self.is_signed else _TYPE_OF[self.mode]
        return np.dtype(self.byte_order + name)

    @property
    def row_items(self) -> int:
        """Numbers of type `dtype` in a row."""
        columns = self.stored_shape[2]
        if self.is_packed:
            return (columns + 1) // 2
        return columns * (2 if self.is_complex else 1)

    @property
    def data_bytes(self) -> int:
        """Size of the data."""
        return self.stored_shape[0] * self.stored_shape[1] * self.row_items * self.dtype.itemsize

    @property
    def voxel_size_angst(self) -> tuple[float, float, float] | None:
        """Voxel size along x, y, z, or None where the header does not say."""
        sizes = [
            length / n if n > 0 else 0.0
            for length, n in zip(self.cell_angst, self.grid, strict=True)
        ]
        low, high = _SENSIBLE_PIXEL_ANGST
        if not all(low <= size <= high for size in sizes[:2]):
            return None
        return sizes[0], sizes[1], sizes[2]

    @property
    def pixel_size_angst(self) -> float | None:
        """Pixel size along x, or None where the header does not say."""
        sizes = self.voxel_size_angst
        # float32 in the file: 1.5 A x 100 / 100 is exact to 7 digits only
        return None if sizes is None else float(f"{sizes[0]:.7g}")


def parse_header(head: bytes, name: str) -> MrcHeader:
    """Parse the first 1024 bytes and check that they can be true.

    Args:
        head: the bytes.
        name: of the file, for messages.
    """
    if len(head) < HEADER_BYTES:
        raise FormatError(
            f"{name!r} is too short for an MRC file: got {len(head)} bytes, "
            f"expected at least {HEADER_BYTES}",
            "it is truncated or of another format; copy or export it again",
        )
    byte_order = _find_byte_order(head, name)
    words = struct.unpack(f"{byte_order}10i6f3i3f2i", head[:96])
    shape = (words[2], words[1], words[0])
    if not all(0 < n <= _MAX_SIDE for n in shape):
        raise FormatError(
            f"{name!r} has impossible dimensions: got {words[0]} x {words[1]} x {words[2]}",
            "the file is not MRC or its header is damaged",
        )
    extended_bytes = words[23]
    if extended_bytes < 0:
        raise FormatError(f"{name!r} has an impossible extended header: {extended_bytes} bytes")
    axis_order, axis_deviation = _axis_order(words[16:19], name)
    deviations = list(axis_deviation)
    if head[208:211] != b"MAP":
        deviations.append(f"map id {head[208:212]!r} instead of b'MAP '")
    mean, rms = words[21], struct.unpack(f"{byte_order}f", head[216:220])[0]
    statistics = Statistics(words[19], words[20], mean, rms)
    return MrcHeader(
        stored_shape=shape,
        mode=words[3],
        byte_order=byte_order,
        is_signed=_is_signed(head, byte_order, statistics),
        axis_order=axis_order,
        space_group=words[22],
        grid=words[7:10],
        cell_angst=words[10:13],
        start=words[4:7],
        origin_angst=struct.unpack(f"{byte_order}3f", head[196:208]),
        extended_bytes=extended_bytes,
        extended_type=head[104:108].decode("ascii", "replace").strip("\0 "),
        version=struct.unpack(f"{byte_order}i", head[108:112])[0],
        statistics=statistics,
        labels=_labels(head, byte_order),
        deviations=tuple(deviations),
    )


def format_header(
    shape: tuple[int, int, int],
    *,
    mode: int,
    pixel_size_angst: float,
    is_stack: bool,
    statistics: Statistics,
    origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> bytes:
    """Write the header of a little-endian MRC2014 file with the usual axis order.

    Args:
        shape: z, y, x.
        mode: number of the data type.
        pixel_size_angst: along every axis; 0 for unknown.
        is_stack: sections are images, not a volume.
        statistics: of the data as stored.
        origin_angst: coordinate of the first voxel in x, y, z.
    """
    n_z, n_y, n_x = shape
    grid_z = 1 if is_stack else n_z
    cell = [n * pixel_size_angst for n in (n_x, n_y, grid_z)]
    head = bytearray(HEADER_BYTES)
    struct.pack_into("<10i", head, 0, n_x, n_y, n_z, mode, 0, 0, 0, n_x, n_y, grid_z)
    struct.pack_into("<6f3i", head, 40, *cell, 90.0, 90.0, 90.0, 1, 2, 3)
    struct.pack_into("<3f", head, 76, statistics.minimum, statistics.maximum, statistics.mean)
    struct.pack_into("<2i", head, 88, 0 if is_stack else 1, 0)
    struct.pack_into("<i", head, 108, 20140)
    struct.pack_into("<3f", head, 196, *origin_angst)
    head[208:216] = b"MAP \x44\x44\x00\x00"
    struct.pack_into("<fi", head, 216, statistics.rms, 1)
    head[224:304] = b"verglas".ljust(80)
    return bytes(head)


def _find_byte_order(head: bytes, name: str) -> Literal["<", ">"]:
    """Believe the machine stamp if the mode and sizes agree; otherwise try both orders."""
    stamp = _STAMPS.get(head[212:214], "<")
    orders: tuple[Literal["<", ">"], ...] = ("<", ">") if stamp == "<" else (">", "<")
    for order in orders:
        n_x, n_y, n_z, mode = struct.unpack(f"{order}4i", head[:16])
        if mode in _TYPE_OF and all(0 < n <= _MAX_SIDE for n in (n_x, n_y, n_z)):
            return order
    mode = struct.unpack(f"{orders[0]}i", head[12:16])[0]
    if mode in _TYPE_OF:
        return orders[0]
    known = ", ".join(str(number) for number in sorted(_TYPE_OF))
    raise FormatError(
        f"{name!r} is not an MRC file that can be read: got mode {mode}, expected one of {known}",
        "check that the file is MRC; convert it if its data type is another",
    )


def _axis_order(words: tuple[int, ...], name: str) -> tuple[tuple[int, int, int], tuple[str, ...]]:
    if sorted(words) == [1, 2, 3]:
        return (words[0], words[1], words[2]), ()
    if words == (0, 0, 0):
        return (1, 2, 3), ("axis order 0, 0, 0 instead of 1, 2, 3",)
    raise FormatError(f"{name!r} has an impossible axis order: got {words}, expected 1, 2, 3")


def _is_signed(head: bytes, byte_order: str, claimed: Statistics) -> bool:
    """Whether bytes are signed: IMOD's flag, then the claimed range, then MRC2014."""
    stamp, flags = struct.unpack(f"{byte_order}2i", head[152:160])
    if stamp == _IMOD_STAMP:
        return bool(flags & 1)
    if not (math.isfinite(claimed.minimum) and math.isfinite(claimed.maximum)):
        return True
    return claimed.minimum < 0 or claimed.maximum <= 127


def _labels(head: bytes, byte_order: str) -> tuple[str, ...]:
    count = struct.unpack(f"{byte_order}i", head[220:224])[0]
    labels = (head[224 + 80 * i : 304 + 80 * i] for i in range(min(max(count, 0), 10)))
    return tuple(label.decode("ascii", "replace").strip("\0 ") for label in labels)
