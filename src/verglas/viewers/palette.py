"""Keep the colours of all pictures in one place, and make curves in them.

Curves are drawn by matplotlib twice: as a file on white, and as SVG in which the colours are
replaced by the names that the style sheet gives them, so that a page looks right in the dark.
"""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from verglas.viewers.picture import Picture, Width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ACCENT", "BAD", "GRID", "INK", "SERIES", "SOFT", "WARN", "finish", "plot", "rgb"]

INK, SOFT, GRID, ACCENT = "#1b2730", "#5b6b77", "#e6ebee", "#0f6e84"
WARN, BAD = "#95600a", "#b3362b"
SERIES = ("#0f6e84", "#d9822b", "#7a5ea8", "#3f9b6c", "#c2506a", "#8a949c")
_CSS_NAMES = {
    INK: "--ink",
    SOFT: "--soft",
    GRID: "--grid",
    WARN: "--warn",
    BAD: "--bad",
    **{colour: f"--series-{i}" for i, colour in enumerate(SERIES, start=1)},
}
_STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": SOFT,
    "axes.labelcolor": SOFT,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.prop_cycle": f"cycler('color', {list(SERIES)!r})",
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "xtick.major.width": 0.8,
    "ytick.major.width": 0.8,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.handlelength": 1.6,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "verglas",
    "figure.constrained_layout.use": True,
}
_PX_PER_INCH = 100
_FONT = re.compile(r"font:\s*(?:(?P<weight>bold|\d00)\s+)?(?P<size>[\d.]+px)\s+[^;\"]+")


def rgb(colour: str) -> tuple[int, int, int]:
    """Split a colour such as `#0f6e84` into red, green and blue."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@contextmanager
def plot(
    width_px: int = 460, height_px: int = 300, *, projection: str | None = None
) -> Iterator[tuple["Figure", "Axes"]]:
    """Open a drawing with one pair of axes in the common style.

    Args:
        width_px, height_px: as shown on a page.
        projection: of the axes, as matplotlib names it.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(width_px / _PX_PER_INCH, height_px / _PX_PER_INCH))
        FigureCanvasAgg(figure)
        yield figure, figure.add_subplot(projection=projection)


def finish(
    figure: "Figure", name: str, *, alt: str, caption: str = "", width: Width = "half"
) -> Picture:
    """Turn a drawing into a picture, inside of `with plot()`.

    Args:
        figure: as `plot` gave it.
        name: of the file.
        alt: what it shows.
        caption: what to look at.
        width: share of the page.
    """
    png, svg = io.BytesIO(), io.StringIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    figure.set_layout_engine("none")  # it stays as it was worked out for the first
    figure.savefig(png, format="png", dpi=2 * _PX_PER_INCH, facecolor="white")
    width_px = round(figure.get_figwidth() * _PX_PER_INCH)
    text = _themed(svg.getvalue(), name, alt)
    return Picture(name, png.getvalue(), alt, caption, width_px, text, width)


def _themed(svg: str, name: str, alt: str) -> str:
    """Make matplotlib's SVG part of a page: own ids, the page's colours and letters."""
    from html import escape

    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    # its style sheet would hold for the whole page; the same as attributes holds for itself
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="|href="|url\()#', rf"\1#{name}-", svg)
    for colour, variable in _CSS_NAMES.items():
        svg = re.sub(rf"{colour}\b", f"var({variable})", svg, flags=re.IGNORECASE)
    svg = _FONT.sub(_font, svg)
    return re.sub(
        r'<svg ([^>]*?)width="[^"]*"([^>]*)>',
        rf'<svg \1\2 stroke-linejoin="round" role="img" aria-label="{_literal(escape(alt))}">',
        re.sub(r'(<svg [^>]*?)height="[^"]*"', r"\1", svg, count=1),
        count=1,
    )


def _font(match: "re.Match[str]") -> str:
    weight = f"; font-weight: {match['weight']}" if match["weight"] else ""
    return f"font-size: {match['size']}{weight}"


def _literal(text: str) -> str:
    return text.replace("\\", "\\\\")
