"""Read and write greyscale TIFF images, stacks and movies.

Convention: TIFF begins with the top line and MRC with the bottom one. Rows are flipped on
reading and on writing, as RELION and IMOD do, so that both give the same array: row 0 has
y = 0.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from verglas.core.checks import check_range
from verglas.core.errors import FormatError
from verglas.core.files import atomic_path
from verglas.io._files import decoding, require_file
from verglas.io._tiff_pages import TiffPage, walk_pages

__all__ = [
    "TiffCompression",
    "TiffReader",
    "TiffStackWriter",
    "open_tiff",
    "read_tiff",
    "write_tiff",
]

TiffCompression = Literal["none", "deflate", "zstd", "lzw"]
_TIFFFILE_NAMES = {"none": None, "deflate": "zlib", "zstd": "zstd", "lzw": "lzw"}
_BIG_BYTES = 1 << 31
_WHAT = "a TIFF file"
_ANGST_PER_UNIT = {2: 2.54e8, 3: 1e8}  # inch, centimetre
_ANGST_PER_IMAGEJ_UNIT = {"nm": 10.0, "um": 1e4, "micron": 1e4, "angstrom": 1.0, "a": 1.0}
# Screen and printer resolutions (72 per inch is 3.5e6 Å) are no pixel sizes.
_SENSIBLE_PIXEL_ANGST = (0.01, 1000.0)
_MAX_RATIONAL = 2**32 - 1


@dataclass(frozen=True)
class TiffReader:
    """A checked TIFF file; an image source. The file is opened anew for each read.

    Attributes:
        path: of the file.
        pages: its images.
    """

    path: Path
    pages: tuple[TiffPage, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of images, rows, columns."""
        return (len(self.pages), *self.pages[0].shape)

    @property
    def pixel_size_angst(self) -> float | None:
        """Pixel size from the resolution tag, or None where the file does not say."""
        return _pixel_size_angst(self.pages[0])

    def read(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Read some images.

        Args:
            indices: `[n]`, counted from 0; any order, repeats allowed.

        Returns:
            `[n, h, w]`, row 0 at the bottom of the stored picture.
        """
        chosen = [int(index) for index in indices]
        for index in chosen:
            if not 0 <= index < len(self.pages):
                raise FormatError(
                    f"image {index} of {str(self.path)!r} does not exist: "
                    f"it holds {len(self.pages)}, counted from 0"
                )
        images = np.empty((len(chosen), *self.shape[1:]), np.float32)
        with decoding(self.path, _WHAT), tifffile.TiffFile(self.path) as file:
            for slot, index in enumerate(chosen):
                # one thread: chunks of a job already share the cores
                page = file.pages[self.pages[index].index].asarray(maxworkers=1)
                if page.shape != self.shape[1:]:
                    raise ValueError(f"a page has shape {page.shape}")
                images[slot] = page[::-1]
        return images

    def read_all(self) -> NDArray[np.float32]:
        """Read every image: `[n, h, w]`."""
        return self.read(range(len(self.pages)))


def open_tiff(path: Path) -> TiffReader:
    """Check a TIFF file without decoding its images.

    Args:
        path: of the file; pages must be grey and of one size.
    """
    size = require_file(path, _WHAT)
    with decoding(path, _WHAT):
        pages = walk_pages(path, size)
    if any(page.eer_bits for page in pages):
        raise FormatError(
            f"{str(path)!r} holds electron events (EER), expected images",
            "it is a movie: import it as one",
        )
    shapes = {page.shape for page in pages}
    if len(shapes) > 1:
        raise FormatError(
            f"{str(path)!r} holds images of several sizes: "
            + ", ".join(f"{w} x {h}" for h, w in sorted(shapes)),
            "write each size into a file of its own",
        )
    return TiffReader(path, tuple(pages))


def read_tiff(path: Path) -> tuple[NDArray[np.float32], float | None]:
    """Read a whole TIFF file.

    Args:
        path: of the file.

    Returns:
        `[n, h, w]`, and the pixel size in Å or None.
    """
    reader = open_tiff(path)
    return reader.read_all(), reader.pixel_size_angst


def write_tiff(
    path: Path,
    array: NDArray[np.generic],
    pixel_size_angst: float | None = None,
    *,
    compression: TiffCompression = "deflate",
    is_predicted: bool = True,
) -> None:
    """Write an image or a stack of the array's own type; all of it or nothing.

    Args:
        path: final name; an existing file is replaced.
        array: `[h, w]` or `[n, h, w]`; 8, 16 or 32 bits.
        pixel_size_angst: for the resolution tags; None leaves them out.
        compression: deflate is read by every program, zstd by some and faster.
        is_predicted: store differences of neighbours; helps smooth pictures, not noise.
    """
    if array.ndim not in (2, 3) or array.size == 0:
        raise ValueError(f"array must have 2 or 3 dimensions and pixels: got shape {array.shape}")
    if array.dtype.name not in ("uint8", "int8", "uint16", "int16", "float16", "float32"):
        raise TypeError(f"array must have 8, 16 or 32 bits: got {array.dtype}")
    with TiffStackWriter(
        path,
        pixel_size_angst,
        compression=compression,
        is_predicted=is_predicted,
        is_big=array.nbytes > _BIG_BYTES,
    ) as writer:
        for image in array if array.ndim == 3 else array[None]:
            writer.append(image)


class TiffStackWriter:
    """Write a stack image by image; the file gets its name when the block ends well.

    Args:
        path: final name; an existing file is replaced.
        pixel_size_angst: for the resolution tags; None leaves them out.
        compression: of each image.
        is_predicted: store differences of neighbours.
        is_big: write a BigTIFF, for more than 4 GB.
    """

    def __init__(
        self,
        path: Path,
        pixel_size_angst: float | None = None,
        *,
        compression: TiffCompression = "deflate",
        is_predicted: bool = False,
        is_big: bool = False,
    ) -> None:
        resolution = None
        if pixel_size_angst is not None:
            check_range("pixel_size_angst", pixel_size_angst, gt=0)
            resolution = (_pixels_per_cm(pixel_size_angst),) * 2
        self._options: dict[str, Any] = {
            "photometric": "minisblack",
            "compression": _TIFFFILE_NAMES[compression],
            "compressionargs": {"level": 9} if compression == "deflate" else None,
            "predictor": is_predicted and compression != "none",
            "resolution": resolution,
            "resolutionunit": None if resolution is None else "CENTIMETER",
            "metadata": None,
            "software": "verglas",
            "contiguous": False,
        }
        self._is_big = is_big
        self._atomic = atomic_path(path)
        self._writer: Any = None

    def __enter__(self) -> Self:
        self._writer = tifffile.TiffWriter(self._atomic.__enter__(), bigtiff=self._is_big)
        return self

    def append(self, image: NDArray[np.generic]) -> None:
        """Add an image, `[h, w]`, row 0 at y = 0; all should be of one size and type."""
        self._writer.write(np.ascontiguousarray(image[::-1]), **self._options)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()
        self._atomic.__exit__(kind, error, trace)


def _pixel_size_angst(page: TiffPage) -> float | None:
    if page.resolution <= 0:
        return None
    factor = _ANGST_PER_UNIT.get(page.resolution_unit, 0.0)
    if page.description.startswith("ImageJ="):
        unit = re.search(r"^unit=(\S+)", page.description, re.MULTILINE)
        name = "" if unit is None else unit[1].replace("\\u00B5", "u").replace("µ", "u").lower()
        factor = _ANGST_PER_IMAGEJ_UNIT.get(name, 0.0)
    size = factor / page.resolution
    low, high = _SENSIBLE_PIXEL_ANGST
    return float(f"{size:.7g}") if low <= size <= high else None


def _pixels_per_cm(pixel_size_angst: float) -> tuple[int, int]:
    """Pixels per centimetre as a fraction of two 32-bit numbers, exact where one exists."""
    ratio = 10**8 / Fraction(repr(float(pixel_size_angst)))
    if max(ratio.numerator, ratio.denominator) > _MAX_RATIONAL:
        ratio = ratio.limit_denominator(max(1, int(_MAX_RATIONAL / max(float(ratio), 1.0))))
    return min(ratio.numerator, _MAX_RATIONAL), ratio.denominator
