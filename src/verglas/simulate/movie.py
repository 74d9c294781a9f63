"""Whole movies with known motion, positions, poses, defocus, detector and contamination.

The specimen of a movie is that of `micrograph`: particles each through the CTF of its own
height, ice slab by slab, contamination. In each frame the particles have lost what the beam
destroyed so far, the water has moved on, and everything lies where the motion put it; the
detector counts electrons with its own gain, hot and dead pixels. Frames are made one at a
time, so that a movie of gigabytes needs the memory of a few frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from dataclasses import field as with_default
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from verglas.kernels.fourier import next_fast_size
from verglas.simulate._movie_canvas import prepare_canvas
from verglas.simulate.atoms import Atoms
from verglas.simulate.contamination import LABELS, Contamination, label_at
from verglas.simulate.detector import Detector, DetectorConfig, draw_detector
from verglas.simulate.micrograph import (
    MicrographConfig,
    MicrographRenderer,
    brightness_of,
    contamination_of,
    draw_micrograph,
    prepare_micrograph_renderer,
)
from verglas.simulate.motion import Motion, MotionConfig, draw_motion
from verglas.simulate.noise import item_generator

__all__ = [
    "MovieConfig",
    "MovieTruth",
    "detector_of",
    "draw_movie",
    "draw_moving_field",
    "prepare_movie_renderer",
    "render_frames",
    "split_by_label",
    "split_into_raw_frames",
]

_MOTION_KEY, _DETECTOR_KEY, _COUNT_KEY = (2**40 + i for i in (6, 7, 8))


@dataclass(frozen=True)
class MovieConfig:
    """What to simulate.

    Attributes:
        field: optics, size, particles and contamination; its dose is that of the whole movie.
        n_frames: frames of each movie.
        pre_exposure_e_per_angst2: before the first frame.
        motion: of the specimen.
        detector: the same for all movies of a set.
        is_damaged: whether the beam destroys the particles.
        is_blurred: whether the motion of the whole field during a frame blurs it.
        empty_probability: of a movie without particles.
    """

    field: MicrographConfig
    n_frames: int = 16
    pre_exposure_e_per_angst2: float = 0.0
    motion: MotionConfig = with_default(default_factory=MotionConfig)
    detector: DetectorConfig = with_default(default_factory=DetectorConfig)
    is_damaged: bool = True
    is_blurred: bool = True
    empty_probability: float = 0.0

    def __post_init__(self) -> None:
        if self.n_frames < 1:
            raise ValueError(f"a movie needs frames: got {self.n_frames}")

    @property
    def frame_dose_e_per_angst2(self) -> float:
        """Exposure of a frame."""
        return self.field.dose_e_per_angst2 / self.n_frames


@dataclass(frozen=True)
class MovieTruth:
    """What is in one movie.

    Attributes:
        micrograph: its row, as of `draw_micrograph`, with the motion of the whole field.
        particles: those to be found, and `contaminated` those that lie on contamination;
            coordinates are those in the first frame.
        motion: of the specimen.
        contamination: what covers it, or None.
        covered: `[n]`, what lies over each particle that was drawn, an index in `LABELS`.
    """

    micrograph: pl.DataFrame
    particles: pl.DataFrame
    contaminated: pl.DataFrame
    motion: Motion
    contamination: Contamination | None
    covered: NDArray[np.uint8]


def draw_movie(config: MovieConfig, index: int, diameter_angst: float) -> MovieTruth:
    """Draw the truth of one movie; it depends on the seed and the index only.

    Args:
        config: what to simulate.
        index: of the movie.
        diameter_angst: of the particles.
    """
    micrograph, particles, motion = draw_moving_field(config, index, diameter_angst)
    contamination = contamination_of(config.field, index)
    covered = np.zeros(particles.height, np.uint8)
    if contamination is not None and particles.height:
        x, y = (particles[f"coord_{axis}_angst"].to_numpy() for axis in "xy")
        pixel = config.field.optics.pixel_size_angst
        covered = label_at(contamination.mask, x, y, pixel)
    clean, on_dirt = split_by_label(particles, covered)
    return MovieTruth(micrograph, clean, on_dirt, motion, contamination, covered)


def split_by_label(
    particles: pl.DataFrame, covered: NDArray[np.uint8]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Part particles in clean ice from those on carbon, crystals and aggregates.

    Args:
        particles: all of a movie.
        covered: `[n]`, what lies over each; those where the ice is torn are left out.
    """
    on_dirt = (covered > 0) & (covered < LABELS.index("tear"))
    return particles.filter(pl.Series(covered == 0)), particles.filter(pl.Series(on_dirt))


