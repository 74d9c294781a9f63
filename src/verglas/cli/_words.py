"""Write numbers, times and values as a person reads them."""

import math
from typing import Any

from verglas.core.units import unit_of

__all__ = ["duration_text", "metric_text", "number_text", "rate_text", "value_text"]

_LONGEST = 60


def duration_text(seconds: float) -> str:
    """Write a time: `0.4 s`, `12 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def rate_text(rate_per_s: float) -> str:
    """Write a rate: `12/s`, or `4.1 s each` where it is slow."""
    if rate_per_s >= 0.8:
        return f"{number_text(rate_per_s, 2)}/s"
    return f"{duration_text(1 / rate_per_s)} each"


def number_text(value: float, digits: int = 4) -> str:
    """Write a number with so many significant digits, and no exponent where it is readable."""
    if isinstance(value, int) or not math.isfinite(value):
        return str(value)
    if value == round(value) and abs(value) < 1e6:
        return str(round(value))
    if 1e-3 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.{digits}g}"


def value_text(value: Any) -> str:
    """Write any value of a table in one short line."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        text = str(value)
        return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    return number_text(value)


def metric_text(name: str, value: Any) -> str:
    """Write a key number with its unit: `resolution 7.1 Å`."""
    unit = unit_of(name)
    label = name.removesuffix(unit.suffix) if unit else name
    return f"{label.replace('_', ' ')} {value_text(value)}{f' {unit.symbol}' if unit else ''}"
