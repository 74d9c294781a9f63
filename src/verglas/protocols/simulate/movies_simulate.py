"""Simulate movies with known motion, positions, poses, defocus and contamination.

The specimen is that of `micrographs.simulate`; its frames drift fast at first, the ice domes,
particles lose detail as the exposure grows, and the water moves. The detector has a gain
with columns, hot and dead pixels, and counts single electrons. Carbon, ice crystals,
aggregates and torn ice can be added. `movies` is what a microscope would give, with gain
reference and list of defects; `true_movies` are the same with shifts, defocus, the motion of
places and the mask of the contamination; `true_particles` are those to be found, their
coordinates those of the first frame; `contaminated_particles` lie on carbon, crystals or
aggregates. Equal seed, equal frames.
"""

from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import model_validator

from verglas.model import COORDINATES, MOVIES, VOLUMES, DataSet
from verglas.protocols._specimen import (
    SPECIMEN_HELP,
    as_atoms,
    put_atoms,
    specimen_atoms,
    true_volume,
)
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from pathlib import Path

    from verglas.simulate.motion import Motion
    from verglas.simulate.movie import MovieConfig

__all__ = ["Inputs", "Outputs", "SimulateParams", "render_movies", "run"]

MovieForm = Literal["tiff", "mrc", "eer"]
_TRUTH = (
    "defocus_u_angst",
    "defocus_v_angst",
    "defocus_angle_deg",
    "phase_shift_deg",
    "frame_shift_x_angst",
    "frame_shift_y_angst",
    "travel_angst",
    "largest_frame_shift_angst",
    "true_motion_path",
    "contamination_path",
)
_SUFFIX = {"tiff": "tif", "mrc": "mrc", "eer": "eer"}


class SimulateParams(Params):
    """What to simulate."""

    specimen: str = param("apoferritin", help=SPECIMEN_HELP)
    n_movies: int = param(4, ge=1, le=100_000, help="Number of movies.")
    n_frames: int = param(16, ge=1, le=1000, help="Frames of each movie.")
    height_px: int = param(1024, ge=64, le=16384, help="Rows of a frame.")
    width_px: int = param(1024, ge=64, le=16384, help="Columns of a frame.")
    pixel_size_angst: float = param(1.2, gt=0, le=20, help="Edge of a pixel.")
    frame_dose_e_per_angst2: float = param(2.5, gt=0, help="Electron exposure of a frame.")
    pre_exposure_e_per_angst2: float = param(
        0.0, ge=0, advanced=True, help="Exposure before the first frame."
    )
    form: MovieForm = param("tiff", help="Files: TIFF with LZW, MRC, or EER events.")
    particles_per_micrograph: int = param(
        60, ge=0, help="Particles wanted in each; fewer where they do not fit, 0 for ice only."
    )
    drift_angst: float = param(15.0, ge=0, le=500, help="Length of the path of the whole frame.")
    local_motion_angst: float = param(
        3.0, ge=0, le=100, help="How far places move beside the whole frame, RMS at the end."
    )
    jitter_angst: float = param(
        0.3, ge=0, le=100, advanced=True, help="Random steps of the whole frame."
    )
    contamination: float = param(
        0.5,
        ge=0,
        le=5,
        help="How much carbon, ice crystals, aggregates and torn ice: 1 is a dirty grid, 0 clean.",
    )
    empty_fraction: float = param(
        0.0, ge=0, le=1, advanced=True, help="Part of the movies without particles."
    )
    damaged: bool = param(True, help="Let the beam destroy the particles.")
    blurred: bool = param(True, help="Let the motion during a frame blur it.")
    defocus_min_angst: float = param(8000.0, help="Smallest underfocus.")
    defocus_max_angst: float = param(20000.0, help="Largest underfocus.")
    astigmatism_angst: float = param(400.0, ge=0, help="Largest difference of the two defoci.")
    ice_thickness_angst: float = param(300.0, ge=0, help="Ice that scatters; 0 for none.")
    b_factor_angst2: float = param(60.0, ge=0, help="Envelope of the images as a B factor.")
    detected_fraction: float = param(
        0.9, gt=0, le=1, advanced=True, help="Electrons that are counted: DQE at frequency 0."
    )
    mtf_at_nyquist: float = param(
        0.6, ge=0, le=1, advanced=True, help="Signal the detector keeps at the Nyquist frequency."
    )
    gain_spread: float = param(
        0.03, ge=0, le=0.3, help="Relative spread of the pixels; columns differ by 2/3 of it."
    )
    bad_pixels: float = param(
        3e-5, ge=0, le=0.01, advanced=True, help="Part of the pixels that are hot or dead."
    )
    voltage_kv: float = param(300.0, gt=0, help="Acceleration voltage.")
    spherical_aberration_mm: float = param(2.7, ge=0, help="Of the objective lens.")
    amplitude_contrast: float = param(0.1, ge=0, le=1, help="Fraction of amplitude contrast.")
    eer_frames_per_fraction: int = param(
        20, ge=1, le=1000, show_if={"form": "eer"}, help="Raw frames that make a frame."
    )
    seed: int = param(0, ge=0, help="Another seed gives other movies and another detector.")

    @model_validator(mode="after")
    def _values_fit(self) -> "SimulateParams":
        if self.defocus_min_angst > self.defocus_max_angst:
            raise ValueError("defocus_min_angst must not exceed defocus_max_angst")
        if self.form == "eer" and (self.height_px % 4 or self.width_px % 4):
            raise ValueError("height_px and width_px of EER files must be multiples of 4")
        return self


