"""Put aside particle images that are unlike the others.

Three rules, each with its histogram in the report; an image that breaks one is rejected.
`max_z_score`: images are measured in five ways that do not depend on how the particle is turned
(histogram, rings, autocorrelation, moments, energy by scale); the distance from the middle of
all, in deviations, must be small in each. `min_ssnr_db` and `max_ssnr_db`: signal inside of the
particle over the noise outside. `max_variance_ratio`: variance inside of the particle over that
outside, which ice crystals and heaps of particles raise.

Rejected are the odd ones, be they junk or a rare view: look at them.
"""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.model import PARTICLES, DataSet
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Inputs", "Outputs", "ScreenParams", "measure", "run"]

_ID = "particles.screen"
_COLUMNS = ("item_id", "image_path", "image_slice", "pixel_size_angst")


class ScreenParams(Params):
    """The limits; empty leaves a rule out."""

    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    max_z_score: float | None = param(
        4.0, gt=0, help="Largest distance from the other images, in deviations."
    )
    min_ssnr_db: float | None = param(None, help="Least signal over noise, in decibels.")
    max_ssnr_db: float | None = param(None, help="Most signal over noise, in decibels.")
    max_variance_ratio: float | None = param(
        None, gt=0, help="Largest variance inside of the particle over that outside."
    )


class Inputs(Ports):
    """Particle images."""

    particles: DataSet = port(PARTICLES)


class Outputs(Ports):
    """Images within all limits, and the others."""

    particles: DataSet = port(PARTICLES)
    rejected: DataSet = port(PARTICLES)


def measure(rows: pl.DataFrame, task: Task, *, diameter_angst: float) -> pl.DataFrame:
    """Measure the images; one row each with the measures of every family as a list."""
    import torch

    from verglas.algorithms.screening import measure_images
    from verglas.io.images import open_images

    parts = []
    for (path,), own in rows.group_by("image_path", maintain_order=True):
        try:
            stack = open_images(task.path(str(path))).read(own["image_slice"].to_list())
        except FormatError as error:
            for item_id in own["item_id"]:
                task.skip(item_id, str(error))
            continue
        found = measure_images(
            torch.from_numpy(np.asarray(stack)),
            pixel_size_angst=float(own["pixel_size_angst"][0]),
            diameter_angst=diameter_angst,
        )
        parts.append(
            own.select("item_id").with_columns(
                *(pl.Series(name, values.tolist()) for name, values in found.families.items()),
                ssnr_db=pl.Series(found.ssnr_db),
                variance_ratio=pl.Series(found.variance_ratio),
            )
        )
    return pl.concat(parts) if parts else pl.DataFrame()


def _diameter(params: ScreenParams, particles: DataSet) -> float:
    if params.diameter_angst is not None:
        return params.diameter_angst
    if "diameter_angst" in particles.columns:
        median = particles.rows(["diameter_angst"])["diameter_angst"].median()
        if median is not None:
            return float(str(median))
    raise ParamsError(
        f"{_ID} needs diameter_angst: the particles do not give it",
        "give the diameter of the particle in Å",
    )


def _z_scores(measured: pl.DataFrame) -> dict[str, "NDArray[np.float64]"]:
    from verglas.algorithms.screening import FAMILIES, family_scores

    return {
        name: family_scores(np.array(measured[name].to_list(), dtype=np.float64))
        for name in FAMILIES
    }


def _broken(table: pl.DataFrame, params: ScreenParams) -> dict[str, pl.Series]:
    """Say for each rule which images break it."""
    rules = {
        "max_z_score": (params.max_z_score, "z_score", 1),
        "min_ssnr_db": (params.min_ssnr_db, "ssnr_db", -1),
        "max_ssnr_db": (params.max_ssnr_db, "ssnr_db", 1),
        "max_variance_ratio": (params.max_variance_ratio, "variance_ratio", 1),
    }
    return {
        name: (table[column] - limit) * sign > 0
        for name, (limit, column, sign) in rules.items()
        if limit is not None
    }


@protocol(
    _ID,
    version=1,
    label="Screen particles",
    citations=(
        "Vargas et al. 2013, doi:10.1016/j.jsb.2013.06.007",
        "Rousseeuw & Van Driessen 1999, doi:10.1080/00401706.1999.10485670",
    ),
)
def run(ctx: Context, params: ScreenParams, inputs: Inputs) -> Outputs:
    """Measure all images, compare them, and apply the rules."""
    diameter = _diameter(params, inputs.particles)
    measured = ctx.map(
        measure, inputs.particles, chunk=2000, columns=_COLUMNS, diameter_angst=diameter
    )
    if not measured.height:
        raise UserError("no particle image could be read", "the log says for each what is wrong")
    scores = _z_scores(measured)
    table = measured.select(
        "item_id",
        "ssnr_db",
        "variance_ratio",
        z_score=pl.Series(np.max(list(scores.values()), axis=0)),
    )
    broken = _broken(table, params)
    is_bad = np.zeros(table.height, dtype=bool)
    for name, which in broken.items():
        n_broken = int(which.sum())
        ctx.log.info("%s rejects %d images", name, n_broken)
        ctx.metric(f"n_by_{name}", n_broken)
        is_bad |= which.to_numpy()
    if params.max_z_score is not None:
        for name, values in scores.items():
            ctx.log.info("%s: %d beyond the limit", name, int((values > params.max_z_score).sum()))
    ctx.metric("n_kept", int((~is_bad).sum()))
    ctx.metric("n_rejected", int(is_bad.sum()))
    if is_bad.mean() > 0.3:
        ctx.warn(f"{is_bad.mean():.0%} of the images are rejected: are the limits too narrow?")
    whole = inputs.particles.select(table).with_columns(table)
    ids = table["item_id"]
    return Outputs(
        particles=whole.select(ids.filter(pl.Series(~is_bad))),
        rejected=whole.select(ids.filter(pl.Series(is_bad))),
    )
