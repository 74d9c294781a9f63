"""Classification in 2D: what it is told, where it stands, and what particles meet next.

First all particles are centred on their common radial average, then classes are drawn from how
they vary about it (`seed_classes`), and iterations make new averages (`planar_update.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.search import shift_grid
from verglas.algorithms.em.turning_setup import Turning
from verglas.kernels.fourier import next_fast_size
from verglas.kernels.masks import soft_circle
from verglas.kernels.rings import RingGrid, ring_grid

__all__ = [
    "N_CENTRING",
    "N_SETTLING",
    "PlanarConfig",
    "PlanarState",
    "families_for",
    "log_pose_count",
    "planar_grid",
    "planar_mask",
    "planar_side",
    "planar_turning",
]

N_CENTRING = 4
"""Iterations against the radial average, the first of which only makes it."""

N_SETTLING = 3
"""Last iterations, in which classes are neither left out nor moved."""

_FEWEST_FAMILIES, _MOST_FAMILIES = 3, 8
_FAMILIES_EVIDENCE = 32.0  # nats a particle, over the number of families
_MOST_AVERAGES = 256  # of all families, but for the fewest
_JOINING = 1 / 4  # of the iterations, in which classes of all families are left out
_SHARP = 3  # last iterations of families: their classes are compared as they will be
_NOISE_EVERY = 3  # iterations: it changes little, and is a quarter of the work
_COOLING = 1 / 16  # at most, in an iteration: classes that cool faster keep noise
_HOT = 1.5  # classes that form take particles less surely than the noise allows
_EDGE_ANGST = 8.0
_NUMBERS = ("shift_prior_angst", "evidence_loglik")


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
        families: sets of classes at the start, each of which sorts all particles by itself; the
            best classes of all are kept. See `families_for`.
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
    families: int = _FEWEST_FAMILIES

    @property
    def extent_angst(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size_angst

    @property
    def n_iterations(self) -> int:
        """All iterations: centring, the pass for the variance, and classification."""
        return N_CENTRING + 1 + self.iterations

    def radius_at(self, iteration: int) -> int:
        """Return the shells used in an iteration at most, counted from the first of all."""
        part = (iteration - N_CENTRING - 1) / max(1, self.ramp_iterations)
        start, end = 1 / self.start_resolution_angst, 1 / self.max_resolution_angst
        frequency = start + min(1.0, max(0.0, part)) * (end - start)
        return max(4, min((self.box - 1) // 2, round(self.extent_angst * frequency)))

    @property
    def n_families(self) -> int:
        """Number of sets of classes that form apart."""
        return self.families if self.n_classes > 1 else 1

    @property
    def joining_iterations(self) -> int:
        """Iterations that leave the best classes of all families."""
        return max(1, int(_JOINING * (self.iterations - N_SETTLING)))

    @property
    def forming_iterations(self) -> int:
        """Iterations of classification in which families form apart."""
        most = self.iterations - N_SETTLING - self.joining_iterations
        return max(1, min(self.ramp_iterations, most))

    def families_at(self, iteration: int) -> int:
        """Return how many sets of classes are apart, counted from the first iteration of all."""
        formed = iteration - N_CENTRING - 1
        return self.n_families if 0 <= formed < self.forming_iterations else 1

    def classes_after(self, iteration: int) -> int:
        """Return the number of classes after an iteration, counted from the first of all.

        Families are whole while they form, then the number falls evenly on a log scale.
        """
        joined = iteration - N_CENTRING - self.forming_iterations
        part = min(1.0, max(0.0, joined / self.joining_iterations))
        times: float = self.n_families ** (1 - part)
        return round(self.n_classes * times)

    def temperature_at(self, iteration: int) -> float:
        """Return what scores are divided by, counted from the first iteration of all."""
        formed = iteration - N_CENTRING - 1
        left = self.forming_iterations - _SHARP - formed
        return min(_HOT, 1.0 + _COOLING * left) if formed >= 0 and left > 0 else 1.0

    @property
    def reach_angst(self) -> float:
        """Radius of the averages, soft edge and all."""
        inner = min(0.5 * self.diameter_angst - 2.0, 0.45 * self.extent_angst)
        return min(inner + _EDGE_ANGST, 0.5 * self.extent_angst)

    @property
    def n_orders(self) -> int:
        """Angular orders that the particle can have at the first resolution."""
        return max(6, math.ceil(math.pi / 2 * self.diameter_angst / self.start_resolution_angst))


def families_for(evidence: float, n_classes: int) -> int:
    """Choose how many sets of classes form apart: more for weaker particles.

    Weak particles find poor classes as likely as good ones at first, so that sets end in unlike
    places; strong ones find the same classes every time (docs/benchmarks.md).

    Args:
        evidence: nats a particle by which the mean of all, turned all round, explains them.
        n_classes: in each set.
    """
    wanted = round(_FAMILIES_EVIDENCE / max(evidence, 1.0))
    most = min(_MOST_FAMILIES, _MOST_AVERAGES // n_classes)
    return max(_FEWEST_FAMILIES, min(wanted, most))


@dataclass(frozen=True)
class PlanarState:
    """Where a classification in 2D stands.

    Attributes:
        averages: `[h, c, n, n]`; where each part of the particles meets averages of the other
            parts, h is the number of parts, 1 otherwise.
        moves_angst: `[c, 2]`, how far the centres of mass were off and the averages moved
            back in the last update; the shifts of their particles follow (`follow_moves`).
        noise_power: `[g, s]`, variance of a real component by group and shell.
        scale: `[g]`, intensity of each group.
        log_prior: `[c]`, normalised.
        mean_weight: `[s]`, mean of CTF^2 / sigma^2 of a particle.
        shift_prior_angst: standard deviation of shifts.
        evidence_loglik: of the last iteration, per particle, against an empty box.
        iteration: number of iterations done, all kinds counted.
        radius: shells that are compared next.
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
    radius: int

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
        values |= {name: int(known[name]) for name in ("iteration", "radius")}
        return PlanarState(**values)