class Inputs(Ports):
    """None: the specimen is a parameter."""


class Outputs(Ports):
    """The movies twice, without and with what is true of them, and what is in them."""

    movies: DataSet = port(MOVIES, needs=("gain",))
    true_movies: DataSet = port(MOVIES, needs=("ctf", "frame_shifts"))
    true_particles: DataSet = port(COORDINATES, needs=("optics", "ctf", "pose3d"))
    contaminated_particles: DataSet = port(COORDINATES, needs=("optics", "ctf", "pose3d"))
    volume: DataSet = port(VOLUMES)


def render_movies(
    rows: pl.DataFrame,
    task: Task,
    *,
    atoms: ArrayRef,
    config: "MovieConfig",
    form: MovieForm,
    eer_frames_per_fraction: int,
) -> pl.DataFrame:
    """Render movies, each into a file, with its true motion and contamination."""
    from verglas.core.files import atomic_path
    from verglas.io.mrc import write_mrc
    from verglas.simulate.atoms import radius_angst
    from verglas.simulate.movie import (
        detector_of,
        draw_movie,
        prepare_movie_renderer,
        render_frames,
    )

    specimen = as_atoms(task.load(atoms))
    renderer, detector = prepare_movie_renderer(specimen, config), detector_of(config)
    made = []
    for done, item_id in enumerate(rows["item_id"]):
        truth = draw_movie(config, item_id, 2 * radius_angst(specimen))
        path = task.files / f"movie_{item_id:05d}.{_SUFFIX[form]}"
        frames = render_frames(renderer, config, truth, detector)
        frames = _reported(frames, task, done * config.n_frames, rows.height * config.n_frames)
        _write(path, frames, config, form, eer_frames_per_fraction, item_id)
        motion_path = task.files / f"motion_{item_id:05d}.npz"
        with atomic_path(motion_path) as temporary:
            _write_motion(temporary, truth.motion)
        mask_path = None
        if truth.contamination is not None:
            mask_path = task.files / f"contamination_{item_id:05d}.mrc"
            pixel = config.field.optics.pixel_size_angst
            write_mrc(mask_path, truth.contamination.mask, pixel, mode="int8")
        files = (path, motion_path, mask_path)
        paths = [None if file is None else task.relative(file) for file in files]
        made.append((item_id, *paths, truth.covered.tolist()))
    names = ("image_path", "true_motion_path", "contamination_path")
    schema: dict[str, Any] = {"item_id": pl.Int64, **dict.fromkeys(names, pl.String)}
    schema["covered"] = pl.List(pl.Int64)
    return pl.DataFrame(made, schema=schema, orient="row")


def _reported(frames: Any, task: Task, done: int, total: int) -> Any:
    """Pass the frames on and say how far the chunk is."""
    for i, frame in enumerate(frames):
        yield frame
        task.progress(done + i + 1, total)


