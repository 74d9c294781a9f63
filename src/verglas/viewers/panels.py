"""Draw the panels of a viewer for a data set.

A panel that names columns which the data set does not have is left out; one that cannot be
drawn, because a file is gone, says so in its place.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from verglas.core.errors import VerglasError
from verglas.model import DataSet
from verglas.sdk.viewer import (
    Curve,
    Gallery,
    Histogram,
    Image,
    OrientationMap,
    Panel,
    Picks,
    Scatter,
    Slices,
    Table,
    Text,
    Viewer,
    Volume,
)
from verglas.viewers import _image_panels, _volume_panels
from verglas.viewers.curves import curve_pictures
from verglas.viewers.picture import Missing, Picture
from verglas.viewers.plots import (
    Line,
    Mark,
    histogram_picture,
    lines_picture,
    scatter_picture,
)
from verglas.viewers.scene import Scene, TextTable, broken_limits, chosen_row, row_name
from verglas.viewers.spectra import profile_picture
from verglas.viewers.words import axis_title, quantity_text, title_of

__all__ = ["Shown", "best_viewers", "draw_panel", "draw_viewer", "is_news"]

log = logging.getLogger(__name__)

Shown = Picture | TextTable | Missing | str
"""What a panel becomes; a string is a sentence."""

_MOST_ROWS = 12
_MOST_CURVES = 60
_MOST_MARKS = 8
_FEWEST_VALUES = 6
_COMPARED_ROWS = 200


def best_viewers(viewers: Iterable[Viewer], data: DataSet) -> list[Viewer]:
    """Choose the viewers that suit a data set and ask for most of its traits."""
    suitable = [viewer for viewer in viewers if viewer.suits(data)]
    most = max((len(viewer.needs) for viewer in suitable), default=0)
    return [viewer for viewer in suitable if len(viewer.needs) == most]


def is_news(panel: Panel, scene: Scene) -> bool:
    """Say whether a panel would show anything that an input does not show already."""
    names = [name for name in dict.fromkeys(panel.columns) if name in scene.data.columns]
    if not names:
        return True
    rows = scene.data.table.select("item_id", *names).head(_COMPARED_ROWS).collect()
    for before in scene.inputs_of(scene.data.kind.id):
        if not set(names) <= set(before.columns):
            continue
        old = before.table.select("item_id", *names).join(
            rows.lazy().select("item_id"), on="item_id", how="semi"
        )
        if old.collect().sort("item_id").equals(rows.sort("item_id")):
            return False
    return True


def draw_viewer(viewer: Viewer, scene: Scene) -> list[Shown]:
    """Draw those panels of a viewer that the data set has the columns for.

    Args:
        viewer: that suits the data set.
        scene: around it.
    """
    shown: list[Shown] = []
    for number, panel in enumerate(viewer.panels, start=1):
        shown += draw_panel(panel, scene, f"{scene.name}-{number}")
    return shown


def draw_panel(panel: Panel, scene: Scene, name: str) -> list[Shown]:
    """Draw one panel, or say why that is not possible.

    Nothing comes of a panel of an unknown type, of one that lacks its columns, and of one that
    would repeat what an input shows.

    Args:
        panel: of any type.
        scene: around the data set.
        name: prefix of the pictures.
    """
    draw = next((_DRAW[kind] for kind in type(panel).__mro__ if kind in _DRAW), None)
    what = f"{title_of(type(panel).__name__).lower()} of {scene.port}"
    try:
        if draw is None or not scene.data.n_items:
            return []
        if not _required(panel) <= {*scene.data.columns, *scene.data.optics.columns}:
            return []
        if not (_is_framing(panel, scene) or is_news(panel, scene)):
            return []
        return list(draw(panel, scene, name))
    except (VerglasError, OSError) as error:
        return [Missing(what, str(error))]
    except Exception as error:  # a panel may be a plugin's; it must not cost the whole page
        log.warning("%s could not be drawn", what, exc_info=True)
        return [Missing(what, f"{type(error).__name__}: {error}")]


def _required(panel: Panel) -> set[str]:
    """Columns without which a panel shows nothing; captions and list columns may be absent."""
    if isinstance(panel, Gallery):
        return {panel.image}
    if isinstance(panel, Table):
        return set()
    if isinstance(panel, Curve):
        return set(panel.y[:1]) if panel.is_line_per_row else {panel.x, *panel.y[:1]}
    if isinstance(panel, Volume):
        return {panel.volume}
    return set(panel.columns)


def _is_framing(panel: Panel, scene: Scene) -> bool:
    """Whether a gallery shows which of an input's images were chosen."""
    return (
        isinstance(panel, Gallery)
        and scene.data.kind.id in _image_panels.FRAMED_KINDS
        and scene.parent() is not None
    )