def planar_side(radius: int) -> int:
    """Return the side of averages up to a radius, in pixels."""
    return next_fast_size(2 * radius + 6)


def planar_mask(config: PlanarConfig, n: int) -> Tensor:
    """Return the disc of the particle on `n` pixels; neighbours begin outside it."""
    pixel = config.extent_angst / n
    return soft_circle(n, (config.reach_angst - _EDGE_ANGST) / pixel, _EDGE_ANGST / pixel)


def planar_grid(config: PlanarConfig, radius: int, *, shift_angst: float = 0.0) -> RingGrid:
    """Choose rings for averages, and for the part of particles that falls on them.

    Args:
        config: of the run.
        radius: last ring.
        shift_angst: largest one that is searched.
    """
    averages = 2 * config.reach_angst / config.extent_angst
    blurred = 2 * (config.reach_angst + shift_angst) / config.extent_angst + 4 / radius
    return ring_grid(radius, sampled_part=min(1.0, blurred), compared_part=averages)


def planar_turning(config: PlanarConfig, state: PlanarState, *, half: int = 0) -> Turning:
    """Say what particles are compared with next; shifts are relative to each one's centre.

    Args:
        config: of the run.
        state: where it stands.
        half: part of the particles, from 0.
    """
    radius = state.radius
    step = config.extent_angst / radius / 4
    classified = state.iteration - N_CENTRING - 1
    if classified < 0:
        start = 0.0
        reach = (0.0, config.shift_range_angst, 3 * step)[min(state.iteration, 2)]
    else:
        generator = torch.Generator().manual_seed(config.seed * 1000 + state.iteration)
        start = 360 * float(torch.rand(1, generator=generator))
        is_wide = classified < 1 or classified >= config.iterations
        reach = step * (2 if is_wide else 1)
    grid = planar_grid(config, radius, shift_angst=reach)
    return Turning(
        averages=state.averages[min(half, len(state.averages) - 1)],
        log_prior=state.log_prior,
        grid=replace(grid, n_orders=1) if classified < 0 else grid,
        shifts_angst=shift_grid(reach, step),
        shift_prior_angst=state.shift_prior_angst,
        first_psi_deg=start,
        reach_angst=config.reach_angst,
        noise_radius_angst=0.5 * config.diameter_angst,
        temperature=config.temperature_at(state.iteration),
        n_families=config.families_at(state.iteration),
        is_noise_measured=classified < 0 or classified % _NOISE_EVERY == 0,
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