def _write(
    path: "Path",
    frames: Any,
    config: "MovieConfig",
    form: MovieForm,
    per_fraction: int,
    item_id: int,
) -> None:
    """Write frames as they come, in the smallest type that holds them."""
    import numpy as np

    from verglas.io.eer import EerEvents, write_eer
    from verglas.io.mrc import MrcStackWriter
    from verglas.io.tiff import TiffStackWriter
    from verglas.simulate.movie import split_into_raw_frames
    from verglas.simulate.noise import item_generator

    field = config.field
    shape, pixel = (field.height_px, field.width_px), field.optics.pixel_size_angst
    is_small = config.frame_dose_e_per_angst2 * pixel**2 < 30  # hot pixels saturate as they do
    if form == "eer":
        rng = item_generator(field.seed, 2**40 + 9, item_id)
        raw = (
            EerEvents(rows, columns, parts[0], parts[1])
            for frame in frames
            for rows, columns, parts in split_into_raw_frames(frame, per_fraction, rng)
        )
        write_eer(path, raw, shape, pixel)
    elif form == "tiff":
        top, dtype = (255, np.uint8) if is_small else (65535, np.uint16)
        is_big = shape[0] * shape[1] * config.n_frames > 2**31
        with TiffStackWriter(path, pixel, compression="lzw", is_big=is_big) as tiff:
            for frame in frames:
                tiff.append(np.minimum(frame, top).astype(dtype))
    else:
        top, mode = (127, "int8") if is_small else (32767, "int16")
        with MrcStackWriter(path, shape, pixel, mode) as mrc:  # type: ignore[arg-type]
            for frame in frames:
                mrc.append(np.minimum(frame, top))


def _write_motion(path: "Path", motion: "Motion") -> None:
    """Save the displacement of a grid of places in every frame, beside what it follows from."""
    import numpy as np

    x, y, field = motion.grid(16)
    with path.open("wb") as file:
        np.savez(
            file,
            place_x_angst=x,
            place_y_angst=y,
            displacement_angst=field,
            whole_angst=motion.whole_angst,
            bend_angst=motion.bend_angst,
            size_angst=np.array(motion.size_angst),
        )


def _config(params: SimulateParams) -> "MovieConfig":
    from verglas.simulate.contamination import scaled_contamination
    from verglas.simulate.detector import DetectorConfig
    from verglas.simulate.micrograph import MicrographConfig
    from verglas.simulate.motion import MotionConfig
    from verglas.simulate.movie import MovieConfig
    from verglas.simulate.particles import Optics

    field = MicrographConfig(
        n_micrographs=params.n_movies,
        height_px=params.height_px,
        width_px=params.width_px,
        optics=Optics(
            params.pixel_size_angst,
            params.voltage_kv,
            params.spherical_aberration_mm,
            params.amplitude_contrast,
        ),
        particles_per_micrograph=params.particles_per_micrograph,
        dose_e_per_angst2=params.frame_dose_e_per_angst2 * params.n_frames,
        defocus_min_angst=params.defocus_min_angst,
        defocus_max_angst=params.defocus_max_angst,
        astigmatism_angst=params.astigmatism_angst,
        ice_thickness_angst=params.ice_thickness_angst,
        b_factor_angst2=params.b_factor_angst2,
        mtf_at_nyquist=params.mtf_at_nyquist,
        seed=params.seed,
        contamination=scaled_contamination(params.contamination),
    )
    detector = DetectorConfig(
        detected_fraction=params.detected_fraction,
        pixel_spread=params.gain_spread,
        column_spread=params.gain_spread * 2 / 3,
        hot_fraction=params.bad_pixels * 2 / 3,
        dead_fraction=params.bad_pixels / 3,
    )
    return MovieConfig(
        field,
        n_frames=params.n_frames,
        pre_exposure_e_per_angst2=params.pre_exposure_e_per_angst2,
        motion=MotionConfig(params.drift_angst, params.jitter_angst, params.local_motion_angst),
        detector=detector,
        is_damaged=params.damaged,
        is_blurred=params.blurred,
        empty_probability=params.empty_fraction,
    )


def _write_references(ctx: Context, config: "MovieConfig") -> dict[str, str]:
    """Write gain and defects as a camera's files; give their paths by column."""
    from verglas.core.files import write_text
    from verglas.io.mrc import write_mrc
    from verglas.simulate.movie import detector_of

    detector = detector_of(config)
    pixel = config.field.optics.pixel_size_angst
    lines = "".join(f"{x} {y} {width} {height}\n" for x, y, width, height in detector.defects)
    return {
        "gain_path": ctx.write_file("gain.mrc", lambda path: write_mrc(path, detector.gain, pixel)),
        "defects_path": ctx.write_file(
            "defects.txt", lambda path: write_text(path, f"# x y width height\n{lines}")
        ),
    }


