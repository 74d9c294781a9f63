"""Sentences for the Methods paragraph: positions of particles and what becomes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.viewers.methods import MethodStep

__all__ = ["PICKING_SENTENCES"]


def _from_particles(step: MethodStep) -> str:
    n = step.n_out("coordinates")
    found = f"{count_text(n, 'coordinates')} were" if n is not None else "Coordinates were"
    return (
        f"{found} recentred by the shifts of the aligned particles"
        f"{step.text(' (median move {})', 'median_move_angst')}."
    )


PICKING_SENTENCES: dict[str, Callable[[MethodStep], str]] = {
    "coordinates.from_particles": _from_particles,
}
"""What is said of each protocol."""
