"""Put aside micrographs whose frames drifted too far.

Two numbers are looked at: the largest move between two frames in a row, and the length of the
whole path. `either` rejects a micrograph when one of them is too large, `both` only when both
are; `frame` and `travel` look at one alone. A value at the limit is accepted. Rows whose
motion is not known are rejected. Choose the limits by the histograms in the report.
"""

from typing import Literal

import polars as pl

from verglas.model import MICROGRAPHS, DataSet
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

__all__ = ["DriftParams", "Inputs", "Outputs", "measure", "run"]

RejectBy = Literal["either", "both", "frame", "travel"]
_FRAME, _TRAVEL = "largest_frame_shift_angst", "travel_angst"
_NEEDED = ("item_id", "frame_shift_x_angst", "frame_shift_y_angst")


class DriftParams(Params):
    """How far is too far."""

    reject_by: RejectBy = param(
        "either", help="Which of the two limits must be exceeded for a micrograph to be rejected."
    )
    max_frame_shift_angst: float = param(
        10.0, gt=0, le=1000, help="Largest move between two frames in a row."
    )
    max_travel_angst: float = param(
        45.0, gt=0, le=10_000, help="Largest length of the path of the whole frame."
    )


class Inputs(Ports):
    """Aligned movies."""

    micrographs: DataSet = port(MICROGRAPHS, needs=("frame_shifts",))


class Outputs(Ports):
    """The same rows, in two sets."""

    accepted: DataSet = port(MICROGRAPHS, needs=("frame_shifts",))
    rejected: DataSet = port(MICROGRAPHS, needs=("frame_shifts",))


def measure(rows: pl.DataFrame, task: Task) -> pl.DataFrame:
    """Largest step and path length of each trajectory; null where a shift is not known."""
    dx, dy = (pl.col(f"frame_shift_{axis}_angst").list.diff(null_behavior="drop") for axis in "xy")
    step = (dx * dx + dy * dy).list.eval(pl.element().sqrt())
    n_x, n_y = (pl.col(f"frame_shift_{axis}_angst").list for axis in "xy")
    known = (n_x.len() == n_y.len()) & (n_x.len() > 0)
    finite = step.list.eval(pl.element().is_finite().fill_null(value=False)).list.all()
    return rows.select(
        "item_id",
        # one frame has no step: it did not move
        pl.when(known & finite).then(step.list.max().fill_null(0.0)).alias(_FRAME),
        pl.when(known & finite).then(step.list.sum()).alias(_TRAVEL),
    )


def _is_rejected(params: DriftParams) -> pl.Expr:
    frame = pl.col(_FRAME) > params.max_frame_shift_angst
    travel = pl.col(_TRAVEL) > params.max_travel_angst
    rules = {"either": frame | travel, "both": frame & travel, "frame": frame, "travel": travel}
    return rules[params.reject_by].fill_null(value=True)


@protocol(
    "movies.screen_drift",
    version=1,
    label="Screen movies by drift",
    citations=("Střelák et al. 2020, doi:10.3390/electronics9061040",),
)
def run(ctx: Context, params: DriftParams, inputs: Inputs) -> Outputs:
    """Measure the trajectories again, and divide the rows by the limits."""
    data = inputs.micrographs
    drift = ctx.map(measure, data, chunk=1024, columns=_NEEDED)
    unknown = drift.filter(pl.col(_TRAVEL).is_null()).height
    if unknown:
        ctx.warn(f"the motion of {unknown} micrographs is not known: they are rejected")
    rejected = drift.filter(_is_rejected(params))["item_id"]
    if drift.height and len(rejected) == drift.height:
        ctx.warn("every micrograph is rejected: are the limits in Å, and the pixel size right?")
    ctx.metric("n_rejected", len(rejected))
    for name in (_FRAME, _TRAVEL):
        if drift.height - unknown:
            ctx.metric(f"median_{name}", round(float(drift[name].median() or 0.0), 2))  # type: ignore[arg-type]
    accepted = drift.filter(~pl.col("item_id").is_in(rejected.implode()))["item_id"]
    return Outputs(accepted=ctx.select(data, accepted), rejected=ctx.select(data, rejected))
