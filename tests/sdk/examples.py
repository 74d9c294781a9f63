"""Count the electrons on each micrograph.

A protocol for tests: it maps, accumulates, iterates and writes a file.
"""

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from tests.model.frames import micrographs
from verglas.model import MICROGRAPHS, DataSet
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol


class CountParams(Params):
    dose_e_per_angst2: float = param(50.0, gt=0, le=500, help="Exposure of a micrograph.")
    mode: Literal["all", "bright"] = param("all", help="Which ones are kept.")
    n_rounds: int = param(2, ge=0, help="How often the mean is improved.", advanced=True)
    threshold: float | None = param(
        None, help="Smallest score of a bright one.", show_if={"mode": "bright"}
    )


class Inputs(Ports):
    micrographs: DataSet = port(MICROGRAPHS)
    reference: DataSet | None = port(MICROGRAPHS, needs=("ctf",), optional=True)
    others: list[DataSet] = port(MICROGRAPHS, optional=True, many=True)


class Outputs(Ports):
    counted: DataSet = port(MICROGRAPHS, needs=("score",))


def count(rows: pl.DataFrame, task: Task, *, dose_e_per_angst2: float) -> pl.DataFrame:
    area = pl.col("pixel_size_angst") ** 2
    for item_id in rows["item_id"]:
        (task.files / f"{item_id}.txt").write_text(f"{task.rng.integers(1000)}")
    return rows.select("item_id", score=area * dose_e_per_angst2)


def add(rows: pl.DataFrame, task: Task, *, reference) -> tuple[pl.DataFrame, dict]:
    scale = task.load(reference)["scale"] if reference else 1.0
    ids = rows["item_id"].to_numpy()
    return rows.select("item_id"), {"sum": scale * ids.astype(np.float32), "n": np.array([1])}


@protocol("micrographs.count_electrons", version=3, label="Count electrons")
def run(ctx: Context, params: CountParams, inputs: Inputs) -> Outputs:
    scores = ctx.map(count, inputs.micrographs, chunk=2, dose_e_per_angst2=params.dose_e_per_angst2)

    def improve(state, iteration):
        reference = ctx.put({"scale": state["scale"]})
        added = ctx.accumulate(add, inputs.micrographs, chunk=1, reference=reference)
        return {"scale": added.sums[None]["sum"] / added.sums[None]["n"], "round": iteration + 1}

    state = ctx.iterate(
        improve,
        {"scale": np.ones(1), "round": 0},
        until=lambda state: state["round"] >= params.n_rounds,
    )
    ctx.metric("scale", float(state["scale"][0]))
    ctx.write_file("scale.txt", lambda path: path.write_text(str(state["scale"])))
    return Outputs(counted=ctx.select(inputs.micrographs.with_columns(scores), [10, 30]))


def make_inputs(root: Path) -> Inputs:
    return Inputs(micrographs=micrographs(root))
