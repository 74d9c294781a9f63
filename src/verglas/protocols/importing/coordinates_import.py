"""Import particle positions made by another program.

Takes RELION STAR files, with the name of the micrograph in each row or one file per micrograph,
and tables of text (CSV, tab or space separated) with columns for x and y and, if there is one
file for all, the micrograph. Names are compared without folders and suffixes; a file for one
micrograph is named after it, with something appended at most, as `image_01_autopick.star`.

Positions count from the centre of the first pixel, x along columns, y along rows as they are
stored (MRC: the first row is the bottom line of the picture). Programs that count rows from the
top of the picture need `flip_y`.
"""

import glob
from pathlib import Path
from typing import Literal

import polars as pl

from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.model import COORDINATES, MICROGRAPHS, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["CoordinatesParams", "Inputs", "Outputs", "run"]

_X_NAMES = ("x", "coord_x", "x_coord", "xcoordinate", "coordinatex", "rlncoordinatex", "xcoord")
_Y_NAMES = ("y", "coord_y", "y_coord", "ycoordinate", "coordinatey", "rlncoordinatey", "ycoord")
_NAME_NAMES = ("micrograph", "micrograph_name", "micrographname", "image", "image_name", "filename")
_SCORE_NAMES = ("score", "ncc", "confidence", "fom", "probability")
_SIZES = {"x": "image_width_px", "y": "image_height_px"}
_CTF = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")


class CoordinatesParams(Params):
    """Which files, and what their numbers mean."""

    files: list[str] = param(help="STAR, CSV or text files, or patterns such as picks/*.star.")
    unit: Literal["pixel", "angstrom"] = param(
        "pixel", help="Unit of the positions in text files; STAR files are always in pixels."
    )
    pixel_size_angst: float | None = param(
        None, gt=0, help="Pixel that positions are counted in; empty takes that of the micrographs."
    )
    diameter_angst: float | None = param(None, gt=0, help="Diameter of the particle, if known.")
    flip_y: bool = param(
        False, advanced=True, help="Rows were counted from the other end of the image."
    )


class Inputs(Ports):
    """The micrographs that the positions belong to."""

    micrographs: DataSet = port(MICROGRAPHS)


class Outputs(Ports):
    """The positions."""

    coordinates: DataSet = port(COORDINATES)


def _stem(name: str) -> str:
    """Name of a file without folder and suffix; a slice number before `@` goes too."""
    base = name.rpartition("@")[2].replace("\\", "/").rpartition("/")[2]
    return Path(base).stem.lower()


def _list_files(ctx: Context, texts: list[str]) -> list[Path]:
    files: dict[Path, None] = {}
    for text in texts:
        for base in dict.fromkeys((ctx.root, Path.cwd())):
            matches = sorted(glob.glob(str(base / Path(text).expanduser()), recursive=True))
            if matches:
                files.update(dict.fromkeys(Path(match) for match in matches))
                break
        else:
            raise ParamsError(
                f"coordinates.import files: nothing matches {text!r}",
                f"relative paths start from {str(ctx.root)!r} or the current folder",
            )
    return list(files)


def _pick_column(table: pl.DataFrame, names: tuple[str, ...]) -> str | None:
    plain = {
        "".join(c for c in name.lower() if c.isalnum() or c == "_"): name for name in table.columns
    }
    plain |= {name.replace("_", ""): original for name, original in plain.items()}
    return next((plain[name] for name in names if name in plain), None)


