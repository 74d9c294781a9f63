"""Maximum-likelihood refinement of a CTF against a periodogram.

A periodogram value I is exponentially distributed about the spectrum S, so the best fit minimises
`sum w (log S + I / S)` (Whittle 1953). Fisher scoring converges in a few steps and its matrix is
the inverse covariance. Shells where the model is wrong by more than the noise (particle shape at
low frequency, ice) count less, as in over-dispersed regression.
"""

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import shell_sums
from verglas.algorithms.ctf.matched import smooth_excess
from verglas.algorithms.ctf.optics import Optics, pixel_phase
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.spectrum import TileSpectrum
from verglas.algorithms.ctf.whittle_model import (
    Model,
    Problem,
    evaluate,
    normal_equations,
    objective,
    per_cell,
    prepare,
)

__all__ = ["refine_likelihood"]

_TOLERANCE_NATS = 0.01


def _minimise(problem: Problem, point: Tensor, *, free: Tensor, n_steps: int) -> Tensor:
    """Damped Fisher scoring over the parameters marked free."""
    model = evaluate(problem, point)
    value = objective(problem, model, point)
    gradient, fisher = normal_equations(problem, model, point)
    damping = 1e-3
    for _ in range(n_steps):
        chosen = fisher[free][:, free]
        diagonal = chosen.diagonal()
        damped = chosen + torch.diag(damping * diagonal + 1e-9)
        step = torch.zeros_like(point)
        step[free] = torch.linalg.solve(damped, gradient[free])
        trial = point - step
        trial_model = evaluate(problem, trial)
        trial_value = objective(problem, trial_model, trial)
        if not trial_value <= value:
            damping = min(damping * 10.0 + 1e-3, 1e6)
            continue
        converged = value - trial_value < _TOLERANCE_NATS
        point, model, value = trial, trial_model, trial_value
        if converged:
            break
        damping = max(damping * 0.2, 1e-6)
        gradient, fisher = normal_equations(problem, model, point)
    return point


def _overdispersion(problem: Problem, model: Model, n_independent: float) -> Tensor:
    """Weights that make shells with a systematic misfit count no more than they deserve."""
    count = shell_sums(problem.count, problem.shell_end)
    misfit = (problem.power * model.inverse - 1.0) * problem.count
    excess = shell_sums(misfit, problem.shell_end).square() * n_independent / count.clamp(min=1.0)
    return n_independent * problem.gain / smooth_excess(excess)


def _ringless_objective(problem: Problem, curves: Tensor) -> float:
    """Best objective of the same curves with sin^2 replaced by its mean, one half."""
    n = len(curves)
    flat = replace(
        problem,
        names=(),
        phase_offset=torch.full_like(problem.phase_offset, 0.25 * math.pi),
        phase_terms=problem.phase_terms[:0],
        motion_terms=problem.motion_terms[:0],
        is_motion=problem.is_motion[:0],
        penalty=problem.penalty[-n:, -n:],
        prior_mean=problem.prior_mean[-n:],
    )
    free = torch.ones(n, dtype=torch.bool, device=curves.device)
    point = _minimise(flat, curves, free=free, n_steps=8)
    return objective(flat, evaluate(flat, point), point)


def refine_likelihood(
    spectrum: TileSpectrum,
    *,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
) -> RingFit:
    """Refine named CTF parameters from a start within about half a ring of the truth.

    Args:
        spectrum: of one micrograph.
        optics: wavelength, spherical aberration, amplitude contrast.
        initial: start values of the parameters to refine, from `defocus astigmatism_cos
            astigmatism_sin phase_shift spherical_aberration motion_cos motion_sin`. Defocus and
            astigmatism (half the difference along x and at 45 degrees) in Å, phase shift in
            radians, spherical aberration in mm, motion (along x and at 45 degrees) in Å^2 as in
            `1 / (1 + B k^2)`.
        max_astigmatism_angst: half of it is the width of the prior of each component.

    Returns:
        Parameters, covariance (over-dispersion included) and curves.

    References:
        Whittle 1953, doi:10.1007/BF02590998.
    """
    m = len(initial)
    problem, curves = prepare(spectrum, optics, initial, max_astigmatism_angst)
    point = torch.cat([torch.tensor(list(initial.values())).to(curves), curves])
    free = torch.ones(len(point), dtype=torch.bool, device=point.device)
    curves_only = free.clone()
    curves_only[:m] = False
    point = _minimise(problem, point, free=curves_only, n_steps=5)
    point = _minimise(problem, point, free=free, n_steps=10)
    for _ in range(2):
        weight = _overdispersion(problem, evaluate(problem, point), spectrum.n_independent)
        problem = replace(problem, weight=weight)
        point = _minimise(problem, point, free=free, n_steps=8)
    model = evaluate(problem, point)
    _, fisher = normal_equations(problem, model, point)
    evidence = _ringless_objective(problem, point[m:]) - objective(problem, model, point)
    values = dict(zip(initial, point[:m].tolist(), strict=True))
    background = problem.unit * per_cell(problem, model.background)
    return RingFit(
        values=values,
        covariance=torch.linalg.inv(fisher)[:m, :m],
        evidence=evidence,
        phase=pixel_phase(spectrum, optics, values),
        background=background.double()[problem.cell],
        amplitude=problem.unit * model.amplitude.double()[problem.cell],
        weight=per_cell(problem, problem.weight).double()[problem.cell],
        cell=problem.cell,
    )
