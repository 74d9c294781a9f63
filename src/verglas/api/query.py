"""Look into the table of a data set: filter, sort, page.

A filter is text such as `fit_res_angst < 5`, `class_index in 1,4,7`, `image_path ~ grid2` or
`score is null`; it is parsed and never evaluated as code. Several are joined with "and".
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from verglas.core.errors import ParamsError
from verglas.model import DataSet

__all__ = ["Page", "describe_columns", "parse_filter", "query_page", "select_where"]

_FILTER = re.compile(
    r"\s*(?P<column>\w+)\s*(?P<op><=|>=|!=|==|=|<|>|~|\bin\b|\bis\b)\s*(?P<value>.*?)\s*"
)
_COMPARE: dict[str, Callable[[pl.Expr, Any], pl.Expr]] = {
    "<": lambda column, value: column < value,
    "<=": lambda column, value: column <= value,
    ">": lambda column, value: column > value,
    ">=": lambda column, value: column >= value,
    "=": lambda column, value: column == value,
    "==": lambda column, value: column == value,
    "!=": lambda column, value: column != value,
}


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a table.

    Attributes:
        columns: names.
        rows: one dictionary per row.
        total: rows that pass the filters.
        offset: number of the first row among them.
    """

    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    total: int
    offset: int


def query_page(
    data: DataSet,
    *,
    columns: Sequence[str] | None = None,
    where: Sequence[str] = (),
    sort: str = "",
    is_descending: bool = False,
    offset: int = 0,
    limit: int = 50,
) -> Page:
    """Read a page of a data set's table, optics columns included when named.

    Args:
        data: any data set.
        columns: all of the table by default.
        where: filters, all of which must hold.
        sort: column; rows without a value come last.
        is_descending: largest first.
        offset: first row of the page.
        limit: rows of the page.
    """
    if offset < 0 or limit < 0:
        raise ParamsError(f"page: got offset {offset} and limit {limit}, expected >= 0")
    names = tuple(columns) if columns is not None else data.columns
    frame = _filtered(data, where, extra=[*names, *([sort] if sort else [])])
    total = frame.select(pl.len()).collect().item()
    if sort:
        frame = frame.sort(sort, descending=is_descending, nulls_last=True, maintain_order=True)
    rows = frame.slice(offset, limit).select(names).collect()
    return Page(names, rows.to_dicts(), int(total), offset)


def select_where(data: DataSet, where: Sequence[str]) -> DataSet:
    """Keep the rows that pass filters, as a data set that stores only their ids.

    Args:
        data: any data set.
        where: filters, all of which must hold.
    """
    return data.select(_filtered(data, where, extra=["item_id"]).select("item_id").collect())


def describe_columns(data: DataSet, columns: Sequence[str] | None = None) -> pl.DataFrame:
    """Give smallest, largest and mean value and the number of gaps of each column of numbers.

    Args:
        data: any data set.
        columns: all by default.
    """
    schema = data.table.collect_schema()
    names = [n for n in columns or schema.names() if n in schema and schema[n].is_numeric()]
    frame = data.table.select(names).collect()
    return pl.DataFrame(
        {
            "column": names,
            "low": [_number(frame[name].min()) for name in names],
            "mean": [_number(frame[name].mean()) for name in names],
            "high": [_number(frame[name].max()) for name in names],
            "n_missing": [frame[name].null_count() for name in names],
        },
        schema_overrides={"low": pl.Float64, "mean": pl.Float64, "high": pl.Float64},
    )


def parse_filter(text: str, schema: dict[str, pl.DataType]) -> pl.Expr:
    """Turn a filter's text into an expression.

    Args:
        text: column, operator, value.
        schema: columns that there are, with their types.
    """
    match = _FILTER.fullmatch(text)
    if match is None or match["value"] == "":
        raise ParamsError(
            f"not a filter: got {text!r}, expected a column, an operator and a value",
            "write it as fit_res_angst<5, class_index in 1,4, image_path~grid2 or score is null",
        )
    name, op, value = match["column"], match["op"], match["value"]
    if name not in schema:
        raise ParamsError(f"no column {name!r} to filter by", f"there are {', '.join(schema)}")
    column, dtype = pl.col(name), schema[name]
    if op == "is":
        if value not in ("null", "not null"):
            raise ParamsError(f"filter {text!r}: got {value!r}, expected null or not null")
        return column.is_null() if value == "null" else column.is_not_null()
    if op == "~":
        return column.cast(pl.String).str.contains(value, literal=True)
    if op == "in":
        return column.is_in([_value(part, dtype, text) for part in value.split(",")])
    return _COMPARE[op](column, _value(value, dtype, text))


def _filtered(data: DataSet, where: Sequence[str], *, extra: Sequence[str]) -> pl.LazyFrame:
    """Return the rows that pass; optics columns are joined on only if they are needed."""
    own = dict(data.table.collect_schema())
    named = {*extra, *(m["column"] for m in map(_FILTER.fullmatch, where) if m)}
    frame = data.table if named <= own.keys() else data.with_optics()
    schema = own if named <= own.keys() else dict(frame.collect_schema())
    unknown = [name for name in extra if name not in schema]
    if unknown:
        raise ParamsError(f"no column {unknown[0]!r}", f"there are {', '.join(schema)}")
    filters = [parse_filter(text, schema) for text in where]
    return frame.filter(*filters) if filters else frame


def _value(text: str, dtype: pl.DataType, where: str) -> Any:
    text = text.strip().strip("'\"")
    try:
        if dtype == pl.Boolean:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
        if dtype.is_integer() and re.fullmatch(r"[+-]?\d+", text):
            return int(text)
        return float(text) if dtype.is_numeric() else text
    except (ValueError, KeyError):
        raise ParamsError(f"filter {where!r}: {text!r} is not a value of {dtype}") from None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)
