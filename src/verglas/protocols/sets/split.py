"""Split a data set into parts.

Into parts of equal size or of given shares, at random or in order; or into one part for each value
of a column, as `half_set` or `class_index`. Items with the same value of `keep_together`, as the
particles of one micrograph, never come apart.
"""

import numpy as np
import polars as pl
from pydantic import model_validator

from verglas.core.errors import ParamsError
from verglas.model import ANY, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["Inputs", "Outputs", "SplitParams", "run"]

_MOST_PARTS = 200


class SplitParams(Params):
    """How many parts, of what size."""

    n_parts: int = param(2, ge=1, le=_MOST_PARTS, help="Number of parts of about equal size.")
    shares: tuple[float, ...] = param(
        (), help="Shares of the parts instead, as 0.9 0.1; scaled to a sum of 1."
    )
    by_column: str = param("", help="Make a part for each value of this column instead.")
    keep_together: str = param(
        "", help="Items with equal values of this column stay together, as micrograph_id."
    )
    in_order: bool = param(False, help="Cut the list into stretches instead of at random.")

    @model_validator(mode="after")
    def _shares_are_positive(self) -> "SplitParams":
        if any(share <= 0 for share in self.shares):
            raise ValueError(f"shares must be positive: got {self.shares}")
        if self.by_column and (self.shares or self.keep_together):
            raise ValueError("give by_column, or shares and keep_together, not both")
        return self


class Inputs(Ports):
    """The set to split."""

    data: DataSet = port(ANY)


class Outputs(Ports):
    """The parts, in order."""

    parts: list[DataSet] = port(ANY, many=True)


def _by_value(rows: pl.DataFrame, column: str) -> list[pl.DataFrame]:
    parts = rows.sort(column, nulls_last=True, maintain_order=True).partition_by(
        column, maintain_order=True
    )
    if len(parts) > _MOST_PARTS:
        raise ParamsError(
            f"sets.split by_column {column!r} has {len(parts)} values, expected at most "
            f"{_MOST_PARTS}",
            "cut a range of values with sets.filter",
        )
    return parts


def _by_share(
    rows: pl.DataFrame, column: str, shares: list[float], rng: np.random.Generator | None
) -> list[pl.DataFrame]:
    """Deal groups out so that each part comes near its share."""
    rows = rows.select(group=column, member="item_id")
    groups = rows.group_by("group", maintain_order=True).agg("member", n=pl.len())
    order = np.arange(groups.height) if rng is None else rng.permutation(groups.height)
    counts = groups["n"].to_numpy()[order]
    middle = (np.cumsum(counts) - 0.5 * counts) / max(1, counts.sum())
    edges = np.cumsum(shares)[:-1] / sum(shares)
    part = np.empty(groups.height, dtype=np.int64)
    part[order] = np.searchsorted(edges, middle, side="right")
    groups = groups.with_columns(part=pl.Series(part))
    return [
        groups.filter(part=i).select(item_id="member").explode("item_id")
        for i in range(len(shares))
    ]


@protocol("sets.split", version=1, label="Split a set")
def run(ctx: Context, params: SplitParams, inputs: Inputs) -> Outputs:
    """Deal the items out."""
    data = inputs.data
    column = params.by_column or params.keep_together or "item_id"
    if column not in data.columns:
        name = "by_column" if params.by_column else "keep_together"
        raise ParamsError(
            f"sets.split {name}: {data.name} has no column {column!r}",
            f"its columns are {', '.join(data.columns)}",
        )
    rows = data.rows(dict.fromkeys(("item_id", column)))
    if params.by_column:
        parts = _by_value(rows, column)
    else:
        rng = None if params.in_order else np.random.default_rng([ctx.seed, 0x5E75])
        parts = _by_share(rows, column, list(params.shares) or [1.0] * params.n_parts, rng)
    n_empty = sum(not part.height for part in parts)
    if n_empty:
        ctx.warn(f"{n_empty} of {len(parts)} parts are empty: there are too few items")
    ctx.metric("n_parts", len(parts))
    return Outputs(parts=[ctx.select(data, part.select("item_id")) for part in parts])
