"""Class averages in 2D: centre, find how particles vary, classify, measure.

Averages shrink towards the radial average of all particles, not towards zero (Scheres 2012,
doi:10.1016/j.jmb.2011.11.010, with another mean of the prior). A class that knows little is
then no worse than the ring, so that no class swallows the others for being better determined.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.average import RingSums, Shrinkage, plain_averages
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.prior import updated_noise, updated_scale
from verglas.algorithms.em.search import shift_grid
from verglas.algorithms.em.steerable import RingCovariance, draw_deviations
from verglas.algorithms.em.turning import Turning
from verglas.kernels.disc import half_disc
from verglas.kernels.fourier import fourier_resize2, fourier_shift, irfft2, next_fast_size, rfft2
from verglas.kernels.fsc import fourier_shell_correlation, resolution_at
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import RingGrid, RingWaves, ring_grid, rings_of_orders, rings_to_images
from verglas.kernels.slices import extract_slices, image_to_half_plane

__all__ = [
    "N_CENTRING",
    "FinalAverages",
    "PlanarConfig",
    "PlanarState",
    "final_averages",
    "first_planar_state",
    "follow_moves",
    "log_pose_count",
    "planar_grid",
    "planar_mask",
    "planar_turning",
    "planar_update",
    "radial_average_ft",
    "seed_classes",
]

N_CENTRING = 4
"""Iterations against the radial average, the first of which only makes it."""

_LARGEST_SHARE = 2.0  # of the mean class; beyond it a class is held back
_HELD_BACK = 6.0  # nats at most
_IDLE = 0.1  # of the mean loss: classes below are of no use
_SPARE = 2  # classes at the start for each one wanted
_WIDE_ITERATIONS = 1
_RECENTRE_EVERY = 4
_SETTLING = 3  # last iterations, in which classes are left alone
_MIN_SHIFT_PRIOR_ANGST = 1.5
_SAME = 0.5  # correlation down to which the halves of a class agree
_EDGE_ANGST = 8.0
_NUMBERS = ("shift_prior_angst", "evidence_loglik", "iteration")


@dataclass(frozen=True)
class PlanarConfig:
    """What a classification in 2D is told.

    Attributes:
        box: of the images, in pixels.
        pixel_size_angst: of the images.
        diameter_angst: of the particle; the averages are compared inside it.
        n_classes: number of averages.
        start_resolution_angst: used by centring and the first iterations.
        max_resolution_angst: used by the last ones.
        ramp_iterations: iterations over which the resolution grows.
        iterations: number of them, after centring.
        tau: trust in the data: multiplies the learnt variance about the radial average.
        shift_range_angst: largest shift searched when centring.
        seed: of everything random.
    """

    box: int
    pixel_size_angst: float
    diameter_angst: float
    n_classes: int
    start_resolution_angst: float = 15.0
    max_resolution_angst: float = 9.0
    ramp_iterations: int = 12
    iterations: int = 20
    tau: float = 2.0
    shift_range_angst: float = 15.0
    seed: int = 0

    @property
    def extent_angst(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size_angst

    @property
    def n_iterations(self) -> int:
        """All iterations: centring, the pass for the variance, and classification."""
        return N_CENTRING + 1 + self.iterations

    def radius_at(self, iteration: int) -> int:
        """Return the shells used in an iteration, counted from the first of all."""
        part = (iteration - N_CENTRING - 1) / max(1, self.ramp_iterations)
        start, end = 1 / self.start_resolution_angst, 1 / self.max_resolution_angst
        frequency = start + min(1.0, max(0.0, part)) * (end - start)
        return max(4, min((self.box - 1) // 2, round(self.extent_angst * frequency)))

    @property
    def reach_angst(self) -> float:
        """Radius of the averages, soft edge and all."""
        inner = min(0.5 * self.diameter_angst - 2.0, 0.45 * self.extent_angst)
        return min(inner + _EDGE_ANGST, 0.5 * self.extent_angst)

    @property
    def n_orders(self) -> int:
        """Angular orders that the particle can have at the first resolution."""
        return max(6, math.ceil(math.pi / 2 * self.diameter_angst / self.start_resolution_angst))


@dataclass(frozen=True)
class PlanarState:
    """Where a classification in 2D stands.

    Attributes:
        averages: `[h, c, n, n]`; h is 2 where each half set has its own, 1 otherwise.
        moves_angst: `[c, 2]`, how far the centres of mass were off and the averages moved
            back in the last update; the shifts of their particles follow (`follow_moves`).
        noise_power: `[g, s]`, variance of a real component by group and shell.
        scale: `[g]`, intensity of each group.
        log_prior: `[c]`, normalised.
        mean_weight: `[s]`, mean of CTF^2 / sigma^2 of a particle.
        shift_prior_angst: standard deviation of shifts.
        evidence_loglik: of the last iteration, per particle, against an empty box.
        iteration: number of iterations done, all kinds counted.
    """

    averages: Tensor
    moves_angst: Tensor
    noise_power: Tensor
    scale: Tensor
    log_prior: Tensor
    mean_weight: Tensor
    shift_prior_angst: float
    evidence_loglik: float
    iteration: int

    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays and plain numbers by name."""
        return {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "PlanarState":
        """Rebuild from what `to_arrays` gave, numbers as arrays or not."""
        known = {name: arrays[name] for name in PlanarState.__dataclass_fields__}
        values: dict[str, Any] = {name: torch.as_tensor(v) for name, v in known.items()}
        values |= {name: float(known[name]) for name in _NUMBERS}
        return PlanarState(**values | {"iteration": int(known["iteration"])})


def first_planar_state(config: PlanarConfig, noise_power: Tensor) -> PlanarState:
    """Return a state with an empty average: the first iteration takes particles as they are.

    Args:
        config: of the run.
        noise_power: `[g, s]`, first estimate.
    """
    n = _side(config.radius_at(0))
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
    )


