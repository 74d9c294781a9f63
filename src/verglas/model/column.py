"""Say what a column is: dtype, unit, meaning, range and foreign names.

The columns themselves are declared in `verglas.model.columns`.
"""

from dataclasses import dataclass

import polars as pl

from verglas.core.units import unit_of

__all__ = ["FLOAT", "FLOATS", "FOREIGN_PREFIX", "INT", "TEXT", "Column", "is_foreign"]

INT, FLOAT, TEXT = pl.Int64(), pl.Float64(), pl.String()
FLOATS = pl.List(pl.Float64())

FOREIGN_PREFIX = "x_"
"""Columns of an import that nobody declared are kept under this prefix."""


@dataclass(frozen=True)
class Column:
    """One column of the tables of data sets.

    Attributes:
        name: with its unit suffix.
        dtype: as stored; narrower numbers are widened on writing.
        meaning: one sentence for people.
        low, high: valid range, both ends allowed; None leaves the side open.
        relion: STAR label without the underscore; empty where RELION has none.
        cryosparc: field of a `.cs` file; empty where cryoSPARC has none.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    low: float | None = None
    high: float | None = None
    relion: str = ""
    cryosparc: str = ""

    @property
    def unit(self) -> str:
        """Give the symbol of the unit; empty for a dimensionless quantity."""
        unit = unit_of(self.name)
        return unit.symbol if unit else ""


def is_foreign(name: str) -> bool:
    """Say whether a column was kept from an import without being declared."""
    return name.startswith(FOREIGN_PREFIX)
