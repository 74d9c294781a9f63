"""Bring raw frames into shape: dark, gain, defects, spikes, and a size that transforms fast."""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from verglas.algorithms.motion.oversample import even_size

__all__ = ["Correction", "FrameSource", "Frames", "Survey", "find_defects", "open_frames"]

log = logging.getLogger(__name__)

Real = NDArray[np.float32]

_CACHE_BYTES = 1 << 30
_SPECTRA_BYTES = 1 << 28
_SPIKE_SDS = 20.0
_DEFECT_SDS = 7.0
_CHOICES = 8
_SAMPLE = 200_000
_MOST_BROKEN = 0.05


class FrameSource(Protocol):
    """Frames that can be read one by one, from several threads."""

    @property
    def n_frames(self) -> int:
        """How many."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of a frame."""

    def frame(self, index: int) -> NDArray[Any]:
        """Read one: `[h, w]`."""


@dataclass(frozen=True)
class Correction:
    """What is done to each frame: `(frame - dark) * gain`, then defects are replaced.

    Attributes:
        gain: `[h, w]`, or None; 0 marks a defect.
        dark: `[h, w]`, or None.
        defects: `[h, w]`, true where pixels are to be replaced, or None.
    """

    gain: Real | None = None
    dark: Real | None = None
    defects: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Survey:
    """What a first look at the frames gave.

    Attributes:
        used: numbers of the frames that hold an image.
        constant: numbers of frames in which all pixels are equal.
        mean: grey value of a pixel and frame, corrected.
        n_defects: pixels that are replaced in all frames.
        n_found: of these, by the frames themselves.
        n_not_finite: pixels that were not a number in some frame.
    """

    used: tuple[int, ...]
    constant: tuple[int, ...]
    mean: float
    n_defects: int
    n_found: int
    n_not_finite: int


