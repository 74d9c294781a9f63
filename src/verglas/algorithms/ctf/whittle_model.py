"""Model of a CTF periodogram: parameters to spectrum, likelihood and Fisher matrix.

`S = b(|k|) + e(|k|) m(k) sin^2(chi)`: b and e are exponentials of smooth splines, m is the loss by
motion in one direction, chi is linear in the wanted parameters. Pixels are first averaged over
small cells of radius and direction, sorted by shell, so that every sum that a spline needs is a
difference of cumulative sums. Phases are averaged exactly, being linear in the parameters.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import make_cells, radial_basis, repeat_shells, shell_sums
from verglas.algorithms.ctf.optics import Optics, phase_terms, rings_per_step
from verglas.algorithms.ctf.spectrum import TileSpectrum, ring_gain

__all__ = ["Model", "Problem", "evaluate", "normal_equations", "objective", "per_cell", "prepare"]

# Width of the priors, wide enough not to matter where rings are seen: second difference of the
# log splines from knot to knot, log envelope, half the astigmatism (Å), motion (Å^2).
_BACKGROUND_ROUGHNESS = 0.25
_ENVELOPE_ROUGHNESS = 1.0
_ENVELOPE_WIDTH = 4.0
_MOTION_WIDTH = 1000.0
_MOTION_ROUNDING = 2.0


@dataclass(frozen=True)
class Problem:
    """Data, regressors and priors of one refinement, by cells sorted by shell.

    Attributes:
        names: physical parameters; they come first in a point, then the splines of b and e.
        cell: `[n]`, cell of each pixel of the spectrum.
        count: `[c]`, pixels in a cell.
        power: `[c]`, mean over the cell, over `unit`.
        unit: mean power of all.
        shell_end: `[s]`, one past the last cell of each shell.
        basis: `[s, m]`, spline basis.
        phase_offset, phase_terms: `[c]` and `[p, c]`, chi and its derivatives.
        motion_terms, half_square: `[p, c]` and `[c]`, see `_motion`.
        is_motion: `[p]`, 1 for parameters of motion.
        weight: `[s]`, independent values that one pixel counts for, to rings.
        gain: `[s]`, of these over those that count for a smooth curve.
        penalty, prior_mean: inverse covariance and centre of the prior of a point.
    """

    names: tuple[str, ...]
    cell: Tensor
    count: Tensor
    power: Tensor
    unit: float
    shell_end: Tensor
    basis: Tensor
    phase_offset: Tensor
    phase_terms: Tensor
    motion_terms: Tensor
    half_square: Tensor
    is_motion: Tensor
    weight: Tensor
    gain: Tensor
    penalty: Tensor
    prior_mean: Tensor


@dataclass(frozen=True)
class Model:
    """Values at one point: per shell (background, envelope) and per cell (the rest)."""

    background: Tensor
    envelope: Tensor
    phase: Tensor
    rings: Tensor
    amplitude: Tensor
    inverse: Tensor


def _motion_terms(spectrum: TileSpectrum, names: Sequence[str]) -> Tensor:
    """Derivatives of the loss by motion: `[p, n]`, 0 for other parameters."""
    x, y = spectrum.x_per_angst, spectrum.y_per_angst
    motion = {"motion_cos": 0.5 * (x.square() - y.square()), "motion_sin": x * y}
    return torch.stack([motion.get(name, torch.zeros_like(x)) for name in names])


def _difference_penalty(n: int, width: float) -> Tensor:
    """Inverse covariance of coefficients whose second differences have the given width."""
    second = torch.diff(torch.eye(n, dtype=torch.float64), n=2, dim=0)
    penalty: Tensor = second.T @ second / width**2
    return penalty


def _penalty(names: Sequence[str], n: int, max_astigmatism_angst: float) -> Tensor:
    """Inverse covariance of the prior over physical parameters and two splines."""
    width = {"astigmatism": 0.5 * max_astigmatism_angst, "motion": _MOTION_WIDTH}
    m = len(names)
    penalty = torch.zeros(m + 2 * n, m + 2 * n, dtype=torch.float64)
    for index, name in enumerate(names):
        if name.endswith(("_cos", "_sin")):
            penalty[index, index] = width[name[:-4]] ** -2
    penalty[m : m + n, m : m + n] = _difference_penalty(n, _BACKGROUND_ROUGHNESS)
    envelope = _difference_penalty(n, _ENVELOPE_ROUGHNESS)
    penalty[m + n :, m + n :] = envelope + torch.eye(n) / _ENVELOPE_WIDTH**2
    return penalty


def _log_mean_power(problem_power: Tensor, count: Tensor, end: Tensor, basis: Tensor) -> Tensor:
    """Spline coefficients of the logarithm of the mean power of the shells."""
    total = shell_sums(count, end)
    mean = shell_sums(problem_power * count, end) / total
    root = total.sqrt()[:, None]
    weighted = basis * root
    ridge = 1e-3 * torch.eye(basis.shape[1]).to(basis)
    target = weighted.T @ (mean.clamp(min=1e-6).log()[:, None] * root)
    solution: Tensor = torch.linalg.solve(weighted.T @ weighted + ridge, target)
    return solution[:, 0]


def prepare(
    spectrum: TileSpectrum,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
) -> tuple[Problem, Tensor]:
    """Lay out a refinement; also the start of the splines, b at the mean power and e below."""
    cells, names = make_cells(spectrum), list(initial)
    count, end = cells.count, cells.shell_end
    basis = radial_basis(cells.radius)
    offset, terms = phase_terms(spectrum.x_per_angst, spectrum.y_per_angst, optics, names)
    unit = float(spectrum.power.mean())
    power = cells.mean(spectrum.power) / unit
    log_mean = _log_mean_power(power, count, end, basis)
    rings = rings_per_step(
        cells.radius,
        optics,
        defocus_angst=initial["defocus"],
        step_per_angst=spectrum.step_per_angst,
    )
    gain = ring_gain(rings)
    is_motion = [float(name.startswith("motion")) for name in names]
    problem = Problem(
        names=tuple(names),
        cell=cells.index,
        count=count,
        power=power.float(),
        unit=unit,
        shell_end=end,
        basis=basis,
        phase_offset=cells.mean(offset),
        phase_terms=cells.mean(terms),
        motion_terms=cells.mean(_motion_terms(spectrum, names)).float(),
        half_square=cells.mean(0.5 * spectrum.radius_per_angst.square()).float(),
        is_motion=torch.tensor(is_motion).to(offset),
        weight=spectrum.n_independent * gain,
        gain=gain,
        penalty=_penalty(names, basis.shape[1], max_astigmatism_angst).to(offset.device),
        prior_mean=torch.cat(
            [log_mean.new_zeros(len(names)), torch.zeros_like(log_mean), log_mean - 2.3]
        ),
    )
    return problem, torch.cat([log_mean - 0.2, log_mean - 1.5])


def _motion(problem: Problem, physical: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of power by motion and the derivatives of its logarithm, `[c]` and `[p, c]`.

    With `B = |(motion_cos, motion_sin)|` the power falls as `1 / (1 + B k^2)` along the motion and
    not at all across it. Uniform motion by d gives `sinc^2(k d)`: also `1 - B k^2` near the origin,
    with `B = pi^2 d^2 / 3`, and a tail of k^-2. The modulus is rounded off near zero.
    """
    used = problem.is_motion * physical
    modulus = float((used.square().sum() + _MOTION_ROUNDING**2).sqrt())
    ratio = (used / modulus).float()
    along = used.float() @ problem.motion_terms
    along = along + (modulus - _MOTION_ROUNDING) * problem.half_square
    inverse = 1.0 / (1.0 + along.clamp(min=0.0))
    slopes = problem.motion_terms + ratio[:, None] * problem.half_square
    return inverse, -slopes * inverse * problem.is_motion.float()[:, None]


