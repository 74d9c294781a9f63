"""Translate RELION's tables of movies.

Before motion correction RELION knows the file, the optics group, and sometimes gain,
defects and exposure. Labels that nobody declared are kept with the prefix `x_`.
"""

from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError
from verglas.io.star import read_star, write_star
from verglas.model.column import FOREIGN_PREFIX
from verglas.model.columns import COLUMNS

__all__ = ["holds_movies", "read_relion_movies", "write_relion_movies"]

_MOVIE = "rlnMicrographMovieName"
_ROWS = (
    "frame_dose_e_per_angst2",
    "pre_exposure_e_per_angst2",
    "gain_path",
    "defects_path",
)
_OPTICS = ("optics_name", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
_PIXELS = ("rlnMicrographOriginalPixelSize", "rlnMicrographPixelSize")
_VERSION = 30001


def holds_movies(path: Path) -> bool:
    """Tell whether a STAR file is a table of movies that are not aligned yet."""
    return any(_is_movies(block) for block in read_star(path).values())


def read_relion_movies(path: Path) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Read a table of movies.

    Args:
        path: STAR file, with or without optics groups.

    Returns:
        Rows with `image_path`, `optics_group` and what else is known, and the optics table,
        whose `pixel_size_angst` is left out where the file does not say.
    """
    blocks = read_star(path)
    optics = blocks.pop("optics", None)
    tables = [block for block in blocks.values() if _is_movies(block)]
    if not tables:
        raise FormatError(
            f"{str(path)!r} holds no movies: it lacks {_MOVIE}",
            "import it with the protocol of what it holds, micrographs.import for sums of frames",
        )
    rows = tables[0]
    if optics is None:
        optics = pl.DataFrame({"rlnOpticsGroup": [1]})
    if "rlnOpticsGroup" not in rows:
        rows = rows.with_columns(rlnOpticsGroup=pl.lit(optics["rlnOpticsGroup"][0]))
    try:
        return _read_rows(rows), _read_optics(optics)
    except pl.exceptions.PolarsError as error:
        raise FormatError(
            f"{str(path)!r} has values of the wrong type: {str(error).splitlines()[0]}",
            "correct the column, or export the file again",
        ) from error


def write_relion_movies(path: Path, rows: pl.DataFrame, optics: pl.DataFrame) -> None:
    """Write a table of movies as RELION 3.1 and later read it.

    Args:
        path: final name; an existing file is replaced.
        rows: with `image_path` and `optics_group`.
        optics: with `optics_group` and `pixel_size_angst`.
    """
    known = [name for name in _OPTICS if name in optics.columns]
    group = pl.col("optics_group")
    table = optics.select(
        group.alias("rlnOpticsGroup"),
        *[]
        if "optics_name" in known
        else [pl.format("opticsGroup{}", group).alias("rlnOpticsGroupName")],
        pl.col("pixel_size_angst").alias(_PIXELS[0]),
        *[pl.col(name).alias(COLUMNS[name].relion) for name in known],
    )
    extra = [name for name in _ROWS if name in rows.columns and rows[name].null_count() == 0]
    movies = rows.select(
        pl.col("image_path").alias(_MOVIE),
        group.alias("rlnOpticsGroup"),
        *[pl.col(name).alias(COLUMNS[name].relion) for name in extra],
    )
    write_star(path, {"optics": table, "movies": movies}, version=_VERSION)


def _is_movies(block: pl.DataFrame) -> bool:
    # tables of aligned micrographs name the sums, and keep the movies beside them
    return _MOVIE in block.columns and "rlnMicrographName" not in block.columns


def _read_rows(rows: pl.DataFrame) -> pl.DataFrame:
    columns = [
        pl.col(_MOVIE).cast(pl.String).alias("image_path"),
        pl.col("rlnOpticsGroup").cast(pl.Int64).alias("optics_group"),
    ]
    used = {_MOVIE, "rlnOpticsGroup"}
    for name in _ROWS:
        label = COLUMNS[name].relion
        if label in rows.columns:
            columns.append(pl.col(label).cast(COLUMNS[name].dtype).alias(name))
            used.add(label)
    foreign = [name for name in rows.columns if name not in used]
    return rows.select(*columns, *[pl.col(name).alias(FOREIGN_PREFIX + name) for name in foreign])


def _read_optics(optics: pl.DataFrame) -> pl.DataFrame:
    columns = [pl.col("rlnOpticsGroup").cast(pl.Int64).alias("optics_group")]
    for name in _OPTICS:
        label = COLUMNS[name].relion
        if label in optics.columns:
            columns.append(pl.col(label).cast(COLUMNS[name].dtype).alias(name))
    pixel = next((label for label in _PIXELS if label in optics.columns), None)
    if pixel is not None:
        columns.append(pl.col(pixel).cast(pl.Float64).alias("pixel_size_angst"))
    return optics.select(columns)
