"""Declare the columns of curves."""

from verglas.model.column import FLOATS, TEXT, Column

__all__ = ["CURVE"]

CURVE = (
    Column("x_per_angst", FLOATS, "Spatial frequencies of a curve."),
    Column("x", FLOATS, "Abscissa of a curve that is not a spatial frequency."),
    Column("y", FLOATS, "Values of a curve."),
    Column("x_label", TEXT, "What the abscissa is, with its unit."),
    Column("y_label", TEXT, "What the values are, with their unit."),
)
