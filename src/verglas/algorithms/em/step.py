"""The expectation step of a refinement, as planned."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.algorithms.em.expectation import expect, expect_nearby
from verglas.algorithms.em.levels import Search
from verglas.algorithms.em.local import Starts
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.plan import is_local, plan
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.em.refine import references
from verglas.algorithms.em.refine_state import RefineConfig, RefineState
from verglas.algorithms.views import Views

__all__ = ["HalfExpectation", "KnownPoses", "expect_half"]


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


@dataclass(frozen=True)
class HalfExpectation:
    """The expectation step of one half set, for any number of blocks of views.

    Attributes:
        state: where the refinement stands.
        search: as planned.
        reference: the half map, ready for slicing.
        sums: what the views so far have said; `add` goes on with them.
    """

    state: RefineState
    search: Search
    reference: References
    sums: Sums

    @staticmethod
    def make(
        config: RefineConfig, state: RefineState, half: int, *, final: bool = False
    ) -> "HalfExpectation":
        """Plan the search and prepare the map, on the device where the state is.

        Args:
            config: of the run.
            state: where it stands.
            half: 0 or 1.
            final: the last iteration.
        """
        device = state.half_maps.device
        search = to_device(plan(config, state, final=final).widened(state.width), device)
        reference = references(config, state, half, search.radius)
        sums = Sums.zeros(
            1,
            len(state.noise_power),
            search.radius,
            padding=config.padding,
            planar=False,
            device=device,
        )
        return HalfExpectation(state, search, reference, sums)

    def add(self, views: Views, known: KnownPoses) -> Poses:
        """Compare views with the map, and add what they say to the sums.

        Args:
            views: at least up to the radius of the search.
            known: poses of these views.
        """
        n_groups = len(self.state.noise_power)
        if is_local(self.state):
            poses, _ = expect_nearby(
                views,
                self.reference,
                self.search,
                n_groups=n_groups,
                rotations_ref_to_img=known.rotations_ref_to_img,
                shifts_angst=known.shifts_angst,
                into=self.sums,
            )
            return poses
        poses, _ = expect(
            views,
            self.reference,
            self.search,
            n_groups=n_groups,
            shifts_angst=known.shifts_angst,
            known=known.starts() if self.state.n_polished else None,
            into=self.sums,
        )
        return poses


def expect_half(
    config: RefineConfig,
    state: RefineState,
    views: Views,
    half: int,
    known: KnownPoses,
    *,
    final: bool = False,
) -> tuple[Poses, Sums]:
    """Compare views of one half set, all at once, with their own map.

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
    step = HalfExpectation.make(config, state, half, final=final)
    return step.add(views, known), step.sums
