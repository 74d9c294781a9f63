"""Translate RELION's tables of micrographs, coordinates and particles.

RELION counts slices and classes from 1, gives coordinates in pixels, and before 3.1 kept the
constants of the microscope in every row and shifts in pixels. Here everything becomes the
columns of `verglas.model`: Å, indices from 0, one optics table. Labels that nobody declared
are kept as columns with the prefix `x_` and written back. Files are written as RELION 3.1
and later read them.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError
from verglas.io._relion_labels import (
    DECIMALS,
    PIXEL_SIZES,
    PLAIN_OPTICS,
    ForeignKind,
    label_of,
    plain_rows,
)
from verglas.io._relion_write import write_relion
from verglas.io.star import read_star
from verglas.model.column import FOREIGN_PREFIX
from verglas.model.columns import COLUMNS

__all__ = [
    "ForeignKind",
    "ForeignTables",
    "find_relion_project",
    "kind_of_star",
    "read_relion",
    "write_relion",
]

_ROW_BLOCKS = ("particles", "micrographs", "coordinates", "images", "")
# Constants that RELION 3.0 repeats in every row.
_OPTICS_OF_ROWS = (
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnMagnification",
    "rlnDetectorPixelSize",
    "rlnPixelSize",
    "rlnBeamTiltClass",
    "rlnBeamTiltX",
    "rlnBeamTiltY",
)


@dataclass(frozen=True)
class ForeignTables:
    """Tables of another program in our columns, without `item_id`.

    Attributes:
        kind: what a row is; `coordinates3d` keeps its positions as foreign columns.
        rows: one per image or position.
        optics: one per optics group.
        extra: blocks that are neither, as read.
    """

    kind: ForeignKind
    rows: pl.DataFrame
    optics: pl.DataFrame
    extra: Mapping[str, pl.DataFrame] = field(default_factory=dict)


def read_relion(
    path: Path,
    *,
    pixel_size_angst: float | None = None,
    micrograph_pixel_size_angst: float | None = None,
) -> ForeignTables:
    """Read micrographs, coordinates or particles of RELION 3.0 to 5.

    Args:
        path: STAR file.
        pixel_size_angst: of the images, where the file does not say.
        micrograph_pixel_size_angst: unit of the coordinates of particles, where the file
            does not say.
    """
    blocks = read_star(path)
    name = _row_block(blocks, path)
    rows = blocks.pop(name)
    kind = _kind_of(rows, path)
    if "optics" in blocks:
        optics = blocks.pop("optics")
        rows = _with_group(rows, optics, path)
    else:
        rows, optics = _split_optics(rows)
    try:
        optics = _read_optics(optics, kind, path, pixel_size_angst, micrograph_pixel_size_angst)
        rows = _read_rows(rows, optics, kind)
    except pl.exceptions.PolarsError as error:
        reason = str(error).splitlines()[0]
        raise FormatError(
            f"{str(path)!r} has values of the wrong type: {reason}",
            "correct the column, or export the file again",
        ) from error
    return ForeignTables(kind, rows, optics, blocks)


def kind_of_star(path: Path) -> ForeignKind:
    """Tell what a row of a STAR file is.

    Args:
        path: STAR file.
    """
    blocks = read_star(path)
    return _kind_of(blocks[_row_block(blocks, path)], path)


def find_relion_project(star_path: Path, image_path: str) -> Path | None:
    """Find the folder that RELION's paths start from: the nearest above that has the image.

    Args:
        star_path: file that names the image.
        image_path: as read from it.
    """
    for folder in star_path.absolute().parents:
        if (folder / image_path).exists():
            return folder
    return None


def _row_block(blocks: Mapping[str, pl.DataFrame], path: Path) -> str:
    for name in _ROW_BLOCKS:
        if name in blocks and blocks[name].width:
            return name
    names = ", ".join(f"data_{name}" for name in blocks)
    raise FormatError(
        f"{str(path)!r} holds no micrographs, coordinates or particles: got {names}",
        "expected a block data_particles or data_micrographs; choose another file of the job",
    )


def _kind_of(rows: pl.DataFrame, path: Path) -> ForeignKind:
    if "rlnImageName" in rows:
        return "particles"
    if "rlnTomoName" in rows:
        return "coordinates3d"
    if "rlnCoordinateX" in rows and "rlnCoordinateY" in rows:
        return "coordinates"
    if "rlnMicrographName" in rows:
        return "micrographs"
    raise FormatError(
        f"{str(path)!r} holds no micrographs, coordinates or particles: its columns are "
        + ", ".join(rows.columns[:8]),
        "expected rlnImageName, rlnCoordinateX or rlnMicrographName among them",
    )


def _with_group(rows: pl.DataFrame, optics: pl.DataFrame, path: Path) -> pl.DataFrame:
    """Check that every row has its optics group; one group needs no column."""
    if "rlnOpticsGroup" not in optics:
        raise FormatError(f"{str(path)!r} has optics groups without rlnOpticsGroup")
    if "rlnOpticsGroup" not in rows:
        if optics.height != 1:
            raise FormatError(
                f"{str(path)!r} has {optics.height} optics groups but rows without rlnOpticsGroup"
            )
        return rows.with_columns(rlnOpticsGroup=pl.lit(optics["rlnOpticsGroup"][0]))
    unknown = set(rows["rlnOpticsGroup"].to_list()) - set(optics["rlnOpticsGroup"].to_list())
    if unknown:
        raise FormatError(
            f"{str(path)!r} has rows of optics group {sorted(unknown, key=str)[0]!r}, "
            "which data_optics lacks"
        )
    return rows


def _split_optics(rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Make optics groups of the constants that RELION 3.0 repeats in every row."""
    names = [name for name in _OPTICS_OF_ROWS if name in rows]
    if "rlnOpticsGroup" in rows:
        names.append("rlnOpticsGroup")
        return rows.drop(names[:-1]), rows.select(names).unique("rlnOpticsGroup", keep="first")
    if not names:
        group = pl.lit(1, pl.Int64)
        return rows.with_columns(rlnOpticsGroup=group), pl.DataFrame({"rlnOpticsGroup": [1]})
    optics = rows.select(names).unique(maintain_order=True).with_row_index("rlnOpticsGroup", 1)
    rows = rows.join(optics, on=names, how="left", nulls_equal=True, maintain_order="left")
    return rows.drop(names), optics


