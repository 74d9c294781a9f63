"""The start of a classification in 2D: an empty average, and classes drawn from the variance."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from verglas.algorithms.em.planar import (
    PlanarConfig,
    PlanarState,
    planar_grid,
    planar_mask,
    planar_side,
)
from verglas.algorithms.em.steerable import RingCovariance, draw_deviations
from verglas.kernels.disc import half_disc
from verglas.kernels.rings import images_of_orders
from verglas.kernels.slices import extract_slices, image_to_half_plane

__all__ = ["first_planar_state", "radial_average_ft", "seed_classes"]


def first_planar_state(config: PlanarConfig, noise_power: Tensor) -> PlanarState:
    """Return a state with an empty average: the first iteration takes particles as they are.

    Args:
        config: of the run.
        noise_power: `[g, s]`, first estimate.
    """
    n = planar_side(config.radius_at(0))
    return PlanarState(
        averages=torch.zeros(1, 1, n, n),
        moves_angst=torch.zeros(1, 2, dtype=torch.float64),
        noise_power=noise_power,
        scale=torch.ones(len(noise_power)),
        log_prior=torch.zeros(1),
        mean_weight=torch.ones(config.radius_at(0) + 1),
        shift_prior_angst=config.shift_range_angst / 2,
        evidence_loglik=-math.inf,
        iteration=0,
        radius=config.radius_at(0),
    )


def radial_average_ft(config: PlanarConfig, state: PlanarState, radius: int) -> Tensor:
    """Return `[k]`, the transform of the one average of the centring iterations."""
    planes = image_to_half_plane(state.averages[0], radius=radius, padding=2)
    identity = torch.eye(3, dtype=torch.float64)[None]
    return extract_slices(planes[0], identity, half_disc(config.box, radius).frequencies_px)[0]


def seed_classes(
    config: PlanarConfig, state: PlanarState, covariance: RingCovariance
) -> PlanarState:
    """Draw the first averages from how the particles vary about their radial average.

    Args:
        config: of the run.
        state: after centring.
        covariance: of all particles.
    """
    n = state.averages.shape[-1]
    n_drawn = config.n_classes * config.n_families
    grid = planar_grid(config, state.radius)
    drawn = draw_deviations(covariance, state.mean_weight, grid, n=n_drawn, seed=config.seed)
    images = images_of_orders(drawn.transpose(0, 1), n)
    return replace(
        state,
        averages=(state.averages[0] + images * planar_mask(config, n))[None],
        moves_angst=torch.zeros(n_drawn, 2, dtype=torch.float64),
        log_prior=torch.full((n_drawn,), -math.log(n_drawn)),
        iteration=state.iteration + 1,
    )
