"""Find a map from particles alone: many short searches, of which the likeliest go on.

Each search starts from particles at random orientations and climbs the likelihood with random
subsets of views (online EM, Cappe & Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x),
coarse to fine. Where it ends depends on where it began: on 2,000 simulated octahedral
particles of SNR 0.05 every third to second start ended right, and after 14 cheap iterations at
23 Å the evidence told which. So many starts are run on a coarse grid, the likeliest that
differ go on to full resolution, and the evidence decides between those.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.dense import (
    Bank,
    DenseSums,
    DenseViews,
    dense_expectation,
    likeliest_rows,
    pruned_expectation,
)
from verglas.algorithms.em.expectation import Level, References, Search
from verglas.algorithms.em.first_map_plan import (
    COARSEST_ORDER,
    FirstMapConfig,
    Stage,
    coarse_stages,
    fine_stages,
)
from verglas.algorithms.em.map_step import lift_odd_part
from verglas.algorithms.em.noise import NoiseWindow, noise_window, windowed_power
from verglas.algorithms.em.search import shift_grid
from verglas.algorithms.views import Views
from verglas.kernels.disc import shell_sums
from verglas.kernels.slices import insert_slices
from verglas.kernels.so3 import orientation_grid, rotation_from_vector
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "Candidate",
    "coarse_search",
    "finalists",
    "fine_search",
    "judge",
    "placing",
    "with_noise_of_disc",
]

_MAX_DENSE_ROWS = 10_000
_ODD_SHARE = 0.15  # about that of ferritin at 12 Å
_SMALLEST_WEIGHT = 0.02
_COARSE_TEMPERATURE = 1.5
_KEPT_CELLS = 24
_SAME = 0.9


@dataclass(frozen=True)
class Candidate:
    """A map on its way, or the maps of all classes.

    Attributes:
        maps: `[c, n, n, n]`, filtered and masked.
        numerators, denominators: `[2, c, m, m, m // 2 + 1]`, sums by half.
        class_weight: `[c]`, share of the views of each map.
        noise_factor: `[s]`, noise over that of the views, by shell.
        shift_prior_angst: standard deviation of shifts.
        loglik: evidence per view, against no signal.
        effective_rows: mean number of orientations that share a view's posterior.
    """

    maps: Tensor
    numerators: Tensor
    denominators: Tensor
    class_weight: Tensor
    noise_factor: Tensor
    shift_prior_angst: float
    loglik: float = -math.inf
    effective_rows: float = math.inf

    def to_arrays(self) -> dict[str, Any]:
        """Return what is needed to go on at a finer resolution, as numpy arrays and numbers."""
        return {
            "maps": self.maps.numpy(),
            "class_weight": self.class_weight.numpy(),
            "noise_factor": self.noise_factor.numpy(),
            "shift_prior_angst": self.shift_prior_angst,
            "loglik": self.loglik,
            "effective_rows": self.effective_rows,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "Candidate":
        """Rebuild from what `to_arrays` gave; the sums are begun anew."""
        maps = torch.as_tensor(arrays["maps"]).float()
        empty = torch.zeros(2, len(maps), 3, 3, 2)
        return Candidate(
            maps=maps,
            numerators=empty.to(torch.complex64),
            denominators=empty,
            class_weight=torch.as_tensor(arrays["class_weight"]).float(),
            noise_factor=torch.as_tensor(arrays["noise_factor"]).float(),
            shift_prior_angst=float(arrays["shift_prior_angst"]),
            loglik=float(arrays["loglik"]),
            effective_rows=float(arrays["effective_rows"]),
        )


def with_noise_of_disc(views: Views, config: FirstMapConfig) -> Views:
    """Take the power inside the particle's disc for the noise; see `noise.py`.

    Args:
        views: whose noise is that of whole boxes.
        config: of the run.
    """
    window = noise_window(views.disc, config.noise_radius_px)
    power = torch.stack(
        [windowed_power(part, window).sum(0) for part in torch.split(views.data, 256)]
    ).sum(0)
    count = shell_sums(torch.ones(1, views.disc.n_coefficients), views.disc)
    factor = power / (views.noise_power * count).sum(0).clamp_min(1e-30)
    factor[0] = factor[1]
    return replace(views, noise_power=views.noise_power * factor.float())


def coarse_search(views: Views, config: FirstMapConfig, *, seed: int) -> Candidate:
    """Go from random orientations to a map at low resolution.

    Args:
        views: up to the last radius, with `with_noise_of_disc`.
        config: of the run.
        seed: of all that is random.

    Returns:
        The map; its evidence is not comparable before `judge`.
    """
    generator = torch.Generator().manual_seed(seed)
    stages = coarse_stages(config)
    candidate = _random_start(views, config, stages[0], generator)
    for stage in stages:
        for _ in range(stage.iterations):
            candidate = _iterate(views, config, stage, candidate, generator)
    return candidate


def fine_search(
    views: Views, config: FirstMapConfig, candidate: Candidate, *, seed: int
) -> Iterator[Candidate]:
    """Take a map to the last resolution; yield it after each iteration.

    Args:
        views: as for `coarse_search`.
        config: of the run.
        candidate: of `coarse_search`.
        seed: of all that is random.
    """
    generator = torch.Generator().manual_seed(seed)
    views, candidate = _recentred(views, config, candidate)
    stages = fine_stages(config)
    for i, stage in enumerate(stages):
        for j in range(stage.iterations):
            now = replace(stage, renewal=1.0) if i == j == 0 else stage
            candidate = _iterate(views, config, now, candidate, generator)
            yield candidate


def judge(
    views: Views, config: FirstMapConfig, candidate: Candidate, *, fine: bool, n_views: int = 300
) -> Candidate:
    """Measure the evidence of a map so that it can be compared with that of other maps.

    The same views, grids and noise serve all maps.

    Args:
        views: as for `coarse_search`.
        config: of the run.
        candidate: of either search.
        fine: at the last resolution, not that of the coarse search.
        n_views: the first of all views.

    Returns:
        The same maps with their evidence.
    """
    stage = (fine_stages if fine else coarse_stages)(config)[-1]
    plain = replace(
        candidate,
        noise_factor=torch.ones_like(candidate.noise_factor),
        shift_prior_angst=config.shift_range_angst / 3,
    )
    some = views.take(slice(0, n_views))
    if fine:
        some, plain = _recentred(some, config, plain)
    sums = _expectation(some, config, stage, plain, None).sums
    return replace(candidate, loglik=float(sums.loglik.mean()), effective_rows=sums.effective_rows)


def finalists(candidates: Sequence[Candidate], n: int) -> list[int]:
    """Choose which searches go on: the likeliest, and then those unlike them.

    Two alike are let in, so that the winner can be confirmed; further copies would cost time
    and tell nothing. Maps are alike if they correlate, in either hand, about the same axes.

    Args:
        candidates: judged, of equal boxes.
        n: at most so many.

    Returns:
        Their positions, the likeliest first.
    """
    ranked = sorted(range(len(candidates)), key=lambda i: -candidates[i].loglik)
    chosen: list[int] = []
    for i in ranked:
        alike = sum(_alike(candidates[i].maps, candidates[j].maps) for j in chosen)
        if alike < 2 and len(chosen) < n:
            chosen.append(i)
    for i in ranked:
        if len(chosen) < n and i not in chosen:
            chosen.append(i)
    return chosen


def _alike(a: Tensor, b: Tensor) -> bool:
    mirrored = b.flip(1) if b.shape[-1] % 2 else b.flip(1).roll(1, 1)
    pairs = [
        torch.nn.functional.cosine_similarity(a.flatten(), m.flatten(), 0) for m in (b, mirrored)
    ]
    return max(float(value) for value in pairs) > _SAME


def placing(config: FirstMapConfig, candidate: Candidate) -> tuple[Search, References]:
    """Return what `expectation.expect` needs to give every particle its pose.

    On the grid that the map was made with: a refinement will search again, and a finer grid
    took a third of all the time without symmetry.

    Args:
        config: of the run.
        candidate: the chosen map.
    """
    radius = config.max_radius
    grid = config.grid(radius)
    last = fine_stages(config)[-1].order
    first = last
    while first > COARSEST_ORDER and (
        config.n_rotations(first) * config.n_classes > _MAX_DENSE_ROWS // 5
    ):
        first -= 1
    levels = []
    for order in range(first, last + 1):
        resolution = math.radians(60 / 2**order) * 0.5 * config.diameter_angst
        here = radius if order == last else min(radius, config.radius_of(resolution))
        step = config.extent_angst / here / 4
        reach = config.shift_range_angst if order == first else step
        levels.append(Level(60 / 2**order, here, shift_grid(reach, step)))
    search = Search(
        rotations_ref_to_img=orientation_grid(first, symmetry=config.symmetry),
        levels=tuple(levels),
        shift_prior_angst=config.shift_range_angst / 3,
        max_cells=_KEPT_CELLS,
        noise_radius_angst=config.noise_radius_px * config.pixel_size_angst,
    )
    references = References(
        grid.half_volumes(grid.resize(candidate.maps)),
        candidate.class_weight.log(),
        padding=grid.padding,
        planar=False,
    )
    return search, references


@dataclass(frozen=True)
class _Found:
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


def _draw(views: Views, n: int, generator: torch.Generator) -> Views:
    return views.take(torch.randperm(len(views), generator=generator)[:n])


def _random_start(
    views: Views, config: FirstMapConfig, stage: Stage, generator: torch.Generator
) -> Candidate:
    """Make maps of views at random orientations, shared out among the classes at random."""
    grid = config.grid(stage.radius)
    some = _draw(views, stage.n_views * config.n_classes, generator).prefix(stage.radius)
    signal, weight = some.whitened()
    rotations = orientation_grid(stage.order, symmetry=config.symmetry)
    rotations = rotations[torch.randint(len(rotations), (len(some),), generator=generator)]
    bin_of = torch.randint(2 * config.n_classes, (len(some),), generator=generator)
    numerators, denominators = grid.zeros(2, config.n_classes)
    for b in range(2 * config.n_classes):
        chosen, place = bin_of == b, (b % 2, b // 2)
        insert_slices(
            signal[chosen],
            weight[chosen],
            rotations[chosen],
            some.disc.frequencies_px,
            radius=stage.radius,
            padding=grid.padding,
            into=(numerators[place], denominators[place]),
        )
    operators = symmetry_operators(config.symmetry)
    return Candidate(
        maps=grid.maps_of(numerators, denominators, operators, tau=config.tau),
        numerators=numerators,
        denominators=denominators,
        class_weight=torch.full((config.n_classes,), 1 / config.n_classes),
        noise_factor=torch.ones(config.max_radius + 1),
        shift_prior_angst=config.shift_range_angst / 3,
    )


def _iterate(
    views: Views,
    config: FirstMapConfig,
    stage: Stage,
    candidate: Candidate,
    generator: torch.Generator,
) -> Candidate:
    """Compare a few views with the maps and renew the maps."""
    grid = config.grid(stage.radius)
    some = _draw(views, stage.n_views * config.n_classes, generator)
    found = _expectation(some, config, stage, candidate, generator)
    # the first maps are of random orientations and best forgotten
    renewal = 1.0 if math.isinf(candidate.loglik) else stage.renewal
    numerators = torch.lerp(grid.embed(candidate.numerators), found.numerators, renewal)
    denominators = torch.lerp(grid.embed(candidate.denominators), found.denominators, renewal)
    maps = grid.maps_of(
        numerators, denominators, symmetry_operators(config.symmetry), tau=config.tau
    )
    if stage.hand_gain > 1:
        maps = lift_odd_part(maps, share=_ODD_SHARE, gain=stage.hand_gain)
    factor = candidate.noise_factor.clone()
    factor[: stage.radius + 1] *= found.sums.noise_factor
    weight = torch.lerp(candidate.class_weight, found.class_mass / len(some), stage.renewal)
    spread = math.sqrt(found.sums.shift_square_angst2)
    return Candidate(
        maps=maps,
        numerators=numerators,
        denominators=denominators,
        class_weight=weight.clamp_min(_SMALLEST_WEIGHT / config.n_classes),
        noise_factor=factor,
        shift_prior_angst=max(math.hypot(spread, config.extent_angst / stage.radius / 8), 1.5),
        loglik=float(found.sums.loglik.mean()),
        effective_rows=found.sums.effective_rows,
    )


def _expectation(
    views: Views,
    config: FirstMapConfig,
    stage: Stage,
    candidate: Candidate,
    generator: torch.Generator | None,
) -> _Found:
    """Score views on a stage's grid, all of it, or where it is too large about its best cells."""
    pruned = stage.order > COARSEST_ORDER and (
        config.n_rotations(stage.order) * config.n_classes > _MAX_DENSE_ROWS
    )
    rotations = _grid(stage.order - pruned, config.symmetry, generator)
    views = views.prefix(stage.radius)
    factor = candidate.noise_factor[: stage.radius + 1]
    views = replace(views, noise_power=views.noise_power * factor)
    grid = config.grid(stage.radius)
    half_volumes = grid.half_volumes(grid.resize(candidate.maps))
    window = noise_window(views.disc, config.noise_radius_px)
    dense = DenseViews.make(
        views,
        shifts_angst=_shifts(config, stage, candidate),
        shift_prior_angst=candidate.shift_prior_angst,
    )
    if pruned:
        sums = _pruned(dense, config, stage, candidate, half_volumes, rotations, window)
    else:
        frequencies = views.disc.frequencies_px
        bank = Bank.make(half_volumes, rotations, candidate.class_weight, frequencies)
        sums = dense_expectation(dense, bank, window=window, temperature=stage.temperature)
    numerators, denominators = grid.zeros(2, config.n_classes)
    sums.insert_into(
        numerators,
        denominators,
        views.disc.frequencies_px,
        radius=grid.radius,
        padding=grid.padding,
    )
    mass = torch.zeros(config.n_classes).index_add_(0, sums.row_reference, sums.row_mass)
    return _Found(numerators, denominators, mass, sums)


