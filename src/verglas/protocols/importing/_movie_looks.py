"""Look into some of the imported movies: a picture for people, and what is odd about frames."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError
from verglas.sdk import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["N_LOOKED_AT", "look_into"]

N_LOOKED_AT = 6  # movies; the heads of all others are read only
_N_FRAMES = 8
_PICTURE_PX = 768
_SCHEMA: dict[str, Any] = {"item_id": pl.Int64, "thumbnail_path": pl.String, "note": pl.String}


def look_into(rows: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Add some frames of each movie to a picture, and say what is odd; empty notes are good."""
    found: list[tuple[int, str | None, str]] = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            total, notes = _sum(row, task)
            path = task.files / f"sum_{row['item_id']:06d}.png"
            _write(path, total)
            found.append((row["item_id"], task.relative(path), "; ".join(notes)))
        except FormatError as error:
            found.append((row["item_id"], None, f"cannot be decoded: {error}"))
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, schema=_SCHEMA, orient="row")


def _sum(row: dict[str, Any], task: Task) -> tuple["NDArray[np.float32]", list[str]]:
    """Sum of some frames of a movie, and what is odd about them."""
    import numpy as np

    from verglas.io.images import open_images
    from verglas.io.movies import open_movie

    with open_movie(
        task.path(row["image_path"]),
        eer_frames_per_fraction=row.get("eer_frames_per_fraction"),
        eer_upsampling=row.get("eer_upsampling") or 1,
    ) as movie:
        first, last = row["first_frame"], row["last_frame"]
        count = min(_N_FRAMES, last - first + 1)
        numbers = np.unique(np.linspace(first, last, count).round().astype(int))
        total = np.zeros(movie.shape, np.float32)
        notes: list[str] = []
        is_whole = True
        for number in numbers:
            frame = movie.frame(int(number))
            notes += _oddities(frame, int(number))
            is_whole = is_whole and bool((frame == np.floor(frame)).all())
            total += np.nan_to_num(frame, nan=0.0, posinf=0.0, neginf=0.0)
    if row.get("gain_path"):
        if not is_whole:
            notes.append("its values are not whole numbers: is the gain applied already?")
        gain = open_images(task.path(row["gain_path"])).read([0])[0]
        factor = total.shape[0] // gain.shape[0]
        total *= gain.repeat(factor, axis=0).repeat(factor, axis=1) if factor > 1 else gain
    return total, notes


def _oddities(frame: "NDArray[Any]", number: int) -> list[str]:
    import numpy as np

    n_bad = int((~np.isfinite(frame)).sum()) if frame.dtype.kind == "f" else 0
    if n_bad:
        return [f"{n_bad} pixels of frame {number} are no numbers"]
    if frame.min() == frame.max():
        return [f"all pixels of frame {number} are {frame.flat[0]}"]
    return []


def _write(path: Path, total: "NDArray[np.float32]") -> None:
    from verglas.io.images import write_png

    write_png(path, total, percentiles=(1.0, 99.0), max_side_px=_PICTURE_PX)
