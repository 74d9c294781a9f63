"""Open images of any format as one thing, and write pictures for people.

The format is chosen by the first bytes of the file; the suffix only breaks ties. Every
reader gives float32 with row 0 at y = 0: TIFF, PNG and JPEG store the top line first and
are flipped on reading and on writing. What decodes a format is imported when it is met.
"""

import io
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from verglas.core.errors import FormatError
from verglas.core.files import atomic_path
from verglas.io._files import MAX_DEFLATE_RATIO, decoding, require_file
from verglas.io.mrc import open_mrc

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "IMAGE_SUFFIXES",
    "ImageReader",
    "ImageRows",
    "PictureReader",
    "open_images",
    "stretch_contrast",
    "write_jpeg",
    "write_png",
]

IMAGE_SUFFIXES = (
    ".mrc",
    ".mrcs",
    ".map",
    ".st",
    ".mrc.gz",
    ".map.gz",
    ".mrcs.gz",
    ".tif",
    ".tiff",
    ".png",
    ".jpg",
    ".jpeg",
)
_WHAT_PICTURE = "a PNG or JPEG picture"
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_PNG_MAGIC, _JPEG_MAGIC = b"\x89PNG", b"\xff\xd8\xff"
_JPEG_PIXELS_PER_BYTE = 1024  # a grey block of 64 pixels takes at least a bit per scan
_MAX_OPEN = 64


