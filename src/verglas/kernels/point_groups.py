"""Point groups in RELION's axes, as numpy arrays: needed where torch is not loaded.

Names are C n, D n, T, O, I1 ... I4; `I` means I2. The n-fold axis is z; D has a 2-fold
along x; T a 3-fold along z; O its 4-folds along x, y, z; I1 and I2 have 2-folds along
x, y, z (they differ by a quarter turn), I3 and I4 a 5-fold along z (and differ by a half turn).
Source of the axes: RELION 5, src/symmetries.cpp.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["group_operators", "parse_symmetry", "split_operators"]

_MAX_FOLD = 99
_Axis = tuple[int, Sequence[float]]
_Matrices = NDArray[np.float64]

_SHORT, _LONG = math.sqrt((5 - math.sqrt(5)) / 10), math.sqrt((5 + math.sqrt(5)) / 10)
_POLYHEDRAL: dict[str, list[_Axis]] = {
    "T": [(3, (0, 0, 1)), (2, (0, math.sqrt(2), 1))],
    "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
    "I1": [(2, (1, 0, 0)), (5, (_LONG, 0, -_SHORT))],
    "I2": [(2, (0, 0, 1)), (5, (_SHORT, 0, _LONG))],
    "I3": [(2, (-_SHORT, 0, _LONG)), (5, (0, 0, 1))],
    "I4": [(2, (_SHORT, 0, _LONG)), (5, (2, 0, 1))],
}
_ORDERS = {"T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def parse_symmetry(name: str) -> str:
    """Normalise the name of a point group, or raise `ValueError`.

    Returns:
        One of `C1` ... `C99`, `D1` ... `D99`, `T`, `O`, `I1` ... `I4`.
    """
    group = name.strip().upper()
    if group == "I":
        return "I2"
    if group in _POLYHEDRAL:
        return group
    match = re.fullmatch(r"([CD])(\d+)", group)
    if match and 1 <= int(match[2]) <= _MAX_FOLD:
        return f"{match[1]}{int(match[2])}"
    raise ValueError(f"point group must be Cn, Dn, T, O, I or I1 ... I4: got {name!r}")


def group_operators(name: str) -> _Matrices:
    """Rotations of a point group.

    Convention: `volume(g r) = volume(r)` for every operator g, which acts on (x, y, z)
    column vectors; a pose `rotation_ref_to_img` is equivalent to `rotation_ref_to_img @ g`.

    Returns:
        `[g, 3, 3]`, the identity first; n, 2 n, 12, 24 or 60 operators.
    """
    group = parse_symmetry(name)
    if group in _POLYHEDRAL:
        generators, order = _POLYHEDRAL[group], _ORDERS[group]
    else:
        fold = int(group[1:])
        generators, order = [(fold, (0, 0, 1))], fold
        if group[0] == "D":
            generators, order = [*generators, (2, (1, 0, 0))], 2 * fold
    operators = _close([_axis_rotation(fold, axis) for fold, axis in generators])
    assert len(operators) == order, f"{group} closed with {len(operators)} operators"
    return operators


def split_operators(operators: _Matrices) -> tuple[NDArray[np.int64], _Matrices]:
    """Split a group into voxel permutations and what is left to interpolate.

    Args:
        operators: `[g, 3, 3]`, a group, the identity first.

    Returns:
        The signed permutations h `[a, 3, 3]`, and representatives c `[b, 3, 3]`, the identity
        first, such that each operator is one product c h.
    """
    rounded = operators.round()
    exact = rounded[np.abs(operators - rounded).max((1, 2)) < 1e-9]
    remaining, representatives = operators, []
    while len(remaining):
        representatives.append(remaining[0])
        coset = (remaining[0] @ exact).reshape(1, -1, 9)
        gap = np.abs(remaining.reshape(-1, 1, 9) - coset).max(-1).min(1)
        remaining = remaining[gap > 1e-6]
    return exact.astype(np.int64), np.stack(representatives)


def _axis_rotation(fold: int, axis: Sequence[float]) -> _Matrices:
    direction = np.array(axis, float)
    x, y, z = direction / np.linalg.norm(direction)
    angle = 2 * math.pi / fold
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    turn: _Matrices = np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross
    return turn


def _close(generators: list[_Matrices]) -> _Matrices:
    """All products of the generators, each once, in a stable order."""
    operators = np.eye(3)[None]
    frontier = operators
    while len(frontier):
        products = np.concatenate([frontier @ generator for generator in generators])
        fresh: list[_Matrices] = []
        for product in products:
            known = np.concatenate([operators, *[f[None] for f in fresh]])
            if np.abs(known - product).max((1, 2)).min() > 1e-6:
                fresh.append(_clean(product))
        frontier = np.stack(fresh) if fresh else operators[:0]
        operators = np.concatenate([operators, frontier])
    return operators


def _clean(rotation: _Matrices) -> _Matrices:
    """Nearest rotation, with entries that are 0, 1/2 or 1 up to rounding made exact."""
    u, _, vh = np.linalg.svd(rotation)
    nearest: _Matrices = u @ vh
    halves = (nearest * 2).round() / 2
    return np.where(np.abs(nearest - halves) < 1e-12, halves, nearest)