class Frames:
    """Corrected frames of a movie and their transforms, kept while there is room for them."""

    def __init__(
        self, source: FrameSource, numbers: Sequence[int], correction: Correction, pool: Executor
    ) -> None:
        self._source = source
        self._correction = correction
        self._cache: dict[int, NDArray[Any]] = {}
        self._spectra: dict[int, NDArray[np.complex64]] = {}
        self._places: NDArray[np.int64] = np.zeros(0, np.int64)
        self._neighbours: NDArray[np.int64] = np.zeros((0, _CHOICES), np.int64)
        self.shape = source.shape
        self.padded_shape = even_size(self.shape[0]), even_size(self.shape[1])
        self.survey, self.unaligned = self._look(numbers, pool)

    def raw(self, number: int) -> NDArray[Any]:
        """Read a frame as it was recorded."""
        known = self._cache.get(number)
        return self._source.frame(number) if known is None else known

    def corrected(self, number: int) -> Real:
        """Read a frame and correct it: `[h, w]`."""
        frame = self._plain(self.raw(number))
        flat = frame.reshape(-1)
        if self._places.size:
            flat[self._places] = flat[self._neighbours[:, number % _CHOICES]]
        sample = flat[:: max(1, flat.size // _SAMPLE)]
        mean, reach = float(sample.mean()), _SPIKE_SDS * float(sample.std())
        if flat.max() > mean + reach or flat.min() < mean - reach:
            flat[np.abs(flat - mean) > reach] = mean
        return frame

    def spectrum(self, number: int) -> NDArray[np.complex64]:
        """Transform of a corrected frame, padded by its mirrored edges: `[h, w//2+1]`."""
        known = self._spectra.get(number)
        if known is not None:
            return known
        padded = _pad(self.corrected(number), self.padded_shape)
        ft: NDArray[np.complex64] = scipy.fft.rfft2(padded)
        if ft.nbytes * len(self.survey.used) <= _SPECTRA_BYTES:
            self._spectra[number] = ft
        return ft

    def forget(self) -> None:
        """Free what was kept."""
        self._cache.clear()
        self._spectra.clear()

    def _plain(self, raw: NDArray[Any]) -> Real:
        frame = raw.astype(np.float32)
        if self._correction.dark is not None:
            frame -= self._correction.dark
        if self._correction.gain is not None:
            frame *= self._correction.gain
        if raw.dtype.kind == "f" and not np.isfinite(frame.sum()):
            bad = ~np.isfinite(frame)
            frame[bad] = frame[~bad].mean() if not bad.all() else 0.0
        return frame

    def _look(self, numbers: Sequence[int], pool: Executor) -> tuple[Survey, Real]:
        """Add the frames as they are, and find pixels that are not like their neighbours."""
        keep = None
        total = np.zeros(self.shape, np.float32)
        used, constant = [], []
        broken = np.zeros(self.shape, np.bool_)
        for number, raw in zip(numbers, pool.map(self._source.frame, numbers), strict=True):
            if keep is None:
                keep = raw.nbytes * len(numbers) <= _CACHE_BYTES
            if keep:
                self._cache[number] = raw
            if raw.dtype.kind == "f" and not np.isfinite(raw.sum()):
                bad = ~np.isfinite(raw)
                if bad.mean() > _MOST_BROKEN:
                    raise ValueError(
                        f"frame {number} holds {int(bad.sum())} pixels that are not numbers"
                    )
                broken |= bad
                raw = np.where(bad, 0, raw)
            if raw[0].min() == raw[0].max() and raw.min() == raw.max():
                constant.append(number)
                continue
            used.append(number)
            total += raw
        if not used:
            raise ValueError(f"all {len(numbers)} frames are constant")
        flat = self._plain(total / np.float32(len(used))) * np.float32(len(used))
        marked = broken.copy()
        if self._correction.defects is not None:
            marked |= self._correction.defects
        if self._correction.gain is not None:
            marked |= self._correction.gain <= 0
        found = find_defects(flat, marked)
        defects = marked | found
        self._places, self._neighbours = _good_neighbours(defects)
        flat.reshape(-1)[self._places] = flat.reshape(-1)[self._neighbours[:, 0]]
        survey = Survey(
            tuple(used),
            tuple(constant),
            float(flat.mean(dtype=np.float64)) / len(used),
            int(defects.sum()),
            int(found.sum()),
            int(broken.sum()),
        )
        return survey, flat


def open_frames(
    source: FrameSource, numbers: Sequence[int], correction: Correction, pool: Executor
) -> Frames:
    """Look through the frames of a movie once; `ValueError` where they cannot be used.

    Args:
        source: of the frames.
        numbers: of the frames to use.
        correction: to apply.
        pool: for threads.
    """
    shape = tuple(source.shape)
    for name in ("gain", "dark", "defects"):
        image = getattr(correction, name)
        if image is not None and image.shape != shape:
            turned = " (as it is when turned by 90 degrees)" if image.shape == shape[::-1] else ""
            raise ValueError(
                f"the {name} reference has {image.shape[1]} x {image.shape[0]} pixels, the frames "
                f"{shape[1]} x {shape[0]}{turned}"
            )
    return Frames(source, numbers, correction, pool)


def find_defects(total: Real, marked: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find pixels of a sum of frames that stand out from their neighbours.

    Args:
        total: `[h, w]`, sum of corrected frames.
        marked: `[h, w]`, pixels that are known to be bad already.

    Returns:
        `[h, w]`, true at further bad pixels: beyond 7 standard deviations from the mean around
        them, and from the median of their 24 neighbours.
    """
    clean = np.where(marked, total[~marked].mean() if not marked.all() else 0.0, total)
    rest = clean - uniform_filter(clean, 9, mode="nearest")
    sample = rest.reshape(-1)[:: max(1, rest.size // _SAMPLE)]
    sd = 1.4826 * float(np.median(np.abs(sample - np.median(sample)))) + 1e-12
    found = np.zeros(total.shape, np.bool_)
    rows, columns = np.nonzero((np.abs(rest) > _DEFECT_SDS * sd) & ~marked)
    if not 0 < len(rows) <= 0.01 * total.size:
        return found
    border = np.pad(clean, 2, mode="reflect")
    around = np.stack(
        [border[rows + i, columns + j] for i in range(5) for j in range(5) if (i, j) != (2, 2)]
    )
    stands_out = np.abs(clean[rows, columns] - np.median(around, axis=0)) > _DEFECT_SDS * sd
    found[rows[stands_out], columns[stands_out]] = True
    return found


def _good_neighbours(defects: NDArray[np.bool_]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose for each bad pixel eight good ones nearby, from which it takes turns to copy.

    Copies keep the noise, and change from frame to frame so that they do not add up.
    """
    width = defects.shape[1]
    rows, columns = np.nonzero(defects)
    places = rows * width + columns
    neighbours = np.zeros((len(places), _CHOICES), np.int64)
    rng = np.random.default_rng(0)
    good = np.flatnonzero(~defects)
    for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
        for reach in (2, 4, 8, 16, 32):
            y, x = max(0, int(row) - reach), max(0, int(column) - reach)
            window = ~defects[y : row + reach + 1, x : column + reach + 1]
            near_y, near_x = np.nonzero(window)
            if len(near_y) >= _CHOICES:
                chosen = rng.choice(len(near_y), _CHOICES, replace=False)
                neighbours[i] = (near_y[chosen] + y) * width + near_x[chosen] + x
                break
        else:
            if good.size:
                neighbours[i] = rng.choice(good, _CHOICES)
    return places, neighbours


def _pad(frame: Real, shape: tuple[int, ...]) -> Real:
    """Fill up to a larger size with the mirrored edges, faded into one another."""
    padded = frame
    for axis, wanted in enumerate(shape):
        n = padded.shape[axis]
        extra = wanted - n
        if extra == 0:
            continue
        index = np.arange(extra)
        behind = np.take(padded, np.maximum(n - 2 - index, 0), axis=axis)
        before = np.take(padded, np.minimum(extra - index, n - 1), axis=axis)
        side = [1, 1]
        side[axis] = extra
        fade = ((index + 1) / (extra + 1)).astype(np.float32).reshape(side)
        padded = np.concatenate([padded, behind * (1 - fade) + before * fade], axis=axis)
    return padded
