"""Write names, numbers and times as a person reads them."""

import math
from collections.abc import Sequence
from typing import Any

from verglas.core.units import unit_of

__all__ = ["axis_title", "count_text", "quantity_text", "seconds_text", "title_of", "value_text"]

EMPTY = "not set"
_WHOLE = {
    "ctf": "CTF",
    "fsc": "FSC",
    "em": "EM",
    "2d": "2D",
    "3d": "3D",
    "res": "resolution",
    "max": "largest",
    "min": "smallest",
    "n": "number of",
    "coord": "position",
    "prob": "probability",
    "05": "at 0.5",
    "0143": "at 0.143",
    "kda": "(kDa)",
}
_LONGEST_LIST = 4
_TWELVE_HOURS_S = 43200


def title_of(name: str) -> str:
    """Turn a name into words: `fit_res_angst` into `Fit resolution`.

    Args:
        name: in snake case; the suffix of its unit is left out.
    """
    unit = unit_of(name)
    stem = name.removesuffix(unit.suffix) if unit else name
    words = [_WHOLE.get(word, word) for word in stem.split("_") if word]
    text = " ".join(words) or name
    return text[:1].upper() + text[1:]


def axis_title(column: str) -> str:
    """Title an axis by a column and its unit; defocus is shown in µm."""
    unit = unit_of(column)
    symbol = "µm" if column.startswith("defocus_") else unit.symbol if unit else ""
    title = title_of(column)
    title = title if title[1:2].isupper() else title[:1].lower() + title[1:]
    return f"{title} ({symbol})" if symbol else title


def value_text(value: Any) -> str:
    """Write a value of a parameter: numbers briefly, lists shortened, empty ones named."""
    if value is None or value == "":
        return EMPTY
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        text = _float_text(value) if isinstance(value, float) else _int_text(value)
        return text.replace("-", "\u2212") if value < 0 else text
    if isinstance(value, Sequence) and not isinstance(value, str):
        return _list_text(value)
    return str(value)


def quantity_text(name: str, value: Any) -> str:
    """Write a value with the unit that the name carries: `fit_res_angst` 4.5, `4.5 Å`."""
    unit = unit_of(name)
    text = value_text(value)
    if unit is None or text == EMPTY or isinstance(value, str):
        return text
    return f"{text}{'' if unit.symbol == '°' else ' '}{unit.symbol}"


def count_text(n_items: int, noun: str) -> str:
    """Write a number of items: `1 micrograph`, `21 140 particles`.

    Args:
        n_items: how many.
        noun: in the plural, as kinds are named.
    """
    names = {
        "classes2d": ("class average", "class averages"),
        "atoms": ("model", "models"),
        "boxes": ("box", "boxes"),
    }
    singular, plural = names.get(noun, (noun.removesuffix("s"), noun))
    return f"{_int_text(n_items)} {singular if n_items == 1 else plural}"


def seconds_text(seconds: float) -> str:
    """Write a time: `0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    minutes, rest = divmod(whole, 60)
    if minutes == 0:
        return f"{rest} s"
    if whole < 3600:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24) if whole > 4 * _TWELVE_HOURS_S else (0, hours)
    return f"{days} d {hours} h" if days else f"{hours} h {minutes} min"


def _int_text(value: int) -> str:
    return f"{value:,}".replace(",", "\u202f") if abs(value) >= 10_000 else str(value)


def _float_text(value: float) -> str:
    if not math.isfinite(value):
        return "none" if math.isnan(value) else ("∞" if value > 0 else "-∞")
    size = abs(value)
    if size >= 10_000:
        return f"{value:,.0f}".replace(",", "\u202f")
    if size >= 1000:
        return f"{value:.0f}" if value == round(value) else f"{value:.1f}"
    return f"{value:.4g}" if size < 100 else f"{value:.5g}"


def _list_text(values: Sequence[Any]) -> str:
    folders = {str(value).rpartition("/")[0] for value in values if isinstance(value, str)}
    if len(folders) == 1 and len(values) > 1 and (folder := folders.pop()):
        names = [str(value).rpartition("/")[2] for value in values]
        return f"{_list_text(names)} in {folder}"
    texts = [value_text(value) for value in values]
    if len(texts) <= _LONGEST_LIST:
        return ", ".join(texts) or "none"
    return f"{texts[0]}, {texts[1]}, … {texts[-1]} ({len(texts)} in all)"
