"""One comparison of views with a candidate map, on the grids of a stage.

A coarse grid is scored whole. Of a finer one only the children of those coarse cells are
scored that are likely at low resolution.
"""

import math
from dataclasses import dataclass, replace
from typing import TypedDict

import torch
from torch import Tensor

from verglas.algorithms.em.candidate import Candidate
from verglas.algorithms.em.cells import Cells, likeliest_rows, likely_children
from verglas.algorithms.em.dense import (
    Bank,
    DenseSums,
    DenseViews,
    dense_evidence,
    dense_expectation,
)
from verglas.algorithms.em.first_map_plan import COARSEST_ORDER, FirstMapConfig, Stage
from verglas.algorithms.em.noise import noise_window
from verglas.algorithms.em.pruned import pruned_expectation
from verglas.algorithms.em.search import shift_grid
from verglas.algorithms.views import Views
from verglas.kernels.so3 import orientation_grid, rotation_from_vector

__all__ = ["StageSums", "measure", "recentred", "stage_expectation"]

_COARSE_TEMPERATURE = 1.5
_KEPT_CELLS = 24
_PRUNED_AT = 1.0  # resolution over the step of the coarse grid at the particle's edge


class _Keep(TypedDict):
    temperature: float
    max_rows: int


@dataclass(frozen=True)
class StageSums:
    """What one pass over some views gives.

    Attributes:
        numerators, denominators: `[2, c, m, m, m // 2 + 1]`.
        class_mass: `[c]`.
        sums: that they were made of.
    """

    numerators: Tensor
    denominators: Tensor
    class_mass: Tensor
    sums: DenseSums


def _grid(order: int, symmetry: str, generator: torch.Generator | None) -> Tensor:
    """Return a grid, turned by up to half a step, so that no map settles on its points."""
    rotations = orientation_grid(order, symmetry=symmetry)
    if generator is None:
        return rotations
    offset = torch.rand(1, 3, generator=generator, dtype=torch.float64) - 0.5
    return rotation_from_vector(offset * math.radians(60 / 2**order))[0] @ rotations


def _seen(
    views: Views, config: FirstMapConfig, radius: int, candidate: Candidate, shifts_angst: Tensor
) -> DenseViews:
    """Prepare views up to a radius, with the noise and the shifts of a candidate."""
    low = views.prefix(radius)
    noise_power = low.noise_power * candidate.noise_factor[: radius + 1]
    return DenseViews.make(
        replace(low, noise_power=noise_power),
        shifts_angst=shifts_angst,
        shift_prior_angst=candidate.shift_prior_angst,
    )


def _dense(
    views: Views,
    config: FirstMapConfig,
    stage: Stage,
    candidate: Candidate,
    generator: torch.Generator | None,
) -> tuple[DenseViews, Bank]:
    """Prepare views and bank for scoring a stage's whole grid."""
    grid = config.grid(stage.radius)
    shifts = _shifts(config, stage.radius, candidate)
    dense = _seen(views, config, stage.radius, candidate, shifts)
    bank = Bank.make(
        grid.half_volumes(grid.resize(candidate.maps)),
        _grid(stage.order, config.symmetry, generator),
        candidate.class_weight,
        dense.views.disc.frequencies_px,
    )
    return dense, bank


def stage_expectation(
    views: Views,
    config: FirstMapConfig,
    stage: Stage,
    candidate: Candidate,
    generator: torch.Generator | None,
) -> StageSums:
    """Score views on a stage's grid, and add up the expectations.

    Args:
        views: of any radius from the stage's on.
        config: of the run.
        stage: its grid, radius and temperature.
        candidate: to compare with.
        generator: turns the grid at random; none leaves it where it is.
    """
    grid = config.grid(stage.radius)
    if stage.order > COARSEST_ORDER:
        sums = _pruned(views, config, stage, candidate, generator)
    else:
        dense, bank = _dense(views, config, stage, candidate, generator)
        window = noise_window(dense.views.disc, config.noise_radius_px)
        sums = dense_expectation(dense, bank, window=window, temperature=stage.temperature)
    numerators, denominators = grid.zeros(2, config.n_classes, device=views.device)
    sums.insert_into(
        numerators,
        denominators,
        views.disc.prefix(stage.radius).frequencies_px,
        radius=grid.radius,
        padding=grid.padding,
    )
    mass = sums.row_mass.new_zeros(config.n_classes).index_add_(
        0, sums.row_reference, sums.row_mass
    )
    return StageSums(numerators, denominators, mass, sums)


