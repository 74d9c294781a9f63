"""Pick by hand in a few micrographs, and let a classifier suggest the rest.

The job first suggests picks of about the right size in `n_first` micrographs and waits. Edit them:
`verglas answer j12 --write-draft draft.csv` writes the suggestion, `verglas answer j12 picks.csv`
(or a STAR file) gives your picks, `verglas answer j12 --accept` takes the suggestion as it is.
Picks may lie in any of the micrographs. The job goes on, learns what you picked and what you took
away or left, and suggests picks in all other micrographs. With `review` it waits once more, for
you to correct these.

A handful of micrographs is enough if they show all defoci; at least `min_picks` picks are needed.
"""

from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from verglas.core.errors import FormatError, UserError
from verglas.model import COORDINATES, MICROGRAPHS, DataSet
from verglas.protocols.picking._picks import coordinate_rows, write_picture
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol
from verglas.sdk.arrays import ArrayRef

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["Inputs", "ManualParams", "Outputs", "candidates", "run", "suggest"]

_LOOSE = -4.0  # threshold shift of candidates: better too many
_NEAR = 0.4  # of the diameter: a candidate this near to a pick is the pick
_COLUMNS = ("item_id", "image_path", "image_slice", "pixel_size_angst")


class ManualParams(Params):
    """What to pick, and how much by hand."""

    diameter_angst: float = param(gt=10, le=5000, help="Diameter of the particle.")
    n_first: int = param(5, ge=1, le=1000, help="Micrographs to pick by hand.")
    min_probability: float = param(
        0.5, gt=0, lt=1, help="Least probability of a suggestion, as learnt from your picks."
    )
    min_picks: int = param(15, ge=5, help="Fewest picks from which to learn.")
    review: bool = param(False, help="Wait again, for you to correct all suggestions.")
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )


class Inputs(Ports):
    """Micrographs, and picks to begin with if there are some."""

    micrographs: DataSet = port(MICROGRAPHS)
    coordinates: DataSet | None = port(
        COORDINATES, optional=True, help="Picks to start editing from."
    )


class Outputs(Ports):
    """Your picks and the suggestions, and the micrographs with a picture of them."""

    coordinates: DataSet = port(COORDINATES)
    micrographs: DataSet = port(MICROGRAPHS)


def _read(row: dict[str, Any], task: Task, params: ManualParams) -> "torch.Tensor":
    import torch

    from verglas.io.images import open_images

    image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
    tensor = torch.from_numpy(image)
    return -tensor if params.bright_particles else tensor


def _places(
    image: "torch.Tensor", pixel: float, diameter: float, shift: float
) -> tuple["NDArray[np.float64]", "NDArray[np.float64]"]:
    """Candidates by size: positions in pixels, and scores."""
    from verglas.algorithms.picking.log import LogPickConfig, pick_particles

    config = LogPickConfig(diameter, diameter, threshold_shift=shift)
    picks = pick_particles(image, pixel_size_angst=pixel, config=config)
    return picks.position_px.double().numpy(), picks.score.double().numpy()


def _features(
    image: "torch.Tensor",
    places_px: "NDArray[np.float64]",
    trusted: "NDArray[np.bool_]",
    *,
    pixel: float,
    diameter: float,
) -> "NDArray[np.float64]":
    from verglas.algorithms.picking.patch import describe_places

    return describe_places(
        image, places_px, trusted=trusted, pixel_size_angst=pixel, diameter_angst=diameter
    )


def candidates(rows: pl.DataFrame, task: Task, *, params: ManualParams) -> pl.DataFrame:
    """Suggest picks by size, for a person to correct."""
    found = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            image = _read(row, task, params)
        except FormatError as error:
            task.skip(row["item_id"], str(error))
            continue
        pixel = row["pixel_size_angst"]
        places, scores = _places(image, pixel, params.diameter_angst, 0.0)
        found.append(
            {
                "item_id": row["item_id"],
                "coord_x_angst": (places[:, 0] * pixel).tolist(),
                "coord_y_angst": (places[:, 1] * pixel).tolist(),
                "score": scores.tolist(),
            }
        )
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, infer_schema_length=None)