def _read_optics(
    optics: pl.DataFrame,
    kind: ForeignKind,
    path: Path,
    pixel_size_angst: float | None,
    micrograph_pixel_size_angst: float | None,
) -> pl.DataFrame:
    columns = [_ours(name) for name in PLAIN_OPTICS if label_of(name) in optics]
    image_size = _image_pixel_size(optics, kind)
    if image_size is not None:
        columns.append(image_size.cast(pl.Float64).alias("pixel_size_angst"))
    elif pixel_size_angst is not None:
        columns.append(pl.lit(float(pixel_size_angst)).alias("pixel_size_angst"))
    elif kind != "coordinates3d":
        raise FormatError(
            f"{str(path)!r} does not say the pixel size of its {kind}",
            "give pixel_size_angst",
        )
    used = {label_of(name) for name in PLAIN_OPTICS}
    if kind == "particles":
        if "rlnImageSize" in optics:
            columns.append(_ours("box_px"))
        unit = _coordinate_unit(optics, micrograph_pixel_size_angst)
        if unit is not None:
            columns.append(unit.cast(pl.Float64).alias("micrograph_pixel_size_angst"))
        used |= {"rlnImageSize", "rlnImagePixelSize", "rlnMicrographPixelSize"}
    elif kind != "coordinates3d":
        used.add("rlnMicrographPixelSize")
    return optics.select(*columns, *_foreign(optics, used))


def _image_pixel_size(optics: pl.DataFrame, kind: ForeignKind) -> pl.Expr | None:
    labels = ["rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize"]
    if kind == "particles":
        labels = ["rlnImagePixelSize", "rlnPixelSize"]
    for label in labels:
        if label in optics:
            return pl.col(label)
    if "rlnMagnification" in optics and "rlnDetectorPixelSize" in optics:
        # detector pixel in µm
        return (pl.col("rlnDetectorPixelSize") * 1e4 / pl.col("rlnMagnification")).round(DECIMALS)
    return None


def _coordinate_unit(optics: pl.DataFrame, given: float | None) -> pl.Expr | None:
    if given is not None:
        return pl.lit(float(given))
    for label in ("rlnMicrographPixelSize", "rlnMicrographOriginalPixelSize"):
        if label in optics:
            return pl.col(label)
    return None


