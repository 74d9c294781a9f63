"""The expectation step of a refinement, as planned."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.algorithms.em.expectation import expect, expect_nearby
from verglas.algorithms.em.local import Starts
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.plan import is_local, plan
from verglas.algorithms.em.references import Poses
from verglas.algorithms.em.refine import references
from verglas.algorithms.em.refine_state import RefineConfig, RefineState
from verglas.algorithms.views import Views

__all__ = ["KnownPoses", "expect_half"]


@dataclass(frozen=True)
class KnownPoses:
    """What the iteration before found; zero before the first.

    Attributes:
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
    """

    rotations_ref_to_img: Tensor
    shifts_angst: Tensor

    def starts(self) -> Starts:
        """Return them as places to start from, of the first reference."""
        n = len(self.shifts_angst)
        return Starts(
            view=torch.arange(n, device=self.shifts_angst.device),
            reference=torch.zeros(n, dtype=torch.long, device=self.shifts_angst.device),
            rotations_ref_to_img=self.rotations_ref_to_img.double(),
            shifts_angst=self.shifts_angst.double(),
        )

    @staticmethod
    def none(n: int) -> "KnownPoses":
        """Return poses that say nothing."""
        eye = torch.eye(3, dtype=torch.float64)
        return KnownPoses(eye.expand(n, 3, 3), torch.zeros(n, 2, dtype=torch.float64))


def expect_half(
    config: RefineConfig,
    state: RefineState,
    views: Views,
    half: int,
    known: KnownPoses,
    *,
    final: bool = False,
) -> tuple[Poses, Sums]:
    """Compare views of one half set with their own map.

    Args:
        config: of the run.
        state: where it stands; its half maps are where the views are.
        views: at least up to the radius of the plan.
        half: 0 or 1.
        known: poses of these views.
        final: the last iteration.

    Returns:
        Poses and sums.
    """
    search = to_device(plan(config, state, final=final).widened(state.width), views.device)
    reference = references(config, state, half, search.radius)
    n_groups = len(state.noise_power)
    if is_local(state):
        return expect_nearby(
            views,
            reference,
            search,
            n_groups=n_groups,
            rotations_ref_to_img=known.rotations_ref_to_img,
            shifts_angst=known.shifts_angst,
        )
    starts = known.starts() if state.n_polished else None
    return expect(
        views,
        reference,
        search,
        n_groups=n_groups,
        shifts_angst=known.shifts_angst,
        known=starts,
    )
