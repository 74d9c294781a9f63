"""Draw numbers: how often they occur, one against another, and lines over frequency."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.core.units import ANGST_PER_UM
from verglas.viewers.palette import BAD, SERIES, SOFT, finish, plot
from verglas.viewers.picture import Picture
from verglas.viewers.words import axis_title, count_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = [
    "Line",
    "Mark",
    "draw_line",
    "histogram_picture",
    "in_shown_unit",
    "lines_picture",
    "resolution_axis",
    "scatter_picture",
]

_MOST_DOTS = 4000


@dataclass(frozen=True)
class Line:
    """A curve: name, abscissa and values; `is_thin` for one that only explains."""

    label: str
    x: NDArray[np.floating]
    y: NDArray[np.floating]
    colour: str = ""
    is_dashed: bool = False
    is_thin: bool = False


@dataclass(frozen=True)
class Mark:
    """A point with a text beside it."""

    x: float
    y: float
    text: str


def in_shown_unit(name: str, values: NDArray[np.floating]) -> NDArray[np.floating]:
    """Turn defocus into µm, as people read it; other values stay."""
    return values / ANGST_PER_UM if name.startswith("defocus_") else values


def histogram_picture(
    groups: Mapping[str, NDArray[np.floating]], column: str, name: str, *, caption: str = ""
) -> Picture:
    """Draw how often values occur, groups stacked.

    Args:
        groups: values by name of the group.
        column: that the values are of.
        name: of the picture.
        caption: what to look at.
    """
    from matplotlib.ticker import MaxNLocator

    shown = {g: in_shown_unit(column, v[np.isfinite(v)]) for g, v in groups.items()}
    shown = {group: values for group, values in shown.items() if len(values)}
    everything = np.concatenate(list(shown.values())) if shown else np.zeros(1)
    n_bins = int(np.clip(np.sqrt(len(everything)) * 1.5, 8, 50))
    low, high = np.percentile(everything, (0, 100))
    edges = np.linspace(low, high if high > low else low + 1, n_bins + 1)
    title = axis_title(column)
    with plot(460, 270) as (figure, axes):
        axes.hist(
            list(shown.values()),
            bins=edges.tolist(),
            stacked=True,
            label=list(shown),
            color=list(SERIES[: len(shown)]),
            rwidth=0.92,
        )
        axes.set(xlabel=title, ylabel="number")
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(visible=False, axis="x")
        if len(shown) > 1:
            axes.legend()
        middle = float(np.median(everything))
        text = f"Histogram of {title}, {len(everything)} values, median {middle:.3g}"
        return finish(figure, name, alt=text, caption=caption or f"Median {middle:.3g}.")


def scatter_picture(
    groups: Mapping[str, tuple[NDArray[np.floating], NDArray[np.floating]]],
    columns: tuple[str, str],
    name: str,
    *,
    marks: Sequence[Mark] = (),
    caption: str = "",
) -> Picture:
    """Draw one column against another: dots, or their density when they are many.

    Args:
        groups: x and y by name of the group.
        columns: that x and y are of.
        name: of the picture.
        marks: points that are named.
        caption: what to look at.
    """
    n_all = sum(len(x) for x, _ in groups.values())
    is_square = columns[0].replace("_x_", "_y_") == columns[1] and "_x_" in columns[0]
    if is_square and not caption:
        square = np.concatenate([x * x + y * y for x, y in groups.values()])
        caption = f"Root mean square {np.sqrt(np.nanmean(square)):.2g} Å."
    with plot(460, 360 if is_square else 300) as (figure, axes):
        for colour, (group, (x, y)) in zip(SERIES * 3, groups.items(), strict=False):
            x, y = in_shown_unit(columns[0], x), in_shown_unit(columns[1], y)
            if n_all > _MOST_DOTS or (is_square and n_all > 500):
                _draw_density(axes, x, y)
            else:
                axes.scatter(x, y, s=22, color=colour, label=group, alpha=0.85, linewidths=0)
        for mark in marks:
            x_mark = float(in_shown_unit(columns[0], np.array(mark.x)))
            y_mark = float(in_shown_unit(columns[1], np.array(mark.y)))
            axes.annotate(
                mark.text,
                (x_mark, y_mark),
                xytext=(6, -3),
                textcoords="offset points",
                fontsize=8,
                color=BAD,
                ha="right" if x_mark > np.mean(axes.get_xlim()) else "left",
            )
        axes.set(xlabel=axis_title(columns[0]), ylabel=axis_title(columns[1]))
        if is_square:
            axes.set_aspect("equal", adjustable="datalim")
        if len(groups) > 1:
            axes.legend()
        alt = f"{axis_title(columns[1])} against {axis_title(columns[0])}, {n_all} points"
        return finish(figure, name, alt=alt, caption=caption)


def _draw_density(axes: "Axes", x: NDArray[np.floating], y: NDArray[np.floating]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("density", ["#0f6e8410", "#0f6e84", "#083c49"])
    good = np.isfinite(x) & np.isfinite(y)
    axes.hexbin(
        x[good], y[good], gridsize=45, mincnt=1, cmap=colours, linewidths=0, rasterized=True
    )


def resolution_axis(axes: "Axes", *, is_squared: bool = False) -> None:
    """Write resolutions in Å above an axis of spatial frequencies, or of their squares."""
    low, high = axes.get_xlim()
    highest = max(high, 1e-9) ** 0.5 if is_squared else max(high, 1e-9)
    choices = (
        100,
        50,
        30,
        20,
        15,
        12,
        10,
        8,
        7,
        6,
        5,
        4.5,
        4,
        3.5,
        3,
        2.5,
        2.2,
        2,
        1.8,
        1.5,
        1.2,
        1,
    )
    places: list[float] = []
    labels: list[str] = []
    for value in choices:
        place = value**-2 if is_squared else 1 / value
        gap = (place - places[-1]) / (high - low) if places else 1.0
        if 1 / value <= highest * 1.001 and place >= low and gap > 0.075:
            places.append(place)
            labels.append(f"{value:g}")
    top = axes.secondary_xaxis("top")
    top.set_xticks(places, labels)
    top.set_xlabel("resolution (Å)")
    top.spines["top"].set_visible(False)
    top.tick_params(length=2)


def lines_picture(
    lines: Sequence[Line],
    name: str,
    *,
    x_label: str,
    y_label: str,
    alt: str,
    caption: str = "",
    is_frequency: bool = False,
) -> Picture:
    """Draw curves in one pair of axes.

    Args:
        lines: at least one.
        name: of the picture.
        x_label, y_label: with units.
        alt: what it shows.
        caption: what to look at.
        is_frequency: the abscissa is a spatial frequency; resolutions are written above.
    """
    with plot(460, 300) as (figure, axes):
        for colour, line in zip(SERIES * 4, lines, strict=False):
            draw_line(axes, line, colour)
        axes.set(xlabel=x_label, ylabel=y_label)
        axes.margins(x=0)
        if is_frequency:
            resolution_axis(axes)
        if len(lines) > 1:
            axes.legend()
        return finish(figure, name, alt=alt or count_text(len(lines), "curves"), caption=caption)


def draw_line(axes: "Axes", line: Line, colour: str) -> None:
    """Draw one curve into axes."""
    axes.plot(
        line.x,
        line.y,
        color=line.colour or (SOFT if line.is_thin else colour),
        label=line.label,
        linestyle="--" if line.is_dashed else "-",
        linewidth=1.1 if line.is_thin else 1.7,
    )