def _read_text(path: Path) -> pl.DataFrame:
    """Read a table of text: `x`, `y`, and where they are there `micrograph` and `score`."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{str(path)!r} is not a table of text: {error}") from error
    lines = [line for line in lines if line and not line.startswith("#")]
    separator = next((mark for mark in ",;\t" if lines and mark in lines[0]), None)
    cells = [[cell.strip().strip('"') for cell in line.split(separator)] for line in lines]
    if not cells or len({len(row) for row in cells}) != 1 or len(cells[0]) < 2:
        raise FormatError(
            f"{str(path)!r} is not a table: expected lines of equal length with x and y",
            "give a STAR file, or CSV with the columns micrograph, x and y",
        )
    header = cells[0]
    has_header = not any(_is_number(cell) for cell in header)
    if not has_header:
        header = ["x", "y", *(f"column_{i}" for i in range(2, len(header)))]
    table = pl.DataFrame(cells[has_header:], schema=dict.fromkeys(header, pl.String), orient="row")
    found = {
        "x": _pick_column(table, _X_NAMES),
        "y": _pick_column(table, _Y_NAMES),
        "micrograph": _pick_column(table, _NAME_NAMES),
        "score": _pick_column(table, _SCORE_NAMES),
    }
    if found["x"] is None or found["y"] is None:
        raise FormatError(
            f"{str(path)!r} has no columns x and y: got {', '.join(header)}",
            "name them x and y",
        )
    table = table.select(pl.col(name).alias(key) for key, name in found.items() if name)
    numbers = [name for name in ("x", "y", "score") if name in table.columns]
    try:
        return table.with_columns(pl.col(numbers).cast(pl.Float64))
    except pl.exceptions.PolarsError as error:
        raise FormatError(f"{str(path)!r} has positions that are not numbers: {error}") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _read_file(path: Path, params: CoordinatesParams, pixel_size_angst: float) -> pl.DataFrame:
    """Read positions in Å with `micrograph` where the file names it."""
    if path.suffix.lower() == ".star":
        from verglas.io.relion import read_relion

        tables = read_relion(
            path,
            pixel_size_angst=pixel_size_angst,
            micrograph_pixel_size_angst=params.pixel_size_angst,
        )
        rows = tables.rows
        if "coord_x_angst" not in rows.columns:
            raise FormatError(f"{str(path)!r} holds {tables.kind} without positions")
        if "micrograph_path" in rows.columns:
            rows = rows.rename({"micrograph_path": "micrograph"})
        kept = ("coord_x_angst", "coord_y_angst", "micrograph", "score")
        return rows.select(name for name in kept if name in rows.columns)
    table = _read_text(path)
    scale = 1.0 if params.unit == "angstrom" else pixel_size_angst
    return table.with_columns(
        coord_x_angst=pl.col("x") * scale, coord_y_angst=pl.col("y") * scale
    ).drop("x", "y")


def _match(names: list[str], stems: dict[str, int]) -> list[int | None]:
    """Find the micrograph of each name: equal, or the longest that the name begins with."""
    found: dict[str, int | None] = {}
    for name in dict.fromkeys(names):
        stem = _stem(name)
        starts = [known for known in stems if stem.startswith(known)]
        best = stem if stem in stems else max(starts, key=len, default=None)
        found[name] = None if best is None else stems[best]
    return [found[name] for name in names]


def _gather(files: list[Path], params: CoordinatesParams, pixel: float) -> pl.DataFrame:
    """Read all files; a file without names belongs to the micrograph it is named after."""
    frames = []
    for path in files:
        rows = _read_file(path, params, pixel)
        if "micrograph" not in rows.columns:
            rows = rows.with_columns(micrograph=pl.lit(path.name))
        frames.append(rows)
    return pl.concat(frames, how="diagonal")


def _assign(ctx: Context, rows: pl.DataFrame, micrographs: pl.DataFrame) -> pl.DataFrame:
    """Find the micrograph of each position; say which positions have none."""
    stems = dict(zip(map(_stem, micrographs["image_path"]), micrographs["item_id"], strict=True))
    if len(stems) < micrographs.height:
        ctx.warn("some micrographs have equal names in different folders: the last one is used")
    ids = pl.Series(_match(rows["micrograph"].to_list(), stems), dtype=pl.Int64)
    rows = rows.with_columns(micrograph_id=ids)
    strangers = rows.filter(pl.col("micrograph_id").is_null())
    if strangers.height == rows.height:
        example = strangers["micrograph"][0] if strangers.height else "no row"
        raise UserError(
            f"none of {rows.height} positions belongs to one of the micrographs: got {example!r}, "
            f"expected a name like {micrographs['image_path'][0]!r}",
            "names are compared without folder and suffix",
        )
    if strangers.height:
        ctx.warn(
            f"{strangers.height} of {rows.height} positions belong to micrographs that are not "
            f"here, as {strangers['micrograph'][0]!r}: left out"
        )
    return rows.drop_nulls("micrograph_id").drop("micrograph")


def _place(ctx: Context, rows: pl.DataFrame, *, flip_y: bool) -> pl.DataFrame:
    """Count rows from the right end, and warn of positions outside of their image."""
    sizes = [name for name in _SIZES.values() if name in rows.columns]
    if flip_y:
        if "image_height_px" not in sizes:
            raise ParamsError("coordinates.import flip_y: the size of the micrographs is not known")
        last = (pl.col("image_height_px") - 1) * pl.col("pixel_size_angst")
        rows = rows.with_columns(coord_y_angst=last - pl.col("coord_y_angst"))
    is_outside = pl.lit(False)
    for axis, size in _SIZES.items():
        if size in sizes:
            position = pl.col(f"coord_{axis}_angst") / pl.col("pixel_size_angst")
            is_outside |= ~position.is_between(-1.0, pl.col(size))
    n_outside = rows.filter(is_outside).height
    if n_outside:
        ctx.warn(
            f"{n_outside} of {rows.height} positions lie outside of their micrograph: check unit "
            "and pixel_size_angst"
        )
    return rows.drop("pixel_size_angst", *sizes)


@protocol("coordinates.import", version=1, label="Import coordinates")
def run(ctx: Context, params: CoordinatesParams, inputs: Inputs) -> Outputs:
    """Read all files, find the micrograph of each position, and say what does not fit."""
    wanted = (*_CTF, *_SIZES.values())
    columns = ["item_id", "image_path", "optics_group", "pixel_size_angst"]
    columns += [name for name in wanted if name in inputs.micrographs.columns]
    micrographs = inputs.micrographs.rows(columns)
    pixel = params.pixel_size_angst or float(micrographs["pixel_size_angst"][0])
    rows = _gather(_list_files(ctx, params.files), params, pixel)
    rows = _assign(ctx, rows, micrographs)
    rows = rows.join(
        micrographs.rename({"item_id": "micrograph_id", "image_path": "micrograph_path"}),
        on="micrograph_id",
        how="left",
        maintain_order="left",
    )
    rows = _place(ctx, rows, flip_y=params.flip_y).with_columns(source_id=pl.col("micrograph_id"))
    if params.diameter_angst is not None:
        rows = rows.with_columns(diameter_angst=pl.lit(params.diameter_angst))
    ctx.metric("n_coordinates", rows.height)
    return Outputs(
        coordinates=ctx.dataset(
            COORDINATES, rows, optics=inputs.micrographs.optics, source=inputs.micrographs
        )
    )
