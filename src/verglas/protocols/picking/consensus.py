"""Bring the picks of several pickers together and keep what is a particle.

Picks of different pickers within `radius_angst` are one place; its position is the average,
weighted by how precise each picker is. `mode` says which places are kept: those that all pickers
found, that any found, that at least `min_votes` found, or, by itself, those that a small model
takes for particles. The model learns from the places alone which pickers can be trusted, how they
score particles and false picks, and, given the micrographs, what the surroundings of particles
look like. `score` is then the probability of a particle, on which `min_probability` is a cut.

The job reports, for each picker, which share of its picks are particles (precision) and which
share of all particles it found (recall), estimated without any truth. Pickers that share an error,
as picking ice crystals, vouch for each other wrongly: clean micrographs first, and look at
the averages of what only some found.
"""

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import polars as pl
from pydantic import model_validator

from verglas.core.errors import FormatError, ParamsError, PortError
from verglas.model import COORDINATES, CURVES, MICROGRAPHS, DataSet
from verglas.protocols.picking._places import Places, picker_curves, place_rows
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.picking.agreement import Agreement
    from verglas.algorithms.picking.merge import Clusters

__all__ = ["ConsensusParams", "Inputs", "Outputs", "merge", "run"]

_BACKGROUND_PER_PLACE = 0.5
_DEFAULT_RADIUS = 0.3  # of the diameter
_ID = "coordinates.consensus"


class ConsensusParams(Params):
    """What is one place, and which places are kept."""

    mode: Literal["model", "and", "or", "vote"] = param(
        "model", help="Keep what the model takes for particles, or what all, any or some found."
    )
    min_probability: float = param(
        0.5, ge=0, le=1, show_if={"mode": "model"}, help="Least probability of a particle."
    )
    min_votes: int = param(
        2, ge=1, show_if={"mode": "vote"}, help="Least number of pickers that found a place."
    )
    radius_angst: float | None = param(
        None, gt=0, help="Picks within this distance are one place; empty takes 0.3 diameters."
    )
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the coordinates."
    )
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )

    @model_validator(mode="after")
    def _has_votes(self) -> "ConsensusParams":
        if self.mode == "vote" and self.min_votes < 2:
            raise ValueError("min_votes must be at least 2: one vote is the mode 'or'")
        return self


class Inputs(Ports):
    """Picks of two or more pickers, and their micrographs for the model to look at."""

    coordinates: list[DataSet] = port(
        COORDINATES, many=True, help="One set for each picker, of the same micrographs."
    )
    micrographs: DataSet | None = port(
        MICROGRAPHS, optional=True, help="Images; without them only agreement and scores count."
    )


class Outputs(Ports):
    """Places that were kept and those that were not, and how good each picker is."""

    coordinates: DataSet = port(COORDINATES, needs=("score",))
    rejected: DataSet = port(COORDINATES)
    pickers: DataSet = port(CURVES)


def _clusters(row: dict[str, Any], n_pickers: int, radius_angst: float) -> "Clusters":
    from verglas.algorithms.picking.merge import merge_picks

    picks = [
        np.array([row[f"x_{i}"] or [], row[f"y_{i}"] or []], dtype=np.float64).T
        for i in range(n_pickers)
    ]
    return merge_picks(picks, radius=radius_angst)


def _describe(
    row: dict[str, Any], task: Task, clusters: "Clusters", diameter_angst: float, *, is_bright: bool
) -> tuple[list[list[float]], list[list[float]]]:
    """Features of the places and of some of the background."""
    import torch

    from verglas.algorithms.picking.patch import background_places, describe_places
    from verglas.io.images import open_images

    pixel = row["pixel_size_angst"]
    image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
    tensor = torch.from_numpy(image)
    places = clusters.position / pixel
    empty = background_places(
        places,
        (image.shape[0], image.shape[1]),
        diameter_px=diameter_angst / pixel,
        n=max(5, round(_BACKGROUND_PER_PLACE * len(places))),
        rng=task.rng,
    )
    votes = (clusters.member >= 0).sum(axis=1)
    trusted = np.concatenate([votes == votes.max(initial=0), np.zeros(len(empty), bool)])
    features = describe_places(
        -tensor if is_bright else tensor,
        np.concatenate([places, empty]),
        trusted=trusted,
        pixel_size_angst=pixel,
        diameter_angst=diameter_angst,
    )
    return features[: len(places)].tolist(), features[len(places) :].tolist()


