"""Pick particles with a neural network that knows many shapes.

A small fully convolutional network looks at each micrograph, rescaled so that a particle is 20
pixels wide, and says for every place how likely a particle's centre is there, where exactly, and
whether the place is carbon, ice or an aggregate. It was trained on simulated micrographs of
thousands of made-up shapes only, so it can be used on a new specimen at once; only the diameter
is needed. `score` is the probability that the pick is a particle, as it was on simulated fields
that the network had not seen; picks below `threshold` are dropped. If it misses what you
see, pick some hundred particles by hand and give the model of `micrographs.train_picker`.
"""

from typing import TYPE_CHECKING

import polars as pl

from verglas.model import COORDINATES, MICROGRAPHS, MODELS, DataSet
from verglas.protocols.picking._network import open_picker, weights_of
from verglas.protocols.picking._picks import (
    check_found,
    coordinate_rows,
    each_image,
    picked_sets,
    write_picture,
)
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.picking.network.find import NetworkPicks

__all__ = ["Inputs", "NetworkParams", "Outputs", "pick", "run"]

_COLUMNS = ("item_id", "image_path", "image_slice", "pixel_size_angst")
_DOUBTFUL_MEAN = 0.7
_ADVICE = (
    "check diameter_angst and the pixel size, look at a micrograph; if its particles are bright, "
    "set bright_particles; lower threshold, or train on your own picks with "
    "micrographs.train_picker"
)


class NetworkParams(Params):
    """What the particles look like, and how sure a pick must be."""

    diameter_angst: float = param(gt=10, le=5000, help="Largest diameter of the particle.")
    threshold: float = param(
        0.5, gt=0, lt=1, help="Least probability of a pick; higher picks fewer, surer ones."
    )
    min_distance_angst: float = param(
        0.0, ge=0, help="Least distance between picks; 0 takes half the diameter."
    )
    bright_particles: bool = param(
        False, help="Particles are brighter than the ice, as in inverted micrographs."
    )
    max_dirt: float = param(
        0.5,
        gt=0,
        le=1,
        advanced=True,
        help="Places likelier than this to be carbon, ice or aggregates are left out; 1 keeps all.",
    )


class Inputs(Ports):
    """Micrographs, and a network of your own if there is one."""

    micrographs: DataSet = port(MICROGRAPHS)
    model: DataSet | None = port(MODELS, optional=True)


class Outputs(Ports):
    """Positions, and the micrographs with a picture of their picks."""

    coordinates: DataSet = port(COORDINATES, needs=("score",))
    micrographs: DataSet = port(MICROGRAPHS)


def _as_row(
    item_id: int, picks: "NetworkPicks", params: NetworkParams, pixel: float, picture: str
) -> dict[str, object]:
    position = picks.position_px.cpu().double() * pixel
    return {
        "item_id": item_id,
        "coord_x_angst": position[:, 0].tolist(),
        "coord_y_angst": position[:, 1].tolist(),
        "score": picks.probability.cpu().double().tolist(),
        "diameter_angst": [params.diameter_angst] * len(position),
        "thumbnail_path": picture,
    }


def pick(rows: pl.DataFrame, task: Task, *, params: NetworkParams, weights: str) -> pl.DataFrame:
    """Find the particles of each micrograph and draw them; one row per micrograph.

    Args:
        rows: micrographs.
        task: of the chunk.
        params: of the protocol.
        weights: path of a file of weights as tables hold it; empty for the general network.
    """
    import torch

    from verglas.algorithms.picking.network.find import NetworkPickConfig, pick_with_network

    picker = open_picker(task, weights)
    config = NetworkPickConfig(
        diameter_angst=params.diameter_angst,
        threshold=params.threshold,
        min_distance_angst=params.min_distance_angst,
        max_dirt=params.max_dirt,
    )
    found = []
    for row, image in each_image(rows, task):
        pixel = row["pixel_size_angst"]
        tensor = torch.from_numpy(image).to(task.device)
        picks = pick_with_network(
            -tensor if params.bright_particles else tensor,
            picker,
            pixel_size_angst=pixel,
            config=config,
        )
        path = task.files / f"picks_{row['item_id']:06d}.jpg"
        write_picture(
            path,
            image,
            picks.position_px.cpu().double().numpy(),
            0.5 * params.diameter_angst / pixel,
            mask=picks.is_dirt.cpu().numpy(),
        )
        found.append(_as_row(row["item_id"], picks, params, pixel, task.relative(path)))
    return pl.DataFrame(found, infer_schema_length=None)


def _warn_of_doubt(ctx: Context, picked: pl.DataFrame, rows: pl.DataFrame) -> None:
    n_empty = int((picked["score"].list.len() == 0).sum())
    if n_empty:
        ctx.warn(f"{n_empty} of {picked.height} micrographs have no particle")
    mean = float(rows["score"].to_numpy().mean())
    if mean < _DOUBTFUL_MEAN:
        ctx.warn(f"the network is unsure: the mean probability of a pick is {mean:.2f}; {_ADVICE}")
    ctx.metric("mean_probability", round(mean, 3))


@protocol(
    "micrographs.pick_network",
    version=1,
    label="Pick with a network",
    citations=(
        "Zhou, Wang & Krähenbühl 2019, arXiv:1904.07850",
        "Wagner et al. 2019, doi:10.1038/s42003-019-0437-z",
    ),
)
def run(ctx: Context, params: NetworkParams, inputs: Inputs) -> Outputs:
    """Pick each micrograph, then make one row per particle."""
    picked = ctx.map(
        pick,
        inputs.micrographs,
        chunk=4,
        gpus=1,
        columns=_COLUMNS,
        params=params,
        weights=weights_of(ctx, inputs.model, params.diameter_angst),
    )
    n_picks = int(picked["score"].list.len().sum()) if picked.height else 0
    check_found(picked, n_picks, _ADVICE)
    rows = coordinate_rows(picked, inputs.micrographs)
    _warn_of_doubt(ctx, picked, rows)
    coordinates, micrographs = picked_sets(ctx, inputs.micrographs, picked, rows)
    return Outputs(coordinates=coordinates, micrographs=micrographs)
