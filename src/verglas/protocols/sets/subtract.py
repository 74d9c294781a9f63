"""Keep the items of a set that none of some other sets has.

Rows, columns and numbers are those of the first set; only the choice depends on the others.
`same_by` says which columns tell items apart: by itself image and slice, or place in the
micrograph. Positions of different pickers are never equal: use coordinates.consensus for them.
"""

import polars as pl

from verglas.model import ANY, DataSet
from verglas.protocols.sets._rows import check_same_kind, identity_of
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["Inputs", "Outputs", "SubtractParams", "run"]


class SubtractParams(Params):
    """Which items are the same."""

    same_by: tuple[str, ...] = param(
        (), help="Columns that tell items apart; empty takes those that do for the kind."
    )


class Inputs(Ports):
    """The set to choose from, and those that say what is taken away."""

    data: DataSet = port(ANY, help="The set to choose from.")
    others: list[DataSet] = port(ANY, many=True, help="Sets of the same kind.")


class Outputs(Ports):
    """The items that are left."""

    difference: DataSet = port(ANY)


@protocol("sets.subtract", version=1, label="Difference of sets")
def run(ctx: Context, params: SubtractParams, inputs: Inputs) -> Outputs:
    """Join on the columns that tell items apart."""
    sets = [inputs.data, *inputs.others]
    check_same_kind(sets, "sets.subtract")
    same_by = identity_of(sets, params.same_by, "sets.subtract")
    rows = inputs.data.rows(dict.fromkeys(("item_id", *same_by)))
    for other in inputs.others:
        known = other.rows(same_by)
        rows = rows.join(known, on=same_by, how="anti", maintain_order="left")
    ctx.metric("n_items", rows.height)
    if not rows.height:
        ctx.warn(f"no item is left, compared by {', '.join(same_by)}")
    chosen: pl.DataFrame = rows.select("item_id")
    return Outputs(difference=ctx.select(inputs.data, chosen))