def _side(radius: int) -> int:
    return next_fast_size(2 * radius + 6)


def planar_mask(config: PlanarConfig, n: int) -> Tensor:
    """Return the disc of the particle on `n` pixels; neighbours begin outside it."""
    pixel = config.extent_angst / n
    return soft_circle(n, (config.reach_angst - _EDGE_ANGST) / pixel, _EDGE_ANGST / pixel)


def planar_grid(config: PlanarConfig, radius: int) -> RingGrid:
    """Choose rings for particles, which fill the box, and for averages."""
    averages = 2 * config.reach_angst / config.extent_angst
    return ring_grid(radius, sampled_part=1.0, compared_part=averages)


def planar_turning(config: PlanarConfig, state: PlanarState, *, half: int = 0) -> Turning:
    """Say what particles are compared with next; shifts are relative to each one's centre.

    Args:
        config: of the run.
        state: where it stands.
        half: half set of the particles, 0 or 1.
    """
    radius = config.radius_at(state.iteration)
    step = config.extent_angst / radius / 4
    classified = state.iteration - N_CENTRING - 1
    if classified < 0:
        start = 0.0
        reach = (0.0, config.shift_range_angst, 3 * step)[min(state.iteration, 2)]
    else:
        generator = torch.Generator().manual_seed(config.seed * 1000 + state.iteration)
        start = 360 * float(torch.rand(1, generator=generator))
        is_wide = classified < _WIDE_ITERATIONS or classified >= config.iterations
        reach = step * (2 if is_wide else 1)
    grid = planar_grid(config, radius)
    return Turning(
        averages=state.averages[min(half, len(state.averages) - 1)],
        log_prior=state.log_prior,
        grid=replace(grid, n_orders=1) if classified < 0 else grid,
        shifts_angst=shift_grid(reach, step),
        shift_prior_angst=state.shift_prior_angst,
        first_psi_deg=start,
        reach_angst=config.reach_angst,
        noise_radius_angst=0.5 * config.diameter_angst,
    )