def describe(rows: pl.DataFrame, task: Task, *, params: ManualParams) -> pl.DataFrame:
    """Measure picks and what was left, in the micrographs that were picked by hand."""
    from scipy.spatial import cKDTree

    from verglas.algorithms.picking.patch import background_places

    found = []
    diameter = params.diameter_angst
    for row in rows.iter_rows(named=True):
        try:
            image = _read(row, task, params)
        except FormatError as error:
            task.skip(row["item_id"], str(error))
            continue
        pixel = row["pixel_size_angst"]
        picks = np.array([row["x"], row["y"]], dtype=np.float64).T / pixel
        size = np.array([image.shape[1], image.shape[0]])
        picks = picks[((picks > -0.5) & (picks < size - 0.5)).all(axis=1)]
        near = _NEAR * diameter / pixel
        others = _places(image, pixel, diameter, _LOOSE)[0]
        if len(picks) and len(others):
            others = others[cKDTree(picks).query(others)[0] > near]
        shape = (int(size[1]), int(size[0]))
        n_empty = max(10, len(picks))
        empty = background_places(
            picks, shape, diameter_px=diameter / pixel, n=n_empty, rng=task.rng
        )
        places = np.concatenate([picks, others, empty])
        trusted = np.arange(len(places)) < len(picks)
        values = _features(image, places, trusted, pixel=pixel, diameter=diameter)
        found.append(
            {"particles": values[: len(picks)].tolist(), "others": values[len(picks) :].tolist()}
        )
    schema = dict.fromkeys(("particles", "others"), pl.List(pl.List(pl.Float64)))
    return pl.DataFrame(found, schema=schema)


def suggest(
    rows: pl.DataFrame, task: Task, *, params: ManualParams, judge: ArrayRef
) -> pl.DataFrame:
    """Suggest picks in the other micrographs as the person would have picked."""
    from verglas.algorithms.picking.consensus import Scale
    from verglas.algorithms.picking.supervised import Judge

    parts = task.load(judge)
    learnt = Judge(Scale(parts["centre"], parts["width"]), parts["weights"])
    found = []
    for done, row in enumerate(rows.iter_rows(named=True)):
        try:
            image = _read(row, task, params)
        except FormatError as error:
            task.skip(row["item_id"], str(error))
            continue
        pixel, diameter = row["pixel_size_angst"], params.diameter_angst
        places, scores = _places(image, pixel, diameter, _LOOSE)
        probability = np.zeros(0)
        if len(places):
            trusted = scores >= np.quantile(scores, 0.7)
            values = _features(image, places, trusted, pixel=pixel, diameter=diameter)
            probability = learnt.probability(values)
        keep = probability >= params.min_probability
        found.append(
            {
                "item_id": row["item_id"],
                "coord_x_angst": (places[keep, 0] * pixel).tolist(),
                "coord_y_angst": (places[keep, 1] * pixel).tolist(),
                "score": probability[keep].tolist(),
            }
        )
        task.progress(done + 1, rows.height)
    return pl.DataFrame(found, infer_schema_length=None)


def draw(rows: pl.DataFrame, task: Task, *, params: ManualParams) -> pl.DataFrame:
    """Draw the picks of each micrograph."""
    paths = []
    for row in rows.iter_rows(named=True):
        image = _read(row, task, params).numpy()
        path = task.files / f"picks_{row['item_id']:06d}.jpg"
        places = np.array([row["x"], row["y"]], dtype=np.float64).T / row["pixel_size_angst"]
        write_picture(path, image, places, 0.5 * params.diameter_angst / row["pixel_size_angst"])
        paths.append(task.relative(path))
    return rows.select("item_id", thumbnail_path=pl.Series(paths, dtype=pl.String))


def _first(inputs: Inputs, params: ManualParams) -> pl.DataFrame:
    """Micrographs for the hand, spread evenly over all."""
    rows = inputs.micrographs.rows(_COLUMNS)
    n = min(params.n_first, rows.height)
    chosen: pl.DataFrame = rows[
        np.unique(np.linspace(0, rows.height - 1, n).round().astype(int)).tolist()
    ]
    return chosen