def _movie_columns(params: SimulateParams, references: dict[str, str]) -> list[pl.Expr]:
    """Columns that all movies share."""
    last = params.n_frames - 1
    values: dict[str, Any] = {
        "n_frames": params.n_frames,
        "first_frame": 0,
        "last_frame": last,
        "frame_dose_e_per_angst2": params.frame_dose_e_per_angst2,
        "pre_exposure_e_per_angst2": params.pre_exposure_e_per_angst2,
        **references,
    }
    if params.form == "eer":
        values |= {"eer_frames_per_fraction": params.eer_frames_per_fraction, "eer_upsampling": 1}
    stem = pl.col("image_path").str.split("/").list.last().str.replace(r"\.[^.]+$", "")
    return [stem.alias("label"), *[pl.lit(value).alias(name) for name, value in values.items()]]


def _truth(
    params: SimulateParams, config: "MovieConfig", diameter: float, made: pl.DataFrame
) -> tuple[pl.DataFrame, list[pl.DataFrame]]:
    """Tables of the movies, of the clean particles, and of those on contamination."""
    import numpy as np

    from verglas.simulate.movie import draw_moving_field, split_by_label

    covered = dict(made.select("item_id", "covered").iter_rows())
    movies, parts = [], []
    for index in range(params.n_movies):
        micrograph, particles, _ = draw_moving_field(config, index, diameter)
        movies.append(micrograph)
        parts.append(split_by_label(particles, np.array(covered[index], np.uint8)))
    table = pl.concat(movies).join(made.drop("covered"), on="item_id", maintain_order="left")
    paths = table.select(micrograph_id="item_id", micrograph_path="image_path")
    fields = []
    for i in range(2):
        rows = pl.concat([part[i] for part in parts])
        rows = rows.join(paths, on="micrograph_id", maintain_order="left")
        fields.append(rows.with_columns(item_id=pl.int_range(rows.height, dtype=pl.Int64)))
    return table, fields


@protocol(
    "movies.simulate",
    version=2,
    label="Simulate movies",
    citations=(
        "McMullan et al. 2015, doi:10.1016/j.ultramic.2015.05.017",
        "Grant & Grigorieff 2015, doi:10.7554/eLife.06980",
    ),
)
def run(ctx: Context, params: SimulateParams, inputs: Inputs) -> Outputs:
    """Draw the truth, render one movie a chunk, and write the references and the map."""
    from verglas.simulate.atoms import radius_angst
    from verglas.simulate.particles import optics_table

    config = _config(params)
    atoms, symmetry = specimen_atoms(ctx, params.specimen)
    diameter = 2 * radius_angst(atoms)
    made = ctx.map(
        render_movies,
        pl.DataFrame({"item_id": range(params.n_movies)}, schema={"item_id": pl.Int64}),
        chunk=1,
        atoms=put_atoms(ctx, atoms),
        config=config,
        form=params.form,
        eer_frames_per_fraction=params.eer_frames_per_fraction if params.form == "eer" else 1,
    )
    movies, fields = _truth(params, config, diameter, made)
    movies = movies.with_columns(_movie_columns(params, _write_references(ctx, config)))
    if sum(rows.height for rows in fields) < params.n_movies * params.particles_per_micrograph:
        ctx.warn(f"not all particles of {diameter:.0f} Å found room, or they lie in torn ice")
    optics = optics_table(config.field.optics)
    ctx.metric("diameter_angst", round(diameter, 1))
    return Outputs(
        movies=ctx.dataset(MOVIES, movies.drop(_TRUTH), optics=optics),
        true_movies=ctx.dataset(MOVIES, movies, optics=optics),
        true_particles=ctx.dataset(COORDINATES, fields[0], optics=optics),
        contaminated_particles=ctx.dataset(COORDINATES, fields[1], optics=optics),
        volume=true_volume(
            ctx,
            atoms,
            box_px=int(1.5 * diameter / params.pixel_size_angst) // 2 * 2,
            pixel_size_angst=params.pixel_size_angst,
            symmetry=symmetry,
        ),
    )
