"""Import micrographs and say how they were taken.

Give image files, folders, patterns such as `data/*.mrc`, or one RELION STAR file of micrographs,
whose CTF values are then kept. Relative paths start from the project, or else from the current
folder. Images are linked by path, never copied. Files that cannot be read, or that hold several
images, are named and left out. The pixel size may be left empty where the headers give it;
where they disagree with what was given, a warning says so and the given value counts.
"""

from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.model import MICROGRAPHS, DataSet
from verglas.protocols.importing._files import file_table, find_files, pixel_sizes
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

__all__ = ["ImportParams", "Inputs", "Outputs", "inspect_files", "run"]

_ID = "micrographs.import"
_OPTICS = ("voltage_kv", "spherical_aberration_mm", "amplitude_contrast")


class ImportParams(Params):
    """Which files, and how they were taken."""

    files: list[str] = param(
        help="Image files, folders, patterns like data/*.mrc, or one STAR file of micrographs."
    )
    pixel_size_angst: float | None = param(
        None, gt=0, le=100, help="Edge of a pixel; empty takes it from the headers."
    )
    voltage_kv: float = param(300.0, ge=10, le=3000, help="Acceleration voltage.")
    spherical_aberration_mm: float = param(
        2.7, ge=0, le=20, help="Of the objective lens; 0 with a corrector."
    )
    amplitude_contrast: float = param(
        0.1, ge=0, le=1, help="Fraction of amplitude contrast; 0.07 to 0.1 in ice."
    )


class Inputs(Ports):
    """None: the data are files."""


class Outputs(Ports):
    """The images with the constants of the microscope."""

    micrographs: DataSet = port(MICROGRAPHS)


def inspect_files(rows: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Read the head of each file: size and pixel size; name those that cannot be used."""
    from verglas.io.images import open_images

    found = []
    for done, (item_id, text) in enumerate(rows.select("item_id", "image_path").iter_rows()):
        try:
            reader = open_images(task.path(text))
            count, height, width = reader.shape
            if count == 1:
                found.append((item_id, height, width, reader.pixel_size_angst))
            else:
                task.skip(item_id, f"{text} holds {count} images, expected 1; is it a movie?")
        except FormatError as error:
            task.skip(item_id, str(error))
        task.progress(done + 1, rows.height)
    schema = {
        "item_id": pl.Int64,
        "image_height_px": pl.Int64,
        "image_width_px": pl.Int64,
        "header_angst": pl.Float64,
    }
    return pl.DataFrame(found, schema=schema, orient="row")


def _import_images(ctx: Context, files: list[Path], params: ImportParams) -> DataSet:
    table = file_table(ctx, files)
    found = ctx.map(inspect_files, table, chunk=500)
    if not found.height:
        raise UserError(
            f"none of the {len(files)} files is a micrograph that can be read",
            "copy the files again, or choose others",
        )
    rows = table.join(found, on="item_id", how="inner", maintain_order="left")
    sizes = pixel_sizes(ctx, rows["header_angst"], params.pixel_size_angst, _ID)
    rows = rows.with_columns(pixel_size_angst=sizes)
    optics = rows.select("pixel_size_angst").unique(maintain_order=True)
    optics = optics.with_columns(
        optics_group=pl.int_range(1, optics.height + 1, dtype=pl.Int64),
        **{name: pl.lit(getattr(params, name)) for name in _OPTICS},
    )
    rows = rows.join(
        optics.select("optics_group", "pixel_size_angst"),
        on="pixel_size_angst",
        how="left",
        maintain_order="left",
    )
    stem = pl.col("image_path").str.split("/").list.last().str.replace(r"\.[^.]+$", "")
    rows = rows.select(
        "item_id",
        "optics_group",
        "image_path",
        "image_height_px",
        "image_width_px",
        label=stem,
        image_slice=pl.lit(0, pl.Int64),
    )
    return ctx.dataset(MICROGRAPHS, rows, optics=optics)


def _import_star(ctx: Context, star: Path, params: ImportParams) -> DataSet:
    from verglas.io.relion import find_relion_project, read_relion

    tables = read_relion(star, pixel_size_angst=params.pixel_size_angst)
    if tables.kind != "micrographs":
        raise UserError(
            f"{str(star)!r} holds {tables.kind}, expected micrographs",
            "import it with the protocol of that kind",
        )
    first = tables.rows["image_path"][0] if tables.rows.height else ""
    base = find_relion_project(star, first) or star.parent
    paths = [ctx.relative(base / text) for text in tables.rows["image_path"]]
    rows = tables.rows.with_columns(
        image_path=pl.Series(paths, dtype=pl.String),
        item_id=pl.int_range(tables.rows.height, dtype=pl.Int64),
    )
    exists = pl.Series([ctx.path(text).is_file() for text in paths], dtype=pl.Boolean)
    for text in rows.filter(~exists)["image_path"].head(3):
        ctx.warn(f"{text}, named in {star.name}, does not exist: left out")
    if not exists.any():
        raise UserError(
            f"no image of {str(star)!r} was found, as {first!r}",
            "its paths start from the RELION project folder: is the file still there?",
        )
    rows = rows.filter(exists)
    found = ctx.map(inspect_files, rows.select("item_id", "image_path"), chunk=500)
    rows = rows.drop("image_height_px", "image_width_px", strict=False)
    rows = rows.join(found.drop("header_angst"), on="item_id", how="inner", maintain_order="left")
    missing = [name for name in _OPTICS if name not in tables.optics.columns]
    optics = tables.optics.with_columns(
        pl.lit(getattr(params, name)).alias(name) for name in missing
    )
    if missing:
        ctx.warn(f"{star.name} does not give {', '.join(missing)}: the parameters are used")
    return ctx.dataset(MICROGRAPHS, rows, optics=optics)


@protocol(_ID, version=1, label="Import micrographs")
def run(ctx: Context, params: ImportParams, inputs: Inputs) -> Outputs:
    """Find the files, look at each, and make one table of those that can be used."""
    from verglas.io.images import IMAGE_SUFFIXES

    files = find_files(ctx, params.files, IMAGE_SUFFIXES, _ID)
    stars = [file for file in files if file.suffix.lower() == ".star"]
    if stars and len(files) > 1:
        raise ParamsError(
            f"micrographs.import files: got {len(stars)} STAR files among {len(files)}, "
            "expected images or one STAR file"
        )
    data = _import_star(ctx, stars[0], params) if stars else _import_images(ctx, files, params)
    ctx.metric("n_micrographs", data.n_items)
    return Outputs(micrographs=data)