class ImageReader(Protocol):
    """What every reader offers; algorithms stream from it."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of images, rows, columns."""
        ...

    @property
    def pixel_size_angst(self) -> float | None:
        """Pixel size, or None where the file does not say."""
        ...

    def read(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Read some images by index: `[n, h, w]`."""
        ...

    def read_all(self) -> NDArray[np.float32]:
        """Read every image: `[n, h, w]`."""
        ...


@dataclass(frozen=True)
class PictureReader:
    """A PNG or JPEG file as one grey image.

    Attributes:
        path: of the file.
        shape: 1, rows, columns.
    """

    path: Path
    shape: tuple[int, int, int]

    @property
    def pixel_size_angst(self) -> float | None:
        """Pictures do not say: None."""
        return None

    def read(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Read the image as often as asked: `[n, h, w]`; colours become their luminance."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if np.any(chosen != 0):
            raise FormatError(f"{str(self.path)!r} holds 1 image: got index {chosen.max()}")
        return np.repeat(self._grey[None], len(chosen), axis=0)

    def read_all(self) -> NDArray[np.float32]:
        """Read the image: `[1, h, w]`."""
        return self.read([0])

    @cached_property
    def _grey(self) -> NDArray[np.float32]:
        with decoding(self.path, _WHAT_PICTURE), _open_bytes(self.path) as picture:
            is_grey = picture.mode in ("1", "L", "I", "F") or picture.mode.startswith("I;")
            values = np.asarray(picture if is_grey else picture.convert("L"))
        return np.ascontiguousarray(values[::-1], dtype=np.float32)


@dataclass
class ImageRows:
    """Images named by path and slice, as tables name them; an image source.

    The most recently used files stay open. Every image must have the size of the first.

    Attributes:
        paths: `[n]` files, a path per image.
        slices: `[n]` indices in the files, from 0.
    """

    paths: Sequence[Path]
    slices: Sequence[int] | NDArray[np.integer]
    _open: OrderedDict[Path, ImageReader] = field(default_factory=OrderedDict, repr=False)

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.slices):
            raise ValueError(
                f"paths and slices must be equally long: got {len(self.paths)} "
                f"and {len(self.slices)}"
            )
        if len(self.paths) == 0:
            raise ValueError("paths must name at least one image")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of images, rows, columns."""
        _, height, width = self._reader(self.paths[0]).shape
        return len(self.paths), height, width

    @property
    def pixel_size_angst(self) -> float | None:
        """Pixel size that the first file claims."""
        return self._reader(self.paths[0]).pixel_size_angst

    def read(self, indices: Sequence[int] | NDArray[np.integer]) -> NDArray[np.float32]:
        """Read some images by their place in the list: `[n, h, w]`."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        shape = self.shape[1:]
        places: dict[Path, list[int]] = {}
        for place, index in enumerate(chosen.tolist()):
            places.setdefault(self.paths[index], []).append(place)
        images: NDArray[np.float32] | None = None
        for path, slots in places.items():
            reader = self._reader(path)
            if reader.shape[1:] != shape:
                raise FormatError(
                    f"{str(path)!r} holds images of {reader.shape[2]} x {reader.shape[1]} "
                    f"pixels, expected {shape[1]} x {shape[0]} as in {str(self.paths[0])!r}",
                    "extract or rescale the images to one box first",
                )
            found = reader.read([int(self.slices[chosen[slot]]) for slot in slots])
            if len(slots) == len(chosen):
                return found  # of one file: nothing to put into order
            if images is None:
                images = np.empty((len(chosen), *shape), np.float32)
            images[slots] = found
        return np.empty((0, *shape), np.float32) if images is None else images

    def read_all(self) -> NDArray[np.float32]:
        """Read every image: `[n, h, w]`."""
        return self.read(np.arange(len(self.paths)))

    def _reader(self, path: Path) -> ImageReader:
        reader = self._open.pop(path, None) or open_images(path)
        self._open[path] = reader
        if len(self._open) > _MAX_OPEN:
            self._open.popitem(last=False)
        return reader


def open_images(path: Path, *, permissive: bool = False) -> ImageReader:
    """Open an MRC, TIFF, PNG or JPEG file as a source of images.

    Args:
        path: of the file.
        permissive: accept known deviations of MRC files with a warning.
    """
    require_file(path, "an image")
    with path.open("rb") as file:
        magic = file.read(4)
    name = path.name.lower()
    if magic == _PNG_MAGIC or magic.startswith(_JPEG_MAGIC):
        return _open_picture(path)
    if magic in _TIFF_MAGIC or name.endswith((".tif", ".tiff")):
        from verglas.io.tiff import open_tiff

        return open_tiff(path)
    if name.endswith((".png", ".jpg", ".jpeg")):
        raise FormatError(
            f"{str(path)!r} is not {_WHAT_PICTURE}: it begins with {magic!r}",
            "check its suffix, or copy it again",
        )
    if not name.removesuffix(".gz").endswith((".mrc", ".mrcs", ".map", ".st", ".ali", ".rec")):
        raise FormatError(
            f"{str(path)!r} is not an image that can be read: got suffix {path.suffix!r}, "
            "expected MRC, TIFF, PNG or JPEG",
            "convert it, or give it its proper suffix",
        )
    return open_mrc(path, permissive=permissive)


def stretch_contrast(
    image: NDArray[np.generic], percentiles: tuple[float, float] = (0.5, 99.5)
) -> NDArray[np.uint8]:
    """Map grey values to 0-255 so that the percentiles become black and white.

    Args:
        image: any shape; values that are not finite become black.
        percentiles: of the finite values, within 0-100.
    """
    values = np.asarray(image, dtype=np.float32)
    finite = values[np.isfinite(values)]
    if finite.size == 0:
        return np.zeros(values.shape, np.uint8)
    low, high = (float(value) for value in np.percentile(finite, percentiles))
    scale = 255.0 / (high - low) if high > low else 0.0
    grey = np.nan_to_num((values - low) * scale, nan=0.0, posinf=255.0, neginf=0.0)
    stretched: NDArray[np.uint8] = np.clip(np.rint(grey), 0, 255).astype(np.uint8)
    return stretched


def write_png(
    path: Path,
    image: NDArray[np.generic],
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    max_side_px: int | None = None,
) -> None:
    """Write a picture losslessly; all of it or nothing.

    Convention: row 0 of the array is the bottom line of the picture.

    Args:
        path: final name; an existing file is replaced.
        image: `[h, w]`, or `[h, w, 3]` uint8 colours; uint8 is kept as it is, other types
            are stretched between the percentiles.
        percentiles: black and white for other types than uint8.
        max_side_px: average pixels until no side is longer; None keeps the size.
    """
    with atomic_path(path) as temporary:
        _as_picture(image, percentiles, max_side_px).save(temporary, "PNG", optimize=False)


def write_jpeg(
    path: Path,
    image: NDArray[np.generic],
    *,
    percentiles: tuple[float, float] = (0.5, 99.5),
    max_side_px: int | None = None,
    quality: int = 85,
) -> None:
    """Write a small picture with losses; arguments as for `write_png`.

    Args:
        path: final name; an existing file is replaced.
        image: `[h, w]` or `[h, w, 3]`.
        percentiles: black and white for other types than uint8.
        max_side_px: average pixels until no side is longer.
        quality: 1-95.
    """
    with atomic_path(path) as temporary:
        picture = _as_picture(image, percentiles, max_side_px)
        picture.save(temporary, "JPEG", quality=quality)


def _as_picture(
    image: NDArray[np.generic], percentiles: tuple[float, float], max_side_px: int | None
) -> "Image.Image":
    from PIL import Image

    is_colour = image.ndim == 3 and image.shape[2] == 3 and image.dtype == np.uint8
    if not (image.ndim == 2 or is_colour) or image.size == 0:
        raise ValueError(
            f"image must be [h, w], or [h, w, 3] of uint8: got {image.dtype} {image.shape}"
        )
    if max_side_px is not None:
        image = _bin_down(image, max_side_px)
    grey = image if image.dtype == np.uint8 else stretch_contrast(image, percentiles)
    return Image.fromarray(np.ascontiguousarray(grey[::-1]))


def _bin_down(image: NDArray[np.generic], max_side_px: int) -> NDArray[np.generic]:
    """Average square blocks; the last incomplete blocks are dropped."""
    factor = -(-max(image.shape[:2]) // max_side_px)
    if factor <= 1:
        return image
    factor = min(factor, *image.shape[:2])
    height, width = image.shape[0] // factor, image.shape[1] // factor
    blocks = image[: height * factor, : width * factor].reshape(
        height, factor, width, factor, *image.shape[2:]
    )
    means: NDArray[np.float32] = blocks.mean(axis=(1, 3), dtype=np.float32)
    return np.rint(means).astype(np.uint8) if image.dtype == np.uint8 else means


def _open_bytes(path: Path) -> "Image.Image":
    """Open a picture from memory: a file would be asked for as many bytes as a chunk claims."""
    from PIL import Image

    return Image.open(io.BytesIO(path.read_bytes()), formats=("PNG", "JPEG"))


def _open_picture(path: Path) -> PictureReader:
    from PIL import Image

    size = require_file(path, _WHAT_PICTURE)
    try:
        with decoding(path, _WHAT_PICTURE), _open_bytes(path) as picture:
            width, height = picture.size
            is_png = picture.format == "PNG"
    except Image.DecompressionBombError as error:
        raise FormatError(f"{str(path)!r} is too large for a picture: {error}") from error
    pixels_per_byte = 8 * MAX_DEFLATE_RATIO if is_png else _JPEG_PIXELS_PER_BYTE
    if width * height > size * pixels_per_byte:
        raise FormatError(
            f"{str(path)!r} claims {width} x {height} pixels, more than its {size} bytes can hold",
            "the file is damaged; copy it again",
        )
    return PictureReader(path, (1, height, width))