def _dataset(ctx: Context, inputs: Inputs, picked: pl.DataFrame, params: ManualParams) -> DataSet:
    rows = coordinate_rows(picked, inputs.micrographs)
    rows = rows.with_columns(diameter_angst=pl.lit(params.diameter_angst))
    source = inputs.micrographs
    return ctx.dataset(COORDINATES, rows, optics=source.optics, source=source)


def _with_lists(inputs: Inputs, picks: pl.DataFrame) -> pl.DataFrame:
    lists = picks.group_by("micrograph_id", maintain_order=True).agg(
        x="coord_x_angst", y="coord_y_angst"
    )
    return inputs.micrographs.rows(_COLUMNS).join(
        lists, left_on="item_id", right_on="micrograph_id", how="inner", maintain_order="left"
    )


def _learn(ctx: Context, inputs: Inputs, picks: pl.DataFrame, params: ManualParams) -> ArrayRef:
    from verglas.algorithms.picking.supervised import train_judge

    if picks.height < params.min_picks:
        raise UserError(
            f"{picks.height} picks are too few to learn from: expected at least {params.min_picks}",
            "pick more particles, or more micrographs, and answer again",
        )
    made = ctx.map(describe, _with_lists(inputs, picks), chunk=4, params=params)
    values = {
        name: np.array([v for part in made[name].to_list() for v in part], dtype=np.float64)
        for name in ("particles", "others")
    }
    if len(values["particles"]) < params.min_picks:
        raise UserError(
            f"{len(values['particles'])} of {picks.height} picks lie inside of a micrograph: "
            f"expected at least {params.min_picks}",
            "check the unit and the pixel size of the picks",
        )
    judge = train_judge(values["particles"], values["others"])
    return ctx.put(
        {"centre": judge.scale.centre, "width": judge.scale.width, "weights": judge.weights}
    )


@protocol(
    "micrographs.pick_manual",
    version=1,
    label="Pick by hand",
    citations=("Abrishami et al. 2013, doi:10.1093/bioinformatics/btt429",),
)
def run(ctx: Context, params: ManualParams, inputs: Inputs) -> Outputs:
    """Ask for picks, learn from them, and suggest the rest."""
    draft = inputs.coordinates
    if draft is None:
        picked = ctx.map(candidates, _first(inputs, params), chunk=4, params=params)
        if not picked.height:
            raise UserError("no micrograph could be read", "the log says for each what is wrong")
        draft = _dataset(ctx, inputs, picked, params)
    answer = ctx.ask(COORDINATES, draft)
    known = inputs.micrographs.rows(["item_id"]).rename({"item_id": "micrograph_id"})
    hand = answer.rows(["coord_x_angst", "coord_y_angst", "micrograph_id"])
    hand = hand.join(known, on="micrograph_id", how="semi", maintain_order="left")
    judge = _learn(ctx, inputs, hand, params)
    rest = inputs.micrographs.rows(_COLUMNS)
    rest = rest.filter(~pl.col("item_id").is_in(hand["micrograph_id"].unique().implode()))
    parts = [_hand_lists(hand)]
    if rest.height:
        made = ctx.map(suggest, rest, chunk=4, params=params, judge=judge)
        parts += [made] if made.height else []
    whole = _dataset(ctx, inputs, pl.concat(parts, how="vertical_relaxed"), params)
    if params.review:
        whole = ctx.ask(COORDINATES, whole)
    lists = _with_lists(inputs, whole.rows(["coord_x_angst", "coord_y_angst", "micrograph_id"]))
    pictures = ctx.map(draw, lists, chunk=8, params=params)
    counts = pictures.join(
        lists.select("item_id", n_particles=pl.col("x").list.len().cast(pl.Int64)), on="item_id"
    )
    ctx.metric("n_by_hand", hand.height)
    ctx.metric("n_suggested", whole.n_items - hand.height)
    return Outputs(
        coordinates=whole, micrographs=inputs.micrographs.select(counts).with_columns(counts)
    )


def _hand_lists(hand: pl.DataFrame) -> pl.DataFrame:
    """Picks by hand as lists by micrograph; they are certain."""
    sure = hand.select("coord_x_angst", "coord_y_angst", item_id="micrograph_id", score=pl.lit(1.0))
    return sure.group_by("item_id", maintain_order=True).agg(
        "coord_x_angst", "coord_y_angst", "score"
    )
