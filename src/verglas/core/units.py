"""Keep the closed list of unit suffixes and the few factors between units.

A dimensional quantity ends in its unit everywhere (docs/conventions.md, section 1), so the
unit of a column, a parameter or an argument can be read from its name.
"""

from dataclasses import dataclass

__all__ = ["ANGST_PER_MM", "ANGST_PER_UM", "BYTES_PER_GB", "UNITS", "Unit", "unit_of"]

ANGST_PER_MM = 1e7
ANGST_PER_UM = 1e4  # defocus is shown in µm and stored in Å
BYTES_PER_GB = 2**30


@dataclass(frozen=True)
class Unit:
    """One suffix: how it is written in names, and how it is shown to people."""

    suffix: str
    symbol: str
    meaning: str


UNITS: dict[str, Unit] = {
    unit.suffix: unit
    for unit in (
        Unit("_angst", "Å", "ångström"),
        Unit("_per_angst", "1/Å", "inverse ångström"),
        Unit("_angst2", "Å²", "square ångström"),
        Unit("_s", "s", "second"),
        Unit("_deg", "°", "degree"),
        Unit("_mrad", "mrad", "milliradian"),
        Unit("_px", "px", "pixel of the image named"),
        Unit("_gb", "GB", "2^30 bytes"),
        Unit("_kv", "kV", "kilovolt"),
        Unit("_mm", "mm", "millimetre"),
        Unit("_e_per_angst2", "e/Å²", "electrons per square ångström"),
    )
}

_LONGEST_FIRST = sorted(UNITS.values(), key=lambda unit: -len(unit.suffix))


def unit_of(name: str) -> Unit | None:
    """Read the unit from the suffix of a name; None for a dimensionless quantity.

    Args:
        name: of a column, parameter or argument, as `defocus_u_angst`.
    """
    for unit in _LONGEST_FIRST:
        if name.endswith(unit.suffix):
            return unit
    return None
