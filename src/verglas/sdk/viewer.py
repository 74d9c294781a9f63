"""Declare how a kind of data set is shown.

    CTF_VIEWER = viewer("micrographs.ctf", MICROGRAPHS, needs=("ctf",), panels=[
        Table(("fit_res_angst", "defocus_u_angst")), Image("spectrum_path")])

A viewer is a list of panels. Page and report know panels, not protocols; a panel names the
columns that it shows, and says nothing of how.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from verglas.model import COLUMNS, DataSet, Kind

__all__ = [
    "Curve",
    "Gallery",
    "Histogram",
    "Image",
    "OrientationMap",
    "Panel",
    "Picks",
    "Scatter",
    "Slices",
    "Table",
    "Text",
    "Viewer",
    "Volume",
    "viewer",
]


@dataclass(frozen=True)
class Panel:
    """Base class of the panels; each names the columns that it shows."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns that the data set must have."""
        names: list[str] = []
        for value in vars(self).values():
            names.extend(value if isinstance(value, tuple) else [value] if value else [])
        return tuple(name for name in names if name in COLUMNS)


@dataclass(frozen=True)
class Table(Panel):
    """Rows and some of their columns."""

    shown: tuple[str, ...]


@dataclass(frozen=True)
class Gallery(Panel):
    """Small images of all rows, best first."""

    image: str = "image_path"
    caption: tuple[str, ...] = ()
    sort_by: str = ""


@dataclass(frozen=True)
class Image(Panel):
    """The image of the chosen row."""

    image: str = "image_path"


@dataclass(frozen=True)
class Picks(Panel):
    """Positions drawn on the micrograph that they lie in."""

    x: str = "coord_x_angst"
    y: str = "coord_y_angst"
    micrograph: str = "micrograph_path"


@dataclass(frozen=True)
class Curve(Panel):
    """Lines over frequency: list columns of the chosen row, or one line per row."""

    x: str
    y: tuple[str, ...]
    is_line_per_row: bool = False


@dataclass(frozen=True)
class Histogram(Panel):
    """How often the values of a column occur."""

    x: str


@dataclass(frozen=True)
class Scatter(Panel):
    """One column against another."""

    x: str
    y: str


@dataclass(frozen=True)
class OrientationMap(Panel):
    """Density of viewing directions."""

    rot: str = "angle_rot_deg"
    tilt: str = "angle_tilt_deg"


@dataclass(frozen=True)
class Slices(Panel):
    """Central slices of a volume."""

    volume: str = "image_path"


@dataclass(frozen=True)
class Volume(Panel):
    """Surface of a volume."""

    volume: str = "image_path"
    threshold: str = ""


@dataclass(frozen=True)
class Text(Panel):
    """A sentence for people; may name columns of the first row in braces."""

    text: str


@dataclass(frozen=True)
class Viewer:
    """How data sets of a kind are shown when they have some traits.

    Attributes:
        id: unique, `kind.what`.
        kind: what a row is.
        panels: in reading order.
        needs: traits beyond those of the kind.
    """

    registry_category: ClassVar[str] = "viewer"

    id: str
    kind: Kind
    panels: tuple[Panel, ...]
    needs: tuple[str, ...] = ()

    def suits(self, data: DataSet) -> bool:
        """Say whether a data set can be shown."""
        return data.kind.id == self.kind.id and data.traits.issuperset(self.needs)


def viewer(id: str, kind: Kind, panels: Sequence[Panel], *, needs: Sequence[str] = ()) -> Viewer:
    """Declare a viewer.

    Args:
        id: unique, `kind.what`.
        kind: what a row is.
        panels: in reading order.
        needs: names of traits beyond those of the kind.
    """
    return Viewer(id, kind, tuple(panels), tuple(needs))