def _read_rows(rows: pl.DataFrame, optics: pl.DataFrame, kind: ForeignKind) -> pl.DataFrame:
    plain = [name for name in plain_rows(kind) if label_of(name) in rows]
    columns = [_ours(name) for name in plain if name != "half_set"]
    if "half_set" in plain:
        half = _ours("half_set")
        columns.append(pl.when(half.is_between(1, 2)).then(half).alias("half_set"))
    used = {label_of(name) for name in plain}
    image_label = {"particles": "rlnImageName", "micrographs": "rlnMicrographName"}.get(kind)
    is_volume = "rlnTomoName" in rows or "rlnCoordinateZ" in rows
    if image_label is not None:
        columns += _read_image(image_label, is_volume=is_volume)
        used.add(image_label)
    if kind != "micrographs" and "rlnMicrographName" in rows:
        columns.append(pl.col("rlnMicrographName").cast(pl.String).alias("micrograph_path"))
        used.add("rlnMicrographName")
    if "rlnClassNumber" in rows and kind == "particles":
        number = pl.col("rlnClassNumber").cast(pl.Int64)
        columns.append(pl.when(number > 0).then(number - 1).alias("class_index"))
        used.add("rlnClassNumber")
    unit = _unit_column(rows, optics, kind)
    if unit is not None:
        columns += [
            (pl.col(f"rlnCoordinate{axis.upper()}") * pl.col(unit)).alias(f"coord_{axis}_angst")
            for axis in "xy"
        ]
        used |= {"rlnCoordinateX", "rlnCoordinateY"}
    if kind == "particles" and "shift_x_angst" not in plain and "rlnOriginX" in rows:
        columns += [
            (pl.col(f"rlnOrigin{axis.upper()}") * pl.col("pixel_size_angst")).alias(
                f"shift_{axis}_angst"
            )
            for axis in "xy"
        ]
        used |= {"rlnOriginX", "rlnOriginY"}
    columns += _default_ctf(rows)
    groups = optics.select(
        rlnOpticsGroup=pl.col("optics_group"),
        **{name: pl.col(name) for name in PIXEL_SIZES if name in optics},
    )
    joined = rows.with_columns(pl.col("rlnOpticsGroup").cast(pl.Int64)).join(
        groups, on="rlnOpticsGroup", how="left", maintain_order="left"
    )
    return joined.select(*columns, *_foreign(rows, used))


def _unit_column(rows: pl.DataFrame, optics: pl.DataFrame, kind: ForeignKind) -> str | None:
    """Name the optics column that is the unit of the coordinates; None without coordinates."""
    if kind == "coordinates3d" or "rlnCoordinateZ" in rows or "rlnCoordinateX" not in rows:
        return None
    if kind == "coordinates":
        return "pixel_size_angst"
    if kind == "particles" and "micrograph_pixel_size_angst" in optics:
        return "micrograph_pixel_size_angst"
    warnings.warn(
        "the file does not say the pixel size of the micrographs; the coordinates are taken "
        "to be in pixels of the particle images (give micrograph_pixel_size_angst otherwise)",
        stacklevel=4,
    )
    return "pixel_size_angst"


def _read_image(label: str, *, is_volume: bool) -> list[pl.Expr]:
    """Split `000123@file.mrcs`; without a number it is the first image, or the whole volume."""
    name = pl.col(label).cast(pl.String)
    number = name.str.extract(r"^(\d+)@").cast(pl.Int64) - 1
    return [
        name.str.replace(r"^\d+@", "").alias("image_path"),
        (number if is_volume else number.fill_null(0)).alias("image_slice"),
    ]


def _default_ctf(rows: pl.DataFrame) -> list[pl.Expr]:
    """Fill what RELION leaves out: no second defocus is none, no phase plate is 0."""
    if "rlnDefocusU" not in rows:
        return []
    defaults = {
        "rlnDefocusV": pl.col("rlnDefocusU").cast(pl.Float64).alias("defocus_v_angst"),
        "rlnDefocusAngle": pl.lit(0.0).alias("defocus_angle_deg"),
        "rlnPhaseShift": pl.lit(0.0).alias("phase_shift_deg"),
    }
    return [value for label, value in defaults.items() if label not in rows]


def _ours(name: str) -> pl.Expr:
    """Take a column over under our name and in our type; NaN means not known."""
    column = COLUMNS[name]
    if column.dtype == pl.List(pl.Float64()):
        return _numbers(column.relion).alias(name)
    values = pl.col(column.relion).cast(column.dtype)
    if column.dtype == pl.Float64():
        values = values.fill_nan(None)
    return values.alias(name)


def _numbers(label: str) -> pl.Expr:
    """Read a list, which RELION writes as `[0.1,0.2]`."""
    text = pl.col(label).cast(pl.String).str.strip_chars("[] ")
    return pl.when(text != "").then(text.str.split(",")).otherwise([]).cast(pl.List(pl.Float64))


def _foreign(table: pl.DataFrame, used: set[str]) -> list[pl.Expr]:
    return [
        pl.col(label).alias(FOREIGN_PREFIX + label) for label in table.columns if label not in used
    ]