def merge(
    rows: pl.DataFrame,
    task: Task,
    *,
    n_pickers: int,
    radius_angst: float,
    diameter_angst: float,
    has_images: bool,
    is_bright: bool,
) -> pl.DataFrame:
    """Join the picks of each micrograph, and describe their surroundings."""
    found = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        clusters = _clusters(row, n_pickers, radius_angst)
        features: list[list[float]] = []
        background: list[list[float]] = []
        try:
            if has_images:
                features, background = _describe(
                    row, task, clusters, diameter_angst, is_bright=is_bright
                )
        except FormatError as error:
            task.skip(row["item_id"], str(error))
            continue
        found.append(
            {
                "item_id": row["item_id"],
                "member": clusters.member.tolist(),
                "features": features,
                "background": background,
            }
        )
        task.progress(done + 1, rows.height)
    return pl.DataFrame(
        found,
        schema={
            "item_id": pl.Int64,
            "member": pl.List(pl.List(pl.Int64)),
            "features": pl.List(pl.List(pl.Float64)),
            "background": pl.List(pl.List(pl.Float64)),
        },
    )


def _diameter(params: ConsensusParams, sets: list[DataSet]) -> float:
    if params.diameter_angst is not None:
        return params.diameter_angst
    for data in sets:
        if "diameter_angst" in data.columns:
            median = data.rows(["diameter_angst"])["diameter_angst"].median()
            if median is not None:
                return float(str(median))
    if params.radius_angst is not None:
        return params.radius_angst / _DEFAULT_RADIUS
    raise ParamsError(
        f"{_ID} needs diameter_angst: the coordinates do not give it",
        "give the diameter of the particle in Å",
    )


def _tables(inputs: Inputs) -> list[pl.DataFrame]:
    """Positions of each picker; the same micrographs have the same numbers."""
    if len(inputs.coordinates) < 2:
        raise PortError(f"{_ID} needs the picks of two or more pickers: got one set")
    tables = []
    for data in inputs.coordinates:
        names = ["item_id", "coord_x_angst", "coord_y_angst", "micrograph_path", "micrograph_id"]
        names += ["score"] if "score" in data.columns else []
        table = data.rows(names)
        if "score" not in names:
            table = table.with_columns(score=pl.lit(None, pl.Float64))
        tables.append(table.fill_nan(None))
    paths = [set(table["micrograph_path"]) for table in tables]
    for data, own in zip(inputs.coordinates[1:], paths[1:], strict=True):
        if not own & paths[0]:
            raise PortError(
                f"{data.name} and {inputs.coordinates[0].name} have no micrograph in common",
                "give picks of the same micrographs",
            )
    return tables


def _work(inputs: Inputs, tables: list[pl.DataFrame]) -> pl.DataFrame:
    """One row per micrograph with the lists of all pickers."""
    every = pl.concat([t.select("micrograph_path", "micrograph_id") for t in tables])
    base = every.unique("micrograph_path", keep="first", maintain_order=True)
    if inputs.micrographs is not None:
        images = inputs.micrographs.rows(
            ["item_id", "image_path", "image_slice", "pixel_size_angst"]
        )
        base = base.drop("micrograph_id").join(
            images.with_columns(micrograph_path=pl.col("image_path")),
            on="micrograph_path",
            how="inner",
            maintain_order="left",
        )
    else:
        base = base.with_columns(item_id=pl.int_range(pl.len(), dtype=pl.Int64))
    if not base.height:
        raise PortError(
            f"{_ID}: no coordinate lies in one of the micrographs",
            "give the micrographs that were picked",
        )
    for i, table in enumerate(tables):
        lists = table.group_by("micrograph_path", maintain_order=True).agg(
            pl.col("coord_x_angst").alias(f"x_{i}"),
            pl.col("coord_y_angst").alias(f"y_{i}"),
            pl.col("item_id").alias(f"id_{i}"),
            pl.col("score").alias(f"score_{i}"),
        )
        base = base.join(lists, on="micrograph_path", how="left", maintain_order="left")
    return base


