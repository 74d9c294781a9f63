"""Import movies and say how they were taken.

Give movie files (MRC, TIFF or EER), folders, patterns such as `data/*.tif`, or one RELION STAR
file of movies. Relative paths start from the project, or else from the current folder. Movies
are linked by path, never copied; their heads are read, and a few are looked into for pictures
and odd frames. Files that cannot be read, that were cut short or hold a single frame are named
and left out; movies with another number of frames than most are named and kept.

EER files are read as sums of raw frames; without a number, about 40 of them for each movie.
Gain and dark reference and the list of defects belong to all movies; a reference that does
not fit the frames is refused. The pixel size may be left empty where the headers give it.
Without the exposure of a frame nothing can be weighted by damage.
"""

import re
from pathlib import Path
from typing import Any, Literal

import polars as pl
from pydantic import field_validator, model_validator

from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.model import MOVIES, DataSet
from verglas.protocols.importing._files import file_table, find_files, pixel_sizes
from verglas.protocols.importing._movie_frames import chosen_frames, with_doses
from verglas.protocols.importing._movie_looks import N_LOOKED_AT, look_into
from verglas.protocols.importing._movie_references import with_references
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

__all__ = ["ImportParams", "Inputs", "Outputs", "inspect_movies", "run"]

_ID = "movies.import"
_OPTICS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
_LOOKED_UP = (
    "item_id",
    "image_path",
    "n_bytes",
    "changed_ns",
    "first_frame",
    "last_frame",
    "gain_path",
    "eer_frames_per_fraction",
    "eer_upsampling",
)


class ImportParams(Params):
    """Which files, and how they were taken."""

    files: list[str] = param(
        help="Movies, folders, patterns like data/*.tif, or one STAR file of movies."
    )
    pixel_size_angst: float | None = param(
        None, gt=0, le=100, help="Edge of a pixel of the frames; empty takes it from the headers."
    )
    frame_dose_e_per_angst2: float | None = param(
        None,
        ge=0,
        le=1000,
        help="Exposure of one frame; of EER files, of one sum of raw frames. Empty takes it from "
        "the file, if it says.",
    )
    pre_exposure_e_per_angst2: float = param(
        0.0, ge=0, le=1000, help="Exposure before the first frame of the file."
    )
    gain: str = param("", help="Gain reference: MRC or TIFF; frames are multiplied by it.")
    dark: str = param("", advanced=True, help="Dark reference, taken from the frames first.")
    defects: str = param(
        "",
        advanced=True,
        help="Pixels to replace: a mask image, or a text file of x, y, width, height in pixels.",
    )
    first_frame: int = param(0, ge=0, help="First frame that is used, from 0.")
    last_frame: int | None = param(
        None, ge=0, help="Last frame that is used, from 0; empty for the last of each movie."
    )
    eer_frames_per_fraction: int | None = param(
        None, ge=1, le=10_000, help="EER frames in one frame; empty gives about 40 frames."
    )
    eer_upsampling: Literal[1, 2, 4] = param(
        1, advanced=True, help="Pixels that an EER pixel is read as, along each side."
    )
    optics_group_pattern: str = param(
        "",
        advanced=True,
        help="Regular expression; what its first group finds in a file's name is its optics "
        "group, as `_Data_([0-9]+)_`.",
    )
    voltage_kv: float = param(300.0, ge=10, le=3000, help="Acceleration voltage.")
    spherical_aberration_mm: float = param(
        2.7, ge=0, le=20, help="Of the objective lens; 0 with a corrector."
    )
    amplitude_contrast: float = param(
        0.1, ge=0, le=1, help="Fraction of amplitude contrast; 0.07 to 0.1 in ice."
    )

    @field_validator("optics_group_pattern")
    @classmethod
    def _pattern_compiles(cls, text: str) -> str:
        try:
            groups = re.compile(text).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from error
        if text and groups < 1:
            raise ValueError("has no group in parentheses, which would be the optics group")
        return text

    @model_validator(mode="after")
    def _frames_are_left(self) -> "ImportParams":
        if self.last_frame is not None and self.last_frame < self.first_frame:
            raise ValueError("last_frame must not be before first_frame")
        return self


class Inputs(Ports):
    """None: the data are files."""


class Outputs(Ports):
    """The movies with their references and the constants of the microscope."""

    movies: DataSet = port(MOVIES)


