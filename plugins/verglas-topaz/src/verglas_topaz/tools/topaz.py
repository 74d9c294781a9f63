"""Where Topaz is, how it is called, and what it wrote."""

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from verglas.core.errors import FormatError
from verglas.sdk.tool import Command, Tool

__all__ = ["TOPAZ", "parse_picks", "prepare_extract", "prepare_preprocess", "scale_of"]

TOPAZ = Tool(
    "topaz",
    "topaz",
    min_version="0.2.5",
    advice="install topaz-em (GPL-3), in an environment of its own if need be, and put `topaz` "
    "on the search path",
)

_DIAMETER_PX = 16  # of the particle in what the pretrained networks are shown
_HEADER = ("image_name", "x_coord", "y_coord", "score")


def scale_of(diameter_angst: float, pixel_size_angst: float) -> int:
    """Whole factor by which micrographs are reduced so that a particle is about 16 px wide."""
    return max(1, round(diameter_angst / pixel_size_angst / _DIAMETER_PX))


def prepare_preprocess(names: Sequence[str], folder: Path, *, scale: int, device: int) -> Command:
    """Call that reduces and normalises micrographs into `folder/small`."""
    arguments = ("preprocess", "-d", str(device), "-s", str(scale), "-o", "small/", *names)
    return Command(arguments, folder)


def prepare_extract(
    names: Sequence[str],
    folder: Path,
    *,
    model: str,
    scale: int,
    radius_px: int,
    threshold: float,
    device: int,
) -> Command:
    """Call that picks the reduced micrographs into `folder/picks.txt`, at full scale."""
    options = {"-m": model, "-r": radius_px, "-x": scale, "-d": device, "-t": threshold}
    flags = [text for name, value in options.items() for text in (name, str(value))]
    small = [f"small/{name}" for name in names]
    return Command(("extract", *flags, "-o", "picks.txt", *small), folder)


def parse_picks(folder: Path) -> pl.DataFrame:
    """Read `picks.txt`: `image_name` (without suffix), `x_coord`, `y_coord` in px, `score`."""
    path = folder / "picks.txt"
    if not path.exists():
        raise FormatError(f"topaz left no {str(path)!r}", "see the job's log for what it said")
    try:
        picks = pl.read_csv(path, separator="\t", schema_overrides={"image_name": pl.String})
        return picks.select("image_name", *(pl.col(name).cast(pl.Float64) for name in _HEADER[1:]))
    except pl.exceptions.PolarsError as error:
        raise FormatError(
            f"{str(path)!r} is not a table of picks with {', '.join(_HEADER)}: {error}",
            "check the version of topaz",
        ) from error
