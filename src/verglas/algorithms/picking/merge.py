"""Bring the picks of several pickers in one micrograph together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

__all__ = ["Clusters", "merge_picks", "picker_variances", "weighted_positions"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Clusters:
    """Places that at least one picker found.

    Attributes:
        position: `[n, 2]` (x, y), mean of the picks, in their unit.
        member: `[n, p]`, which pick of each picker belongs to the place; -1 where it found none.
    """

    position: Floats
    member: Ints


def _pairs(points: Floats, picker: Ints, radius: float) -> Ints:
    """Pairs of points of different pickers within a radius, nearest first."""
    if len(points) < 2:
        return np.empty((0, 2), np.int64)
    pairs = cKDTree(points).query_pairs(radius, output_type="ndarray")
    pairs = pairs[picker[pairs[:, 0]] != picker[pairs[:, 1]]]
    distance = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    return np.asarray(pairs[np.argsort(distance, kind="stable")], np.int64)


def merge_picks(picks: Sequence[Floats], *, radius: float) -> Clusters:
    """Join picks of different pickers that lie close together, nearest pairs first.

    A place takes at most one pick of each picker, and no pick joins whose distance from the mean
    of the place exceeds the radius.

    Args:
        picks: `[n_p, 2]` for each picker.
        radius: in the unit of the picks.
    """
    n_pickers = len(picks)
    points = np.concatenate([np.asarray(p, np.float64).reshape(-1, 2) for p in picks])
    counts = [len(p) for p in picks]
    picker = np.repeat(np.arange(n_pickers), counts)
    own = np.concatenate([np.arange(n) for n in counts]) if n_pickers else np.empty(0, int)
    group = np.arange(len(points))
    members = [[i] for i in range(len(points))]
    for a, b in _pairs(points, picker, radius):
        first, second = group[a], group[b]
        if first == second:
            continue
        joined = members[first] + members[second]
        if len({picker[i] for i in joined}) < len(joined):
            continue
        spread = points[joined] - points[joined].mean(axis=0)
        if np.hypot(*spread.T).max() > radius:
            continue
        members[first] = joined
        members[second] = []
        group[joined] = first
    filled = [group_members for group_members in members if group_members]
    table = np.full((len(filled), n_pickers), -1, np.int64)
    position = np.empty((len(filled), 2))
    for row, group_members in enumerate(filled):
        table[row, picker[group_members]] = own[group_members]
        position[row] = points[group_members].mean(axis=0)
    return Clusters(position, table)


def picker_variances(offsets: Floats, is_there: NDArray[np.bool_]) -> Floats:
    """Variance of each picker's positions, from how they differ among each other.

    Args:
        offsets: `[n, p, 2]`, picks from the mean of their place; any value where there is none.
        is_there: `[n, p]`.

    Returns:
        `[p]`, of one coordinate, never below a twentieth of the mean; equal for two pickers,
        whose difference cannot tell which of them is off.

    References:
        Grubbs 1948, doi:10.1214/aoms/1177730194.
    """
    n_pickers = offsets.shape[1]
    rows, values = [], []
    for a in range(n_pickers):
        for b in range(a + 1, n_pickers):
            both = is_there[:, a] & is_there[:, b]
            if both.sum() >= 5:
                difference = (offsets[both, a] - offsets[both, b]).ravel()
                row = np.zeros(n_pickers)
                row[[a, b]] = 1.0
                rows.append(row)
                # the median stands up to pairs that are not the same particle
                values.append((np.median(np.abs(difference)) / 0.6745) ** 2)
    if len(rows) < 3:
        return np.ones(n_pickers)
    variance = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    level = max(float(np.mean(variance)), 1e-12)
    found: Floats = np.clip(variance, 0.05 * level, None)
    return found


def weighted_positions(points: Floats, is_there: NDArray[np.bool_], variance: Floats) -> Floats:
    """Average the picks of each place by the inverse of their pickers' variance.

    Args:
        points: `[n, p, 2]`.
        is_there: `[n, p]`.
        variance: `[p]`.
    """
    weight = is_there / variance
    total = (np.where(is_there[..., None], points, 0.0) * weight[..., None]).sum(axis=1)
    mean: Floats = total / weight.sum(axis=1, keepdims=True)
    return mean