def log_pose_count(config: PlanarConfig, turning: Turning) -> float:
    """Return the log of the number of grid poses that a particle might have had.

    Evidence minus this is the log-likelihood ratio of "one of the averages, anywhere within
    the prior" against an empty box: on average negative for noise.
    """
    step = config.extent_angst / turning.grid.radius / 4
    cell = step**2 * math.sqrt(3) / 2
    n_shifts = max(1.0, 2 * math.pi * turning.shift_prior_angst**2 / cell)
    return math.log(turning.n_psi * n_shifts)


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
    n_drawn = _SPARE * config.n_classes if config.n_classes > 1 else 1
    grid = planar_grid(config, config.radius_at(state.iteration))
    drawn = draw_deviations(covariance, state.mean_weight, grid, n=n_drawn, seed=config.seed)
    images = _images(rings_of_orders(drawn, grid), grid, n) * planar_mask(config, n)
    return replace(
        state,
        averages=(state.averages[0] + images)[None],
        moves_angst=torch.zeros(n_drawn, 2, dtype=torch.float64),
        log_prior=torch.full((n_drawn,), -math.log(n_drawn)),
        iteration=state.iteration + 1,
    )


def planar_update(
    config: PlanarConfig, state: PlanarState, sums: Mapping[int, Sums], loss_loglik: Tensor
) -> PlanarState:
    """Make new averages and learn noise, scale, priors.

    Args:
        config: of the run.
        state: before the expectation step.
        sums: of the two half sets.
        loss_loglik: `[c]`, evidence that would be lost without each class.

    Returns:
        The next state. After the last iteration each half set gets the averages of the
        other, which its particles have no part in.
    """
    halves = [RingSums.of(half) for half in sums.values()]
    both = RingSums.join(halves)
    radius = both.numerator.shape[1]
    grid = RingGrid(radius, both.numerator.shape[2], 1)
    n = _side(max(radius, config.radius_at(state.iteration + 1)))
    mask = planar_mask(config, n)
    total = _total(sums)
    n_views = max(float(total.shift_square_angst2[1]), 1.0)
    weight = both.denominator.mean(2).sum(0) / n_views
    share = (total.class_weight / total.class_weight.sum().clamp_min(1e-9)).float()
    shrinkage = Shrinkage.learn(halves, tau=config.tau)
    images = _images(shrinkage.averages(both), grid, n) * mask
    moves = torch.zeros(len(images), 2, dtype=torch.float64)
    classified = state.iteration - N_CENTRING
    kept = _kept(config, classified, loss_loglik)
    if 1 <= classified <= config.iterations - _SETTLING:
        poorest, richest = int(loss_loglik.argmin()), int(loss_loglik.argmax())
        is_idle = float(loss_loglik[poorest]) < _IDLE * float(loss_loglik.mean())
        if is_idle and len(kept) == len(images) > 1 and len(halves) == 2:
            parts = [
                _images(shrinkage.averages(half.take([richest])), grid, n)[0] * mask
                for half in halves
            ]
            images[richest], images[poorest] = parts
        if classified % _RECENTRE_EVERY == 0:
            images, moves = _recentre(config, images)
    averages = images[kept][None]
    if classified == config.iterations and len(halves) == 2:
        swapped = [_images(shrinkage.averages(other), grid, n) for other in reversed(halves)]
        averages = torch.stack(swapped) * mask
    measured = math.sqrt(float(total.shift_square_angst2[0]) / n_views)
    coarse = config.extent_angst / radius / 8
    return replace(
        state,
        averages=averages,
        moves_angst=moves,
        noise_power=updated_noise(total.residual_power, total.residual_count, state.noise_power),
        scale=updated_scale(state.scale, total.scale_cross, total.scale_power),
        log_prior=_held_back(state.log_prior, share)[kept].log_softmax(0),
        mean_weight=torch.cat([weight[:1], weight]),
        shift_prior_angst=max(math.hypot(measured, coarse), _MIN_SHIFT_PRIOR_ANGST),
        evidence_loglik=float(total.evidence_loglik) / n_views
        - log_pose_count(config, planar_turning(config, state)),
        iteration=state.iteration + 1,
    )


def _images(rings: Tensor, grid: RingGrid, n: int) -> Tensor:
    """Transform `[2, c, radius, n_half]` to `[c, n, n]`."""
    return rings_to_images(rings, RingWaves.make(grid, n, radius_px=n / 2))


