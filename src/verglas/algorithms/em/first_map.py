"""Find a map from particles alone: many short searches, of which the likeliest go on.

Each search starts from particles at random orientations and climbs the likelihood with random
subsets of views (online EM, Cappe & Moulines 2009, doi:10.1111/j.1467-9868.2009.00698.x),
coarse to fine. Where it ends depends on where it began: on 2,000 simulated octahedral
particles of SNR 0.05 every third to second start ended right, and after 14 cheap iterations at
23 Å the evidence told which. So many starts are run on a coarse grid, the likeliest that
differ go on to full resolution, and the evidence decides between those.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch

from verglas.algorithms.em.candidate import Candidate
from verglas.algorithms.em.first_map_plan import (
    FirstMapConfig,
    Stage,
    coarse_stages,
    settling_stages,
)
from verglas.algorithms.em.map_step import lift_odd_part
from verglas.algorithms.em.noise import noise_window, windowed_power
from verglas.algorithms.em.stage_expectation import measure, recentred, stage_expectation
from verglas.algorithms.views import Views
from verglas.kernels.disc import shell_sums
from verglas.kernels.slices import insert_slices
from verglas.kernels.so3 import orientation_grid
from verglas.kernels.symmetry import symmetry_operators

__all__ = ["coarse_search", "fine_search", "judge", "with_noise_of_disc"]

_ODD_SHARE = 0.15  # about that of ferritin at 12 Å
_SMALLEST_WEIGHT = 0.02


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
    count = shell_sums(torch.ones_like(views.ctf[:1]), views.disc)
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
    views: Views,
    config: FirstMapConfig,
    candidate: Candidate,
    *,
    stages: Sequence[Stage],
    seed: int,
) -> Iterator[Candidate]:
    """Take a map through stages at the last resolution; yield it after each iteration.

    The first iteration forgets the sums so far.

    Args:
        views: as for `coarse_search`.
        config: of the run.
        candidate: of an earlier search.
        stages: one or several, of the plan.
        seed: of all that is random.
    """
    generator = torch.Generator().manual_seed(seed)
    views, candidate = recentred(views, config, coarse_stages(config)[-1], candidate)
    is_first = True
    for stage in stages:
        for _ in range(stage.iterations):
            now = replace(stage, renewal=1.0) if is_first else stage
            candidate = _iterate(views, config, now, candidate, generator)
            is_first = False
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
    coarse = coarse_stages(config)[-1]
    plain = replace(
        candidate,
        noise_factor=torch.ones_like(candidate.noise_factor),
        shift_prior_angst=config.shift_range_angst / 3,
    )
    some = views.take(slice(0, n_views))
    if fine:
        some, plain = recentred(some, config, coarse, plain)
    stage = settling_stages(config)[-1] if fine else coarse
    loglik, effective_rows = measure(some, config, stage, plain)
    return replace(candidate, loglik=loglik, effective_rows=effective_rows)


def _draw(views: Views, n: int, generator: torch.Generator) -> Views:
    return views.take(torch.randperm(len(views), generator=generator)[:n].to(views.device))


def _random_start(
    views: Views, config: FirstMapConfig, stage: Stage, generator: torch.Generator
) -> Candidate:
    """Make maps of views at random orientations, shared out among the classes at random."""
    grid, device = config.grid(stage.radius), views.device
    some = _draw(views, stage.n_views * config.n_classes, generator).prefix(stage.radius)
    signal, weight = some.whitened()
    rotations = orientation_grid(stage.order, symmetry=config.symmetry)
    rotations = rotations[torch.randint(len(rotations), (len(some),), generator=generator)].to(
        device
    )
    bin_of = torch.randint(2 * config.n_classes, (len(some),), generator=generator).to(device)
    numerators, denominators = grid.zeros(2, config.n_classes, device=device)
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
        class_weight=torch.full((config.n_classes,), 1 / config.n_classes, device=device),
        noise_factor=torch.ones(config.max_radius + 1, device=device),
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
    found = stage_expectation(some, config, stage, candidate, generator)
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
