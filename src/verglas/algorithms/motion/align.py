"""Align a movie: path of the whole frame, local motion, sums.

The frames are transformed once; a band-limited copy is cut into patches, to which the motion
is fitted (`likelihood.py`) with a prior that is learnt (`prior.py`, `posterior.py`); local
motion is kept where it foretells held-out patches (`order.py`).
Then each frame is laid on a finer grid and sampled along its motion (`sums.py`).
"""

import logging
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from verglas.algorithms.motion.coarse import coarse_path
from verglas.algorithms.motion.dose import DosePlan, dose_weights, plan_dose
from verglas.algorithms.motion.field import MotionField, MotionOrder
from verglas.algorithms.motion.frames import Correction, Frames, FrameSource, Survey, open_frames
from verglas.algorithms.motion.likelihood import (
    add_fading_signal,
    fit_path,
    patch_basis,
    start_fit,
)
from verglas.algorithms.motion.order import (
    Found,
    Trial,
    fit_movie,
    local_order,
    standard_error,
)
from verglas.algorithms.motion.oversample import FineGrid, crop_spectrum, even_size
from verglas.algorithms.motion.patches import PatchSpectra, cut_patches, plan_patches
from verglas.algorithms.motion.prior import PriorModel
from verglas.algorithms.motion.serial import Serial
from verglas.algorithms.motion.sums import Sums, add_frames

__all__ = ["AlignConfig", "AlignedMovie", "align_movie"]

log = logging.getLogger(__name__)

Real = NDArray[np.float32]
Double = NDArray[np.float64]

_COARSE_ANGST = 10.0
_BLUR_ANGST = 6.0
# molecules of vitreous water move by about 1 A (RMS, in three dimensions) in the exposure of
# 1 e/A^2 (McMullan 2015, doi:10.1016/j.ultramic.2015.07.004): 2 pi^2 / 3 of exp(-x k^2)
_WATER_ANGST2 = 6.6
_NEARLY_PX = 0.05
_USUAL_DOSE_E_PER_ANGST2 = 1.0


@dataclass(frozen=True)
class AlignConfig:
    """How to align.

    Attributes:
        max_res_angst: highest frequency that motion is measured from.
        max_shift_angst: farthest that a frame is looked for from the mean of all.
        patch_angst: edge of the patches.
        max_points: control points of the local motion along a side; 0 for the whole frame alone.
        binning: input pixels in a pixel of the sums.
        with_halves: make sums of odd and even frames.
    """

    max_res_angst: float = 4.0
    max_shift_angst: float = 60.0
    patch_angst: float = 180.0
    max_points: int = 8
    binning: float = 1.0
    with_halves: bool = True


@dataclass(frozen=True)
class AlignedMovie:
    """What became of a movie.

    Attributes:
        sums: of its frames.
        unaligned: `[h, w]`, sum of the corrected frames as they were.
        motion: of its used frames.
        survey: of the frames.
        trials: of local motions.
        error_angst: standard error of a frame's shift along one axis, from the likelihood.
        signal_to_noise: `[shells]`, of one frame.
        signal_per_angst: `[shells]`, their frequencies.
    """

    sums: Sums
    unaligned: Real
    motion: MotionField
    survey: Survey
    trials: list[Trial] = field(default_factory=list)
    error_angst: float = 0.0
    signal_to_noise: Double = field(default_factory=lambda: np.zeros(0))
    signal_per_angst: Double = field(default_factory=lambda: np.zeros(0))


def align_movie(
    source: FrameSource,
    config: AlignConfig,
    *,
    pixel_size_angst: float,
    correction: Correction | None = None,
    frame_numbers: Sequence[int] | None = None,
    frame_dose_e_per_angst2: float = 0.0,
    pre_exposure_e_per_angst2: float = 0.0,
    voltage_kv: float = 300.0,
    threads: int = 1,
) -> AlignedMovie:
    """Align the frames of a movie and add them; `ValueError` where they cannot be used.

    Args:
        source: of the frames.
        config: how.
        pixel_size_angst: of the frames.
        correction: gain, dark and defects.
        frame_numbers: of the frames to use, rising; all by default.
        frame_dose_e_per_angst2: of one frame; 0 leaves frames without weights.
        pre_exposure_e_per_angst2: before frame 0 of the file.
        voltage_kv: of the microscope.
        threads: how many to use.
    """
    numbers = list(range(source.n_frames)) if frame_numbers is None else list(frame_numbers)
    with ThreadPoolExecutor(threads) if threads > 1 else Serial() as pool:
        frames = open_frames(source, numbers, correction or Correction(), pool)
        used = frames.survey.used
        if len(used) > 1:
            dose = frame_dose_e_per_angst2 or frames.survey.mean / pixel_size_angst**2
            # frames without counts, as of a background taken away, do not tell their exposure
            dose = dose if dose > 0 else _USUAL_DOSE_E_PER_ANGST2
            found = _find_motion(frames, config, pixel_size_angst, dose, pool, threads)
        else:
            found = _Motion(_no_motion(frames, pixel_size_angst))
        plan = None
        grid = FineGrid(frames.shape, frames.padded_shape, config.binning)
        if frame_dose_e_per_angst2 > 0:
            plan = _dose_plan(
                used, frame_dose_e_per_angst2, pre_exposure_e_per_angst2, voltage_kv,
                config.binning * pixel_size_angst,
            )  # fmt: skip
        sums = add_frames(
            frames,
            found.motion,
            grid,
            pixel_size_angst=pixel_size_angst,
            plan=plan,
            with_halves=config.with_halves and len(used) > 1,
            pool=pool,
            threads=threads,
        )
    return AlignedMovie(
        sums,
        frames.unaligned,
        found.motion,
        frames.survey,
        found.trials,
        found.error_angst,
        found.signal_to_noise,
        found.signal_per_angst,
    )


