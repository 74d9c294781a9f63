"""Read a condition on columns that a person typed, without running any code of theirs.

The grammar is that of a WHERE clause of SQL as polars parses it: comparisons, AND, OR, NOT,
IN, BETWEEN, LIKE, IS NULL, arithmetic and mathematical functions. It knows no files and no tables.
"""

from difflib import get_close_matches

import polars as pl

from verglas.core.errors import ParamsError

__all__ = ["read_condition"]


def read_condition(text: str, schema: pl.Schema, *, owner: str) -> pl.Expr:
    """Parse a condition and check its columns and type.

    Args:
        text: as typed, `fit_res_angst < 6 AND defocus_u_angst BETWEEN 5000 AND 25000`.
        schema: of the table that it will be asked of.
        owner: protocol and parameter, for messages.
    """
    try:
        condition = pl.sql_expr(text)
        names = condition.meta.root_names()
    except pl.exceptions.PolarsError as error:
        raise ParamsError(
            f"{owner}: cannot read {text!r}: {str(error).splitlines()[0]}",
            "write it as score > 0.3 AND defocus_u_angst BETWEEN 5000 AND 25000",
        ) from None
    unknown = [name for name in names if name not in schema]
    if unknown:
        near = get_close_matches(unknown[0], list(schema), n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else f"the columns are {', '.join(schema)}"
        raise ParamsError(f"{owner}: there is no column {unknown[0]!r}", hint)
    if not names:
        raise ParamsError(f"{owner}: {text!r} names no column")
    try:
        found = pl.DataFrame(schema=schema).select(condition).dtypes[0]
    except pl.exceptions.PolarsError as error:
        raise ParamsError(
            f"{owner}: cannot work out {text!r}: {str(error).splitlines()[0]}",
            "columns are " + ", ".join(f"{name} ({schema[name]})" for name in names),
        ) from None
    if found != pl.Boolean:
        raise ParamsError(
            f"{owner}: {text!r} is not true or false: got {found}",
            "compare it with something, as score > 0.3",
        )
    return condition
