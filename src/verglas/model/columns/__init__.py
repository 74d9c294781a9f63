"""Declare every column once: dtype, unit, meaning, range and foreign names.

A new column is added here first (docs/conventions.md, section 1), in the file of its
subject. The unit is read from the suffix of the name. The RELION name is the STAR label
without its underscore; the cryoSPARC name is the field of a `.cs` file. Values are
converted in `verglas.io`.
"""

from verglas.model.column import Column
from verglas.model.columns.coordinate import COORDINATE
from verglas.model.columns.ctf import CTF
from verglas.model.columns.curve import CURVE
from verglas.model.columns.image import IMAGE
from verglas.model.columns.movie import MOVIE
from verglas.model.columns.network import NETWORK
from verglas.model.columns.optics import OPTICS
from verglas.model.columns.pose import POSE
from verglas.model.columns.rows import ROW
from verglas.model.columns.volume import VOLUME

__all__ = ["COLUMNS"]

COLUMNS: dict[str, Column] = {
    column.name: column
    for group in (ROW, OPTICS, IMAGE, MOVIE, CTF, COORDINATE, POSE, VOLUME, CURVE, NETWORK)
    for column in group
}
"""Every declared column by name."""
