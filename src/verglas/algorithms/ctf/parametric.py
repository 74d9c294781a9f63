"""CTF from a complete parametric model of the power spectrum.

`PSD = noise(k) + envelope(k) sin^2(chi)`, every term with a physical form: a detector's flat noise
with its fall-off, inelastic scattering as the exponential of a square root, the maximum of
water's structure factor, and an envelope with a B factor and a focal spread. The logarithm is
fitted by least squares that large residuals pull little, so that features the model lacks cannot
bend it. It starts from another estimate.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import Cells, repeat_shells, shell_sums
from verglas.algorithms.ctf.matched import ring_evidence, smooth_excess
from verglas.algorithms.ctf.optics import Optics, pixel_phase
from verglas.algorithms.ctf.relative import prior_precision, relative_spectrum, ring_cells
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = ["PsdProblem", "refine_parametric"]

_FREEDOM = 5.0  # of Student's distribution, whose logarithm is the loss
_N_STEPS = 25
_TOLERANCE = 0.01

# Means and widths of the priors of the shape, in the order of `_noise` and `_envelope`. The
# powers are logarithms over the mean power of the spectrum.
_SHAPE_PRIOR = (
    ("log_base", 0.0, 3.0),
    ("base_decay_angst", 0.0, 3.0),
    ("log_scatter", -1.0, 3.0),
    ("scatter_decay", 10.0, 10.0),
    ("log_water", -4.0, 2.0),
    ("water_per_angst", 0.27, 0.01),
    ("log_water_width", -3.2, 0.3),
    ("log_rings", -1.0, 4.0),
    ("b_factor_angst2", 60.0, 200.0),
    ("log_focal_angst2", 7.0, 2.0),
)
_SHAPE_STEP = 1e-4


@dataclass(frozen=True)
class PsdProblem:
    """Logarithmic power by cells, and what the model needs.

    Attributes:
        cells: grouping of pixels.
        values: `[c]`, log power over the mean, bias taken out.
        weight: `[c]`, inverse variance, as it counts for rings.
        gain: `[s]`, of the weight over that for a smooth curve.
        wavelength_angst: of the electrons.
        phase_offset, phase_terms: `[c]` and `[p, c]`, float64.
        precision, prior_mean: of all parameters, CTF first.
    """

    cells: Cells
    values: Tensor
    weight: Tensor
    gain: Tensor
    wavelength_angst: float
    phase_offset: Tensor
    phase_terms: Tensor
    precision: Tensor
    prior_mean: Tensor

    @property
    def n_ctf(self) -> int:
        """Parameters of the phase; those of the shape follow."""
        return len(self.phase_terms)


def _shape_curves(radius: Tensor, shape: Tensor, wavelength_angst: float) -> tuple[Tensor, Tensor]:
    """Noise and envelope of `[q, 10]` shapes: `[q, s]` each."""
    base, decay, scatter, fall, water, place, width, rings, b_factor, focal = (
        column[:, None] for column in shape.unbind(dim=1)
    )
    square = radius.square()
    bump = -0.5 * ((radius - place) / width.exp()).square()
    noise = (base - decay * radius).exp() + (scatter - fall * radius.sqrt()).exp()
    noise = noise + (water + bump).exp()
    spread = 0.5 * (torch.pi * wavelength_angst) ** 2 * focal.exp() * square.square()
    return noise, (rings - 0.5 * b_factor * square - 2.0 * spread).clamp(-30.0, 30.0).exp()


def _model(problem: PsdProblem, point: Tensor) -> tuple[Tensor, Tensor]:
    """Log of the model and its derivatives: `[c]` and `[p + 10, c]`, float32."""
    m, radius = problem.n_ctf, problem.cells.radius
    shape = point[m:]
    step = _SHAPE_STEP * torch.eye(len(shape)).to(shape)
    tried = torch.cat([shape[None], shape + step, shape - step])
    noise, envelope = _shape_curves(radius, tried, problem.wavelength_angst)
    n = len(shape)
    slopes = [
        (curve[1 : n + 1] - curve[n + 1 :]) / (2 * _SHAPE_STEP) for curve in (noise, envelope)
    ]
    curves = torch.cat([noise[:1], envelope[:1], *slopes])
    spread = repeat_shells(curves, problem.cells.shell_end)
    phase = problem.phase_offset + point[:m] @ problem.phase_terms
    rings = phase.float().sin().square()
    total = spread[0] + spread[1] * rings
    physical = spread[1] * (2.0 * phase).float().sin() * problem.phase_terms.float()
    moulded = spread[2 : n + 2] + spread[n + 2 :] * rings
    return total.log(), torch.cat([physical, moulded]) / total


def _loss(problem: PsdProblem, residual: Tensor, point: Tensor) -> float:
    """Negative log posterior with Student's distribution of the residuals."""
    scaled = residual.square() * problem.weight
    data = 0.5 * (_FREEDOM + 1.0) * torch.log1p(scaled / _FREEDOM).double().sum()
    offset = point - problem.prior_mean
    return float(data + 0.5 * offset @ problem.precision @ offset)