def _judge(inputs: Inputs, places: Places) -> "Agreement":
    from verglas.algorithms.picking.consensus import judge_places

    has_images = inputs.micrographs is not None
    return judge_places(
        places.found,
        places.scores,
        features=places.features if has_images else None,
        background=places.background if has_images else None,
        group=places.micrograph,
    )


def _report(ctx: Context, places: Places, agreement: "Agreement", names: list[str]) -> None:
    for i, name in enumerate(names):
        ctx.metric(f"precision_{i + 1}", round(float(agreement.precision[i]), 3))
        ctx.metric(f"recall_{i + 1}", round(float(agreement.recall[i]), 3))
        ctx.log.info(
            "%s: %d picks, precision %.3f, recall %.3f (estimated)",
            name, int(places.found[:, i].sum()), agreement.precision[i], agreement.recall[i],
        )  # fmt: skip
    ctx.metric("n_union", len(places.found))
    ctx.metric("n_in_all", int(places.found.all(axis=1).sum()))
    ctx.metric("n_particles_estimated", round(agreement.n_particles))
    worst = int(np.argmin(agreement.precision))
    if agreement.precision[worst] < 0.5:
        ctx.warn(
            f"{names[worst]}: only {agreement.precision[worst]:.0%} of its picks seem to be "
            "particles; look at them before you trust it"
        )


def _names(sets: list[DataSet]) -> list[str]:
    return [
        f"picker {i} ({data.id})" if data.id else f"picker {i}" for i, data in enumerate(sets, 1)
    ]


@protocol(
    _ID,
    version=1,
    label="Consensus of pickers",
    citations=(
        "Sanchez-Garcia et al. 2018, doi:10.1107/S2052252518014392",
        "Dawid & Skene 1979, doi:10.2307/2346806",
    ),
)
def run(ctx: Context, params: ConsensusParams, inputs: Inputs) -> Outputs:
    """Merge the picks of each micrograph, judge all places together, and split them."""
    tables = _tables(inputs)
    diameter = _diameter(params, inputs.coordinates)
    work = _work(inputs, tables)
    n_pickers = len(tables)
    merged = ctx.map(
        merge,
        work,
        chunk=4,
        n_pickers=n_pickers,
        radius_angst=params.radius_angst or _DEFAULT_RADIUS * diameter,
        diameter_angst=diameter,
        has_images=inputs.micrographs is not None,
        is_bright=params.bright_particles,
    )
    if not merged.height:
        raise PortError(f"{_ID}: none of the micrographs could be read", "see verglas log")
    places = Places(work, merged, n_pickers)
    agreement = _judge(inputs, places)
    names = _names(inputs.coordinates)
    _report(ctx, places, agreement, names)
    rows = place_rows(inputs.coordinates, inputs.micrographs, places, agreement.probability, work)
    least = {"and": n_pickers, "or": 1, "vote": params.min_votes, "model": 1}[params.mode]
    keep = pl.col("n_pickers") >= least
    if params.mode == "model":
        keep &= pl.col("score") >= params.min_probability
    optics = (inputs.micrographs or inputs.coordinates[0]).optics
    whole = ctx.dataset(COORDINATES, rows, optics=optics, source=inputs.coordinates[0])
    table = whole.rows(["item_id", "n_pickers", "score"])
    accepted, rejected = table.filter(keep), table.filter(~keep)
    if not accepted.height:
        ctx.warn("no place was kept: loosen mode, min_votes or min_probability")
    ctx.metric("n_accepted", accepted.height)
    curves = ctx.dataset(CURVES, picker_curves(places, agreement, names))
    return Outputs(
        coordinates=whole.select(accepted), rejected=whole.select(rejected), pickers=curves
    )
