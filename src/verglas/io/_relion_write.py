"""Write tables as RELION 3.1 and later read them."""

from collections.abc import Mapping
from pathlib import Path

import polars as pl

from verglas.io._relion_labels import (
    DECIMALS,
    PIXEL_SIZES,
    PLAIN_OPTICS,
    ForeignKind,
    label_of,
    plain_rows,
)
from verglas.io.star import StarValue, write_star
from verglas.model.column import FOREIGN_PREFIX
from verglas.model.columns import COLUMNS

__all__ = ["write_relion"]

_STAR_VERSION = 30001


def write_relion(
    path: Path,
    kind: ForeignKind,
    rows: pl.DataFrame,
    optics: pl.DataFrame,
    extra: Mapping[str, pl.DataFrame | Mapping[str, StarValue]] | None = None,
) -> None:
    """Write micrographs, coordinates or particles as RELION 3.1 and later read them.

    Args:
        path: final name; an existing file is replaced.
        kind: what a row is.
        rows: with `optics_group`; columns that RELION does not know are left out.
        optics: with `optics_group` and `pixel_size_angst`.
        extra: further blocks, written first.
    """
    missing = [name for name in ("optics_group",) if name not in rows or name not in optics]
    if missing:
        raise ValueError(f"rows and optics must have {missing[0]}")
    block = "micrographs" if kind == "micrographs" else "particles"
    write_star(
        path,
        {
            **(extra or {}),
            "optics": _write_optics(optics, kind),
            block: _write_rows(rows, optics, kind),
        },
        version=_STAR_VERSION,
    )


def _write_optics(optics: pl.DataFrame, kind: ForeignKind) -> pl.DataFrame:
    plain = [name for name in PLAIN_OPTICS if name in optics]
    columns = [_written(name).alias(label_of(name)) for name in plain]
    if "optics_name" not in optics:
        name = pl.format("opticsGroup{}", pl.col("optics_group"))
        columns.append(name.alias("rlnOpticsGroupName"))
    size = pl.col("pixel_size_angst")
    if kind == "particles":
        columns.append(size.alias("rlnImagePixelSize"))
        if "box_px" in optics:
            columns.append(pl.col("box_px").alias("rlnImageSize"))
        columns.append(pl.lit(2).alias("rlnImageDimensionality"))
        size = pl.col("micrograph_pixel_size_angst")
    if kind != "coordinates3d" and size.meta.output_name() in optics:
        columns += [
            size.alias("rlnMicrographPixelSize"),
            size.alias("rlnMicrographOriginalPixelSize"),
        ]
    return _with_foreign(optics.select(columns), optics)


def _written(name: str) -> pl.Expr:
    """Take a column over; a list becomes text as `[0.1,0.2]`."""
    if COLUMNS[name].dtype != pl.List(pl.Float64()):
        return pl.col(name)
    numbers = pl.col(name).fill_null([]).cast(pl.List(pl.String)).list.join(",")
    return pl.format("[{}]", numbers)


def _write_rows(rows: pl.DataFrame, optics: pl.DataFrame, kind: ForeignKind) -> pl.DataFrame:
    sizes = [name for name in PIXEL_SIZES if name in optics]
    rows = rows.drop([name for name in sizes if name in rows]).join(
        optics.select("optics_group", *sizes),
        on="optics_group",
        how="left",
        maintain_order="left",
    )
    columns: list[pl.Expr] = []
    if kind == "particles":
        number = (pl.col("image_slice") + 1).cast(pl.String).str.zfill(6)
        numbered = pl.format("{}@{}", number, pl.col("image_path"))
        whole = pl.col("image_slice").is_null()
        columns.append(
            pl.when(whole).then(pl.col("image_path")).otherwise(numbered).alias("rlnImageName")
        )
    micrograph = "image_path" if kind == "micrographs" else "micrograph_path"
    if micrograph in rows:
        columns.append(pl.col(micrograph).alias("rlnMicrographName"))
    if "coord_x_angst" in rows:
        is_cut = kind == "particles" and "micrograph_pixel_size_angst" in sizes
        unit = pl.col("micrograph_pixel_size_angst" if is_cut else "pixel_size_angst")
        columns += [
            (pl.col(f"coord_{axis}_angst") / unit)
            .round(DECIMALS)
            .alias(f"rlnCoordinate{axis.upper()}")
            for axis in "xy"
        ]
    for name in plain_rows(kind):
        if name in rows:
            is_integer = COLUMNS[name].dtype == pl.Int64()
            column = pl.col(name).fill_null(0) if is_integer else pl.col(name)
            columns.append(column.alias(label_of(name)))
    if kind == "particles" and "class_index" in rows:
        columns.append((pl.col("class_index") + 1).fill_null(0).alias("rlnClassNumber"))
    return _with_foreign(rows.select(columns), rows)


def _with_foreign(table: pl.DataFrame, source: pl.DataFrame) -> pl.DataFrame:
    """Add the columns that were kept from an import, where they are not known better."""
    for name in source.columns:
        label = name.removeprefix(FOREIGN_PREFIX)
        if label == name:
            continue
        is_default = label in ("rlnMicrographOriginalPixelSize", "rlnImageDimensionality")
        if label.isidentifier() and (label not in table or is_default):
            table = table.with_columns(source[name].alias(label))
    return table