def _normal(
    problem: PsdProblem, residual: Tensor, slopes: Tensor, point: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradient and matrix of the reweighted least squares."""
    robust = (_FREEDOM + 1.0) / (_FREEDOM + residual.square() * problem.weight)
    weighted = slopes * (problem.weight * robust)
    gradient = (weighted @ residual).double() - problem.precision @ (point - problem.prior_mean)
    return gradient, (weighted @ slopes.T).double() + problem.precision


def _climb(problem: PsdProblem, start: Tensor, free: Tensor) -> Tensor:
    """Levenberg-Marquardt over the free parameters."""
    point, damping = start, 1e-2
    expected, slopes = _model(problem, point)
    residual = problem.values - expected
    value = _loss(problem, residual, point)
    gradient, matrix = _normal(problem, residual, slopes, point)
    for _ in range(_N_STEPS):
        chosen = matrix[free][:, free]
        damped = chosen + torch.diag(damping * chosen.diagonal() + 1e-9)
        step = torch.zeros_like(point)
        step[free] = torch.linalg.solve(damped, gradient[free])
        trial = point + step
        expected, slopes = _model(problem, trial)
        residual = problem.values - expected
        trial_value = _loss(problem, residual, trial)
        if not trial_value <= value:
            damping = min(10.0 * damping + 1e-3, 1e8)
            continue
        gained = value - trial_value
        point, value = trial, trial_value
        if gained < _TOLERANCE:
            break
        damping = max(0.2 * damping, 1e-7)
        gradient, matrix = _normal(problem, residual, slopes, point)
    return point


def _prepare(
    spectrum: TileSpectrum,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
) -> PsdProblem:
    """Lay out the logarithm of the spectrum."""
    known = ring_cells(spectrum, optics, initial)
    cells, power, gain, names = known.cells, known.power, known.gain, list(initial)
    looks = (cells.count * spectrum.n_independent).clamp(min=0.2)
    values = (power / power.mean()).clamp(min=1e-9).log() - (torch.digamma(looks) - looks.log())
    width = torch.tensor([entry[2] for entry in _SHAPE_PRIOR], dtype=torch.float64)
    mean = torch.tensor([entry[1] for entry in _SHAPE_PRIOR], dtype=torch.float64)
    n = len(names)
    prior = torch.zeros(n + len(width), n + len(width), dtype=torch.float64)
    prior[:n, :n] = prior_precision(names, max_astigmatism_angst)
    prior[n:, n:] = (width**-2).diag()
    return PsdProblem(
        cells=cells,
        values=values.float(),
        weight=cells.spread(gain) / torch.polygamma(1, looks).float(),
        gain=gain,
        wavelength_angst=optics.wavelength_angst,
        phase_offset=known.phase_offset,
        phase_terms=known.phase_terms,
        precision=prior.to(power.device),
        prior_mean=torch.cat([mean.new_zeros(len(names)), mean]).to(power.device),
    )


def _trusted(problem: PsdProblem, point: Tensor) -> PsdProblem:
    """Let shells where the form does not fit count no more than they deserve."""
    expected, _ = _model(problem, point)
    misfit = (problem.values - expected) * problem.weight
    end = problem.cells.shell_end
    total = shell_sums(problem.weight, end).clamp(min=1e-9)
    factor = smooth_excess(shell_sums(misfit, end).square() / total / problem.gain)
    return replace(problem, weight=problem.weight / problem.cells.spread(factor))


def refine_parametric(
    spectrum: TileSpectrum,
    *,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
) -> RingFit:
    """Refine CTF parameters together with a parametric envelope and background.

    Args:
        spectrum: of one micrograph.
        optics: constants.
        initial: start values, see `phase_terms`.
        max_astigmatism_angst: half of it is the width of the prior of each component.

    References:
        Sorzano et al. 2007, doi:10.1016/j.jsb.2007.08.013; Velazquez-Muriel et al. 2003,
        doi:10.1016/S0304-3991(02)00433-4.
    """
    names = list(initial)
    noise_only = _prepare(spectrum, optics, initial, max_astigmatism_angst)
    n = noise_only.n_ctf
    start = torch.tensor(list(initial.values())).to(noise_only.prior_mean)
    point = torch.cat([start, noise_only.prior_mean[n:]])
    free = torch.ones(len(point), dtype=torch.bool, device=point.device)
    shape_only = free.clone()
    shape_only[:n] = False
    point = _climb(noise_only, point, shape_only)
    point = _climb(noise_only, point, free)
    problem = _trusted(noise_only, point)
    point = _climb(problem, point, free)
    values = dict(zip(names, point[:n].tolist(), strict=True))
    # a form that does not fit is no evidence of rings: a free background has to need them too
    relative = relative_spectrum(
        spectrum, optics=optics, initial=values, max_astigmatism_angst=max_astigmatism_angst
    )
    evidence = ring_evidence(relative.signal, point[:n])
    covariance = _covariance(problem, point)[:n, :n]
    return _as_fit(spectrum, optics, names, problem, point, covariance, evidence)


def _covariance(problem: PsdProblem, point: Tensor) -> Tensor:
    """Covariance where the loss is in effect quadratic, prior included."""
    _, slopes = _model(problem, point)
    matrix = ((slopes * problem.weight) @ slopes.T).double()
    covariance: Tensor = torch.linalg.inv(matrix + problem.precision)
    return covariance


def _as_fit(
    spectrum: TileSpectrum,
    optics: Optics,
    names: list[str],
    problem: PsdProblem,
    point: Tensor,
    covariance: Tensor,
    evidence: float,
) -> RingFit:
    n, cells = problem.n_ctf, problem.cells
    values = dict(zip(names, point[:n].tolist(), strict=True))
    curves = _shape_curves(cells.radius, point[None, n:], problem.wavelength_angst)
    unit = float(cells.mean(spectrum.power).mean())
    background, amplitude = (
        unit * cells.spread(curve[0]).double()[cells.index] for curve in curves
    )
    return RingFit(
        values=values,
        covariance=covariance,
        evidence=evidence,
        phase=pixel_phase(spectrum, optics, values),
        background=background,
        amplitude=amplitude,
        weight=(problem.weight / cells.count).double()[cells.index],
        cell=cells.index,
        envelope_b_angst2=float(point[n + 8]),
    )