def _pruned(
    views: Views,
    config: FirstMapConfig,
    stage: Stage,
    candidate: Candidate,
    generator: torch.Generator | None,
) -> DenseSums:
    """Score the coarsest grid at low resolution, then the children of its best cells.

    And theirs, until the stage's grid is reached; every grid at what it can follow.
    """
    grid = config.grid(stage.radius)
    half_volumes = grid.half_volumes(grid.resize(candidate.maps))

    def seen(order: int) -> DenseViews:
        edge = math.radians(60 / 2**order) * 0.5 * config.diameter_angst
        radius = min(stage.radius, config.radius_of(_PRUNED_AT * edge))
        return _seen(views, config, radius, candidate, _shifts(config, radius, candidate))

    keep: _Keep = {"temperature": _COARSE_TEMPERATURE, "max_rows": _KEPT_CELLS}
    coarse = seen(COARSEST_ORDER)
    bank = Bank.make(
        half_volumes,
        _grid(COARSEST_ORDER, config.symmetry, generator),
        candidate.class_weight,
        coarse.views.disc.frequencies_px,
    )
    cells, kept = Cells.of_bank(bank, 60 / 2**COARSEST_ORDER), likeliest_rows(coarse, bank, **keep)
    for order in range(COARSEST_ORDER + 1, stage.order):
        cells, kept = likely_children(seen(order), half_volumes, cells, kept, **keep)
    dense = _seen(views, config, stage.radius, candidate, _shifts(config, stage.radius, candidate))
    return pruned_expectation(
        dense,
        half_volumes,
        cells,
        kept,
        window=noise_window(dense.views.disc, config.noise_radius_px),
        temperature=stage.temperature,
    )


def _shifts(config: FirstMapConfig, radius: int, candidate: Candidate) -> Tensor:
    step = config.extent_angst / radius / 4
    reach = max(2.5 * candidate.shift_prior_angst, 1.01 * step)
    return shift_grid(min(config.shift_range_angst, reach), step)


def measure(
    views: Views, config: FirstMapConfig, stage: Stage, candidate: Candidate
) -> tuple[float, float]:
    """Return the mean evidence of views, and how many orientations share a posterior.

    Args:
        views: of any radius from the stage's on.
        config: of the run.
        stage: its grid and radius.
        candidate: to compare with.
    """
    if stage.order > COARSEST_ORDER:
        sums = _pruned(views, config, stage, candidate, None)
        return float(sums.loglik.mean()), sums.effective_rows
    found = dense_evidence(*_dense(views, config, stage, candidate, None))
    return float(found.loglik.mean()), found.effective_rows


def recentred(
    views: Views, config: FirstMapConfig, stage: Stage, candidate: Candidate
) -> tuple[Views, Candidate]:
    """Move each view to where a map sees its centre.

    What is left to search is a few Å instead of the whole range.

    Args:
        views: of any radius from the stage's on.
        config: of the run.
        stage: a coarse one.
        candidate: the map.

    Returns:
        The views, and the candidate with the prior of the shifts that are left.
    """
    if stage.order > COARSEST_ORDER:
        moved = _pruned(views, config, stage, candidate, None).mean_shift_angst
    else:
        moved = dense_evidence(*_dense(views, config, stage, candidate, None)).mean_shift_angst
    left = config.extent_angst / stage.radius / 10
    return views.shifted(moved), replace(candidate, shift_prior_angst=max(left, 1.5))
