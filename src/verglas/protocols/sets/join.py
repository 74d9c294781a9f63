"""Bring columns from another data set.

Each item takes the columns of the row of the other set whose `other_key` equals its `key`: the
defocus of its micrograph, the score that another job gave the same particle. Columns that the set
has already are replaced. Items without a partner are put aside; the other set may be of any kind.
"""

import polars as pl

from verglas.core.errors import ParamsError
from verglas.model import ANY, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["Inputs", "JoinParams", "Outputs", "run"]

_NOT_BROUGHT = ("item_id", "source_id", "optics_group")


class JoinParams(Params):
    """Which columns, and how partners are found."""

    columns: tuple[str, ...] = param(help="Columns to bring, as defocus_u_angst.")
    key: str = param("item_id", help="Column of the set that names the partner.")
    other_key: str = param("item_id", help="Column of the other set that answers to it.")


class Inputs(Ports):
    """The set that gets columns, and the one that has them."""

    data: DataSet = port(ANY, help="The set that gets columns.")
    other: DataSet = port(ANY, help="The set that has them, of any kind.")


class Outputs(Ports):
    """Items with the new columns, and those without a partner."""

    joined: DataSet = port(ANY)
    unmatched: DataSet = port(ANY)


def _check(params: JoinParams, inputs: Inputs) -> None:
    wanted = ((inputs.data, "key", (params.key,)), (inputs.other, "other_key", (params.other_key,)))
    for data, name, columns in (*wanted, (inputs.other, "columns", params.columns)):
        missing = [column for column in columns if column not in data.columns]
        if missing:
            raise ParamsError(
                f"sets.join {name}: {data.name} has no column {', '.join(missing)}",
                f"its columns are {', '.join(data.columns)}",
            )
    refused = [name for name in params.columns if name in (*_NOT_BROUGHT, params.key)]
    if refused or not params.columns:
        raise ParamsError(
            f"sets.join columns: cannot bring {', '.join(refused) or 'nothing'}",
            "numbers of items and groups mean something else in another set",
        )


@protocol("sets.join", version=1, label="Join columns of another set")
def run(ctx: Context, params: JoinParams, inputs: Inputs) -> Outputs:
    """Find partners, and add their columns to the rows that have one."""
    _check(params, inputs)
    brought = dict.fromkeys((params.other_key, *params.columns))
    other = inputs.other.rows(brought).drop_nulls(params.other_key)
    repeated = other.filter(pl.col(params.other_key).is_duplicated())
    if repeated.height:
        raise ParamsError(
            f"sets.join other_key: {params.other_key} does not tell the rows of "
            f"{inputs.other.name} apart: {repeated[params.other_key][0]!r} occurs more than once",
            "choose a column whose values are unique",
        )
    names = {name: f"brought_{name}" for name in params.columns}
    other = other.select(pl.col(params.other_key).alias("partner"), *(
        pl.col(name).alias(new) for name, new in names.items()
    ))  # fmt: skip
    own = inputs.data.rows(dict.fromkeys(("item_id", params.key)))
    own = own.select("item_id", pl.col(params.key).alias("partner"))
    if own["partner"].dtype != other["partner"].dtype:
        raise ParamsError(
            f"sets.join: {params.key} ({own['partner'].dtype}) and {params.other_key} "
            f"({other['partner'].dtype}) are of different types"
        )
    found = own.join(other, on="partner", how="inner", maintain_order="left")
    found = found.drop("partner").rename({new: name for name, new in names.items()})
    lone = own.join(found, on="item_id", how="anti", maintain_order="left")
    if lone.height:
        ctx.warn(f"{lone.height} of {own.height} items have no partner: put aside")
    ctx.metric("n_joined", found.height)
    ctx.metric("n_unmatched", lone.height)
    joined = ctx.select(inputs.data, found.select("item_id"))
    return Outputs(
        joined=joined.with_columns(found) if found.height else joined,
        unmatched=ctx.select(inputs.data, lone.select("item_id")),
    )
