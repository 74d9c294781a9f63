"""Add the frames along their motion: weighted by dose, plain, and in two halves."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from verglas.algorithms.motion._numba_warp import add_rows
from verglas.algorithms.motion.dose import DosePlan
from verglas.algorithms.motion.field import MotionField
from verglas.algorithms.motion.frames import Frames
from verglas.algorithms.motion.oversample import FineGrid, kernel_taps

__all__ = ["Sums", "add_frames"]

Real = NDArray[np.float32]

_TABLE = 8192
_BAND_ROWS = 32
_BATCH_BYTES = 1 << 25
_NODE_PX = 32  # fixed by the loops of `_numba_warp`


@dataclass(frozen=True)
class Sums:
    """Sums of the frames of a movie; a grey value is that of all frames together.

    Attributes:
        image: `[h, w]`, weighted by dose where a plan was given, else `plain`.
        plain: `[h, w]`, without weights.
        odd, even: `[h, w]`, of the first, third, ... and of the other frames; they add to
            `image`. None where they were not asked for.
    """

    image: Real
    plain: Real
    odd: Real | None = None
    even: Real | None = None


def add_frames(
    frames: Frames,
    field: MotionField,
    grid: FineGrid,
    *,
    pixel_size_angst: float,
    plan: DosePlan | None,
    with_halves: bool,
    pool: Executor,
    threads: int,
) -> Sums:
    """Add the frames of a movie along its motion.

    Args:
        frames: of the movie.
        field: its motion.
        grid: that frames are laid on, with binning.
        pixel_size_angst: of the frames.
        plan: dose weights, or None.
        with_halves: whether to make the sums of odd and even frames too.
        pool: for threads.
        threads: how many run at once.
    """
    used = frames.survey.used
    mix = np.ones((1, len(used))) if plan is None else plan.mix
    n_terms, n_halves = len(mix), 2 if with_halves else 1
    height, width = grid.output_shape
    sums = np.zeros((n_halves * n_terms, height, width), np.float32)
    weights = np.zeros((len(used), len(sums)), np.float32)
    for f in range(len(used)):
        half = f % n_halves
        weights[f, half * n_terms : (half + 1) * n_terms] = mix[:, f]
    moved = _displacements(field, grid, pixel_size_angst)
    taps, geometry = kernel_taps(), grid.geometry
    # rows of all sums that stay in the cache while several frames are added to them
    bounds = [*range(0, height, _BAND_ROWS), height]
    n_bands = len(bounds) - 1
    n_batch = max(2, threads, min(16, _BATCH_BYTES // (4 * grid.shape[0] * grid.shape[1])))
    for first in range(0, len(used), n_batch):
        batch = range(first, min(first + n_batch, len(used)))
        fine = list(pool.map(lambda f: grid.lay(frames.spectrum(used[f])), batch))

        def add(i: int, batch: Sequence[int] = batch, fine: Sequence[Real] = fine) -> None:
            for f, laid in zip(batch, fine, strict=True):
                add_rows(
                    laid, moved[f, 0], moved[f, 1], taps, geometry, weights[f],
                    bounds[i], bounds[i + 1], sums,
                )  # fmt: skip

        list(pool.map(add, range(n_bands)))
    return _combine(sums, n_terms, plan, grid.binning * pixel_size_angst, pool)


def _displacements(field: MotionField, grid: FineGrid, pixel_size_angst: float) -> Real:
    """Displacement in pixels of the output at every 32nd of them: `[f, 2, a, b]`."""
    step = _NODE_PX * grid.binning * pixel_size_angst
    height, width = (-(-n // _NODE_PX) + 1 for n in grid.output_shape)
    on_grid = field.on_grid(
        step * np.arange(width, dtype=np.float64), step * np.arange(height, dtype=np.float64)
    )
    scaled = on_grid / (grid.binning * pixel_size_angst)
    return np.ascontiguousarray(np.moveaxis(scaled, 3, 1), dtype=np.float32)


def _combine(
    sums: Real, n_terms: int, plan: DosePlan | None, pixel_size_angst: float, pool: Executor
) -> Sums:
    """Filter and add the terms of each half."""
    halves = sums.reshape(-1, n_terms, *sums.shape[1:])
    plain = halves[0, 0] if len(halves) == 1 else halves[0, 0] + halves[1, 0]
    if plan is None:
        images = [half[0] for half in halves]
    else:
        images = _filtered(halves, plan, pixel_size_angst, pool)
    if len(images) == 1:
        return Sums(images[0], plain)
    return Sums(images[0] + images[1], plain, images[0], images[1])


def _filtered(halves: Real, plan: DosePlan, pixel_size_angst: float, pool: Executor) -> list[Real]:
    shape = halves.shape[2:]
    ky = np.fft.fftfreq(shape[0], pixel_size_angst)[:, None]
    kx = np.fft.rfftfreq(shape[1], pixel_size_angst)[None]
    finest = float(plan.frequency_per_angst[-1])
    table = np.linspace(0.0, finest, _TABLE)
    index = np.minimum(np.hypot(ky, kx) * ((_TABLE - 1) / finest) + 0.5, _TABLE - 1).astype(
        np.int32
    )
    totals: list[NDArray[np.complex64] | None] = [None] * len(halves)
    for r, line in enumerate(plan.filters):
        filter_line = np.interp(table, plan.frequency_per_angst, line).astype(np.float32)
        factor = filter_line[index]
        for h, ft in enumerate(pool.map(scipy.fft.rfft2, [half[r] for half in halves])):
            ft *= factor
            if totals[h] is None:
                totals[h] = ft
            else:
                totals[h] += ft
    return list(pool.map(lambda total: scipy.fft.irfft2(total, s=shape), totals))
