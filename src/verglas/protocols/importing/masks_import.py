"""Import masks: 1 where density is wanted, 0 elsewhere, and a soft edge between.

Give mask files (MRC, gzip allowed) or patterns such as `masks/*.mrc`. A mask must be a cube
with values from 0 to 1, in the frame of the map that it is for. Files are linked by path, never
copied. An edge of one value only is warned about: a hard edge correlates half maps.
"""

import polars as pl

from verglas.core.errors import FormatError
from verglas.model import MASKS, DataSet
from verglas.protocols.importing._map_files import (
    MapFile,
    find_maps,
    inspect_map,
    optics_of,
    pixel_size_of,
)
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["ImportParams", "Inputs", "Outputs", "run"]

_ID = "masks.import"
_SLACK = 0.01  # rounding and ringing that resampled masks have


class ImportParams(Params):
    """Which files, and what they are."""

    files: list[str] = param(help="Masks: MRC files or patterns like masks/*.mrc.")
    pixel_size_angst: float | None = param(
        None, gt=0, le=100, help="Edge of a voxel; empty takes it from the headers."
    )


class Inputs(Ports):
    """None: the data are files."""


class Outputs(Ports):
    """The masks."""

    masks: DataSet = port(MASKS)


def _check_values(ctx: Context, found: MapFile) -> None:
    """Refuse what is no mask; warn of a hard edge."""
    from verglas.io.mrc import read_mrc

    volume = read_mrc(found.path)[0]
    low, high = float(volume.min()), float(volume.max())
    # written so that values that are no numbers are refused too
    if not (low >= -_SLACK and 0.5 <= high <= 1 + _SLACK):
        raise FormatError(
            f"{str(found.path)!r} is no mask: values go from {low:.3g} to {high:.3g}, "
            "expected 0 to 1",
            "volumes.postprocess makes a mask from a map",
        )
    if bool(((volume < _SLACK) | (volume > 1 - _SLACK)).all()):
        ctx.warn(f"the edge of {found.path.name} is hard: soften it over several voxels")


@protocol(_ID, version=1, label="Import masks")
def run(ctx: Context, params: ImportParams, inputs: Inputs) -> Outputs:
    """Look at each file and make one table."""
    masks = [inspect_map(path) for path in find_maps(ctx, params.files, needed_by=f"{_ID} files")]
    sizes = [pixel_size_of(ctx, each, params.pixel_size_angst, needed_by=_ID) for each in masks]
    for each in masks:
        _check_values(ctx, each)
    optics, group = optics_of(masks, sizes)
    rows = pl.DataFrame(
        {
            "image_path": [ctx.relative(each.path) for each in masks],
            "label": [each.path.name.split(".")[0] for each in masks],
            "optics_group": group,
        }
    )
    ctx.metric("n_masks", rows.height)
    return Outputs(masks=ctx.dataset(MASKS, rows, optics=optics))