def draw_moving_field(
    config: MovieConfig, index: int, diameter_angst: float
) -> tuple[pl.DataFrame, pl.DataFrame, Motion]:
    """Draw all of a movie's truth but its contamination; arguments as for `draw_movie`.

    Returns:
        The movie's row, all particles wherever they lie, and the motion.
    """
    field = config.field
    rng = item_generator(field.seed, _MOTION_KEY, index)
    pixel = field.optics.pixel_size_angst
    motion = draw_motion(
        config.motion,
        n_frames=config.n_frames,
        frame_dose_e_per_angst2=config.frame_dose_e_per_angst2,
        size_angst=(field.width_px * pixel, field.height_px * pixel),
        rng=rng,
    )
    micrograph, particles = draw_micrograph(field, index, diameter_angst)
    if rng.uniform() < config.empty_probability:
        particles = particles.clear()
    stored = -motion.whole_angst
    micrograph = micrograph.with_columns(
        frame_shift_x_angst=pl.Series([stored[:, 0].tolist()], dtype=pl.List(pl.Float64)),
        frame_shift_y_angst=pl.Series([stored[:, 1].tolist()], dtype=pl.List(pl.Float64)),
        travel_angst=pl.lit(motion.travel_angst()),
        largest_frame_shift_angst=pl.lit(motion.largest_step_angst()),
    )
    return micrograph, particles, motion


def detector_of(config: MovieConfig) -> Detector:
    """Draw the detector that all movies of a set share."""
    shape = (config.field.height_px, config.field.width_px)
    return draw_detector(config.detector, shape, item_generator(config.field.seed, _DETECTOR_KEY))


def prepare_movie_renderer(atoms: Atoms, config: MovieConfig) -> MicrographRenderer:
    """Grid what all particles of a set share."""
    return prepare_micrograph_renderer(atoms, config.field)


def render_frames(
    renderer: MicrographRenderer, config: MovieConfig, truth: MovieTruth, detector: Detector
) -> Iterator[NDArray[np.uint16]]:
    """Render one frame after the other, in counts; its noise depends on seed and item only.

    Args:
        renderer: of the specimen.
        config: what to simulate.
        truth: of the movie.
        detector: that counts.

    Yields:
        `[height_px, width_px]`, protein dark.
    """
    from verglas.simulate._movie_warp import warp_frame

    field, motion = config.field, truth.motion
    pixel = field.optics.pixel_size_angst
    item = int(truth.micrograph["item_id"].item())
    rng = item_generator(field.seed, _COUNT_KEY, item)
    canvas = prepare_canvas(
        _with_margin(renderer, motion),
        truth.micrograph,
        pl.concat([truth.particles, truth.contaminated]),
        truth.contamination,
        field_px=(field.height_px, field.width_px),
        frame_dose_e_per_angst2=config.frame_dose_e_per_angst2,
        rng=item_generator(field.seed, _COUNT_KEY, item, 1),
    )
    arriving = config.frame_dose_e_per_angst2 * pixel**2 * brightness_of(field, rng).numpy()
    arriving = arriving * detector.response
    seen = np.empty((field.height_px, field.width_px), np.float32)
    for i in range(config.n_frames):
        exposure = config.pre_exposure_e_per_angst2
        exposure += (i + 0.5) * config.frame_dose_e_per_angst2
        moved = motion.during_angst(i) if config.is_blurred else np.zeros(2)
        nodes = canvas.nodes(exposure if config.is_damaged else 0.0, moved)
        whole, bend = motion.whole_angst[i] / pixel, motion.bend_angst[i] / pixel
        warp_frame(nodes, seen, whole, bend, canvas.first_px)
        expected = arriving * np.maximum(seen, 0) + detector.hot
        yield _counted(expected, field.shot_noise != "none", rng)


def _counted(
    expected: NDArray[np.float64], is_noisy: bool, rng: np.random.Generator
) -> NDArray[np.uint16]:
    counts = rng.poisson(expected) if is_noisy else np.rint(expected)
    return np.asarray(np.minimum(counts, 65535), np.uint16)


def _with_margin(renderer: MicrographRenderer, motion: Motion) -> MicrographRenderer:
    """Enlarge the field by what the motion brings in from outside."""
    config = renderer.config
    _, _, field = motion.grid(9)
    reach = float(np.abs(field).max(initial=0.0)) / config.optics.pixel_size_angst
    margin = int(np.ceil(1.3 * reach)) + 8
    height = next_fast_size(config.height_px + 2 * margin)
    width = next_fast_size(config.width_px + 2 * margin)
    return replace(renderer, config=replace(config, height_px=height, width_px=width))


def split_into_raw_frames(
    counts: NDArray[np.uint16], n_raw: int, rng: np.random.Generator
) -> list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint8]]]:
    """Deal the counts of a frame to the raw frames of an event camera.

    A pixel sees at most one electron in a raw frame: where two fall together, one is lost.

    Args:
        counts: `[h, w]`.
        n_raw: raw frames that make the frame.
        rng: where the randomness comes from.

    Returns:
        For each raw frame rows `[n]`, columns `[n]`, and quarters of the pixel along x and y
        `[2, n]`.
    """
    places = np.repeat(np.arange(counts.size), counts.ravel())
    raw = rng.integers(0, n_raw, places.size)
    unique = np.unique(raw * counts.size + places)
    raw, places = np.divmod(unique, counts.size)
    rows, columns = np.divmod(places, counts.shape[1])
    parts = rng.integers(0, 4, (2, places.size)).astype(np.uint8)
    ends = np.searchsorted(raw, np.arange(n_raw + 1))
    return [(rows[low:high], columns[low:high], parts[:, low:high]) for low, high in pairwise(ends)]
