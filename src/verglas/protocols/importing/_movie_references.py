"""Gain, dark and defects of imported movies."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from verglas.core.errors import ParamsError
from verglas.protocols.importing._files import find_file
from verglas.sdk import Context

__all__ = ["with_references"]

_ID = "movies.import"


def with_references(ctx: Context, rows: pl.DataFrame, files: Mapping[str, str]) -> pl.DataFrame:
    """Find gain, dark and defects, and refuse what does not fit the frames.

    Args:
        ctx: of the job.
        rows: movies with their sizes.
        files: as they were given, by `gain`, `dark` and `defects`; empty for none.
    """
    for name, text in files.items():
        if not text:
            continue
        path = find_file(ctx, text, _ID, name)
        if name != "defects" or path.suffix.lower() not in (".txt", ".dat", ""):
            _check_reference(path, rows, name)
        rows = rows.with_columns(pl.lit(ctx.relative(path)).alias(f"{name}_path"))
    return rows


def _check_reference(path: Path, rows: pl.DataFrame, name: str) -> None:
    """Refuse a reference that is no image of the frames' size, or a whole part of it."""
    from verglas.io.images import open_images

    count, height, width = open_images(path).shape
    if count != 1:
        raise ParamsError(
            f"{_ID} {name}: {str(path)!r} holds {count} images, expected one reference",
            "give the reference of the camera, not a movie",
        )
    sizes = rows.group_by("image_height_px", "image_width_px").agg(pl.col("image_path").first())
    for rows_px, columns_px, movie in sizes.iter_rows():
        factor = max(rows_px // height, 1)
        if (height * factor, width * factor) == (rows_px, columns_px):
            continue
        turned = (width, height) == (rows_px, columns_px)
        raise ParamsError(
            f"{_ID} {name}: {str(path)!r} has {width} x {height} pixels, the frames of "
            f"{Path(movie).name} {columns_px} x {rows_px}"
            + (": it is turned by 90 degrees" if turned else ""),
            "import without it and give it to movies.estimate_gain as reference, which turns it"
            if turned
            else "give the reference of this camera and binning, or import without it and run "
            "movies.estimate_gain",
        )
