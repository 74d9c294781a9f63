"""How far and how long Levenberg-Marquardt climbs from a pose, with tensors and without."""

__all__ = [
    "FIRST_DAMPING",
    "LESS",
    "LONGEST_SHIFT_PX",
    "LONGEST_TURN",
    "MORE",
    "SETTLED",
    "WIDEST_SD",
]

FIRST_DAMPING = 1e-2
LESS, MORE = 0.2, 8.0
"""The damping is multiplied by these after a step that helped, and after one that did not."""

SETTLED = 0.05
"""Log units that the next step promises, below which a view has arrived."""

LONGEST_TURN, LONGEST_SHIFT_PX = 0.12, 2.0
"""Of one step, in radians and pixels."""

WIDEST_SD = 0.3
"""Radians; a flatter direction counts as unknown within a cell."""
