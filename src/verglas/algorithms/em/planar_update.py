"""Between iterations in 2D: new averages, noise, scale and priors from the sums.

Averages shrink towards the radial average of all particles, not towards zero (Scheres 2012,
doi:10.1016/j.jmb.2011.11.010, with another mean of the prior). A class that knows little is
then no worse than the ring, so that no class swallows the others for being better determined.

Each part of the particles meets averages of the other parts. A particle in its own average
finds its own noise there, and at low signal that outweighs what tells classes apart: particles
would stay where they happened to be.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from verglas.algorithms.em.average import CompactSpace, RingSums, Shrinkage, resolved_ring
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.planar import (
    N_CENTRING,
    PlanarConfig,
    PlanarState,
    log_pose_count,
    planar_mask,
    planar_side,
    planar_turning,
)
from verglas.algorithms.em.planar_classes import best_classes, held_back, recentre
from verglas.algorithms.em.planar_parts import PartSums, others_averages
from verglas.algorithms.em.prior import updated_noise, updated_scale
from verglas.kernels.rings import images_of_orders

__all__ = ["planar_update"]

_FARTHER = 1.1  # than the last ring that is resolved, so that more can be
_MIN_SHIFT_PRIOR_ANGST = 1.5


def planar_update(
    config: PlanarConfig,
    state: PlanarState,
    sums: Mapping[int, Sums],
    class_mass: Tensor | None = None,
) -> tuple[PlanarState, PartSums | None]:
    """Make new averages and learn noise, scale, priors.

    Args:
        config: of the run.
        state: before the expectation step.
        sums: of each part of the particles, by its number.
        class_mass: `[b, c]`, probability of each class for each particle, where classes are
            left out after the iteration.

    Returns:
        The next state, in which each part has the averages of the others once there are
        classes; and the sums, unless averages were moved and are no longer theirs.
    """
    known = PartSums.of(sums)
    parts = known.ring_sums()
    both = RingSums.join(parts)
    n_orders, radius = both.numerator.shape[1:]
    total = _total(list(sums.values()))
    n_views = max(float(total.shift_square_angst2[1]), 1.0)
    weight = known.part_denominator.double().sum((0, 1)).float() / n_views
    share = (total.class_weight / total.class_weight.sum().clamp_min(1e-9)).float()
    next_radius = _next_radius(config, state, parts)
    n = planar_side(max(radius, next_radius))
    mask = planar_mask(config, n)
    compact = CompactSpace.make(mask, radius=radius, n_orders=n_orders)
    shrinkage = Shrinkage.learn(parts, compact, tau=config.tau)
    orders = _averages(state, parts, shrinkage)
    kept = torch.arange(orders.shape[1])
    if class_mass is not None:
        kept = best_classes(class_mass, config.classes_after(state.iteration))
    images = images_of_orders(orders.flatten(0, 1), n) * mask
    images = images.view(*orders.shape[:2], n, n)
    images, moves = recentre(config, state.iteration, images)
    is_other = bool(moves.any()) or state.iteration < N_CENTRING
    measured = math.sqrt(float(total.shift_square_angst2[0]) / n_views)
    coarse = config.extent_angst / radius / 8
    new = replace(
        state,
        averages=images[:, kept],
        moves_angst=moves,
        noise_power=updated_noise(total.residual_power, total.residual_count, state.noise_power),
        scale=updated_scale(state.scale, total.scale_cross, total.scale_power),
        log_prior=held_back(state.log_prior, share)[kept].log_softmax(0),
        mean_weight=torch.cat([weight[:1], weight]),
        shift_prior_angst=max(math.hypot(measured, coarse), _MIN_SHIFT_PRIOR_ANGST),
        evidence_loglik=float(total.evidence_loglik) / n_views
        - log_pose_count(config, planar_turning(config, state)),
        iteration=state.iteration + 1,
        radius=next_radius,
    )
    return new, None if is_other else known.take(kept)


def _next_radius(config: PlanarConfig, state: PlanarState, parts: Sequence[RingSums]) -> int:
    """Follow the ramp as far as classes are resolved: finer rings would only add noise."""
    allowed = config.radius_at(state.iteration + 1)
    if state.iteration < N_CENTRING or len(parts) < 2:
        return allowed
    resolved = math.ceil(_FARTHER * resolved_ring(parts))
    return max(state.radius, min(allowed, resolved))


def _averages(state: PlanarState, parts: Sequence[RingSums], shrinkage: Shrinkage) -> Tensor:
    """Return `[h, c, m, radius]`: for each part averages of the others."""
    if state.iteration < N_CENTRING or len(parts) < 2:
        both = RingSums.join(parts)
        return shrinkage.averages(both)[None]
    return others_averages(parts, shrinkage)


def _total(parts: Sequence[Sums]) -> Sums:
    """Add up all but the averages."""
    names = [name for name in vars(parts[0]) if name not in ("numerator", "denominator")]
    added = {
        name: torch.stack([torch.as_tensor(getattr(part, name)) for part in parts]).sum(0)
        for name in names
    }
    return replace(parts[0], **added)
