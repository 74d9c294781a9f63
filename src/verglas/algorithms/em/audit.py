"""Is what a search leaves out worth anything? A few views are searched again without thrift.

On a grid both searches score the same points, so the ratio of their evidences is the share of
the posterior that the thrifty one kept: its recall. Where a climb follows, evidence is sampled
and cannot tell so finely; there a view counts as found if both end in the same place.
"""

from dataclasses import replace

import torch
from torch import Tensor

from verglas.algorithms.em.expectation import Search, expect
from verglas.algorithms.em.local import Starts
from verglas.algorithms.em.references import References
from verglas.algorithms.views import Views
from verglas.kernels.so3 import pose_distance_deg

__all__ = ["recall_of_search"]

_MORE_CELLS = 4
_MORE_STARTS = 3
_ALL_MASS = 1.0 - 1e-7
_SAME_DEG = 7.5


def recall_of_search(
    views: Views,
    references: References,
    search: Search,
    *,
    shifts_angst: Tensor,
    known: Starts | None = None,
) -> Tensor:
    """Return `[b]`, the share of each view's posterior that a search keeps.

    Args:
        views: a sample.
        references: the maps.
        search: that is audited.
        shifts_angst: `[b, 2]`, present centres.
        known: further starts of the continuous stage.
    """
    polish = search.polish
    if polish is not None:
        polish = replace(polish, n_starts=_MORE_STARTS * polish.n_starts)
    generous = replace(
        search, max_cells=_MORE_CELLS * search.max_cells, kept_mass=_ALL_MASS, polish=polish
    )
    n_groups = int(views.group.max()) + 1
    (found, _), (whole, _) = (
        expect(views, references, how, n_groups=n_groups, shifts_angst=shifts_angst, known=known)
        for how in (search, generous)
    )
    if polish is None:
        return (found.loglik - whole.loglik).clamp_max(0.0).exp()
    operators = search.operators
    if operators is None:
        operators = torch.eye(3, dtype=torch.float64)[None]
    apart = pose_distance_deg(
        found.rotation_ref_to_img.double(), whole.rotation_ref_to_img.double(), operators
    )
    return (apart < _SAME_DEG).double()