_FOUND: dict[str, Any] = {
    "item_id": pl.Int64,
    "n_raw_frames": pl.Int64,
    "is_eer": pl.Boolean,
    "image_height_px": pl.Int64,
    "image_width_px": pl.Int64,
    "header_angst": pl.Float64,
    "header_dose_e_per_angst2": pl.Float64,
}


def inspect_movies(rows: pl.DataFrame, task: Task, *, eer_upsampling: int) -> pl.DataFrame:
    """Read the head of each movie; name those that cannot be used."""
    from verglas.io.movies import open_movie

    found = []
    for done, (item_id, text) in enumerate(rows.select("item_id", "image_path").iter_rows()):
        try:
            with open_movie(
                task.path(text), eer_frames_per_fraction=1, eer_upsampling=eer_upsampling
            ) as movie:
                head = (
                    movie.n_raw_frames,
                    movie.form == "eer",
                    *movie.shape,
                    movie.pixel_size_angst,
                    movie.dose_e_per_angst2,
                )
            if movie.n_raw_frames == 1:
                task.skip(
                    item_id, f"{text} holds 1 frame, expected a movie; is it a micrograph already?"
                )
            else:
                found.append((item_id, *head))
        except FormatError as error:
            task.skip(item_id, str(error))
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, schema=_FOUND, orient="row")


