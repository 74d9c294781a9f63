"""Read the references of a movie: gain, dark, and the pixels to replace."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError
from verglas.sdk import Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from verglas.algorithms.motion.frames import Correction

__all__ = ["REFERENCE_COLUMNS", "fit_to_frames", "movie_columns", "read_defects", "read_reference"]

REFERENCE_COLUMNS = ("gain_path", "dark_path", "defects_path")


def movie_columns(data: Any, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Those of some columns that a data set has, per row or per optics group."""
    there = {*data.columns, *data.optics.columns}
    return tuple(name for name in wanted if name in there)


def read_reference(path: Path) -> "NDArray[np.float32]":
    """Read a gain or dark reference, of the form of an image."""
    from verglas.io.images import open_images

    reader = open_images(path)
    if reader.shape[0] != 1:
        raise FormatError(
            f"{str(path)!r} holds {reader.shape[0]} images, expected one reference",
            "give the gain reference, not a movie",
        )
    image: NDArray[np.float32] = reader.read([0])[0]
    return image


def read_defects(path: Path, shape: tuple[int, int]) -> "NDArray[np.bool_]":
    """Read a mask image, or lines of x, y, width and height in pixels: true where bad."""
    import numpy as np

    if path.suffix.lower() not in (".txt", ".dat", ""):
        return np.asarray(fit_to_frames(read_reference(path), shape, path, "defects") != 0)
    mask = np.zeros(shape, np.bool_)
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        words = line.split("#")[0].split()
        if not words:
            continue
        try:
            x, y, width, height = (int(word) for word in words[:4])
        except ValueError as error:
            raise FormatError(
                f"line {number} of {str(path)!r} is {line!r}, expected x, y, width, height",
                "write four whole numbers on each line, or give a mask image",
            ) from error
        mask[max(0, y) : y + height, max(0, x) : x + width] = True
    return mask


def fit_to_frames(
    image: "NDArray[np.float32]", shape: tuple[int, int], path: Path, what: str
) -> "NDArray[np.float32]":
    """Bring a reference to the size of frames that were read with finer pixels.

    Args:
        image: `[h, w]`.
        shape: of the frames.
        path: of the reference, for messages.
        what: it is.
    """
    if image.shape == shape:
        return image
    factor = shape[0] // image.shape[0]
    if factor > 1 and (image.shape[0] * factor, image.shape[1] * factor) == shape:
        fine: NDArray[np.float32] = image.repeat(factor, axis=0).repeat(factor, axis=1)
        return fine
    sizes = f"{image.shape[1]} x {image.shape[0]} pixels, the frames {shape[1]} x {shape[0]}"
    turned = image.shape == shape[::-1]
    raise FormatError(
        f"{what} reference {str(path)!r} has {sizes}"
        + (": it is turned by 90 degrees" if turned else ""),
        "movies.estimate_gain finds how a reference must be turned"
        if turned
        else "give the reference that belongs to this camera and binning",
    )


def read_correction(
    row: dict[str, Any], task: Task, shape: tuple[int, int], *, cache: dict[str, "Correction"]
) -> "Correction":
    """Read what belongs to a movie; one that was read before is taken from the cache."""
    from verglas.algorithms.motion.frames import Correction

    names = [row.get(name) for name in REFERENCE_COLUMNS]
    key = f"{names} {shape}"
    if key not in cache:
        images: list[NDArray[np.float32] | None] = []
        for name, what in zip(names[:2], ("gain", "dark"), strict=True):
            if name:
                path = task.path(name)
                images.append(fit_to_frames(read_reference(path), shape, path, what))
            else:
                images.append(None)
        defects = read_defects(task.path(names[2]), shape) if names[2] else None
        cache.clear()
        cache[key] = Correction(images[0], images[1], defects)
    return cache[key]


def frame_numbers(row: dict[str, Any], n_frames: int) -> list[int]:
    """Frames of a movie that are used; `FormatError` where there are none."""
    first, last = int(row["first_frame"]), min(int(row["last_frame"]), n_frames - 1)
    if first > last:
        raise FormatError(
            f"frames {first} to {row['last_frame']} are to be used, but the movie has {n_frames}",
            "import it again with other first and last frames",
        )
    return list(range(first, last + 1))


def skipped_text(path: str, error: Exception) -> str:
    """Say which movie was left out, and why."""
    hint = getattr(error, "hint", "")
    return f"{path}: {error}" + (f"; {hint}" if hint else "")


def optics_of(data: pl.DataFrame, binning: float) -> pl.DataFrame:
    """Optics table after binning."""
    return data.with_columns(pl.col("pixel_size_angst") * binning)
