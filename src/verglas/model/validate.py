"""Check tables against the declared columns, and data sets against what is asked of them."""

from collections.abc import Collection, Iterable

import polars as pl

from verglas.core.errors import FormatError, PortError
from verglas.model.column import Column, is_foreign
from verglas.model.columns import COLUMNS
from verglas.model.traits import TRAITS, missing_columns

__all__ = ["check_has", "check_ids", "conform"]


def conform(frame: pl.DataFrame, *, what: str) -> pl.DataFrame:
    """Widen a table to the declared types and check names and ranges.

    Null values are allowed everywhere; NaN counts as a value and is out of any range.

    Args:
        frame: rows or optics groups.
        what: name of the table in messages.

    Returns:
        The table, with declared columns in their declared types.
    """
    unknown = [name for name in frame.columns if name not in COLUMNS and not is_foreign(name)]
    if unknown:
        raise FormatError(
            f"{what} has columns that are not declared: {', '.join(unknown)}",
            "declare them in verglas.model.columns, or start foreign ones with 'x_'",
        )
    declared = [COLUMNS[name] for name in frame.columns if name in COLUMNS]
    try:
        frame = frame.with_columns(pl.col(column.name).cast(column.dtype) for column in declared)
    except pl.exceptions.PolarsError as error:
        raise FormatError(f"{what} has values of the wrong type: {error}") from error
    _check_ranges(frame, declared, what)
    return frame


def check_ids(frame: pl.DataFrame, *, what: str) -> None:
    """Raise unless every row has its own `item_id`."""
    if "item_id" not in frame.columns:
        raise FormatError(f"{what} has no column item_id")
    ids = frame["item_id"]
    if ids.null_count():
        raise FormatError(f"{what} has {ids.null_count()} rows without item_id")
    if ids.n_unique() != frame.height:
        repeated = ids.filter(ids.is_duplicated()).unique().sort().head(3).to_list()
        raise FormatError(f"{what} repeats item_id: got {repeated} more than once, expected once")


def check_has(
    columns: Collection[str], needs: Collection[str], *, what: str, needed_by: str
) -> None:
    """Raise, with advice, unless some columns give all the traits that are needed.

    Args:
        columns: that there are, of rows and optics groups.
        needs: names of traits.
        what: the data set in words, as `data set 'd41' (micrographs)`.
        needed_by: who asks, as a protocol id.
    """
    missing = missing_columns(columns, needs)
    if not missing:
        return
    names = _unique(name for columns in missing.values() for name in columns)
    makers = _unique(maker for need in missing for maker in TRAITS[need].made_by)
    hint = f"run {' or '.join(makers)} first" if makers else None
    raise PortError(f"{what} lacks {', '.join(names)}, needed by {needed_by}", hint)


def _check_ranges(frame: pl.DataFrame, columns: Collection[Column], what: str) -> None:
    bounded = [column for column in columns if column.low is not None or column.high is not None]
    if not bounded or not frame.height:
        return
    wrong = frame.select(~_is_inside(column).all() for column in bounded).row(0)
    for column, is_wrong in zip(bounded, wrong, strict=True):
        if is_wrong:
            value = frame.filter(~_is_inside(column))[column.name][0]
            unit = f" {column.unit}" if column.unit else ""
            raise FormatError(
                f"{what} has {column.name} out of range: got {value!r}{unit}, "
                f"expected {_range_text(column)}{unit}"
            )


def _is_inside(column: Column) -> pl.Expr:
    value = pl.col(column.name)
    low = float("-inf") if column.low is None else column.low
    high = float("inf") if column.high is None else column.high
    return value.is_between(low, high).fill_null(True).alias(column.name)


def _range_text(column: Column) -> str:
    if column.low is None:
        return f"<= {column.high}"
    if column.high is None:
        return f">= {column.low}"
    return f"{column.low} to {column.high}"


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
