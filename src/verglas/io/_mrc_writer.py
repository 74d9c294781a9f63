"""Write MRC files slice by slice, with statistics that are true."""

import math
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from verglas.core.checks import check_range
from verglas.core.files import atomic_path
from verglas.io._mrc_header import HEADER_BYTES, MODE_OF, Statistics, format_header

__all__ = ["MrcMode", "MrcStackWriter"]

MrcMode = Literal["float32", "float16", "int16", "uint16", "int8", "uint4"]
_BLOCK_BYTES = 1 << 24


class MrcStackWriter:
    """Write a stack image by image; the file gets its name when the block ends well.

    Use as a context manager. Statistics in the header are those of the stored values.
    """

    def __init__(
        self,
        path: Path,
        shape: tuple[int, int],
        pixel_size_angst: float,
        mode: MrcMode = "float32",
        *,
        is_stack: bool = True,
        origin_angst: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> None:
        check_range("pixel_size_angst", pixel_size_angst, gt=0)
        if mode not in MODE_OF:
            raise ValueError(f"mode must be one of {', '.join(MODE_OF)}: got {mode!r}")
        if min(shape) < 1:
            raise ValueError(f"images must have at least one pixel: got shape {shape}")
        self.path = path
        self.shape = shape
        self.n_images = 0
        self._mode = mode
        self._pixel_size_angst = pixel_size_angst
        self._is_stack = is_stack
        self._origin_angst = origin_angst
        self._statistics = _RunningStatistics()
        self._atomic = atomic_path(path)
        self._file: IO[bytes] | None = None

    def __enter__(self) -> Self:
        self._file = self._atomic.__enter__().open("wb")
        self._file.write(bytes(HEADER_BYTES))
        return self

    def append(self, images: NDArray[np.generic]) -> None:
        """Add images.

        Args:
            images: `[h, w]` or `[n, h, w]`, finite.
        """
        if self._file is None:
            raise ValueError("MrcStackWriter is used inside a with block")
        batch = images if images.ndim == 3 else images[None]
        if batch.ndim != 3 or batch.shape[1:] != self.shape:
            raise ValueError(f"images must have shape {self.shape}: got {images.shape}")
        step = max(1, _BLOCK_BYTES // (8 * self.shape[0] * self.shape[1]))
        for first in range(0, len(batch), step):
            stored = _encode(batch[first : first + step], self._mode)
            self._statistics.add(stored)
            packed = _pack_nibbles(stored) if self._mode == "uint4" else stored
            self._file.write(np.ascontiguousarray(packed).data)
        self.n_images += len(batch)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            if self._file is not None:
                with self._file:
                    if error is None:
                        self._finish(self._file)
        except BaseException as late_error:
            self._atomic.__exit__(type(late_error), late_error, late_error.__traceback__)
            raise
        self._atomic.__exit__(kind, error, trace)

    def _finish(self, file: IO[bytes]) -> None:
        if self.n_images == 0:
            raise ValueError(f"no image was written to {str(self.path)!r}")
        file.seek(0)
        file.write(
            format_header(
                (self.n_images, *self.shape),
                mode=MODE_OF[self._mode],
                pixel_size_angst=self._pixel_size_angst,
                is_stack=self._is_stack,
                statistics=self._statistics.result(),
                origin_angst=self._origin_angst,
            )
        )


class _RunningStatistics:
    """Add blocks of numbers up to the four statistics of the header, in float64."""

    def __init__(self) -> None:
        self._count = 0
        self._minimum = math.inf
        self._maximum = -math.inf
        self._mean = 0.0
        self._squares = 0.0  # sum of squared deviations from the mean (Chan et al. 1983)

    def add(self, block: NDArray[np.generic]) -> None:
        values = block.astype(np.float64)
        self._minimum = min(self._minimum, float(values.min()))
        self._maximum = max(self._maximum, float(values.max()))
        mean = float(values.mean())
        values -= mean
        squares = float(np.vdot(values, values))
        total = self._count + values.size
        step = mean - self._mean
        self._squares += squares + step * step * self._count * values.size / total
        self._mean += step * values.size / total
        self._count = total

    def result(self) -> Statistics:
        rms = math.sqrt(self._squares / max(self._count, 1))
        return Statistics(self._minimum, self._maximum, self._mean, rms)


def _encode(block: NDArray[np.generic], mode: MrcMode) -> NDArray[np.generic]:
    """Cast to the type in the file, or say which values it cannot hold."""
    if np.iscomplexobj(block) or block.dtype.kind not in "biuf":
        raise TypeError(f"images must be real numbers: got {block.dtype}")
    low, high = float(block.min()), float(block.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError("images must be finite: got NaN or infinity")
    dtype: np.dtype[Any]
    if mode == "uint4":
        limits, dtype = (0.0, 15.0), np.dtype("u1")
    else:
        dtype = np.dtype(mode).newbyteorder("<")
        limits = _limits(dtype)
    if dtype.kind != "f" and block.dtype.kind == "f":
        block = np.rint(block)
        low, high = float(block.min()), float(block.max())
    if low < limits[0] or high > limits[1]:
        raise ValueError(f"{mode} holds {limits[0]:g} to {limits[1]:g}: got {low:g} to {high:g}")
    return block.astype(dtype)


def _limits(dtype: np.dtype[Any]) -> tuple[float, float]:
    info = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    return float(info.min), float(info.max)


def _pack_nibbles(values: NDArray[np.generic]) -> NDArray[np.uint8]:
    """Put two pixels into a byte, the first into the lower half; rows end on a byte."""
    columns = values.shape[-1]
    even = np.zeros((*values.shape[:-1], columns + columns % 2), np.uint8)
    even[..., :columns] = values
    packed: NDArray[np.uint8] = even[..., 0::2] | (even[..., 1::2] << 4)
    return packed
