"""Put data sets of one kind together.

An item that is in several sets is taken once, from the first of them; `same_by` says which
columns tell items apart (by itself image and slice, or place in the micrograph). Optics groups
with equal constants become one, others get numbers of their own. Items keep their `item_id`
unless an earlier set uses it for another item; then they get a free one.

Positions and particles name their micrograph by path and by number. Where the sets were made from
micrographs that were numbered apart, give the union of these as `micrographs`: it says which
number is which.
"""

from typing import Literal

import polars as pl

from verglas.core.errors import PortError
from verglas.model import ANY, MICROGRAPHS, DataSet
from verglas.protocols.sets._rows import (
    check_same_kind,
    identity_of,
    link_micrographs,
    merge_optics,
    renumber,
)
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["Inputs", "Outputs", "UnionParams", "run"]


class UnionParams(Params):
    """Which items are the same, and which columns are kept."""

    same_by: tuple[str, ...] = param(
        (), help="Columns that tell items apart; empty takes those that do for the kind."
    )
    duplicates: Literal["drop", "keep"] = param(
        "drop", help="What becomes of an item that an earlier set has already."
    )
    columns: Literal["common", "all"] = param(
        "common", help="Keep the columns that all sets have, or all with gaps."
    )


class Inputs(Ports):
    """Sets of one kind."""

    sets: list[DataSet] = port(ANY, many=True, help="Two or more sets of one kind.")
    micrographs: DataSet | None = port(
        MICROGRAPHS, optional=True, help="Whose numbers positions and particles are to use."
    )


class Outputs(Ports):
    """All items."""

    union: DataSet = port(ANY)


def _with_groups(data: DataSet, new_of: dict[int, int]) -> pl.DataFrame:
    rows = data.rows()
    if "optics_group" not in rows.columns or not new_of:
        return rows
    return rows.with_columns(pl.col("optics_group").replace(new_of))


def _common(ctx: Context, frames: list[pl.DataFrame]) -> list[pl.DataFrame]:
    """Keep the columns that all frames have, and say which others there were."""
    kept = [name for name in frames[0].columns if all(name in f.columns for f in frames)]
    lost = sorted({name for frame in frames for name in frame.columns} - set(kept))
    if lost:
        ctx.warn(f"columns that not all sets have were left out: {', '.join(lost)}")
    return [frame.select(kept) for frame in frames]


def _stack(frames: list[pl.DataFrame], same_by: list[str], *, drop: bool) -> pl.DataFrame:
    """Put frames one below the other, each item once."""
    whole = frames[0]
    for frame in frames[1:]:
        new = frame.join(whole, on=same_by, how="anti", maintain_order="left") if drop else frame
        new = renumber(new, set(whole["item_id"].to_list()))
        whole = pl.concat([whole, new], how="diagonal_relaxed")
    return whole


@protocol("sets.union", version=1, label="Union of sets")
def run(ctx: Context, params: UnionParams, inputs: Inputs) -> Outputs:
    """Renumber optics groups, then items, then micrographs."""
    sets = inputs.sets
    check_same_kind(sets, "sets.union")
    same_by = identity_of(sets, params.same_by, "sets.union")
    optics, renamed = merge_optics(sets)
    frames = [_with_groups(data, new_of) for data, new_of in zip(sets, renamed, strict=True)]
    if params.columns == "common":
        frames = _common(ctx, frames)
    rows = _stack(frames, same_by, drop=params.duplicates == "drop")
    if {"micrograph_id", "micrograph_path"} <= set(rows.columns):
        n_before = rows.height
        rows, n_changed, strangers = link_micrographs(rows, inputs.micrographs)
        if strangers:
            ctx.warn(
                f"{n_before - rows.height} items lie in {len(strangers)} micrographs that are not "
                f"among those given, as {strangers[0]!r}: left out"
            )
        elif n_changed and inputs.micrographs is None:
            ctx.warn(
                f"{n_changed} micrographs had a number that means another one in an earlier set "
                "and got a new one; give the union of the micrographs to use its numbers"
            )
    elif inputs.micrographs is not None:
        raise PortError(f"sets.union micrographs: {sets[0].name} names no micrographs")
    n_given = sum(data.n_items for data in sets)
    ctx.metric("n_items", rows.height)
    ctx.metric("n_duplicates", n_given - rows.height if params.duplicates == "drop" else 0)
    return Outputs(union=ctx.dataset(sets[0].kind, rows, optics=optics, source=sets[0]))
