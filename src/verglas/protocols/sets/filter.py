"""Keep the items that fulfil a condition on their columns.

The condition is written as in SQL, as `fit_res_angst < 6 AND defocus_u_angst BETWEEN 5000 AND
25000`, with AND, OR, NOT, IN, LIKE, IS NULL, arithmetic, and functions as ABS and SQRT. Constants
of the optics group, as `pixel_size_angst`, count as columns. A column in an aggregate, as
`score > AVG(score)`, stands for all items. Items for which the answer is not known, because a
value is missing, are rejected.
"""

import polars as pl

from verglas.model import ANY, DataSet
from verglas.protocols.sets._expression import read_condition
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["FilterParams", "Inputs", "Outputs", "run"]


class FilterParams(Params):
    """The condition."""

    condition: str = param(help="What must hold, as score > 0.3 AND class_index IN (0, 2).")


class Inputs(Ports):
    """The set to choose from."""

    data: DataSet = port(ANY)


class Outputs(Ports):
    """Items that fulfil the condition, and the others."""

    accepted: DataSet = port(ANY)
    rejected: DataSet = port(ANY)


@protocol("sets.filter", version=1, label="Filter a set")
def run(ctx: Context, params: FilterParams, inputs: Inputs) -> Outputs:
    """Ask the condition of every row."""
    table = inputs.data.with_optics()
    schema = table.collect_schema()
    condition = read_condition(params.condition, schema, owner="sets.filter condition")
    answer = table.select("item_id", is_kept=condition).collect()
    n_unknown = answer["is_kept"].null_count()
    if n_unknown:
        ctx.warn(f"{n_unknown} items lack a value that the condition needs: rejected")
    is_kept = pl.col("is_kept").fill_null(value=False)
    accepted, rejected = answer.filter(is_kept), answer.filter(~is_kept)
    if not accepted.height:
        ctx.warn(f"no item fulfils {params.condition!r}")
    ctx.metric("n_accepted", accepted.height)
    ctx.metric("n_rejected", rejected.height)
    return Outputs(
        accepted=ctx.select(inputs.data, accepted.select("item_id")),
        rejected=ctx.select(inputs.data, rejected.select("item_id")),
    )
