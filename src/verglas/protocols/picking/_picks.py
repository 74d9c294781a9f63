"""What all pickers share: the picture of the picks, rows of coordinates, and warnings."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError, UserError
from verglas.model import COORDINATES, DataSet
from verglas.sdk import Context, Task

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "CTF_COLUMNS",
    "check_found",
    "coordinate_rows",
    "each_image",
    "picked_sets",
    "warn_of_doubt",
    "write_picture",
]

CTF_COLUMNS = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
_THUMBNAIL_PX = 800
_GREEN = (60, 230, 90)


def write_picture(
    path: "Path",
    image: "NDArray[np.float32]",
    positions_px: "NDArray[np.float64]",
    radius_px: float,
    *,
    rejected_px: "NDArray[np.float64] | None" = None,
    mask: "NDArray[np.bool_] | None" = None,
) -> None:
    """Draw a small picture of the micrograph with a circle about each pick.

    Args:
        path: JPEG to write.
        image: `[h, w]`.
        positions_px: `[n, 2]`, x and y.
        radius_px: of the circles.
        rejected_px: positions drawn in red.
        mask: `[h, w]` at any scale; what is marked is tinted.
    """
    import numpy as np
    from PIL import Image, ImageDraw

    from verglas.io.images import stretch_contrast, write_jpeg

    factor = max(1, -(-max(image.shape) // _THUMBNAIL_PX))
    height, width = (side // factor for side in image.shape)
    blocks = image[: height * factor, : width * factor].reshape(height, factor, width, factor)
    means = np.nan_to_num(blocks.mean(axis=(1, 3)), nan=float(np.nanmedian(image)))
    picture = Image.fromarray(stretch_contrast(means, (0.2, 99.8))).convert("RGB")
    if mask is not None:
        shade = Image.fromarray(mask.astype(np.uint8) * 255).resize(picture.size)
        tinted = Image.blend(picture, Image.new("RGB", picture.size, (220, 70, 40)), 0.45)
        picture = Image.composite(tinted, picture, shade)
    draw = ImageDraw.Draw(picture)
    radius = radius_px / factor
    for places, colour in ((positions_px, _GREEN), (rejected_px, (235, 60, 60))):
        for x, y in () if places is None else (places + 0.5) / factor - 0.5:
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=colour)
    write_jpeg(path, np.asarray(picture))


def each_image(
    rows: pl.DataFrame, task: Task
) -> "Iterator[tuple[dict[str, Any], NDArray[np.float32]]]":
    """Read the micrographs of a chunk one by one; name and skip those that cannot be read.

    Args:
        rows: with `item_id`, `image_path` and `image_slice`.
        task: of the chunk; gets the progress.
    """
    from verglas.io.images import open_images

    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
        except FormatError as error:
            task.skip(row["item_id"], str(error))
        else:
            yield row, image
        task.progress(done + 1, rows.height)


def picked_sets(
    ctx: Context, micrographs: DataSet, picked: pl.DataFrame, rows: pl.DataFrame
) -> tuple[DataSet, DataSet]:
    """Make the coordinates, and the micrographs with their pictures and numbers of particles.

    Args:
        ctx: of the job; gets the numbers.
        micrographs: that were picked.
        picked: a row per micrograph.
        rows: a row per particle.
    """
    counts = picked.select("item_id", "thumbnail_path", n_particles=pl.col("score").list.len())
    ctx.metric("n_picked", rows.height)
    ctx.metric("per_micrograph", round(rows.height / picked.height, 1))
    coordinates = ctx.dataset(COORDINATES, rows, optics=micrographs.optics, source=micrographs)
    return coordinates, micrographs.select(counts).with_columns(counts)


def coordinate_rows(picked: pl.DataFrame, micrographs: DataSet) -> pl.DataFrame:
    """Make one row per particle, with what it inherits from its micrograph.

    Args:
        picked: a row per micrograph with `item_id` and lists of equal length.
        micrographs: that they were picked in.
    """
    inherited = ["item_id", "image_path", "optics_group"]
    inherited += [name for name in CTF_COLUMNS if name in micrographs.columns]
    lists = [name for name, dtype in picked.schema.items() if isinstance(dtype, pl.List)]
    rows = picked.select("item_id", *lists).explode(lists).drop_nulls("coord_x_angst")
    rows = rows.join(micrographs.rows(inherited), on="item_id", maintain_order="left")
    rows = rows.rename({"item_id": "micrograph_id", "image_path": "micrograph_path"})
    return rows.with_columns(source_id=pl.col("micrograph_id"))


def check_found(picked: pl.DataFrame, n_picks: int, advice: str) -> None:
    """Raise with advice if nothing was read or found."""
    if not picked.height:
        raise UserError("no micrograph could be read", "the log says for each what is wrong")
    if not n_picks:
        raise UserError(f"no particle was found in {picked.height} micrographs", advice)


def warn_of_doubt(ctx: Context, picked: pl.DataFrame, advice: str) -> None:
    """Warn of empty micrographs, and of those where noise and particles are alike."""
    counts = picked["coord_x_angst"].list.len()
    n_empty = int((counts == 0).sum())
    if n_empty:
        ctx.warn(f"{n_empty} of {picked.height} micrographs have no particle")
    doubtful = int((~picked["is_bimodal"]).sum()) - n_empty
    if doubtful > 0.2 * picked.height:
        ctx.warn(
            f"in {doubtful} of {picked.height} micrographs peaks of particles and of noise have "
            f"similar heights, the picks need a look; {advice}"
        )
