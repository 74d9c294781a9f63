"""Teach the picking network your particle from some hundred picks.

Starts from the general network, or from a model of your own, and shows it the picks. These need
not be complete: places that were not picked are taken as unlabelled, not as empty, so pick what
you are sure of, in several micrographs of different defocus; two hundred picks in five
micrographs are a good start. Some of the micrographs are held back: training stops when they stop
gaining, and the model says what share of their picks it finds, before and after. Give the model
to `micrographs.pick_network`. If every particle of these micrographs is picked, say so with
`picks_are_complete`; if far fewer are, say about how many there are.
"""

from typing import TYPE_CHECKING

import polars as pl

from verglas.core.errors import FormatError, UserError
from verglas.model import COORDINATES, MICROGRAPHS, MODELS, DataSet
from verglas.protocols.picking._network import open_picker, weights_of
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from verglas.algorithms.picking.network.finetune import Example, FineTuned

__all__ = ["Inputs", "Outputs", "TrainParams", "run", "train"]

_COLUMNS = ("item_id", "image_path", "image_slice", "pixel_size_angst")
_LEAST_PICKS, _LEAST_MICROGRAPHS = 30, 2
_ADVICE = (
    "pick about two hundred particles in five micrographs, by hand or by choosing among the picks "
    "of micrographs.pick_log; micrographs.pick_network works without any training"
)


class TrainParams(Params):
    """The particle, what the picks mean, and how long to train."""

    diameter_angst: float = param(gt=10, le=5000, help="Largest diameter of the particle.")
    picks_are_complete: bool = param(
        False, help="Every particle of these micrographs is picked; the rest is background."
    )
    expected_per_micrograph: float = param(
        0.0,
        ge=0,
        help="Particles that a micrograph really holds; 0 takes the number picked, or what the "
        "network finds at the start if that is more.",
        show_if={"picks_are_complete": False},
    )
    held_out_fraction: float = param(
        0.25, gt=0, lt=1, help="Share of the micrographs that judges the training."
    )
    n_epochs: int = param(20, ge=1, le=1000, help="Most rounds of training.")
    learning_rate: float = param(
        5e-4, gt=0, le=0.1, advanced=True, help="Length of a step at the start."
    )
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )


class Inputs(Ports):
    """Micrographs, picks in them, and a network to start from."""

    micrographs: DataSet = port(MICROGRAPHS)
    coordinates: DataSet = port(COORDINATES)
    model: DataSet | None = port(MODELS, optional=True)


class Outputs(Ports):
    """The trained network."""

    model: DataSet = port(MODELS, needs=("score",))


def _examples(
    rows: pl.DataFrame, task: Task, params: TrainParams, picks: "dict[str, NDArray[np.generic]]"
) -> "list[Example]":
    """Read and level the micrographs, and hold some back; the same ones for the same seed."""
    import torch

    from verglas.algorithms.picking.network.finetune import Example
    from verglas.algorithms.picking.network.image import reduce_micrograph
    from verglas.io.images import open_images

    n_held = min(rows.height - 1, max(1, round(params.held_out_fraction * rows.height)))
    held = set(task.rng.permutation(rows.height)[:n_held].tolist())
    examples = []
    for index, row in enumerate(rows.iter_rows(named=True)):
        try:
            image = open_images(task.path(row["image_path"])).read([row["image_slice"]])[0]
        except FormatError as error:
            task.skip(row["item_id"], str(error))
            continue
        tensor = torch.from_numpy(image).to(task.device)
        small = reduce_micrograph(
            -tensor if params.bright_particles else tensor,
            pixel_size_angst=row["pixel_size_angst"],
            diameter_angst=params.diameter_angst,
        )
        own = picks["micrograph_id"] == row["item_id"]
        place = torch.from_numpy(picks["position_angst"][own] / row["pixel_size_angst"])
        limit = torch.tensor([image.shape[1], image.shape[0]]) - 0.5
        is_inside = ((place > -0.5) & (place < limit)).all(dim=1)
        if not bool(is_inside.all()):
            outside = int((~is_inside).sum())
            task.log.warning("%d picks lie outside micrograph %d", outside, row["item_id"])
        centres = small.from_micrograph(place[is_inside].to(task.device)).float()
        examples.append(Example(small, centres, index in held))
    return examples


