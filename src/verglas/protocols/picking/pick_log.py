"""Pick particles by their size alone.

Laplacian-of-Gaussian filters at several diameters find blobs of the right size. The best of them
are averaged in each micrograph and the average is made round: it shows what the particle looks
like here, filled or hollow, with the fringes of this defocus. Correlation with it, normalised for
local contrast, finds the particles again, better; this is repeated. The heights of all peaks are
split into noise and particles by a fit of two populations, so that no threshold is needed;
`threshold_shift` makes the choice stricter or looser. Blank margins, ice and carbon are left out.

Particles that reach over the border of the micrograph are picked; extraction leaves them out.
"""

from typing import TYPE_CHECKING

import polars as pl
from pydantic import model_validator

from verglas.model import COORDINATES, MICROGRAPHS, DataSet
from verglas.protocols.picking._picks import (
    check_found,
    coordinate_rows,
    each_image,
    picked_sets,
    warn_of_doubt,
    write_picture,
)
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.picking.log import Picks

__all__ = ["Inputs", "Outputs", "PickParams", "pick", "run"]

_ADVICE = (
    "check diameter_angst and the pixel size, look at a micrograph; if its particles are bright, "
    "set bright_particles; if they are faint, lower threshold_shift to -2"
)


class PickParams(Params):
    """What the particles look like."""

    diameter_angst: float = param(gt=10, le=5000, help="Largest diameter of the particle.")
    min_diameter_angst: float | None = param(
        None, gt=10, help="Smallest diameter; empty for a particle that is about round."
    )
    min_distance_angst: float = param(
        0.0, ge=0, help="Least distance between picks; 0 takes half the largest diameter."
    )
    threshold_shift: float = param(
        0.0,
        ge=-20,
        le=20,
        help="Added to the threshold, in standard deviations of the noise; higher picks fewer.",
    )
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )
    max_local_std: float = param(
        2.5,
        gt=1,
        advanced=True,
        help="Places whose grey values vary this much more than usual are taken for ice or carbon.",
    )
    n_rounds: int = param(
        3,
        ge=0,
        le=20,
        advanced=True,
        help="How often particles are averaged and searched again; 0 for the plain filter.",
    )

    @model_validator(mode="after")
    def _diameters_are_in_order(self) -> "PickParams":
        if self.min_diameter_angst is not None and self.min_diameter_angst > self.diameter_angst:
            raise ValueError("min_diameter_angst must not exceed diameter_angst")
        return self


class Inputs(Ports):
    """Micrographs; their CTF is passed on where it is known."""

    micrographs: DataSet = port(MICROGRAPHS)


class Outputs(Ports):
    """Positions, and the micrographs with a picture of their picks."""

    coordinates: DataSet = port(COORDINATES, needs=("score",))
    micrographs: DataSet = port(MICROGRAPHS)


def _as_row(
    item_id: int, picks: "Picks", pixel_size_angst: float, picture: str
) -> dict[str, object]:
    position = picks.position_px.cpu().double() * pixel_size_angst
    return {
        "item_id": item_id,
        "coord_x_angst": position[:, 0].tolist(),
        "coord_y_angst": position[:, 1].tolist(),
        "score": picks.score.cpu().double().tolist(),
        "diameter_angst": picks.diameter_angst.cpu().double().tolist(),
        "is_bimodal": picks.split.is_bimodal,
        "thumbnail_path": picture,
    }


def pick(rows: pl.DataFrame, task: Task, *, params: PickParams) -> pl.DataFrame:
    """Find the particles of each micrograph and draw them; one row per micrograph."""
    import torch

    from verglas.algorithms.picking.log import LogPickConfig, pick_particles

    config = LogPickConfig(
        min_diameter_angst=params.min_diameter_angst or params.diameter_angst,
        max_diameter_angst=params.diameter_angst,
        min_distance_angst=params.min_distance_angst,
        threshold_shift=params.threshold_shift,
        n_rounds=params.n_rounds,
        max_local_std=params.max_local_std,
    )
    found = []
    for row, image in each_image(rows, task):
        pixel = row["pixel_size_angst"]
        tensor = torch.from_numpy(image).to(task.device)
        picks = pick_particles(
            -tensor if params.bright_particles else tensor,
            pixel_size_angst=pixel,
            config=config,
        )
        path = task.files / f"picks_{row['item_id']:06d}.jpg"
        radius = 0.5 * params.diameter_angst / pixel
        write_picture(path, image, picks.position_px.cpu().double().numpy(), radius)
        found.append(_as_row(row["item_id"], picks, pixel, task.relative(path)))
    return pl.DataFrame(found, infer_schema_length=None)


@protocol(
    "micrographs.pick_log",
    version=2,
    label="Pick by size",
    citations=(
        "Lindeberg 1998, doi:10.1023/A:1008045108935",
        "Roseman 2003, doi:10.1016/S0304-3991(02)00333-9",
    ),
)
def run(ctx: Context, params: PickParams, inputs: Inputs) -> Outputs:
    """Pick each micrograph, then make one row per particle."""
    columns = ("item_id", "image_path", "image_slice", "pixel_size_angst")
    picked = ctx.map(pick, inputs.micrographs, chunk=4, columns=columns, params=params)
    rows = coordinate_rows(picked, inputs.micrographs) if picked.height else picked
    check_found(picked, rows.height, _ADVICE)
    warn_of_doubt(ctx, picked, _ADVICE)
    coordinates, micrographs = picked_sets(ctx, inputs.micrographs, picked, rows)
    return Outputs(coordinates=coordinates, micrographs=micrographs)
