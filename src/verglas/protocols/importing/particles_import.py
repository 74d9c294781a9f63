"""Import particle images from a STAR file of RELION.

Poses, shifts, classes, half sets, CTF and optics groups come along; columns that nobody
declared are kept and written back on export. The images stay where they are: the table
points at them. Paths in a STAR file start from RELION's project folder, which is found as the
nearest folder above the file that has the images.
"""

from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError
from verglas.model import PARTICLES, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["ImportParams", "Inputs", "Outputs", "run"]

_FIRST_FEW = 3


class ImportParams(Params):
    """What to import."""

    file: str = param(help="STAR file with a block data_particles, RELION 3.0 to 5.")
    folder: str = param("", help="Folder that paths in the file start from; found by itself.")
    pixel_size_angst: float | None = param(
        None, gt=0, help="Of the particle images, where the file does not say."
    )
    micrograph_pixel_size_angst: float | None = param(
        None, gt=0, help="Unit of the coordinates, where the file does not say."
    )


class Inputs(Ports):
    """None: the particles come from a file."""


class Outputs(Ports):
    """The particles as the file describes them."""

    particles: DataSet = port(PARTICLES)


@protocol("particles.import", version=1, label="Import particles")
def run(ctx: Context, params: ImportParams, inputs: Inputs) -> Outputs:
    """Read the table, find the images and look into their headers."""
    from verglas.io.relion import read_relion

    star = ctx.path(params.file)
    tables = read_relion(
        star,
        pixel_size_angst=params.pixel_size_angst,
        micrograph_pixel_size_angst=params.micrograph_pixel_size_angst,
    )
    if tables.kind != "particles":
        raise FormatError(
            f"{params.file!r} holds {tables.kind}: expected particles",
            f"use {tables.kind}.import for it",
        )
    rows = tables.rows
    if not rows.height:
        raise FormatError(f"{params.file!r} holds no particles")
    folder = _start_folder(ctx, star, params.folder, rows["image_path"][0])
    boxes = _check_images(rows, folder)
    rows = rows.with_columns(_moved(ctx, rows, "image_path", folder))
    if "micrograph_path" in rows:
        rows = rows.with_columns(_moved(ctx, rows, "micrograph_path", folder))
        names = rows["micrograph_path"].drop_nulls().unique(maintain_order=True)
        number = pl.col("micrograph_path").replace_strict(
            names, range(len(names)), default=None, return_dtype=pl.Int64
        )
        rows = rows.with_columns(micrograph_id=number)
    optics = _with_boxes(tables.optics, rows, boxes, ctx, folder)
    ctx.metric("n_image_files", len(boxes))
    ctx.metric("n_optics_groups", optics.height)
    return Outputs(particles=ctx.dataset(PARTICLES, rows, optics=optics))


def _start_folder(ctx: Context, star: Path, given: str, image: str) -> Path:
    from verglas.io.relion import find_relion_project

    found = ctx.path(given) if given else find_relion_project(star, image)
    if found is None or not (found / image).exists():
        where = f"in {given!r}" if given else "in any folder above the file"
        raise FormatError(
            f"image {image!r}, named in {str(star)!r}, is not there {where}",
            "give the folder that the paths start from",
        )
    return found


def _check_images(rows: pl.DataFrame, folder: Path) -> dict[str, int]:
    """Return the side of the images in each file; missing and short files are refused."""
    from verglas.io.images import open_images

    last = rows.group_by("image_path", maintain_order=True).agg(pl.col("image_slice").max())
    missing = [path for path in last["image_path"] if not (folder / path).exists()]
    if missing:
        shown = ", ".join(missing[:_FIRST_FEW])
        raise FormatError(f"{len(missing)} of {last.height} image files are not there: {shown}")
    boxes = {}
    for path, index in last.rows():
        n_images, height, width = open_images(folder / path).shape
        if index >= n_images:
            raise FormatError(
                f"{path!r} has {n_images} images: the table asks for number {index + 1}"
            )
        if height != width:
            raise FormatError(f"{path!r} must hold square images: got {height} x {width}")
        boxes[path] = height
    return boxes


def _moved(ctx: Context, rows: pl.DataFrame, column: str, folder: Path) -> pl.Expr:
    """Write paths as the project's tables do."""
    old = rows[column].drop_nulls().unique().to_list()
    new = {path: ctx.relative(folder / path) for path in old}
    return pl.col(column).replace(new)


def _with_boxes(
    optics: pl.DataFrame, rows: pl.DataFrame, boxes: dict[str, int], ctx: Context, folder: Path
) -> pl.DataFrame:
    """Check that all images of an optics group have one size, and note it."""
    sizes = {ctx.relative(folder / path): box for path, box in boxes.items()}
    found = (
        rows.select("optics_group", found_px=pl.col("image_path").replace_strict(sizes))
        .group_by("optics_group")
        .agg(low=pl.col("found_px").min(), high=pl.col("found_px").max())
    )
    joined = optics.join(found, on="optics_group", how="left", maintain_order="left")
    stated = pl.col("box_px") if "box_px" in optics else pl.col("low")
    wrong = joined.filter((pl.col("low") != pl.col("high")) | (pl.col("low") != stated))
    if wrong.height:
        row = wrong.row(0, named=True)
        stated_text = f"{row['box_px']} px" if row.get("box_px") is not None else "one size"
        raise FormatError(
            f"images of optics group {row['optics_group']} are {row['low']} to {row['high']} px: "
            f"expected {stated_text}"
        )
    return joined.with_columns(box_px=pl.coalesce(stated, "low")).drop("low", "high")