def _pruned(
    dense: DenseViews,
    config: FirstMapConfig,
    stage: Stage,
    candidate: Candidate,
    half_volumes: Tensor,
    rotations: Tensor,
    window: NoiseWindow,
) -> DenseSums:
    """Score a coarse grid at low resolution, then the children of its best cells."""
    step = 60 / 2 ** (stage.order - 1)
    low = dense.views.prefix(
        min(stage.radius, config.radius_of(1.2 * math.radians(step) * 0.5 * config.diameter_angst))
    )
    at_low = DenseViews.make(
        low, shifts_angst=dense.shifts_angst, shift_prior_angst=candidate.shift_prior_angst
    )
    bank = Bank.make(half_volumes, rotations, candidate.class_weight, low.disc.frequencies_px)
    kept = likeliest_rows(at_low, bank, temperature=_COARSE_TEMPERATURE, max_rows=_KEPT_CELLS)
    return pruned_expectation(
        dense,
        half_volumes,
        bank,
        kept,
        step_deg=step,
        window=window,
        temperature=stage.temperature,
    )


def _shifts(config: FirstMapConfig, stage: Stage, candidate: Candidate) -> Tensor:
    step = config.extent_angst / stage.radius / 4
    reach = max(2.5 * candidate.shift_prior_angst, 1.01 * step)
    return shift_grid(min(config.shift_range_angst, reach), step)


def _recentred(
    views: Views, config: FirstMapConfig, candidate: Candidate
) -> tuple[Views, Candidate]:
    """Move each view to where the map at low resolution sees its centre.

    What is left to search is a few Å instead of the whole range.
    """
    stage = coarse_stages(config)[-1]
    grid = config.grid(stage.radius)
    half_volumes = grid.half_volumes(grid.resize(candidate.maps))
    low = views.prefix(stage.radius)
    low = replace(low, noise_power=low.noise_power * candidate.noise_factor[: stage.radius + 1])
    bank = Bank.make(
        half_volumes,
        orientation_grid(stage.order, symmetry=config.symmetry),
        candidate.class_weight,
        low.disc.frequencies_px,
    )
    dense = DenseViews.make(
        low,
        shifts_angst=_shifts(config, stage, candidate),
        shift_prior_angst=candidate.shift_prior_angst,
    )
    window = noise_window(low.disc, config.noise_radius_px)
    moved = dense_expectation(dense, bank, window=window).mean_shift_angst
    left = config.extent_angst / stage.radius / 10
    return views.shifted(moved), replace(candidate, shift_prior_angst=max(left, 1.5))
