"""Import maps, with their half maps if there are any.

Give map files (MRC, gzip allowed) or patterns such as `maps/*.mrc`. Half maps are given as two
further lists in the same order. Maps must be cubes; a map and its halves must have one size.
Files are linked by path, never copied. The pixel size may be left empty where the headers
give it; where they disagree with what was given, a warning says so and the given value counts.
"""

import polars as pl

from verglas.core.errors import ParamsError, UserError
from verglas.model import VOLUMES, DataSet
from verglas.protocols.importing._map_files import (
    MapFile,
    find_maps,
    inspect_map,
    optics_of,
    pixel_size_of,
)
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["ImportParams", "Inputs", "Outputs", "run"]

_ID = "volumes.import"


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


def _check_half(whole: MapFile, half: MapFile) -> None:
    if half.box_px != whole.box_px:
        raise UserError(
            f"half map {half.path.name} has {half.box_px} voxels along each axis, "
            f"{whole.path.name} has {whole.box_px}",
            "give the half maps in the order of the maps",
        )


def _half_columns(ctx: Context, params: ImportParams, maps: list[MapFile]) -> dict[str, list[str]]:
    columns = {}
    for i, texts in ((1, params.half_maps_1), (2, params.half_maps_2)):
        halves = [
            inspect_map(path) for path in find_maps(ctx, texts, needed_by=f"{_ID} half_maps_{i}")
        ]
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


@protocol(_ID, version=1, label="Import maps")
def run(ctx: Context, params: ImportParams, inputs: Inputs) -> Outputs:
    """Look at each file and make one table."""
    from verglas.kernels.point_groups import parse_symmetry

    try:
        symmetry = parse_symmetry(params.symmetry)
    except ValueError as error:
        raise ParamsError(f"volumes.import: {error}") from error
    maps = [inspect_map(path) for path in find_maps(ctx, params.files, needed_by=f"{_ID} files")]
    halves = _half_columns(ctx, params, maps)
    sizes = [pixel_size_of(ctx, each, params.pixel_size_angst, needed_by=_ID) for each in maps]
    optics, group = optics_of(maps, sizes)
    rows = pl.DataFrame(
        {
            "image_path": [ctx.relative(each.path) for each in maps],
            "label": [each.path.name.split(".")[0] for each in maps],
            "symmetry": [symmetry] * len(maps),
            **halves,
            "optics_group": group,
        }
    )
    ctx.metric("n_volumes", rows.height)
    return Outputs(volumes=ctx.dataset(VOLUMES, rows, optics=optics))