def per_cell(problem: Problem, shells: Tensor) -> Tensor:
    """Repeat `[s]` shell values for their cells, in float32."""
    return repeat_shells(shells, problem.shell_end)


def evaluate(problem: Problem, point: Tensor) -> Model:
    """Work out b, e, chi, sin^2 chi, the height of the rings and 1/S."""
    m, n = len(problem.names), problem.basis.shape[1]
    background = (problem.basis @ point[m : m + n]).exp()
    envelope = (problem.basis @ point[m + n :]).exp()
    phase = problem.phase_offset + point[:m] @ problem.phase_terms
    rings = phase.float().sin().square()
    amplitude = per_cell(problem, envelope) * _motion(problem, point[:m])[0]
    spectrum = per_cell(problem, background) + amplitude * rings
    return Model(background, envelope, phase, rings, amplitude, spectrum.reciprocal())


def objective(problem: Problem, model: Model, point: Tensor) -> float:
    """Negative log posterior."""
    terms = problem.power * model.inverse - model.inverse.log()
    data = (shell_sums(terms * problem.count, problem.shell_end) * problem.weight).sum()
    offset = point - problem.prior_mean
    return float(data + 0.5 * offset @ problem.penalty @ offset)


def normal_equations(problem: Problem, model: Model, point: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient of the negative log posterior and its Fisher matrix."""
    basis, end, weight = problem.basis, problem.shell_end, problem.weight
    m, n = len(problem.names), basis.shape[1]
    height = model.amplitude * model.inverse
    background_term = per_cell(problem, model.background) * model.inverse
    envelope_term = height * model.rings
    slope = height * (2.0 * model.phase).float().sin()
    physical = slope * problem.phase_terms.float()
    physical = physical + envelope_term * _motion(problem, point[:m])[1]
    terms = torch.cat([background_term[None], envelope_term[None], physical])
    residual = 1.0 - problem.power * model.inverse
    count = problem.count
    slopes = shell_sums(terms * (residual * count), end) * weight
    with_background = shell_sums(terms * (background_term * count), end) * weight
    with_envelope = shell_sums(terms[1:] * (envelope_term * count), end) * weight
    gradient = torch.cat([slopes[2:].sum(dim=1), slopes[0] @ basis, slopes[1] @ basis])
    fisher = torch.zeros_like(problem.penalty)
    fisher[:m, :m] = ((physical * (per_cell(problem, weight) * count)) @ physical.T).double()
    fisher[:m, m : m + n] = with_background[2:] @ basis
    fisher[:m, m + n :] = with_envelope[1:] @ basis
    fisher[m : m + n, m : m + n] = basis.T @ (with_background[0][:, None] * basis)
    fisher[m : m + n, m + n :] = basis.T @ (with_background[1][:, None] * basis)
    fisher[m + n :, m + n :] = basis.T @ (with_envelope[0][:, None] * basis)
    fisher = fisher.triu() + fisher.triu(1).T + problem.penalty
    return gradient + problem.penalty @ (point - problem.prior_mean), fisher
