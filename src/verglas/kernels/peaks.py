"""Local maxima of score maps, thinned by an exclusion radius."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from verglas.core.checks import check_ndim, check_range

__all__ = ["Peaks", "exclude_neighbours", "find_peaks"]


@dataclass(frozen=True)
class Peaks:
    """Peaks of a batch of maps, best first within each map.

    Attributes:
        map_index: `[n]`, int64, ascending.
        position_px: `[n, 2]` (x, y), float64, from the centre of the first pixel.
        score: `[n]`, value at the pixel of the maximum.
    """

    map_index: Tensor
    position_px: Tensor
    score: Tensor


def find_peaks(
    scores: Tensor,
    *,
    min_distance_px: float,
    threshold: float,
    border_px: int = 0,
    max_peaks: int | None = None,
) -> Peaks:
    """Find maxima that are the best within a radius, greedily from the highest.

    A candidate is a pixel not below its 8 neighbours and above the threshold. Positions are
    refined by a parabola through the neighbours in x and in y.

    Args:
        scores: `[b, h, w]`.
        min_distance_px: peaks of one map are at least this far apart.
        threshold: lowest score kept.
        border_px: width of the frame in which no peak is taken.
        max_peaks: most peaks kept per map.

    Returns:
        The peaks of all maps; pixels that are not a number are never peaks.
    """
    check_ndim("scores", scores, 3)
    check_range("min_distance_px", min_distance_px, ge=0)
    check_range("border_px", border_px, ge=0)
    clean = torch.where(torch.isnan(scores), -torch.inf, scores)
    is_peak = (clean >= F.max_pool2d(clean, 3, stride=1, padding=1)) & (clean >= threshold)
    is_peak &= torch.isfinite(clean)
    if border_px:
        inside = F.pad(
            torch.ones_like(is_peak[:, border_px:-border_px, border_px:-border_px]), [border_px] * 4
        )
        is_peak &= inside
    found = [_thin(clean[i], is_peak[i], min_distance_px, max_peaks) for i in range(len(clean))]
    index = torch.cat([torch.full_like(at, i) for i, (at, _) in enumerate(found)])
    y, x = torch.cat([at for at, _ in found]), torch.cat([x for _, x in found])
    position = torch.stack(
        [x + _vertex(clean, index, y, x, 0, 1), y + _vertex(clean, index, y, x, 1, 0)], dim=-1
    )
    return Peaks(index, position, scores[index, y, x])


def exclude_neighbours(
    points_px: NDArray[np.floating], scores: NDArray[np.floating], *, min_distance_px: float
) -> NDArray[np.int64]:
    """Greedily keep the best point, drop all nearer than a distance, and go on.

    Works in rounds: a point that beats all its remaining neighbours is kept and drops them,
    which gives what the one-by-one loop gives. Of equal scores the first is better.

    Args:
        points_px: `[n, d]`.
        scores: `[n]`.
        min_distance_px: points nearer than this compete.

    Returns:
        Indices of the points kept, best first.
    """
    order = np.argsort(-scores, kind="stable")
    if min_distance_px <= 0 or not len(order):
        return order
    from scipy.spatial import cKDTree

    # pairs (better, worse) in rank numbers; the tree counts points at the radius itself
    radius = np.nextafter(min_distance_px, 0)
    pairs = cKDTree(points_px[order]).query_pairs(radius, output_type="ndarray")
    better, worse = pairs.min(1), pairs.max(1)
    undecided, kept = np.ones(len(order), bool), np.zeros(len(order), bool)
    while undecided.any():
        beaten = np.zeros(len(order), bool)
        beaten[worse] = True
        winners = undecided & ~beaten
        kept |= winners
        dropped = np.zeros(len(order), bool)
        dropped[worse[winners[better]]] = True
        undecided &= ~winners & ~dropped
        alive = undecided[better] & undecided[worse]
        better, worse = better[alive], worse[alive]
    return order[kept]


def _thin(
    score: Tensor, is_peak: Tensor, min_distance_px: float, max_peaks: int | None
) -> tuple[Tensor, Tensor]:
    """Rows and columns of the peaks of one map that survive, best first."""
    at = torch.nonzero(is_peak)
    values = score[is_peak].detach().cpu().numpy()
    kept = exclude_neighbours(at.cpu().numpy(), values, min_distance_px=min_distance_px)
    chosen = at[torch.from_numpy(kept[:max_peaks]).to(at.device)]
    return chosen[:, 0], chosen[:, 1]


def _vertex(scores: Tensor, index: Tensor, y: Tensor, x: Tensor, dy: int, dx: int) -> Tensor:
    """Offset of the parabola's vertex along one axis, in [-1/2, 1/2]; 0 at the border."""
    height, width = scores.shape[1:]
    inside = (y >= dy) & (y < height - dy) & (x >= dx) & (x < width - dx)
    before = scores[index, (y - dy).clamp(min=0), (x - dx).clamp(min=0)].double()
    after = scores[index, (y + dy).clamp(max=height - 1), (x + dx).clamp(max=width - 1)].double()
    curvature = before + after - 2 * scores[index, y, x].double()
    usable = inside & (curvature < 0) & torch.isfinite(curvature)
    offset = (before - after) / (2 * torch.where(usable, curvature, -1.0))
    return torch.where(usable, offset, 0.0).clamp(-0.5, 0.5)
