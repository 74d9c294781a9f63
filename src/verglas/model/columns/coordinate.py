"""Declare the columns of positions in micrographs."""

from verglas.model.column import FLOAT, INT, TEXT, Column

__all__ = ["COORDINATE"]

COORDINATE = (
    Column(
        "coord_x_angst",
        FLOAT,
        "Position from the centre of the first pixel, along x.",
        relion="rlnCoordinateX",
        cryosparc="location/center_x_frac",
    ),
    Column(
        "coord_y_angst",
        FLOAT,
        "Position from the centre of the first pixel, along y.",
        relion="rlnCoordinateY",
        cryosparc="location/center_y_frac",
    ),
    Column(
        "micrograph_path",
        TEXT,
        "Micrograph in which the particle lies.",
        relion="rlnMicrographName",
        cryosparc="location/micrograph_path",
    ),
    Column(
        "micrograph_id",
        INT,
        "`item_id` of the micrograph.",
        low=0,
        cryosparc="location/micrograph_uid",
    ),
    Column("diameter_angst", FLOAT, "Diameter of the particle.", low=0),
    Column("n_pickers", INT, "How many pickers found the particle.", low=0),
)