def _as_row(
    params: TrainParams, path: str, result: "FineTuned", n_picks: tuple[int, int]
) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "item_id": [0],
            "label": [f"picker for {params.diameter_angst:g} Å"],
            "weights_path": [path],
            "diameter_angst": [params.diameter_angst],
            "n_trained": [n_picks[0]],
            "n_held_out": [n_picks[1]],
            "n_epochs": [result.n_epochs],
            "start_recall": [result.start_recall],
            "held_out_recall": [result.held_out_recall],
            "start_loss": [result.start_loss],
            "held_out_loss": [result.held_out_loss],
            "score": [result.held_out_recall],
        }
    )


def train(
    rows: pl.DataFrame, task: Task, *, params: TrainParams, picks: ArrayRef, weights: str
) -> pl.DataFrame:
    """Train on all micrographs at once; one row with the file of weights.

    Args:
        rows: micrographs that have picks.
        task: of the chunk.
        params: of the protocol.
        picks: `micrograph_id` and `position_angst`.
        weights: to start from as tables hold their path; empty for the general network.
    """
    import torch

    from verglas.algorithms.picking.network.finetune import FineTuneConfig, fine_tune
    from verglas.algorithms.picking.network.weights import save_picker

    examples = _examples(rows, task, params, task.load(picks))
    if len({each.is_held_out for each in examples}) < 2:
        raise UserError("too few of the micrographs could be read to train on", _ADVICE)
    result = fine_tune(
        open_picker(task, weights),
        examples,
        FineTuneConfig(
            n_epochs=params.n_epochs,
            learning_rate=params.learning_rate,
            expected_per_micrograph=params.expected_per_micrograph,
            is_complete=params.picks_are_complete,
        ),
        generator=torch.Generator().manual_seed(int(task.rng.integers(2**31))),
        progress=task.progress,
    )
    path = task.files / "picker.safetensors"
    save_picker(path, result.picker)
    n_held = sum(len(each.centres_px) for each in examples if each.is_held_out)
    n_all = sum(len(each.centres_px) for each in examples)
    return _as_row(params, task.relative(path), result, (n_all - n_held, n_held))


def _check_picks(n_picks: int, n_micrographs: int) -> None:
    if n_picks < _LEAST_PICKS:
        raise UserError(
            f"{n_picks} picks are too few to train a network: at least {_LEAST_PICKS} are needed",
            _ADVICE,
        )
    if n_micrographs < _LEAST_MICROGRAPHS:
        raise UserError(
            "all picks lie in one micrograph: at least two are needed, one to judge the training",
            _ADVICE,
        )


@protocol(
    "micrographs.train_picker",
    version=1,
    label="Train the network picker",
    citations=(
        "Kiryo et al. 2017, arXiv:1703.00593",
        "Bepler et al. 2019, doi:10.1038/s41592-019-0575-8",
    ),
)
def run(ctx: Context, params: TrainParams, inputs: Inputs) -> Outputs:
    """Gather the picks by micrograph, and train in one piece."""
    rows = inputs.coordinates.rows(["micrograph_id", "coord_x_angst", "coord_y_angst"])
    known = inputs.micrographs.rows(["item_id"])["item_id"]
    used = rows.filter(pl.col("micrograph_id").is_in(known.implode()))
    if used.height < rows.height:
        ctx.warn(f"{rows.height - used.height} picks lie in micrographs that are not given")
    ids = used["micrograph_id"].unique().sort()
    _check_picks(used.height, len(ids))
    position = used.select("coord_x_angst", "coord_y_angst").to_numpy()
    picks = {"micrograph_id": used["micrograph_id"].to_numpy(), "position_angst": position}
    model = ctx.map(
        train,
        inputs.micrographs.select(ids),
        chunk=len(ids),
        gpus=1,
        columns=_COLUMNS,
        params=params,
        picks=ctx.put(picks),
        weights=weights_of(ctx, inputs.model, params.diameter_angst),
    )
    row = model.row(0, named=True)
    for name in ("start_recall", "held_out_recall", "n_trained", "n_held_out", "n_epochs"):
        ctx.metric(name, round(row[name], 4))
    if not row["n_epochs"]:
        ctx.warn(
            "training did not help on the micrographs held back: the network is as it was; "
            "give more picks, or set expected_per_micrograph or picks_are_complete"
        )
    return Outputs(model=ctx.dataset(MODELS, model))
