"""Draw sets of curves: Fourier shell correlations, Guinier plots, and any others."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.palette import GRID, INK, SERIES, SOFT, finish, plot
from verglas.viewers.picture import Picture
from verglas.viewers.plots import Line, draw_line, lines_picture, resolution_axis
from verglas.viewers.words import value_text

__all__ = ["curve_pictures", "fsc_picture", "guinier_picture", "resolution_at"]

_CORRELATION = "correlation"
_GUINIER = "ln amplitude"
_THRESHOLDS = (0.5, 0.143)
# what people look at first comes first; others keep their order behind
_ORDER = ("corrected", "masked", "unmasked", "random phases")
_STYLES: dict[str, dict[str, Any]] = {
    "corrected": {"colour": SERIES[0]},
    "masked": {"colour": SERIES[3]},
    "unmasked": {"colour": SERIES[1]},
    "random phases": {"colour": SERIES[4]},
    "half maps corrected": {"colour": SERIES[2]},
    "expected from half maps": {"colour": SERIES[2], "is_dashed": True, "is_thin": False},
}
_HALF_MAPS = "half maps corrected"


def curve_pictures(rows: Sequence[Mapping[str, Any]], name: str) -> list[Picture]:
    """Draw rows of a set of curves, those of one kind together.

    Args:
        rows: with `label`, `x_per_angst` and `y`; `x`, `x_label`, `y_label`, `source_id` and
            `class_index` where they are known.
        name: prefix of the pictures.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        group = (row.get("source_id"), row.get("x_label") or "", row.get("y_label") or "")
        groups.setdefault(group, []).append(row)
    pictures = []
    for number, ((_, x_label, y_label), members) in enumerate(groups.items(), start=1):
        lines = [line for row in members if (line := _line(row)) is not None]
        if not lines:
            continue
        title = f"{name}-{number}"
        if _CORRELATION in y_label.lower() or "fsc" in y_label.lower():
            pictures.append(fsc_picture(lines, title))
        elif y_label.lower().startswith(_GUINIER):
            pictures.append(guinier_picture(lines, title))
        else:
            has_x = all(row.get("x") is None for row in members)
            pictures.append(
                lines_picture(
                    lines,
                    title,
                    x_label=x_label or "spatial frequency (1/Å)",
                    y_label=y_label or "value",
                    alt="Curves of " + ", ".join(line.label for line in lines),
                    is_frequency=has_x,
                )
            )
    return pictures


def resolution_at(line: Line, threshold: float) -> float | None:
    """Resolution in Å at which a curve first falls below a threshold; None if it does not."""
    below = np.flatnonzero((line.y < threshold) & (line.x > 0))
    if not len(below) or below[0] == 0 or line.y[below[0] - 1] < threshold:
        return None
    i = int(below[0])
    x0, x1, y0, y1 = line.x[i - 1], line.x[i], line.y[i - 1], line.y[i]
    crossing = x0 + (y0 - threshold) / (y0 - y1) * (x1 - x0) if y0 > y1 else x1
    return 1 / float(crossing) if crossing > 0 else None


