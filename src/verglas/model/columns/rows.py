"""Declare the columns that a row of any kind may have."""

from verglas.model.column import FLOAT, INT, TEXT, Column

__all__ = ["ROW"]

ROW = (
    Column(
        "item_id",
        INT,
        "Number of the row, unique in the data set; kept while the item is the same thing.",
        low=0,
        cryosparc="uid",
    ),
    Column("source_id", INT, "Number of the row that this one was made from.", low=0),
    Column(
        "optics_group",
        INT,
        "Row of the optics table with the constants of the microscope.",
        low=0,
        relion="rlnOpticsGroup",
        cryosparc="ctf/exp_group_id",
    ),
    Column("label", TEXT, "Name of the row for people."),
    Column(
        "score",
        FLOAT,
        "Figure of merit; larger is better.",
        relion="rlnAutopickFigureOfMerit",
        cryosparc="pick_stats/ncc_score",
    ),
)
