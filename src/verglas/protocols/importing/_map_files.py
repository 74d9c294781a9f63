"""Files of maps and masks that an import names: found, and looked into."""

import glob
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError, ParamsError
from verglas.sdk import Context

__all__ = ["MapFile", "find_maps", "inspect_map", "optics_of", "pixel_size_of"]

_TOLERANCE = 0.005  # relative difference of pixel sizes that is more than rounding


@dataclass(frozen=True)
class MapFile:
    """What the header of a map says."""

    path: Path
    box_px: int
    pixel_size_angst: float | None


def find_maps(ctx: Context, texts: Sequence[str], *, needed_by: str) -> list[Path]:
    """List the files that paths or patterns name, each pattern sorted.

    Args:
        ctx: of the job.
        texts: paths or patterns, from the project or the current folder.
        needed_by: protocol and parameter, for messages.
    """
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
                f"{needed_by}: nothing matches {text!r}",
                f"relative paths start from {str(ctx.root)!r} or the current folder",
            )
    return files


def inspect_map(path: Path) -> MapFile:
    """Read the header of a map, which must be a cube."""
    from verglas.io.mrc import open_mrc

    reader = open_mrc(path)
    if len(set(reader.shape)) != 1:
        raise FormatError(
            f"{str(path)!r} is not a cube: got {reader.shape} voxels in z, y, x",
            "pad or crop it to a cube first; a stack of images is not a map",
        )
    return MapFile(path, reader.shape[0], reader.pixel_size_angst)


def pixel_size_of(ctx: Context, found: MapFile, given: float | None, *, needed_by: str) -> float:
    """Decide the pixel size in Å, warning where header and parameter disagree.

    Args:
        ctx: of the job.
        found: the map.
        given: by the parameter.
        needed_by: protocol, for messages.
    """
    header = found.pixel_size_angst
    if given is None:
        if header is None:
            raise ParamsError(
                f"{needed_by} needs pixel_size_angst: {found.path.name} does not give it"
            )
        return round(header, 5)
    if header is not None and abs(header / given - 1) > _TOLERANCE:
        ctx.warn(
            f"the header of {found.path.name} gives a pixel size of {header:.4f} Å: "
            f"{given:g} Å is used as given"
        )
    return given


def optics_of(
    maps: Sequence[MapFile], sizes_angst: Sequence[float]
) -> tuple[pl.DataFrame, pl.Series]:
    """Group maps by pixel size and box; return the optics table and each map's group.

    Args:
        maps: the files.
        sizes_angst: their pixel sizes.
    """
    grids = pl.DataFrame(
        {"pixel_size_angst": sizes_angst, "box_px": [each.box_px for each in maps]}
    )
    optics = grids.unique(maintain_order=True).with_row_index("optics_group", offset=1)
    optics = optics.cast({"optics_group": pl.Int64})
    joined = grids.join(
        optics, on=["pixel_size_angst", "box_px"], how="left", maintain_order="left"
    )
    return optics, joined["optics_group"]