@dataclass(frozen=True)
class _Motion:
    motion: MotionField
    trials: list[Trial] = field(default_factory=list)
    error_angst: float = 0.0
    signal_to_noise: Double = field(default_factory=lambda: np.zeros(0))
    signal_per_angst: Double = field(default_factory=lambda: np.zeros(0))


def _extent(frames: Frames, pixel_size_angst: float) -> tuple[float, float]:
    height, width = frames.shape
    return (width - 1) * pixel_size_angst, (height - 1) * pixel_size_angst


def _no_motion(frames: Frames, pixel_size_angst: float) -> MotionField:
    return MotionField(
        _extent(frames, pixel_size_angst),
        np.zeros((len(frames.survey.used), 2)),
        MotionOrder(),
        np.zeros((0, 0, 2)),
        np.zeros(0),
    )


def _dose_plan(
    used: Sequence[int], dose: float, before: float, voltage_kv: float, pixel_size_angst: float
) -> DosePlan:
    """Plan the weights up to the corner of the transform."""
    frequency = np.linspace(0.0, 0.75 / pixel_size_angst, 512)
    every = dose_weights(
        frequency,
        frame_dose_e_per_angst2=np.full(max(used) + 1, dose),
        pre_exposure_e_per_angst2=before,
        voltage_kv=voltage_kv,
    )
    return plan_dose(every[list(used)], frequency)


def _find_motion(
    frames: Frames,
    config: AlignConfig,
    pixel_size_angst: float,
    dose_e_per_angst2: float,
    pool: Executor,
    threads: int,
) -> _Motion:
    """Measure the motion from coarse to fine."""
    padded = frames.padded_shape
    limit = max(config.max_res_angst, 2.0 * pixel_size_angst)
    band = _band(padded, 2.0 * pixel_size_angst / limit)
    coarse = _band(padded, 2.0 * pixel_size_angst / max(_COARSE_ANGST, limit))
    # pixels of the band-limited and of the coarse frames, x and y
    pixel = np.array([pixel_size_angst * padded[i] / band[i] for i in (1, 0)])
    coarse_pixel = np.array([pixel_size_angst * padded[i] / coarse[i] for i in (1, 0)])
    visible = (
        frames.shape[0] * band[0] // padded[0],
        frames.shape[1] * band[1] // padded[1],
    )

    def reduce(number: int) -> tuple[Real, NDArray[np.complex64]]:
        ft = frames.spectrum(number)
        small = scipy.fft.irfft2(crop_spectrum(ft, band), s=band)
        return small[: visible[0], : visible[1]], crop_spectrum(ft, coarse)

    reduced = list(pool.map(reduce, frames.survey.used))
    path = coarse_path(
        [ft for _, ft in reduced],
        coarse,
        max_shift_px=config.max_shift_angst / coarse_pixel.mean(),
        blur_px=_BLUR_ANGST / coarse_pixel.mean(),
        pool=pool,
    )
    path_px = path * coarse_pixel / pixel
    patch_grid = plan_patches(visible, config.patch_angst / float(pixel.mean()), path_px)
    reach = int(0.48 * patch_grid.size)
    patches = cut_patches([small for small, _ in reduced], patch_grid, path_px, reach, pool)
    del reduced
    frequency = np.arange(2 * reach) / (patch_grid.size * float(pixel.mean()))
    memory = np.exp(-_WATER_ANGST2 * dose_e_per_angst2 * frequency**2)
    whole = start_fit(patches, visible, MotionOrder(), path_px)
    whole = fit_path(patches, whole, pool, threads, done_px=_NEARLY_PX)
    whole = add_fading_signal(patches, whole, memory, pool, threads)
    extent = _extent(frames, pixel_size_angst)
    model = PriorModel.of(
        local_order(extent, patches.n_frames, max_points=config.max_points),
        n_frames=patches.n_frames,
        frame_dose_e_per_angst2=dose_e_per_angst2,
        extent_angst=extent,
        pixel_angst=float(pixel.mean()),
    )
    found = fit_movie(patches, visible, whole, model, pool, threads)
    return _as_motion(extent, found, patches, visible, pixel)


def _band(shape: tuple[int, int], part: float) -> tuple[int, int]:
    """Size of a part of a transform, which transforms fast itself."""
    return min(shape[0], even_size(part * shape[0])), min(shape[1], even_size(part * shape[1]))


def _as_motion(
    extent_angst: tuple[float, float],
    found: Found,
    patches: PatchSpectra,
    shape: tuple[int, int],
    pixel: Double,
) -> _Motion:
    """Bring a fit to Å, with its errors and spectra."""
    fit = found.fit
    _, offset = patch_basis(patches, shape, fit.order)
    motion = MotionField(
        extent_angst, fit.path_px * pixel, fit.order, fit.coefficients_px * pixel, offset
    )
    spectra = fit.spectra
    ratio = (
        np.zeros(0) if spectra is None else (spectra.signal + spectra.near_signal) / spectra.noise
    )
    return _Motion(
        motion,
        found.trials,
        standard_error(found) * float(pixel.mean()),
        ratio,
        np.arange(len(ratio)) / (patches.grid.size * pixel.mean()),
    )
