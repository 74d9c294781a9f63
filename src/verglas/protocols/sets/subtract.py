"""Keep the items of a set that none of some other sets has.

Rows, columns and numbers are those of the first set; only the choice depends on the others.
`same_by` says which columns tell items apart: by itself image and slice, or place in the
micrograph. Positions of different pickers are never equal: use coordinates.consensus for them.
"""

from verglas.model import ANY, DataSet
from verglas.protocols.sets._rows import matching_items
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
    chosen = matching_items(
        ctx,
        inputs.data,
        inputs.others,
        params.same_by,
        kept="in none",
        needed_by="sets.subtract",
    )
    return Outputs(difference=ctx.select(inputs.data, chosen))
