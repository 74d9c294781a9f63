"""Plan the search of the next iteration of a refinement from what is resolved now.

Three kinds follow one another. While a view's posterior is broad, grids carry it: a dense one
and a ladder of finer ones. Once it is concentrated in a few cells, a coarse grid only finds
where a continuous climb begins. And when particles no longer jump, the climb begins where they
were. Each is chosen from what the iteration before measured.
"""

import math
from dataclasses import replace
from typing import Protocol

import torch

from verglas.algorithms.em.expectation import Level, Search
from verglas.algorithms.em.polish import Polish
from verglas.algorithms.em.refine_state import RefineConfig
from verglas.algorithms.em.search import shift_grid
from verglas.kernels.so3 import orientation_grid, rotation_from_vector
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "MOST_SEARCHES",
    "Progress",
    "calibration_search",
    "is_concentrated",
    "is_local",
    "next_radius",
    "plan",
]

_COARSEST_STEP_DEG = 7.5
_DENSE_ORDER = 3  # 7.5 degrees
_FINEST_ORDER = 4  # 3.75 degrees; posteriors that are broad need no finer grid
_MANY_ROWS = 6000  # beyond, the dense level is twice as coarse
_CONCENTRATED_DEG = 15.0
_COARSE = 1.2  # resolution of a level that is not the last, in steps at the particle's surface
_COARSE_OF_STARTS = 1.5
_SEARCHES = 2  # of all orientations with a continuous stage, before only the vicinity
MOST_SEARCHES = 5
"""Searches of all orientations with a continuous stage, after which none follows."""
_JUMPED = 0.02  # share of the particles


class Progress(Protocol):
    """What a plan is made from: the state of a refinement, or of a classification.

    Attributes:
        shell: last shell with signal.
        iteration: number of iterations done.
        step_deg: finest angular step of the last iteration.
        effective_cells: median number of orientations that shared a view's posterior.
        shift_prior_angst: standard deviation of shifts.
        n_polished: iterations done that searched all orientations and had a continuous stage.
        jumped: share of the particles whose pose jumped in the last iteration.
    """

    @property
    def shell(self) -> int: ...  # noqa: D102
    @property
    def iteration(self) -> int: ...  # noqa: D102
    @property
    def step_deg(self) -> float: ...  # noqa: D102
    @property
    def effective_cells(self) -> float: ...  # noqa: D102
    @property
    def shift_prior_angst(self) -> float: ...  # noqa: D102
    @property
    def n_polished(self) -> int: ...  # noqa: D102
    @property
    def jumped(self) -> float: ...  # noqa: D102


def is_concentrated(state: Progress) -> bool:
    """Tell whether posteriors filled, on the last grid, no more than a cube of 15 degrees.

    So much a few Gaussians can carry; what is broader needs the grid.
    """
    width_deg = state.effective_cells ** (1 / 3) * state.step_deg
    return state.n_polished > 0 or width_deg < _CONCENTRATED_DEG


def is_local(state: Progress) -> bool:
    """Tell whether the next iteration looks only in the vicinity of known poses.

    That is when particles no longer jump from one peak to another.
    """
    settled = state.n_polished >= _SEARCHES and state.jumped < _JUMPED
    return settled or state.n_polished >= MOST_SEARCHES


def plan(config: RefineConfig, state: Progress, *, final: bool = False) -> Search:
    """Choose the grids of the next iteration.

    The angular step is 0.75 d / D (d the resolution, D the diameter), the distance over
    which likelihoods stay alike; shifts go in steps of d / 4.

    Args:
        config: of the run.
        state: where it stands.
        final: the last iteration, which looks well beyond what is resolved.

    Returns:
        The search; where `is_local`, only its continuous stage is used.
    """
    radius = next_radius(config, state, final=final)
    polished = is_concentrated(state)
    first, last = _orders(config, state) if not polished else _orders_of_starts(config)
    levels = _levels(config, state, first, last, radius, polished=polished)
    generator = torch.Generator().manual_seed(config.seed * 1000 + state.iteration)
    turn = (torch.rand(1, 3, generator=generator, dtype=torch.float64) - 0.5) * math.radians(
        levels[0].step_deg
    )
    grid = orientation_grid(first, symmetry=config.symmetry)
    return Search(
        rotations_ref_to_img=rotation_from_vector(turn)[0] @ grid,
        levels=tuple(levels),
        shift_prior_angst=state.shift_prior_angst,
        max_cells=256 if polished else 64,
        noise_radius_angst=0.5 * config.diameter_angst,
        operators=symmetry_operators(config.symmetry),
        polish=_polish(state, radius, levels[-1].radius) if polished else None,
    )


