"""Import maps, with their half maps if there are any.

Give map files (MRC, gzip allowed) or patterns such as `maps/*.mrc`. Half maps are given as two
further lists in the same order. Maps must be cubes; a map and its halves must have one size.
Files are linked by path, never copied. The pixel size may be left empty where the headers
give it; where they disagree with what was given, a warning says so and the given value counts.
"""

import glob
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.model import VOLUMES, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["ImportParams", "Inputs", "Outputs", "run"]

_TOLERANCE = 0.005  # relative difference of pixel sizes that is more than rounding


class ImportParams(Params):
    """Which files, and what they are."""

    files: list[str] = param(help="Maps: MRC files or patterns like maps/*.mrc.")
    half_maps_1: list[str] = param(
        default=[], help="Maps of half set 1, in the order of the maps; all or none."
    )
    half_maps_2: list[str] = param(
        default=[], help="Maps of half set 2, in the order of the maps; all or none."
    )
    pixel_size_angst: float | None = param(
        None, gt=0, le=100, help="Edge of a voxel; empty takes it from the headers."
    )
    symmetry: str = param("C1", help="Point group about RELION's axes, as C1, D7 or O.")


class Inputs(Ports):
    """None: the data are files."""


class Outputs(Ports):
    """The maps."""

    volumes: DataSet = port(VOLUMES)


@dataclass(frozen=True)
class _Map:
    """What the header of a map says."""

    path: Path
    box_px: int
    pixel_size_angst: float | None


def _find(ctx: Context, texts: list[str], name: str) -> list[Path]:
    """List the files that paths or patterns name, each pattern sorted."""
    files: list[Path] = []
    for text in texts:
        for base in dict.fromkeys((ctx.root, Path.cwd())):
            path = base / Path(text).expanduser()
            matches = [str(path)] if path.is_file() else sorted(glob.glob(str(path)))
            if matches:
                files.extend(Path(match) for match in matches)
                break
        else:
            raise ParamsError(
                f"volumes.import {name}: nothing matches {text!r}",
                f"relative paths start from {str(ctx.root)!r} or the current folder",
            )
    return files


def _inspect(path: Path) -> _Map:
    from verglas.io.mrc import open_mrc

    reader = open_mrc(path)
    if len(set(reader.shape)) != 1:
        raise FormatError(
            f"{str(path)!r} is not a cube: got {reader.shape} voxels in z, y, x",
            "pad or crop it to a cube first; a stack of images is not a map",
        )
    return _Map(path, reader.shape[0], reader.pixel_size_angst)


def _pixel_size(ctx: Context, found: _Map, given: float | None) -> float:
    """Decide the pixel size, warning where header and parameter disagree."""
    header = found.pixel_size_angst
    if given is None:
        if header is None:
            raise ParamsError(
                f"volumes.import needs pixel_size_angst: {found.path.name} does not give it"
            )
        return round(header, 5)
    if header is not None and abs(header / given - 1) > _TOLERANCE:
        ctx.warn(
            f"the header of {found.path.name} gives a pixel size of {header:.4f} Å: "
            f"{given:g} Å is used as given"
        )
    return given


def _check_half(whole: _Map, half: _Map) -> None:
    if half.box_px != whole.box_px:
        raise UserError(
            f"half map {half.path.name} has {half.box_px} voxels along each axis, "
            f"{whole.path.name} has {whole.box_px}",
            "give the half maps in the order of the maps",
        )


def _half_columns(ctx: Context, params: ImportParams, maps: list[_Map]) -> dict[str, list[str]]:
    columns = {}
    for i, texts in ((1, params.half_maps_1), (2, params.half_maps_2)):
        halves = [_inspect(path) for path in _find(ctx, texts, f"half_maps_{i}")]
        if len(halves) not in (0, len(maps)):
            raise ParamsError(
                f"volumes.import half_maps_{i}: got {len(halves)} files, expected one for each "
                f"of {len(maps)} maps, or none"
            )
        for whole, half in zip(maps, halves, strict=False):
            _check_half(whole, half)
        if halves:
            columns[f"half_map_{i}_path"] = [ctx.relative(half.path) for half in halves]
    if len(columns) == 1:
        raise ParamsError("volumes.import needs half maps of both sets, or of none")
    return columns


@protocol("volumes.import", version=1, label="Import maps")
def run(ctx: Context, params: ImportParams, inputs: Inputs) -> Outputs:
    """Look at each file and make one table."""
    from verglas.kernels.symmetry import parse_symmetry

    try:
        symmetry = parse_symmetry(params.symmetry)
    except ValueError as error:
        raise ParamsError(f"volumes.import: {error}") from error
    maps = [_inspect(path) for path in _find(ctx, params.files, "files")]
    halves = _half_columns(ctx, params, maps)
    sizes = [_pixel_size(ctx, each, params.pixel_size_angst) for each in maps]
    grids = pl.DataFrame({"pixel_size_angst": sizes, "box_px": [each.box_px for each in maps]})
    optics = grids.unique(maintain_order=True).with_row_index("optics_group", offset=1)
    optics = optics.cast({"optics_group": pl.Int64})
    rows = pl.DataFrame(
        {
            "image_path": [ctx.relative(each.path) for each in maps],
            "label": [each.path.name.split(".")[0] for each in maps],
            "symmetry": [symmetry] * len(maps),
            **halves,
            "optics_group": grids.join(
                optics, on=["pixel_size_angst", "box_px"], how="left", maintain_order="left"
            )["optics_group"],
        }
    )
    ctx.metric("n_volumes", rows.height)
    return Outputs(volumes=ctx.dataset(VOLUMES, rows, optics=optics))
