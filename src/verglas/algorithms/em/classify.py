"""Classification by expectation-maximisation: 2D averages, 3D classes, ab-initio maps.

References are learnt from all views together and kept honest by a prior on their power
(Scheres 2012, doi:10.1016/j.jmb.2011.11.010); the resolution in use grows from coarse to
fine, so that the first iterations see a smooth landscape.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.expectation import Level, References, Search
from verglas.algorithms.em.mstep import Sums, radial_mean, reconstruct, symmetrise_sums
from verglas.algorithms.em.prior import inverse_snr_of_fsc, updated_noise, updated_scale
from verglas.algorithms.em.search import shift_grid
from verglas.kernels.fourier import next_fast_size
from verglas.kernels.masks import soft_circle, soft_sphere
from verglas.kernels.slices import image_to_half_plane, volume_to_half_volume
from verglas.kernels.so3 import euler_to_matrix, orientation_grid, rotation_from_vector
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "ClassifyConfig",
    "ClassifyState",
    "class_averages",
    "classify_plan",
    "classify_references",
    "classify_update",
    "first_state",
    "revive_empty",
]

_MAX_DENSE_ROWS = 8000
_NUMBERS = ("shift_prior_angst", "evidence_loglik", "fit_loglik", "iteration")
_HAND_FLOOR = 0.2  # least share of a map's odd part while its hand is still open
_HAND_GAIN = 3.0
_HAND_ITERATIONS = 6
_EMPTY_SHARE = 0.1  # of the mean share of a class
_CHANGE = 0.3


@dataclass(frozen=True)
class ClassifyConfig:
    """What a classification is told.

    Attributes:
        box: of the images, in pixels.
        pixel_size_angst: of the images.
        diameter_angst: of the particle.
        n_classes: number of references.
        planar: 2D class averages instead of maps.
        symmetry: point group of the maps.
        tau: how much the data is trusted against the prior (2 in 2D, 4 in 3D).
        start_resolution_angst: used by the first iterations.
        max_resolution_angst: used by the last ones.
        ramp_iterations: iterations over which the resolution grows.
        max_iterations: number of iterations.
        shift_range_angst: largest shift searched.
        coarsest_step_deg, finest_step_deg: bounds of the angular step.
        padding: oversampling of Fourier volumes.
        seed: of everything random.
    """

    box: int
    pixel_size_angst: float
    diameter_angst: float
    n_classes: int = 1
    planar: bool = False
    symmetry: str = "C1"
    tau: float = 4.0
    start_resolution_angst: float = 30.0
    max_resolution_angst: float = 12.0
    ramp_iterations: int = 15
    max_iterations: int = 25
    shift_range_angst: float = 15.0
    coarsest_step_deg: float = 15.0
    finest_step_deg: float = 7.5
    padding: int = 2
    seed: int = 0

    @property
    def extent_angst(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size_angst

    def radius_at(self, iteration: int) -> int:
        """Return the shells used in an iteration."""
        part = min(1.0, iteration / max(1, self.ramp_iterations))
        start = 1 / self.start_resolution_angst
        frequency = start + part * (1 / self.max_resolution_angst - start)
        return max(3, min((self.box - 1) // 2, round(self.extent_angst * frequency)))

    def box_at(self, radius: int) -> int:
        """Return the side of a map that holds shells up to a radius."""
        return next_fast_size(2 * radius + 6)


@dataclass(frozen=True)
class ClassifyState:
    """Where a classification stands.

    Attributes:
        maps: `[c, n, n, n]`, or `[c, n, n]` when planar, regularised.
        noise_power: `[g, s]`, variance of a real component by group and shell.
        scale: `[g]`, intensity of each group.
        class_weight: `[c]`, share of the views of each reference.
        shift_prior_angst: standard deviation of shifts.
        evidence_loglik: of the last iteration, per view, against no signal.
        fit_loglik: log-likelihood of the residuals per view; comparable between runs on the
            same views at the same radius.
        iteration: number of iterations done.
    """

    maps: Tensor
    noise_power: Tensor
    scale: Tensor
    class_weight: Tensor
    shift_prior_angst: float
    evidence_loglik: float
    fit_loglik: float
    iteration: int

    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays and plain numbers by name."""
        return {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "ClassifyState":
        """Rebuild from what `to_arrays` gave, numbers as arrays or not."""
        values: dict[str, Any] = {name: torch.as_tensor(v) for name, v in arrays.items()}
        values |= {name: float(arrays[name]) for name in _NUMBERS}
        return ClassifyState(**values | {"iteration": int(arrays["iteration"])})


def first_state(config: ClassifyConfig, noise_power: Tensor) -> ClassifyState:
    """Return a state with empty maps, to be filled by `expectation.scatter` at random poses."""
    n = config.box_at(config.radius_at(0))
    shape = (config.n_classes, n, n) if config.planar else (config.n_classes, n, n, n)
    return ClassifyState(
        maps=torch.zeros(shape),
        noise_power=noise_power,
        scale=torch.ones(len(noise_power)),
        class_weight=torch.full((config.n_classes,), 1 / config.n_classes),
        shift_prior_angst=config.shift_range_angst / 2,
        evidence_loglik=-math.inf,
        fit_loglik=-math.inf,
        iteration=0,
    )


def _angular_step(config: ClassifyConfig, radius: int) -> float:
    resolution = config.extent_angst / radius
    wanted = math.degrees(resolution / config.diameter_angst)
    return max(config.finest_step_deg, min(config.coarsest_step_deg, wanted))


def classify_plan(config: ClassifyConfig, state: ClassifyState) -> Search:
    """Choose the grids of the next iteration.

    Args:
        config: of the run.
        state: where it stands.

    Returns:
        The search.
    """
    radius = config.radius_at(state.iteration)
    step_angst = config.extent_angst / radius / 4
    reach = min(config.shift_range_angst, max(3 * state.shift_prior_angst, 2 * step_angst))
    shifts = shift_grid(reach, step_angst)
    generator = torch.Generator().manual_seed(config.seed * 1000 + state.iteration)
    jitter = torch.rand(1, 3, generator=generator, dtype=torch.float64) - 0.5
    step_deg = _angular_step(config, radius)
    if config.planar:
        rotations, step_deg = _in_plane_grid(step_deg, float(jitter[0, 0]))
        levels = [Level(step_deg=step_deg, radius=radius, shifts_angst=shifts)]
    else:
        last = max(1, math.ceil(math.log2(60 / step_deg) - 1e-6))
        first = last
        n_operators = len(symmetry_operators(config.symmetry))
        while first > 1 and 72 * 8**first * config.n_classes > _MAX_DENSE_ROWS * n_operators:
            first -= 1
        finer = shift_grid(step_angst, step_angst)
        levels = [
            Level(
                step_deg=60 / 2**order,
                radius=radius,
                shifts_angst=shifts if order == first else finer,
            )
            for order in range(first, last + 1)
        ]
        turn = rotation_from_vector(jitter * math.radians(levels[0].step_deg))[0]
        rotations = turn @ orientation_grid(first, symmetry=config.symmetry)
    return Search(
        rotations_ref_to_img=rotations,
        levels=tuple(levels),
        shift_prior_angst=state.shift_prior_angst,
        noise_radius_angst=0.5 * config.diameter_angst,
    )


def _in_plane_grid(step_deg: float, jitter: float) -> tuple[Tensor, float]:
    n = math.ceil(360 / step_deg)
    psi = (torch.arange(n, dtype=torch.float64) + jitter) * (360 / n)
    zero = torch.zeros_like(psi)
    return euler_to_matrix(torch.stack([zero, zero, psi], -1)), 360 / n


def classify_references(config: ClassifyConfig, state: ClassifyState, radius: int) -> References:
    """Prepare the references for slicing.

    Args:
        config: of the run.
        state: where it stands.
        radius: of the search.

    Returns:
        All references.
    """
    prepare = image_to_half_plane if config.planar else volume_to_half_volume
    return References(
        half_volumes=prepare(state.maps, radius=radius, padding=config.padding),
        log_prior=state.class_weight.clamp_min(1e-6).log(),
        padding=config.padding,
        planar=config.planar,
    )


def _mask(config: ClassifyConfig, n: int) -> Tensor:
    pixel = config.extent_angst / n
    radius = min(0.55 * config.diameter_angst, 0.45 * config.extent_angst) / pixel
    edge = max(4.0, 10.0 / pixel)
    return soft_circle(n, radius, edge) if config.planar else soft_sphere(n, radius, edge)


def _prior_power(maps: Tensor, radius: int, config: ClassifyConfig) -> Tensor:
    """Return `[c, radius + 1]`, variance of a real component of each map, by shell."""
    prepare = image_to_half_plane if config.planar else volume_to_half_volume
    half = prepare(maps, radius=radius, padding=1)
    return torch.stack([radial_mean(h.abs().square() / 2, radius=radius, padding=1) for h in half])


def classify_update(config: ClassifyConfig, state: ClassifyState, sums: Sums) -> ClassifyState:
    """Reconstruct every reference and learn noise, scale, shares and shifts.

    Args:
        config: of the run.
        state: before the expectation step.
        sums: of all views.

    Returns:
        The next state.
    """
    radius = sums.residual_power.shape[1] - 1
    next_radius = config.radius_at(state.iteration + 1)
    n = config.box_at(max(radius, next_radius))
    operators = symmetry_operators("C1" if config.planar else config.symmetry)
    dimensions = 2 if config.planar else 3
    mask = _mask(config, n)
    maps = []
    prior = _prior_power(state.maps, radius, config) if state.iteration else None
    for c in range(config.n_classes):
        numerator = torch.as_tensor(sums.numerator[c]).to(torch.complex64)
        denominator = torch.as_tensor(sums.denominator[c]).float()
        numerator, denominator = symmetrise_sums(numerator, denominator, operators)
        weight = radial_mean(denominator, radius=radius, padding=config.padding)
        weight = weight * config.padding**dimensions
        if prior is None:
            prior_c = _power_of_sums(numerator, denominator, radius, config)
        else:
            prior_c = prior[c]
        inverse_snr = 1 / (config.tau * prior_c * weight).clamp_min(1e-12)
        maps.append(
            reconstruct(
                numerator,
                denominator,
                radius=radius,
                box=n,
                padding=config.padding,
                inverse_snr=inverse_snr,
                planar=config.planar,
            )
            * mask
        )
    stacked = torch.stack(maps)
    settling = state.iteration + 1 - config.ramp_iterations
    if not config.planar and 0 <= settling < _HAND_ITERATIONS:
        stacked = _lift_hand(stacked)
    square, n_views = torch.as_tensor(sums.shift_square_angst2)
    measured = math.sqrt(float(square) / max(float(n_views), 1.0))
    total = sums.class_weight.sum().clamp_min(1e-9)
    return replace(
        state,
        maps=stacked,
        noise_power=updated_noise(sums.residual_power, sums.residual_count, state.noise_power),
        scale=updated_scale(state.scale, sums.scale_cross, sums.scale_power),
        class_weight=(sums.class_weight / total).float(),
        shift_prior_angst=max(math.hypot(measured, config.extent_angst / radius / 8), 1.5),
        evidence_loglik=float(sums.evidence_loglik) / max(float(n_views), 1.0),
        fit_loglik=_fit_loglik(sums, max(float(n_views), 1.0)),
        iteration=state.iteration + 1,
    )


def _power_of_sums(
    numerator: Tensor, denominator: Tensor, radius: int, config: ClassifyConfig
) -> Tensor:
    """Return `[radius + 1]`, the power of the plain quotient, the first guess of the prior."""
    n = config.box_at(radius)
    plain = reconstruct(
        numerator,
        denominator,
        radius=radius,
        box=n,
        padding=config.padding,
        planar=config.planar,
    )
    return _prior_power((plain * _mask(config, n))[None], radius, config)[0]


def _fit_loglik(sums: Sums, n_views: float) -> float:
    power = torch.as_tensor(sums.residual_power)
    count = torch.as_tensor(sums.residual_count)
    used = count > 0
    return -float((count[used] * (power[used] / count[used]).log()).sum()) / n_views


def _lift_hand(maps: Tensor) -> Tensor:
    """Amplify the odd part of maps that have all but lost their hand.

    At low resolution many particles look like their mirror image. Maps then settle on the
    mean of both hands, a saddle of the likelihood that plain iterations leave only slowly
    once finer detail comes in. The part that changes sign under inversion is what decides.
    """
    inverted = maps.flip(1, 2, 3)
    if maps.shape[-1] % 2 == 0:
        inverted = inverted.roll((1, 1, 1), (1, 2, 3))
    even: Tensor = (maps + inverted) / 2
    odd: Tensor = (maps - inverted) / 2
    size = odd.flatten(1).norm(dim=1) / even.flatten(1).norm(dim=1).clamp_min(1e-30)
    gain = (_HAND_FLOOR / size.clamp_min(1e-30)).clamp(1.0, _HAND_GAIN)
    lifted: Tensor = even + gain[:, None, None, None] * odd
    return lifted


def class_averages(config: ClassifyConfig, *parts: Sums, snr: Tensor | None = None) -> Tensor:
    """Make class averages at the images' own pixel from the sums of some views.

    Args:
        config: of the run, planar.
        parts: sums, added up.
        snr: `[c, s]`, correlation between halves, for a Wiener filter; None for the plain
            quotient.

    Returns:
        `[c, box, box]`, not masked.
    """
    radius = parts[0].residual_power.shape[1] - 1
    averages = []
    for c in range(config.n_classes):
        numerator = torch.stack([torch.as_tensor(p.numerator[c]) for p in parts]).sum(0)
        denominator = torch.stack([torch.as_tensor(p.denominator[c]) for p in parts]).sum(0)
        numerator, denominator = symmetrise_sums(
            numerator.to(torch.complex64), denominator.float(), symmetry_operators("C1")
        )
        inverse_snr = None
        if snr is not None:
            inverse_snr = inverse_snr_of_fsc(snr[c].double(), radius=radius, tau=2.0)
        averages.append(
            reconstruct(
                numerator,
                denominator,
                radius=radius,
                box=config.box,
                padding=config.padding,
                inverse_snr=inverse_snr,
                planar=True,
            )
        )
    return torch.stack(averages)


def revive_empty(config: ClassifyConfig, state: ClassifyState) -> ClassifyState:
    """Give classes that lost their views half of the largest one, a little changed.

    Args:
        config: of the run.
        state: after an update.

    Returns:
        The state, with every class alive.
    """
    maps, weight = state.maps.clone(), state.class_weight.clone()
    generator = torch.Generator().manual_seed(config.seed * 7919 + state.iteration)
    for c in (weight < _EMPTY_SHARE / config.n_classes).nonzero().flatten().tolist():
        largest = int(weight.argmax())
        noise = torch.randn(maps.shape[1:], generator=generator) * maps[largest].std()
        smooth = torch.nn.functional.avg_pool2d(noise[None], 3, 1, 1)[0] if config.planar else noise
        maps[c] = maps[largest] + _CHANGE * smooth
        weight[c] = weight[largest] = weight[largest] / 2
    return replace(state, maps=maps, class_weight=weight)