def _values(data: DataSet, column: str) -> NDArray[np.float64]:
    return data.rows([column])[column].cast(pl.Float64).fill_null(np.nan).to_numpy()


def _draw_histogram(panel: Histogram, scene: Scene, name: str) -> list[Shown]:
    groups = {
        port: _values(data, panel.x)
        for port, data in scene.sets.items()
        if panel.x in data.columns and data.n_items
    }
    if sum(np.isfinite(values).sum() for values in groups.values()) < _FEWEST_VALUES:
        return []
    return [histogram_picture(groups, panel.x, name)]


def _draw_scatter(panel: Scatter, scene: Scene, name: str) -> list[Shown]:
    groups, marks = {}, []
    for port, data in scene.sets.items():
        if not {panel.x, panel.y} <= set(data.columns) or not data.n_items:
            continue
        groups[port] = (_values(data, panel.x), _values(data, panel.y))
        if port != scene.port:
            rows = data.table.head(_MOST_MARKS).collect().iter_rows(named=True)
            marks += [mark for row in rows if (mark := _mark(panel, row, scene.params))]
    return [scatter_picture(groups, (panel.x, panel.y), name, marks=marks)]


def _mark(panel: Scatter, row: Mapping[str, Any], params: Mapping[str, Any]) -> Mark | None:
    """Name a point that was put aside by what was wrong with it."""
    x, y = row[panel.x], row[panel.y]
    if x is None or y is None:
        return None
    why = "; ".join(broken_limits(row, params))
    return Mark(x, y, f"{row_name(row)}\n{why}" if why else row_name(row))


def _draw_curve(panel: Curve, scene: Scene, name: str) -> list[Shown]:
    if panel.is_line_per_row:
        rows = scene.data.table.head(_MOST_CURVES).collect().to_dicts()
        return list(curve_pictures(rows, name))
    row = chosen_row(scene.data)
    x = np.asarray(row[panel.x], dtype=np.float64)
    columns = {
        column: np.asarray(row[column], dtype=np.float64)
        for column in panel.y
        if row.get(column) is not None
    }
    if "profile_power" in columns and "profile_ctf2" in columns:
        return [
            profile_picture(
                x,
                name,
                power=columns["profile_power"],
                ctf2=columns["profile_ctf2"],
                quality=columns.get("profile_score"),
                fit_res_angst=row.get("fit_res_angst"),
                title=row_name(row),
            )
        ]
    lines = [Line(title_of(column), x, y) for column, y in columns.items()]
    alt = f"Curves of {row_name(row)}: {', '.join(line.label for line in lines)}"
    return [
        lines_picture(
            lines,
            name,
            x_label=axis_title(panel.x),
            y_label="value",
            alt=alt,
            is_frequency=panel.x.endswith("_per_angst"),
        )
    ]


def _draw_table(panel: Table, scene: Scene, name: str) -> list[Shown]:
    del name
    available = {*scene.data.columns, *scene.data.optics.columns}
    columns = [column for column in panel.shown if column in available]
    if not columns:
        return []
    rows = scene.data.with_optics().select(columns).head(_MOST_ROWS).collect()
    texts = [
        tuple(quantity_text(column, value) for column, value in zip(columns, row, strict=True))
        for row in rows.iter_rows()
    ]
    n_more = scene.data.n_items - len(texts)
    caption = f"{n_more} more rows are not shown." if n_more else ""
    return [TextTable(tuple(title_of(column) for column in columns), tuple(texts), caption)]


def _draw_text(panel: Text, scene: Scene, name: str) -> list[Shown]:
    del name
    row = scene.data.with_optics().head(1).collect().row(0, named=True)
    shown = {column: quantity_text(column, value) for column, value in row.items()}
    return [panel.text.format_map(shown)]


_DRAW: dict[type, Callable[[Any, Scene, str], Iterable[Shown]]] = {
    Table: _draw_table,
    Text: _draw_text,
    Histogram: _draw_histogram,
    Scatter: _draw_scatter,
    Curve: _draw_curve,
    Gallery: _image_panels.draw_gallery,
    Image: _image_panels.draw_image,
    Picks: _image_panels.draw_picks,
    OrientationMap: _volume_panels.draw_orientations,
    Slices: _volume_panels.draw_slices,
    Volume: _volume_panels.draw_surface,
}
