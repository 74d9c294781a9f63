"""Align the frames of movies and add them to micrographs.

Each frame is corrected by dark and gain reference; defective pixels, given ones and those that
the frames show, are replaced by neighbours. The motion of the whole frame and of its parts is
fitted to all frames at once, with weights that follow from the data. How far, how smoothly over
the frame and how steadily in time places move is learnt from the movie; local motion is kept
where it foretells parts that a fit did not see. The geometry is that of the first frame used.

The micrograph is weighted by the critical exposure of Grant & Grigorieff, where the exposure
of a frame is known; `unweighted_image_path` is the plain sum, for the CTF, and
`odd_image_path` and `even_image_path` are the two halves of the micrograph.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.model import MICROGRAPHS, MOVIES, DataSet
from verglas.protocols.movies._references import (
    REFERENCE_COLUMNS,
    frame_numbers,
    movie_columns,
    optics_of,
    read_correction,
    skipped_text,
)
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from verglas.algorithms.motion.align import AlignConfig, AlignedMovie

__all__ = ["AlignParams", "HowToAlign", "Inputs", "Outputs", "align", "run"]

_COLUMNS = (
    "item_id",
    "image_path",
    "first_frame",
    "last_frame",
    "frame_dose_e_per_angst2",
    "pre_exposure_e_per_angst2",
    "eer_frames_per_fraction",
    "eer_upsampling",
    "pixel_size_angst",
    "voltage_kv",
    *REFERENCE_COLUMNS,
)
_KEPT = (
    "optics_group",
    "label",
    "n_frames",
    "first_frame",
    "last_frame",
    "frame_dose_e_per_angst2",
    "pre_exposure_e_per_angst2",
)
_MANY_DEFECTS = 0.01


class HowToAlign(Params):
    """What the sums depend on."""

    use_local_motion: bool = param(
        True, help="Let motion differ over the frame, where held-out parts bear it out."
    )
    use_dose_weights: bool = param(
        True, help="Weight frames and frequencies by radiation damage, if the exposure is known."
    )
    binning: float = param(
        1.0, ge=1, le=16, help="Pixels of the frames in a pixel of the micrograph, along a side."
    )
    write_halves: bool = param(True, help="Write the sums of odd and of even frames too.")
    max_res_angst: float = param(
        4.0, gt=0.5, le=30, advanced=True, help="Finest detail that motion is measured from."
    )
    max_shift_angst: float = param(
        60.0, gt=1, le=1000, advanced=True, help="Largest distance of a frame from the mean of all."
    )
    patch_angst: float = param(
        180.0,
        ge=50,
        le=2000,
        advanced=True,
        help="Edge of the parts that local motion is fitted to.",
    )
    max_control_points: int = param(
        8, ge=2, le=8, advanced=True, help="Most control points of the local motion along a side."
    )


class AlignParams(HowToAlign):
    """How to align, and with how many processors."""

    threads: int = param(
        2,
        ge=1,
        le=64,
        advanced=True,
        help="Threads that work on one movie; more use no more memory.",
    )


class Inputs(Ports):
    """Movies, with their gain reference if it is not applied yet."""

    movies: DataSet = port(MOVIES)


class Outputs(Ports):
    """One micrograph for each movie."""

    micrographs: DataSet = port(MICROGRAPHS, needs=("frame_shifts", "dose"))


def _config(how: HowToAlign) -> "AlignConfig":
    from verglas.algorithms.motion.align import AlignConfig

    finest = how.max_control_points if how.use_local_motion else 0
    return AlignConfig(
        max_res_angst=how.max_res_angst,
        max_shift_angst=how.max_shift_angst,
        patch_angst=how.patch_angst,
        max_points=finest,
        binning=how.binning,
        with_halves=how.write_halves,
    )


def align(rows: pl.DataFrame, task: Task, *, how: HowToAlign) -> pl.DataFrame:
    """Align each movie, write its sums, and say how it moved."""
    from verglas.core.errors import FormatError

    found: list[dict[str, Any]] = []
    cache: dict[str, Any] = {}
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            found.append(_align_one(row, task, how, cache))
        except (FormatError, ValueError) as error:
            task.skip(row["item_id"], skipped_text(row["image_path"], error))
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, infer_schema_length=None)


def _align_one(
    row: dict[str, Any], task: Task, how: HowToAlign, cache: dict[str, Any]
) -> dict[str, Any]:
    from verglas.algorithms.motion.align import align_movie
    from verglas.io.movies import open_movie

    with open_movie(
        task.path(row["image_path"]),
        eer_frames_per_fraction=row.get("eer_frames_per_fraction"),
        eer_upsampling=row.get("eer_upsampling") or 1,
    ) as movie:
        numbers = frame_numbers(row, movie.n_frames)
        correction = read_correction(row, task, movie.shape, cache=cache)
        aligned = align_movie(
            movie,
            _config(how),
            pixel_size_angst=row["pixel_size_angst"],
            correction=correction,
            frame_numbers=numbers,
            frame_dose_e_per_angst2=_dose(row) if how.use_dose_weights else 0.0,
            pre_exposure_e_per_angst2=row.get("pre_exposure_e_per_angst2") or 0.0,
            voltage_kv=row["voltage_kv"],
            threads=task.threads,
        )
    return {
        "item_id": row["item_id"],
        **_files(row, aligned, task, how),
        **_numbers(row, aligned, numbers),
        "note": "; ".join([*_notes(aligned), *_gain_note(aligned, correction.gain, cache)]),
    }


def _dose(row: dict[str, Any]) -> float:
    return float(row.get("frame_dose_e_per_angst2") or 0.0)


def _files(
    row: dict[str, Any], aligned: "AlignedMovie", task: Task, how: HowToAlign
) -> dict[str, Any]:
    """Write images, pictures and coefficients; return their paths."""
    import numpy as np

    from verglas.core.files import atomic_path
    from verglas.io.images import write_png
    from verglas.io.mrc import write_mrc
    from verglas.protocols.movies._motion_pictures import draw_motion, draw_spectra

    stem = f"{row['item_id']:06d}"
    pixel = row["pixel_size_angst"] * how.binning
    sums = aligned.sums
    images: dict[str, tuple[str, NDArray[np.float32] | None]] = {
        "image_path": ("sum", sums.image),
        "unweighted_image_path": ("plain", None if sums.plain is sums.image else sums.plain),
        "odd_image_path": ("odd", sums.odd),
        "even_image_path": ("even", sums.even),
    }
    paths: dict[str, Any] = {}
    for column, (name, image) in images.items():
        if image is not None:
            path = task.files / f"{name}_{stem}.mrc"
            write_mrc(path, image, pixel)
            paths[column] = task.relative(path)
    paths.setdefault("unweighted_image_path", paths["image_path"])
    for column in ("odd_image_path", "even_image_path") if how.write_halves else ():
        paths.setdefault(column, None)
    pictures = {
        "motion_picture_path": ("path", draw_motion(aligned.motion)),
        "motion_spectrum_path": ("spectrum", draw_spectra(aligned.unaligned, sums.plain)),
    }
    for column, (name, picture) in pictures.items():
        path = task.files / f"{name}_{stem}.png"
        write_png(path, picture)
        paths[column] = task.relative(path)
    path = task.files / f"motion_{stem}.npz"
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **aligned.motion.as_arrays())  # type: ignore[arg-type]
    return {**paths, "local_motion_path": task.relative(path)}


def _numbers(row: dict[str, Any], aligned: "AlignedMovie", numbers: list[int]) -> dict[str, Any]:
    import numpy as np

    path = aligned.motion.path_angst
    used = aligned.survey.used
    # frames that were left out lie between their neighbours
    every = np.stack([np.interp(numbers, used, path[:, axis]) for axis in (0, 1)], axis=1)
    steps = np.hypot(*np.diff(every, axis=0).T)
    height, width = aligned.sums.image.shape
    dose = _dose(row)
    return {
        "image_height_px": height,
        "image_width_px": width,
        "dose_e_per_angst2": dose * len(used) if dose > 0 else None,
        "frame_shift_x_angst": (-every[:, 0]).tolist(),
        "frame_shift_y_angst": (-every[:, 1]).tolist(),
        "travel_angst": float(steps.sum()),
        "largest_frame_shift_angst": float(steps.max(initial=0.0)),
        "motion_error_angst": aligned.error_angst,
        "local_motion_angst": _local_reach(aligned),
        "motion_points": str(aligned.motion.order),
        "n_defects": aligned.survey.n_defects,
        "background_mean": aligned.survey.mean,
    }


def _local_reach(aligned: "AlignedMovie") -> float:
    """Root mean square difference of local and whole motion at the last frame."""
    import numpy as np

    motion = aligned.motion
    centres = (np.arange(8) + 0.5) / 8
    grid = motion.on_grid(centres * motion.extent_angst[0], centres * motion.extent_angst[1])
    local = grid[-1] - motion.path_angst[-1]
    return float(np.sqrt((local**2).sum(axis=2).mean()))


def _notes(aligned: "AlignedMovie") -> list[str]:
    """What a person should know of a movie."""
    survey = aligned.survey
    notes = []
    if len(survey.used) == 1:
        notes.append("one frame only: nothing to align")
    if survey.constant:
        names = ", ".join(str(number) for number in survey.constant[:5])
        notes.append(f"frames without an image were left out: {names}")
    if survey.n_not_finite:
        notes.append(f"{survey.n_not_finite} pixels that are not numbers were replaced")
    if survey.n_found > _MANY_DEFECTS * aligned.unaligned.size:
        notes.append(f"{survey.n_found} pixels stand out: is the gain reference right?")
    return notes


def _gain_note(
    aligned: "AlignedMovie", gain: "NDArray[np.float32] | None", cache: dict[str, Any]
) -> list[str]:
    """Say that a reference lies wrongly; asked for the first movie that it is used with."""
    from verglas.algorithms.gain import find_orientation

    if gain is None or cache.get("checked") is gain:
        return []
    cache["checked"] = gain
    found = find_orientation(aligned.unaligned / gain.clip(1e-6), gain)
    if not found.is_certain or found.is_identity:
        return []
    return [
        f"the gain reference does not fit as it lies, but {found.text}: run movies.estimate_gain"
    ]


@protocol(
    "movies.align",
    version=3,
    label="Align movies",
    citations=(
        "Zheng 2017, doi:10.1038/nmeth.4193",
        "Zivanov 2019, doi:10.1107/S205225251801463X",
        "Střelák 2020, doi:10.3390/electronics9061040",
        "Grant & Grigorieff 2015, doi:10.7554/eLife.06980",
        "Barnett 2019, doi:10.1137/18M120885X",
    ),
)
def run(ctx: Context, params: AlignParams, inputs: Inputs) -> Outputs:
    """Align, join what is known of the movies, and warn of what is odd."""
    from verglas.core.errors import UserError

    how = HowToAlign(**{name: getattr(params, name) for name in HowToAlign.model_fields})
    movies = inputs.movies
    columns = movie_columns(movies, _COLUMNS)
    found = ctx.map(align, movies, chunk=4, cpus=params.threads, columns=columns, how=how)
    if not found.height:
        raise UserError("no movie could be aligned", "the log says for each what is wrong")
    _warn(ctx, movies, params, found)
    kept = movies.rows(["item_id", *movie_columns_of_rows(movies)])
    rows = found.drop("note").join(kept, on="item_id", how="left", maintain_order="left")
    rows = rows.with_columns(source_id=pl.col("item_id"), image_slice=pl.lit(0, pl.Int64))
    ctx.metric("n_micrographs", rows.height)
    for name in ("travel_angst", "motion_error_angst", "local_motion_angst"):
        ctx.metric(f"median_{name}", round(float(str(rows[name].median())), 3))
    optics = optics_of(movies.optics, params.binning)
    return Outputs(micrographs=ctx.dataset(MICROGRAPHS, rows, optics=optics, source=movies))


def movie_columns_of_rows(movies: DataSet) -> list[str]:
    """Columns of the movies that their micrographs keep."""
    return [name for name in _KEPT if name in movies.columns]


def _warn(ctx: Context, movies: DataSet, params: AlignParams, found: pl.DataFrame) -> None:
    notes = found.filter(pl.col("note") != "")
    labels = dict(movies.rows(["item_id", "image_path"]).iter_rows())
    for item_id, note in notes.select("item_id", "note").head(10).iter_rows():
        ctx.warn(f"{labels[item_id]}: {note}")
    if notes.height > 10:
        ctx.warn(f"{notes.height - 10} further movies have a note of this sort")
    if params.use_dose_weights:
        dose = movies.rows(["item_id", "frame_dose_e_per_angst2"])["frame_dose_e_per_angst2"]
        n_unknown = int((dose.fill_null(0.0) <= 0).sum())
        if n_unknown:
            ctx.warn(
                f"the exposure of {n_unknown} of {len(dose)} movies is not known: their frames "
                "have equal weights; import the movies with the exposure of a frame"
            )