def fsc_picture(lines: Sequence[Line], name: str) -> Picture:
    """Draw Fourier shell correlations with both thresholds and the resolutions there.

    Args:
        lines: at least one; x in 1/Å.
        name: of the picture.
    """
    ordered = sorted(lines, key=lambda line: _place(line.label))
    texts = []
    with plot(460, 340) as (figure, axes):
        for threshold in _THRESHOLDS:
            axes.axhline(threshold, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
            axes.annotate(
                f"{threshold:g}",
                (1.0, threshold),
                xycoords=("axes fraction", "data"),
                xytext=(3, 0),
                textcoords="offset points",
                va="center",
                fontsize=8.5,
                color=SOFT,
            )
        axes.axhline(0, color=GRID, linewidth=1.2)
        for i, line in enumerate(ordered):
            draw_line(axes, line, SERIES[i % len(SERIES)])
        for line, thresholds in _quoted(ordered):
            texts += _mark_resolutions(axes, line, thresholds)
        highest = max(float(line.x.max()) for line in ordered)
        axes.set(
            xlim=(0, highest),
            ylim=(-0.12, 1.04),
            xlabel="spatial frequency (1/Å)",
            ylabel="Fourier shell correlation",
        )
        resolution_axis(axes)
        axes.legend(loc="upper right")
        names = ", ".join(line.label for line in ordered)
        alt = f"Fourier shell correlation ({names}). {' '.join(texts)}"
        return finish(figure, name, alt=alt, caption=" ".join(texts))


def guinier_picture(lines: Sequence[Line], name: str) -> Picture:
    """Draw the logarithm of the amplitude over squared frequency, with the fitted line.

    Args:
        lines: x in 1/Å; a name with `fit` marks the straight line.
        name: of the picture.
    """
    caption = "Guinier plot of the masked map, the noise taken out."
    with plot(460, 340) as (figure, axes):
        for i, line in enumerate(lines):
            is_fit = "fit" in line.label.lower()
            square = Line(
                line.label,
                line.x**2,
                line.y,
                colour=SERIES[1] if is_fit else SERIES[0],
                is_dashed=is_fit,
            )
            draw_line(axes, square, SERIES[i % len(SERIES)])
            if is_fit and len(line.x) > 1:
                slope = float(np.polyfit(line.x**2, line.y, 1)[0])
                caption += f" The slope gives a B factor of {value_text(round(4 * slope))} Å²."
        axes.set(xlabel="squared spatial frequency (1/Å²)", ylabel="ln amplitude")
        axes.set_xlim(left=0)
        resolution_axis(axes, is_squared=True)
        axes.legend()
        return finish(figure, name, alt=caption, caption=caption)


def _line(row: Mapping[str, Any]) -> Line | None:
    x = row.get("x") if row.get("x") is not None else row.get("x_per_angst")
    if x is None or row.get("y") is None:
        return None
    xs = np.asarray(x, dtype=np.float64)
    ys: NDArray[np.float64] = np.array(
        [np.nan if value is None else value for value in row["y"]], dtype=np.float64
    )
    n = min(len(xs), len(ys))
    if n < 2:
        return None
    label = str(row.get("label") or "curve")
    return Line(label, xs[:n], ys[:n], **_STYLES.get(label, {}))


def _place(label: str) -> tuple[int, str]:
    return (_ORDER.index(label), "") if label in _ORDER else (len(_ORDER), "")


def _quoted(lines: Sequence[Line]) -> list[tuple[Line, tuple[float, ...]]]:
    """Choose the curves whose resolutions are quoted, and at which thresholds.

    Half maps are judged at 0.143 after the mask's part is taken out, a map against a reference
    at 0.5 (Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013).
    """
    by_label = {line.label: line for line in lines}
    if _HALF_MAPS in by_label and "masked" in by_label:
        return [(by_label["masked"], (0.5,)), (by_label[_HALF_MAPS], (0.143,))]
    return [(by_label.get("corrected", lines[0]), _THRESHOLDS)]


def _mark_resolutions(axes: Any, line: Line, thresholds: Sequence[float]) -> list[str]:
    """Mark where a curve passes the thresholds, and say so."""
    texts = []
    for threshold in thresholds:
        resolution = resolution_at(line, threshold)
        if resolution is None:
            continue
        axes.plot([1 / resolution], [threshold], "o", color=line.colour or SERIES[0], markersize=5)
        axes.annotate(
            f"{resolution:.2f} Å",
            (1 / resolution, threshold),
            xytext=(6, 6),
            textcoords="offset points",
            fontsize=9,
            fontweight="bold",
            color=INK,
        )
        texts.append(
            f"{line.label[:1].upper()}{line.label[1:]}: {threshold:g} at {resolution:.2f} Å."
        )
    return texts
