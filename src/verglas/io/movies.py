"""Open movies of any format and read one frame at a time.

A movie of gigabytes costs the memory of the frames asked for. Frames keep the type of the
file, whole numbers stay whole, and may be read from several threads at once. Row 0 is at
y = 0 in every format. The format is chosen by the first bytes of the file.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import tifffile
from numpy.typing import NDArray

from verglas.core.errors import FormatError
from verglas.io._files import decoding, require_file
from verglas.io.eer import open_eer
from verglas.io.mrc import open_mrc
from verglas.io.tiff import TiffReader, open_tiff

__all__ = ["MOVIE_SUFFIXES", "Movie", "MovieForm", "default_frames_per_fraction", "open_movie"]

MovieForm = Literal["mrc", "tiff", "eer"]
MOVIE_SUFFIXES = (".mrc", ".mrcs", ".st", ".mrc.gz", ".mrcs.gz", ".tif", ".tiff", ".eer")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_FRACTIONS = 40  # of an EER file, where nothing is said: about 1 e/A^2 each of a usual exposure


@dataclass(frozen=True)
class Movie:
    """An open movie; close it, or use it in a `with` block.

    Attributes:
        path: of the file.
        form: of the file.
        n_frames: frames; of an EER file the sums of `eer_frames_per_fraction` raw frames.
        shape: rows and columns of a frame.
        dtype: of a frame.
        pixel_size_angst: of a frame as the file says, or None; with EER upsampling, smaller.
        n_raw_frames: of an EER file; `n_frames` for others.
        dose_e_per_angst2: of all raw frames as the file says, or None.
    """

    path: Path
    form: MovieForm
    n_frames: int
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    pixel_size_angst: float | None
    n_raw_frames: int
    dose_e_per_angst2: float | None
    _read: Callable[[int], NDArray[Any]] = field(repr=False)
    _close: Callable[[], None] = field(repr=False)

    def frame(self, index: int) -> NDArray[Any]:
        """Read a frame; several threads may do so at once.

        Args:
            index: from 0.

        Returns:
            `[h, w]` of `dtype`, a copy.
        """
        if not 0 <= index < self.n_frames:
            raise FormatError(
                f"frame {index} of {str(self.path)!r} does not exist: "
                f"it holds {self.n_frames}, counted from 0",
                "choose other first and last frames, or import the movie again",
            )
        return self._read(index)

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_movie(
    path: Path, *, eer_frames_per_fraction: int | None = None, eer_upsampling: int = 1
) -> Movie:
    """Open an MRC, TIFF or EER movie without reading its frames.

    What the head of the file claims is checked against its size. An image is a movie of
    one frame. A movie compressed as a whole (`.mrc.gz`) is held in memory once read.

    Args:
        path: of the file.
        eer_frames_per_fraction: raw frames in each frame of an EER file; None takes as many
            as give about 40 frames. Raw frames that do not fill the last one are left out.
        eer_upsampling: 1, 2 or 4 pixels along a side of an EER pixel.
    """
    if eer_upsampling not in (1, 2, 4):
        raise ValueError(f"EER upsampling must be 1, 2 or 4: got {eer_upsampling}")
    if eer_frames_per_fraction is not None and eer_frames_per_fraction < 1:
        raise ValueError(f"EER frames per fraction must be positive: got {eer_frames_per_fraction}")
    require_file(path, "a movie")
    with path.open("rb") as file:
        magic = file.read(4)
    name = path.name.lower()
    if name.endswith(".eer"):
        return _open_eer(path, eer_frames_per_fraction, eer_upsampling)
    if magic in _TIFF_MAGIC or name.endswith((".tif", ".tiff")):
        return _open_tiff(path)
    if not name.removesuffix(".gz").endswith((".mrc", ".mrcs", ".st", ".map")):
        raise FormatError(
            f"{str(path)!r} is not a movie that can be read: got suffix {path.suffix!r}, "
            "expected MRC, TIFF or EER",
            "convert it, or give it its proper suffix",
        )
    return _open_mrc(path)


def default_frames_per_fraction(n_raw_frames: int) -> int:
    """Choose the raw frames of a fraction so that about 40 fractions result."""
    return max(1, n_raw_frames // _FRACTIONS)


def _open_eer(path: Path, per_fraction: int | None, upsampling: int) -> Movie:
    reader = open_eer(path)
    n_raw = len(reader.pages)
    size = per_fraction or default_frames_per_fraction(n_raw)
    if size > n_raw:
        raise FormatError(
            f"{str(path)!r} has {n_raw} raw frames, fewer than the {size} of one fraction",
            "give fewer EER frames per fraction, or leave the movie out: was it cut short?",
        )
    pixel = reader.pixel_size_angst

    def read(index: int) -> NDArray[Any]:
        return reader.render(index * size, size, upsampling=upsampling)

    return Movie(
        path,
        "eer",
        n_raw // size,
        (reader.shape[0] * upsampling, reader.shape[1] * upsampling),
        np.dtype(np.uint8 if size < 256 else np.uint16),
        None if pixel is None else pixel / upsampling,
        n_raw,
        reader.dose_e_per_angst2,
        read,
        lambda: None,
    )


def _open_mrc(path: Path) -> Movie:
    reader = open_mrc(path)
    n_frames, height, width = reader.shape
    header = reader.header
    if header.is_complex or header.axis_order != (1, 2, 3):
        raise FormatError(
            f"{str(path)!r} is not a stack of frames: got mode {header.mode} and axes "
            f"{header.axis_order}, expected real numbers and (1, 2, 3)",
            "write it again as images along x, y and z",
        )
    dtype = np.dtype(np.uint8) if header.is_packed else header.dtype.newbyteorder("=")
    return Movie(
        path,
        "mrc",
        n_frames,
        (height, width),
        dtype,
        reader.pixel_size_angst,
        n_frames,
        None,
        reader.section,
        lambda: None,
    )


def _open_tiff(path: Path) -> Movie:
    reader = open_tiff(path)
    pages = _TiffFrames(reader)
    return Movie(
        path,
        "tiff",
        len(reader.pages),
        reader.pages[0].shape,
        np.dtype(reader.pages[0].dtype),
        reader.pixel_size_angst,
        len(reader.pages),
        None,
        pages.read,
        pages.close,
    )


class _TiffFrames:
    """Decodes pages of a TIFF file; the file is opened at the first and shared by threads."""

    def __init__(self, reader: TiffReader) -> None:
        self._reader = reader
        self._file: Any = None
        self._pages: list[Any] = []
        self._lock = threading.Lock()

    def read(self, index: int) -> NDArray[Any]:
        path, page = self._reader.path, self._reader.pages[index]
        with decoding(path, "a TIFF movie"):
            with self._lock:
                if self._file is None:
                    self._file = tifffile.TiffFile(path)
                    # directories are read without a lock, so before any thread reads pixels
                    self._pages = list(self._file.pages)
                    self._file.filehandle.set_lock(True)
            # pixels are read under the lock of the file, and decoded outside of it
            image = self._pages[page.index].asarray(maxworkers=1)
            if image.shape != page.shape:
                raise ValueError(f"a page has shape {image.shape}")
            return np.ascontiguousarray(image[::-1], dtype=page.dtype)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file, self._pages = None, []