def calibration_search(config: RefineConfig, state: Progress) -> Search:
    """Choose a dense grid on which the scale of a low-passed map can be told.

    Without symmetry it is twice as coarse as the first of a search: five passes over 200 views
    took 11 CPU seconds on 36,864 orientations.

    Args:
        config: of the run.
        state: where it stands.
    """
    search = plan(config, state)
    level = search.levels[0]
    rotations = search.rotations_ref_to_img
    if len(rotations) > _MANY_ROWS:
        rotations = orientation_grid(_DENSE_ORDER - 1, symmetry=config.symmetry)
        step_deg = 60 / 2 ** (_DENSE_ORDER - 1)
        visible = step_deg / 360 * math.pi * config.diameter_angst * _COARSE
        radius = min(level.radius, max(4, round(config.extent_angst / visible)))
        level = Level(step_deg=step_deg, radius=radius, shifts_angst=level.shifts_angst)
    return replace(search, rotations_ref_to_img=rotations, levels=(level,), polish=None)


def _polish(state: Progress, radius: int, first_radius: int) -> Polish:
    score_radius = min(radius, state.shell + 1)
    return Polish(radius, score_radius, min(first_radius, score_radius))


def next_radius(config: RefineConfig, state: Progress, *, final: bool = False) -> int:
    """Return the last shell used: somewhat beyond what is resolved."""
    margin = config.leaking_shells + 2
    beyond = math.ceil((1.4 if final else 1.25) * state.shell)
    return min(config.max_radius, max(state.shell + margin, beyond))


def _orders(config: RefineConfig, state: Progress) -> tuple[int, int]:
    """Return the HEALPix orders of the dense and of the finest grid."""
    resolution = config.extent_angst / state.shell
    wanted = math.degrees(0.75 * resolution / config.diameter_angst)
    wanted = max(config.finest_step_deg, min(wanted, _COARSEST_STEP_DEG))
    order = math.ceil(math.log2(60 / wanted) - 1e-6)
    return _DENSE_ORDER, min(max(_DENSE_ORDER, order), _FINEST_ORDER)


def _orders_of_starts(config: RefineConfig) -> tuple[int, int]:
    rows = len(orientation_grid(_DENSE_ORDER, symmetry=config.symmetry))
    return _DENSE_ORDER - int(rows > _MANY_ROWS), _DENSE_ORDER


def _levels(
    config: RefineConfig, state: Progress, first: int, last: int, radius: int, *, polished: bool
) -> list[Level]:
    resolution = config.extent_angst / state.shell
    levels: list[Level] = []
    step_before = 0.0
    for order in range(first, last + 1):
        step_deg = 60 / 2**order
        coarse = _COARSE_OF_STARTS if polished else _COARSE
        visible = step_deg / 360 * math.pi * config.diameter_angst * coarse
        exact = order == last and not polished
        level_radius = radius
        if not exact:
            level_radius = min(radius, round(config.extent_angst / max(visible, 0.8 * resolution)))
        step_angst = max(resolution, 0.0 if exact else visible) / 4
        if order == first:
            widest = 2 * step_angst if state.n_polished else 3 * state.shift_prior_angst
            reach = min(config.shift_range_angst, max(widest, 2 * step_angst))
        else:
            reach = max(1.05 * step_angst, 0.75 * step_before)
        step_before = step_angst
        shifts = shift_grid(reach, step_angst)
        levels.append(Level(step_deg=step_deg, radius=level_radius, shifts_angst=shifts))
    return levels