def _with_groups(rows: pl.DataFrame, params: ImportParams) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Number the optics groups: by pixel size, and by what the pattern finds in the name."""
    keys = ["pixel_size_angst"]
    if params.optics_group_pattern:
        pattern = re.compile(params.optics_group_pattern)
        found = [pattern.search(Path(text).name) for text in rows["image_path"]]
        names = ["other" if hit is None else (hit[1] or "other") for hit in found]
        rows = rows.with_columns(optics_name=pl.Series(names, dtype=pl.String))
        keys.append("optics_name")
    optics = rows.select(keys).unique(maintain_order=True)
    optics = optics.with_columns(
        optics_group=pl.int_range(1, optics.height + 1, dtype=pl.Int64),
        **{name: pl.lit(getattr(params, name)) for name in _OPTICS},
    )
    rows = rows.join(
        optics.select("optics_group", *keys), on=keys, how="left", maintain_order="left"
    )
    return rows.drop(keys), optics


def _inspected(ctx: Context, table: pl.DataFrame, params: ImportParams) -> pl.DataFrame:
    found = ctx.map(inspect_movies, table, chunk=50, eer_upsampling=params.eer_upsampling)
    if not found.height:
        raise UserError(
            f"none of the {table.height} files is a movie that can be read",
            "copy the files again, or choose others; images of one frame are imported by "
            "micrographs.import",
        )
    return chosen_frames(
        ctx,
        table.join(found, on="item_id", how="inner", maintain_order="left"),
        first_frame=params.first_frame,
        last_frame=params.last_frame,
        eer_frames_per_fraction=params.eer_frames_per_fraction,
        eer_upsampling=params.eer_upsampling,
    )


def _with_looks(ctx: Context, rows: pl.DataFrame) -> pl.DataFrame:
    """Look into a few movies, evenly chosen; warn of what is odd about them."""
    step = max(1, rows.height // N_LOOKED_AT)
    names = [name for name in _LOOKED_UP if name in rows.columns]
    looks = ctx.map(look_into, rows.gather_every(step).head(N_LOOKED_AT).select(names), chunk=1)
    odd = rows.join(looks.filter(pl.col("note") != ""), on="item_id", maintain_order="left")
    for text, note in odd.select("image_path", "note").iter_rows():
        ctx.warn(f"{Path(text).name}, of {looks.height} movies looked into: {note}")
    return rows.join(looks.drop("note"), on="item_id", how="left", maintain_order="left")


def _finish(
    ctx: Context, rows: pl.DataFrame, optics: pl.DataFrame, params: ImportParams
) -> DataSet:
    rows = with_doses(
        ctx,
        rows,
        frame_dose_e_per_angst2=params.frame_dose_e_per_angst2,
        pre_exposure_e_per_angst2=params.pre_exposure_e_per_angst2,
    )
    files = {"gain": params.gain, "dark": params.dark, "defects": params.defects}
    rows = _with_looks(ctx, with_references(ctx, rows, files))
    stem = pl.col("image_path").str.split("/").list.last().str.replace(r"\.[^.]+$", "")
    helpers = ("n_bytes", "changed_ns", "is_eer", "n_raw_frames", "header_angst")
    rows = rows.drop(*helpers, "header_dose_e_per_angst2", strict=False).with_columns(label=stem)
    return ctx.dataset(MOVIES, rows, optics=optics)


def _import_files(ctx: Context, files: list[Path], params: ImportParams) -> DataSet:
    rows = _inspected(ctx, file_table(ctx, files), params)
    sizes = pixel_sizes(ctx, rows["header_angst"], params.pixel_size_angst, _ID)
    rows, optics = _with_groups(rows.with_columns(pixel_size_angst=sizes), params)
    return _finish(ctx, rows, optics, params)


def _import_star(ctx: Context, star: Path, params: ImportParams) -> DataSet:
    from verglas.io.relion import find_relion_project
    from verglas.io.relion_movies import read_relion_movies

    listed, optics = read_relion_movies(star)
    first = listed["image_path"][0] if listed.height else ""
    base = find_relion_project(star, first) or star.parent
    paths = [base / text for text in listed["image_path"]]
    exists = pl.Series([path.is_file() for path in paths], dtype=pl.Boolean)
    for text in listed.filter(~exists)["image_path"].head(3):
        ctx.warn(f"{text}, named in {star.name}, does not exist: left out")
    if not exists.any():
        raise UserError(
            f"no movie of {str(star)!r} was found, as {first!r}",
            "its paths start from the RELION project folder: is the file still there?",
        )
    for name in ("gain_path", "defects_path"):
        if name in listed.columns:
            moved = [None if text is None else ctx.relative(base / text) for text in listed[name]]
            listed = listed.with_columns(pl.Series(name, moved, dtype=pl.String))
    table = file_table(ctx, [path for path in paths if path.is_file()])
    listed = listed.filter(exists).with_columns(item_id=table["item_id"]).drop("image_path")
    rows = _inspected(ctx, table, params)
    rows = rows.join(listed, on="item_id", how="left", maintain_order="left")
    optics = _star_optics(ctx, rows, optics, star, params)
    return _finish(ctx, rows, optics, params)


def _star_optics(
    ctx: Context, rows: pl.DataFrame, optics: pl.DataFrame, star: Path, params: ImportParams
) -> pl.DataFrame:
    """Complete the optics groups of a STAR file, and compare them with the headers."""
    missing = [name for name in _OPTICS if name not in optics.columns]
    if missing:
        ctx.warn(f"{star.name} does not give {', '.join(missing)}: the parameters are used")
        optics = optics.with_columns(pl.lit(getattr(params, name)).alias(name) for name in missing)
    if params.pixel_size_angst is not None or "pixel_size_angst" not in optics.columns:
        sizes = pixel_sizes(ctx, rows["header_angst"], params.pixel_size_angst, _ID)
        return optics.with_columns(pixel_size_angst=pl.lit(float(sizes[0])))
    for group, size in optics.select("optics_group", "pixel_size_angst").iter_rows():
        own = rows.filter(pl.col("optics_group") == group)
        # RELION gives the detector's pixel; the frames' is smaller with EER upsampling
        if own.height:
            is_eer = bool(own["is_eer"][0])
            pixel_sizes(ctx, own["header_angst"], _fine(size, params, is_eer=is_eer), _ID)
    if rows["is_eer"].any() and params.eer_upsampling > 1:
        return optics.with_columns(pl.col("pixel_size_angst") / params.eer_upsampling)
    return optics


def _fine(size: float, params: ImportParams, *, is_eer: bool) -> float:
    return size / params.eer_upsampling if is_eer else size


@protocol(_ID, version=1, label="Import movies")
def run(ctx: Context, params: ImportParams, inputs: Inputs) -> Outputs:
    """Find the files, look at each head, and make one table of those that can be used."""
    from verglas.io.movies import MOVIE_SUFFIXES

    files = find_files(ctx, params.files, MOVIE_SUFFIXES, _ID)
    stars = [file for file in files if file.suffix.lower() == ".star"]
    if stars and len(files) > 1:
        raise ParamsError(
            f"{_ID} files: got {len(stars)} STAR files among {len(files)}, "
            "expected movies or one STAR file"
        )
    data = _import_star(ctx, stars[0], params) if stars else _import_files(ctx, files, params)
    ctx.metric("n_movies", data.n_items)
    return Outputs(movies=data)
