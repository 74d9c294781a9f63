"""Is what a search leaves out worth anything? A few views are searched again, twice as widely.

On a grid both searches score the same points, so the ratio of their evidences is the share of
the posterior that the narrower one kept: its recall. Where a climb follows, evidence is sampled
and cannot tell so finely; there a view that ends in the same place counts as found, and the
ratio says what another one kept. A search that keeps too little is widened until twice as
much finds no more.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.expectation import Search, expect
from verglas.algorithms.em.local import Starts
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.views import Views
from verglas.kernels.so3 import pose_distance_deg

__all__ = ["WIDEST", "Audit", "audit_search"]

WIDEST = 16
"""A search is made so many times wider than planned at most."""

_MOST_STARTS = 4  # times those planned; their distances take memory by the square

_SAME_DEG = 7.5


@dataclass(frozen=True)
class Audit:
    """How wide a search must be, and what it keeps then.

    Attributes:
        width: factor for `Search.widened`.
        recall: `[b]`, share of each view's posterior that it keeps.
        planned: `[b]`, the same for the first width tried.
    """

    width: int
    recall: Tensor
    planned: Tensor


def audit_search(
    views: Views,
    references: References,
    search: Search,
    *,
    shifts_angst: Tensor,
    known: Starts | None = None,
    width: int = 1,
    wanted: float = 0.98,
) -> Audit:
    """Widen a search, twice at a time, until twice its width finds no more.

    Args:
        views: a sample.
        references: the maps.
        search: as planned.
        shifts_angst: `[b, 2]`, present centres.
        known: further starts of the continuous stage.
        width: to begin with.
        wanted: mean recall.
    """
    n_groups = int(views.group.max()) + 1

    def found(factor: int) -> Poses:
        wide = search.widened(factor)
        return expect(
            views, references, wide, n_groups=n_groups, shifts_angst=shifts_angst, known=known
        )[0]

    widest = WIDEST if search.polish is None else _MOST_STARTS
    here, planned = found(width), None
    while True:
        wider = found(2 * width)
        recall = _recall(here, wider, search)
        planned = recall if planned is None else planned
        if float(recall.mean()) >= wanted or width >= widest:
            return Audit(width, recall, planned)
        here, width = wider, 2 * width


def _recall(found: Poses, wider: Poses, search: Search) -> Tensor:
    kept = (found.loglik - wider.loglik).clamp_max(0.0).exp()
    if search.polish is None:
        return kept
    operators = search.operators
    if operators is None:
        operators = torch.eye(3, dtype=torch.float64, device=found.loglik.device)[None]
    apart = pose_distance_deg(
        found.rotation_ref_to_img.double(), wider.rotation_ref_to_img.double(), operators
    )
    return torch.where(apart < _SAME_DEG, 1.0, kept)