def _kept(config: PlanarConfig, classified: int, loss_loglik: Tensor) -> Tensor:
    """Choose the classes that go on: of the spare ones a few are left out each time.

    The evidence lost without a class is small if it is empty, and if another is like it.
    """
    n = len(loss_loglik)
    if classified < 1:
        return torch.arange(n)
    last = max(1, min(config.ramp_iterations, config.iterations - _SETTLING))
    spare = (_SPARE - 1) * config.n_classes * max(0.0, 1 - classified / last)
    wanted = min(n, config.n_classes + round(spare))
    return loss_loglik.topk(wanted).indices.sort().values


def _total(sums: Mapping[int, Sums]) -> Sums:
    parts = list(sums.values())
    names = [name for name in vars(parts[0]) if name not in ("numerator", "denominator")]
    added = {
        name: torch.stack([torch.as_tensor(getattr(part, name)) for part in parts]).sum(0)
        for name in names
    }
    return replace(parts[0], **added)


def _held_back(log_prior: Tensor, share: Tensor) -> Tensor:
    """Hold back classes that grow beyond twice the mean, and let go those that shrink."""
    excess = (share * len(share) / _LARGEST_SHARE).clamp_min(1e-6).log()
    held = log_prior - log_prior.max() - 0.5 * excess.clamp_min(0)
    held = torch.where(excess < -0.7, 0.7 * held, held)
    return held.clamp(-_HELD_BACK, 0).log_softmax(0)


def _recentre(config: PlanarConfig, images: Tensor) -> tuple[Tensor, Tensor]:
    """Move averages to their centres of mass, by less than a step of the first shift grid."""
    n = images.shape[-1]
    pixel = config.extent_angst / n
    bright = images.clamp_min(0).double()
    axis = (torch.arange(n, dtype=torch.float64) - n // 2) * pixel
    mass = bright.sum((1, 2)).clamp_min(1e-30)
    centre = torch.stack([bright.sum(1) @ axis, bright.sum(2) @ axis], 1) / mass[:, None]
    limit = config.start_resolution_angst / 4
    centre = centre * (limit / centre.norm(dim=1, keepdim=True).clamp_min(limit))
    moved = fourier_shift(rfft2(images), -centre, shape=(n, n), pixel_size_angst=pixel)
    return irfft2(moved, shape=(n, n)), centre


def follow_moves(
    shifts_angst: Tensor, rotations_ref_to_img: Tensor, reference: Tensor, moves_angst: Tensor
) -> Tensor:
    """Change the shifts of particles as their averages were moved.

    Args:
        shifts_angst: `[b, 2]`, before.
        rotations_ref_to_img: `[b, 3, 3]`.
        reference: `[b]`, class of each particle.
        moves_angst: `[c, 2]`, centres of mass that became the centre.

    Returns:
        `[b, 2]`.
    """
    turned = torch.einsum("bij,bj->bi", rotations_ref_to_img[:, :2, :2], moves_angst[reference])
    return shifts_angst - turned


@dataclass(frozen=True)
class FinalAverages:
    """The result.

    Attributes:
        images: `[c, box, box]`, at the images' own pixel, not masked.
        resolution_angst: `[c]`, where averages of the two halves stop to agree (0.5).
    """

    images: Tensor
    resolution_angst: Tensor


def final_averages(config: PlanarConfig, sums: Mapping[int, Sums]) -> FinalAverages:
    """Make the averages of all particles, and measure their resolution between halves.

    Args:
        config: of the run.
        sums: of the two half sets.
    """
    halves = [RingSums.of(half) for half in sums.values()]
    both = RingSums.join(halves)
    radius = both.numerator.shape[1]
    grid, n = RingGrid(radius, both.numerator.shape[2], 1), _side(radius)
    small = _images(Shrinkage.learn(halves, tau=config.tau).averages(both), grid, n)
    # coefficients stay as they are when the box has more pixels
    images = fourier_resize2(small, shape=(config.box, config.box)) * (n / config.box) ** 2
    if len(halves) < 2:
        return FinalAverages(images, torch.full((len(images),), config.extent_angst))
    mask = planar_mask(config, n)
    pair = [rfft2(_images(plain_averages(half), grid, n) * mask) for half in halves]
    curves = fourier_shell_correlation(pair[0], pair[1], n_shells=radius + 1)
    pixel = config.extent_angst / n
    resolution = resolution_at(curves, _SAME, box=n, pixel_size_angst=pixel)
    return FinalAverages(images, resolution.clamp_max(config.extent_angst))
