"""What set operations share: which rows are the same item, and optics groups without collisions."""

from collections.abc import Collection, Sequence
from typing import Literal

import polars as pl

from verglas.core.errors import ParamsError, PortError
from verglas.model import DataSet
from verglas.sdk import Context

__all__ = [
    "check_same_kind",
    "identity_of",
    "link_micrographs",
    "matching_items",
    "merge_optics",
    "renumber",
]

_IDENTITY = {
    "movies": ("image_path",),
    "micrographs": ("image_path", "image_slice"),
    "particles": ("image_path", "image_slice"),
    "classes2d": ("image_path", "image_slice"),
    "volumes": ("image_path",),
    "masks": ("image_path",),
    "coordinates": ("micrograph_path", "coord_x_angst", "coord_y_angst"),
    "atoms": ("atoms_path",),
}


def check_same_kind(sets: Sequence[DataSet], protocol: str) -> None:
    """Raise a `PortError` that names the sets unless all are of one kind."""
    strangers = [data for data in sets if data.kind.id != sets[0].kind.id]
    if strangers:
        raise PortError(
            f"{protocol} takes sets of one kind: got {sets[0].name} and {strangers[0].name}",
            "sets.join brings columns from a set of another kind",
        )


def identity_of(sets: Sequence[DataSet], given: Collection[str], protocol: str) -> list[str]:
    """Name the columns that say which rows are the same item.

    Args:
        sets: that must all have them.
        given: by a person; empty takes what identifies an item of the kind.
        protocol: id, for messages.
    """
    names = list(given) or list(_IDENTITY.get(sets[0].kind.id, ("item_id",)))
    for data in sets:
        missing = [name for name in names if name not in data.columns]
        if missing:
            raise ParamsError(
                f"{protocol} same_by: {data.name} has no column {', '.join(missing)}",
                f"its columns are {', '.join(data.columns)}",
            )
    return names


def merge_optics(sets: Sequence[DataSet]) -> tuple[pl.DataFrame, list[dict[int, int]]]:
    """Put optics tables together: equal groups become one, others keep or get a free number.

    Returns:
        The table, and for each set the new number of each of its groups.
    """
    groups: dict[tuple[tuple[str, object], ...], int] = {}
    rows: list[dict[str, object]] = []
    renamed: list[dict[int, int]] = []
    for data in sets:
        new_of: dict[int, int] = {}
        for row in data.optics.sort("optics_group").to_dicts():
            old = int(row.pop("optics_group"))
            constants = tuple(
                (name, tuple(value) if isinstance(value, list) else value)
                for name, value in sorted(row.items())
                if value is not None
            )
            taken = set(groups.values())
            if constants not in groups:
                groups[constants] = old if old not in taken else max(taken) + 1
                rows.append({"optics_group": groups[constants], **row})
            new_of[old] = groups[constants]
        renamed.append(new_of)
    if not rows:
        return pl.DataFrame(schema={"optics_group": pl.Int64}), renamed
    return pl.DataFrame(rows, infer_schema_length=None), renamed


def renumber(rows: pl.DataFrame, taken: set[int]) -> pl.DataFrame:
    """Give rows whose `item_id` is taken the next free one; the others keep theirs."""
    own = rows["item_id"].to_list()
    following = max(max(taken, default=-1), max(own, default=-1)) + 1
    ids = []
    for item_id in own:
        is_taken = item_id in taken
        ids.append(following if is_taken else item_id)
        following += is_taken
    return rows.with_columns(item_id=pl.Series(ids, dtype=pl.Int64))


def link_micrographs(
    rows: pl.DataFrame, micrographs: DataSet | None
) -> tuple[pl.DataFrame, int, list[str]]:
    """Make `micrograph_id` mean one micrograph.

    Args:
        rows: with `micrograph_id` and `micrograph_path`.
        micrographs: whose ids count; None gives another number where a number means two paths.

    Returns:
        The rows, how many micrographs were given another number, and the paths not among
        `micrographs`.
    """
    paths = rows.select("micrograph_path", "micrograph_id").unique(
        "micrograph_path", keep="first", maintain_order=True
    )
    if micrographs is None:
        numbered = renumber_repeats(paths["micrograph_id"])
    else:
        own = micrographs.rows(["item_id", "image_path"]).rename({"image_path": "micrograph_path"})
        joined = paths.join(
            own.unique("micrograph_path", keep="first"), on="micrograph_path", how="left",
            maintain_order="left",
        )  # fmt: skip
        numbered = joined["item_id"]
    n_changed = int((numbered != paths["micrograph_id"]).fill_null(value=False).sum())
    strangers = paths.filter(numbered.is_null())["micrograph_path"].to_list()
    table = paths.select("micrograph_path", micrograph_id=numbered).drop_nulls("micrograph_id")
    order = rows.columns
    rows = rows.drop("micrograph_id").join(
        table, on="micrograph_path", how="inner", maintain_order="left"
    )
    return rows.select(order), n_changed, strangers


def renumber_repeats(numbers: pl.Series) -> pl.Series:
    """Keep the first of each number and give the repeats the next free ones."""
    following = int(str(numbers.max() or 0)) + 1
    seen: set[int] = set()
    found = []
    for number in numbers:
        is_repeat = number in seen or number is None
        found.append(following if is_repeat else number)
        following += is_repeat
        seen.add(found[-1])
    return pl.Series("micrograph_id", found, dtype=pl.Int64)


def matching_items(
    ctx: Context,
    data: DataSet,
    others: Sequence[DataSet],
    same_by: Sequence[str],
    *,
    kept: Literal["in all", "in none"],
    needed_by: str,
) -> pl.DataFrame:
    """Choose the items of a set that all of some others have, or that none has: their ids.

    Args:
        ctx: of the job; gets the number, and a warning where nothing is left.
        data: to choose from.
        others: that say what is kept.
        same_by: columns that tell items apart; empty takes those that do for the kind.
        kept: which items.
        needed_by: protocol, for messages.
    """
    sets = [data, *others]
    check_same_kind(sets, needed_by)
    columns = identity_of(sets, tuple(same_by), needed_by)
    rows = data.rows(dict.fromkeys(("item_id", *columns)))
    for other in others:
        how: Literal["semi", "anti"] = "semi" if kept == "in all" else "anti"
        rows = rows.join(other.rows(columns), on=columns, how=how, maintain_order="left")
    ctx.metric("n_items", rows.height)
    if not rows.height:
        what = "no item is in all sets" if kept == "in all" else "no item is left"
        ctx.warn(f"{what}, compared by {', '.join(columns)}")
    return rows.select("item_id")
