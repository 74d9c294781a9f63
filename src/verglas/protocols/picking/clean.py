"""Drop picks on carbon, ice crystals, aggregates and tears.

A small convolutional network, trained on simulated micrographs, marks contaminated places: those
whose grey level, variations at all scales and outlines are not those of ice and particles, and
what lies at one grey level within such outlines. A pick is dropped where the middle of the
particle is likelier than `max_dirt` contaminated, where the image is blank, and within
`edge_angst` of the border. The mask of every micrograph is kept as a picture beside it
(`mask_path`, white is contaminated), and drawn over the thumbnail.

Where more than `max_masked_fraction` is masked in more than half of the micrographs, the support
is carbon everywhere: nothing is dropped in those, and a warning says so. A single micrograph
that lies on carbon loses its picks.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError, ParamsError, PortError, UserError
from verglas.model import COORDINATES, MICROGRAPHS, DataSet
from verglas.protocols.picking._picks import write_picture
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CleanParams", "Inputs", "Outputs", "run", "segment"]

_ID = "coordinates.clean"


class CleanParams(Params):
    """How sure the cleaner must be."""

    diameter_angst: float | None = param(
        None, gt=10, le=5000, help="Diameter of the particle; by itself that of the coordinates."
    )
    max_dirt: float = param(
        0.5, gt=0, lt=1, help="Picks likelier than this to be contaminated are dropped."
    )
    edge_angst: float = param(
        0.0, ge=0, help="Picks nearer than this to the border of the micrograph are dropped."
    )
    max_masked_fraction: float = param(
        0.6,
        gt=0,
        le=1,
        help="Where most micrographs are masked more than this, those are left as they are.",
    )
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )


class Inputs(Ports):
    """Picks, and the micrographs that they lie in."""

    coordinates: DataSet = port(COORDINATES)
    micrographs: DataSet = port(MICROGRAPHS)


class Outputs(Ports):
    """Picks on ice and the others, and the micrographs with their masks."""

    coordinates: DataSet = port(COORDINATES)
    rejected: DataSet = port(COORDINATES)
    micrographs: DataSet = port(MICROGRAPHS)


def _near_edge(place: "Tensor", shape: tuple[int, int], margin_px: float) -> "Tensor":
    import torch

    last = torch.tensor([shape[1] - 1, shape[0] - 1], dtype=place.dtype)
    low = min(margin_px, 0.5 * float(last.min())) - 0.5
    return ((place < low) | (place > last - low)).any(dim=1)


def _segment_one(
    row: dict[str, Any], task: Task, params: CleanParams, diameter_angst: float
) -> dict[str, Any]:
    """Mark the contamination of one micrograph and judge its picks."""
    import numpy as np
    import torch

    from verglas.algorithms.picking.dirt import find_dirt, place_dirt
    from verglas.io.images import open_images, write_png

    image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
    tensor = torch.from_numpy(image).to(task.device)
    pixel = row["pixel_size_angst"]
    dirt = find_dirt(
        -tensor if params.bright_particles else tensor,
        pixel_size_angst=pixel,
        diameter_angst=diameter_angst,
    )
    place = torch.tensor([row["x"], row["y"]], dtype=torch.float64).T / pixel
    value = place_dirt(dirt, place)
    outside = _near_edge(place, (image.shape[0], image.shape[1]), params.edge_angst / pixel)
    drop = ((value > params.max_dirt) | outside).numpy()
    mask = ((dirt.probability > params.max_dirt) | ~dirt.cells.valid).cpu().numpy()
    name = f"{row['item_id']:06d}"
    mask_path, picture = task.files / f"mask_{name}.png", task.files / f"cleaned_{name}.jpg"
    write_png(mask_path, mask.astype(np.uint8) * 255)
    write_picture(
        picture,
        image,
        place.numpy()[~drop],
        0.5 * diameter_angst / pixel,
        rejected_px=place.numpy()[drop],
        mask=mask,
    )
    return {
        "item_id": row["item_id"],
        "coord_id": row["coord_id"],
        "is_kept": (~drop).tolist(),
        "is_inside": (~outside).tolist(),
        "masked_fraction": dirt.masked_fraction(params.max_dirt),
        "mask_path": task.relative(mask_path),
        "thumbnail_path": task.relative(picture),
    }


def segment(
    rows: pl.DataFrame, task: Task, *, params: CleanParams, diameter_angst: float
) -> pl.DataFrame:
    """Clean the picks of each micrograph; one row per micrograph."""
    found = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            found.append(_segment_one(row, task, params, diameter_angst))
        except FormatError as error:
            task.skip(row["item_id"], str(error))
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, infer_schema_length=None)


def _diameter(params: CleanParams, coordinates: DataSet) -> float:
    if params.diameter_angst is not None:
        return params.diameter_angst
    if "diameter_angst" in coordinates.columns:
        median = coordinates.rows(["diameter_angst"])["diameter_angst"].median()
        if median is not None:
            return float(str(median))
    raise ParamsError(
        f"{_ID} needs diameter_angst: the coordinates do not give it",
        "give the diameter of the particle in Å",
    )


def _work(inputs: Inputs) -> pl.DataFrame:
    lists = (
        inputs.coordinates.rows(["item_id", "coord_x_angst", "coord_y_angst", "micrograph_path"])
        .group_by("micrograph_path", maintain_order=True)
        .agg(coord_id="item_id", x="coord_x_angst", y="coord_y_angst")
    )
    images = inputs.micrographs.rows(["item_id", "image_path", "image_slice", "pixel_size_angst"])
    work = images.join(
        lists, left_on="image_path", right_on="micrograph_path", how="inner", maintain_order="left"
    )
    if not work.height:
        raise PortError(
            f"{_ID}: no coordinate lies in one of the micrographs",
            "give the micrographs that the coordinates were picked in",
        )
    return work


def _unless_everywhere(ctx: Context, made: pl.DataFrame, limit: float) -> pl.DataFrame:
    """Keep the picks where most micrographs are masked: that is the support, not dirt."""
    is_full = pl.col("masked_fraction") > limit
    full = made.filter(is_full)
    if 2 * full.height <= made.height:
        return made
    ctx.warn(
        f"in {full.height} of {made.height} micrographs more than {limit:.0%} would be masked: "
        "nothing was dropped there; is the support carbon everywhere?"
    )
    kept = pl.when(is_full).then("is_inside").otherwise("is_kept").alias("is_kept")
    return made.with_columns(kept)


@protocol(
    _ID,
    version=4,
    label="Clean picks",
    citations=("Sanchez-Garcia et al. 2020, doi:10.1016/j.jsb.2020.107498",),
)
def run(ctx: Context, params: CleanParams, inputs: Inputs) -> Outputs:
    """Segment each micrograph, then split the picks."""
    diameter = _diameter(params, inputs.coordinates)
    work = _work(inputs)
    made = ctx.map(segment, work, chunk=4, params=params, diameter_angst=diameter)
    if not made.height:
        raise UserError("no micrograph could be read", "the log says for each what is wrong")
    made = _unless_everywhere(ctx, made, params.max_masked_fraction)
    judged = made.select(item_id="coord_id", is_kept="is_kept").explode("item_id", "is_kept")
    kept, dropped = judged.filter("is_kept"), judged.filter(~pl.col("is_kept"))
    n_strangers = inputs.coordinates.n_items - judged.height
    if n_strangers:
        ctx.warn(f"{n_strangers} picks lie in micrographs that are not here: left out")
    ctx.metric("n_kept", kept.height)
    ctx.metric("n_dropped", dropped.height)
    ctx.metric("mean_masked_fraction", round(float(str(made["masked_fraction"].mean())), 4))
    columns = made.select("item_id", "masked_fraction", "mask_path", "thumbnail_path")
    return Outputs(
        coordinates=ctx.select(inputs.coordinates, kept.select("item_id")),
        rejected=ctx.select(inputs.coordinates, dropped.select("item_id")),
        micrographs=inputs.micrographs.select(columns).with_columns(columns),
    )
