"""Match rings of known height to a signal by greatest correlation.

The signal is whitened (equal noise in every independent value) and lies on a smooth background
that is projected out. Of `signal = background - height(k) cos(2 chi)` the correlation depends on
the parameters of chi alone, and all that its maximum needs is one small matrix of dot products.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import repeat_shells, shell_sums

__all__ = [
    "Match",
    "Signal",
    "match_rings",
    "ring_curves",
    "ring_evidence",
    "smooth_excess",
    "trusted",
]

_N_STEPS = 12
_TOLERANCE = 1e-3
_RIDGE = 1e-6


@dataclass(frozen=True)
class Signal:
    """Rings to be matched, by cells sorted by shell.

    Attributes:
        values: `[c]`, whitened signal.
        weight: `[c]`, inverse variance, as it counts for rings.
        shell_end: `[s]`, one past the last cell of each shell.
        basis: `[s, m]`, smooth curves that make up the background and the height of the rings.
        phase_offset, phase_terms: `[c]` and `[p, c]`, chi and its derivatives, float64.
        precision: `[p, p]`, inverse covariance of the prior, whose mean is 0.
        gain: `[s]`, of the weight over that for a smooth curve.
    """

    values: Tensor
    weight: Tensor
    shell_end: Tensor
    basis: Tensor
    phase_offset: Tensor
    phase_terms: Tensor
    precision: Tensor
    gain: Tensor


@dataclass(frozen=True)
class Match:
    """Best match.

    Attributes:
        point: `[p]`, parameters.
        covariance: `[p, p]`.
        evidence: half the chi-square that the rings explain.
        correlation: normalised cross-correlation with the signal, background taken away.
        height: factor of the height that was given.
    """

    point: Tensor
    covariance: Tensor
    evidence: float
    correlation: float
    height: float


def ring_curves(
    signal: Signal, phase: Tensor, visibility: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Fit background and height of rings by weighted least squares, both smooth.

    Args:
        signal: to fit.
        phase: `[c]`, chi of each cell.
        visibility: `[s]`, factor of the oscillation; none for 1.

    Returns:
        Background and height `[s]` in `background - height cos(2 phase)`; a height below 0
        becomes 0.
    """
    wave = -torch.cos(2.0 * phase).float()
    if visibility is not None:
        wave = wave * repeat_shells(visibility, signal.shell_end)
    weight, values = signal.weight, signal.values
    products = torch.stack([torch.ones_like(wave), wave, wave * wave, values, values * wave])
    n, c, cc, y, yc = shell_sums(products * weight, signal.shell_end)
    basis = signal.basis
    m = basis.shape[1]
    normal = basis.new_zeros(2 * m, 2 * m)
    normal[:m, :m] = basis.T @ (n[:, None] * basis)
    normal[:m, m:] = basis.T @ (c[:, None] * basis)
    normal[m:, :m] = normal[:m, m:].T
    normal[m:, m:] = basis.T @ (cc[:, None] * basis)
    # neighbouring coefficients are alike where there is little to go by
    second = torch.diff(torch.eye(m).to(basis), n=2, dim=0)
    scale = normal.diagonal().mean()
    smooth = 1e-3 * scale * (second.T @ second) + _RIDGE * scale * torch.eye(m).to(basis)
    normal[:m, :m] += smooth
    normal[m:, m:] += smooth
    solution = torch.linalg.solve(normal, torch.cat([basis.T @ y, basis.T @ yc]))
    return basis @ solution[:m], (basis @ solution[m:]).clamp(min=0.0)


def _smooth_part(signal: Signal) -> tuple[Tensor, Tensor]:
    """Orthonormal smooth curves over shells, and the total weight of each shell."""
    total = shell_sums(signal.weight, signal.shell_end).clamp(min=1e-12)
    q, _ = torch.linalg.qr(total.sqrt()[:, None] * signal.basis)
    return q / total.sqrt()[:, None], total


def _products(signal: Signal, smooth: Tensor, rows: Tensor) -> Tensor:
    """Dot products of `[r, c]` rows under the weight, after taking smooth parts away."""
    weighted = rows * signal.weight
    part = shell_sums(weighted, signal.shell_end) @ smooth
    return (weighted @ rows.T).double() - part @ part.T


def _rows(signal: Signal, height: Tensor, point: Tensor) -> Tensor:
    """Signal, rings and the derivatives of the rings: `[2 + p, c]`."""
    phase = 2.0 * (signal.phase_offset + point @ signal.phase_terms)
    slope = 2.0 * height * phase.sin().float()
    rings = -height * phase.cos().float()
    return torch.cat([torch.stack([signal.values, rings]), slope * signal.phase_terms.float()])


def _value(products: Tensor, signal: Signal, point: Tensor) -> float:
    explained = products[0, 1].clamp(min=0.0).square() / products[1, 1].clamp(min=1e-30)
    return float(0.5 * explained - 0.5 * point @ signal.precision @ point)


def _system(products: Tensor, signal: Signal, point: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Gauss-Newton matrix; the factor of the rings is eliminated."""
    factor = products[0, 1] / products[1, 1].clamp(min=1e-30)
    along = products[1, 2:]
    gradient = factor * (products[0, 2:] - factor * along)
    matrix = products[2:, 2:] - torch.outer(along, along) / products[1, 1].clamp(min=1e-30)
    return gradient - signal.precision @ point, factor.square() * matrix + signal.precision


def match_rings(signal: Signal, height: Tensor, start: Tensor) -> Match:
    """Find the parameters whose rings correlate best with the signal.

    Args:
        signal: whitened.
        height: `[s]`, expected height of the rings, up to a factor.
        start: `[p]`, within about half a ring of the answer.
    """
    smooth, _ = _smooth_part(signal)
    spread = repeat_shells(height, signal.shell_end)
    point, damping = start.clone(), 1e-3
    products = _products(signal, smooth, _rows(signal, spread, point))
    value = _value(products, signal, point)
    for _ in range(_N_STEPS):
        gradient, matrix = _system(products, signal, point)
        damped = matrix + torch.diag(damping * matrix.diagonal() + 1e-12)
        trial = point + torch.linalg.solve(damped, gradient)
        trial_products = _products(signal, smooth, _rows(signal, spread, trial))
        trial_value = _value(trial_products, signal, trial)
        if not trial_value >= value:
            damping = 10.0 * damping + 1e-3
            continue
        gained = trial_value - value
        point, products, value = trial, trial_products, trial_value
        damping *= 0.2
        if gained < _TOLERANCE:
            break
    _, matrix = _system(products, signal, point)
    factor = float(products[0, 1] / products[1, 1].clamp(min=1e-30))
    energy = float((products[0, 0] * products[1, 1]).clamp(min=1e-30).sqrt())
    ridge = 1e-9 * torch.eye(len(point)).to(matrix) * matrix.diagonal().mean()
    return Match(
        point=point,
        covariance=torch.linalg.inv(matrix + ridge),
        evidence=value,
        correlation=float(products[0, 1]) / energy,
        height=factor,
    )


def ring_evidence(signal: Signal, point: Tensor) -> float:
    """Half the chi-square that rings of given parameters explain beside a smooth background.

    Args:
        signal: whitened.
        point: `[p]`, parameters.
    """
    phase = signal.phase_offset + point @ signal.phase_terms
    curves = ring_curves(signal, phase)
    signal = trusted(signal, phase, *curves)
    _, height = ring_curves(signal, phase)
    smooth, _ = _smooth_part(signal)
    spread = repeat_shells(height + 1e-9, signal.shell_end)
    return _value(_products(signal, smooth, _rows(signal, spread, point)), signal, point)


def trusted(signal: Signal, phase: Tensor, background: Tensor, height: Tensor) -> Signal:
    """Let shells where the misfit exceeds the noise count no more than they deserve.

    Args:
        signal: whose weight is that of the noise alone.
        phase: `[c]`, of the fit.
        background, height: `[s]`, of the fit.
    """
    spread = repeat_shells(torch.stack([background, height]), signal.shell_end)
    misfit = signal.values - spread[0] + spread[1] * torch.cos(2.0 * phase).float()
    total = shell_sums(signal.weight, signal.shell_end).clamp(min=1e-12)
    excess = shell_sums(misfit * signal.weight, signal.shell_end).square() / total
    factor = smooth_excess(excess / signal.gain)
    return replace(signal, weight=signal.weight / repeat_shells(factor, signal.shell_end))


def smooth_excess(excess: Tensor, half_width: int = 5) -> Tensor:
    """Mean square misfit of neighbouring shells over what noise gives, at least 1."""
    kernel = torch.ones(1, 1, 2 * half_width + 1).to(excess) / (2 * half_width + 1)
    padded = torch.nn.functional.pad(excess[None, None], (half_width, half_width), "replicate")
    return torch.nn.functional.conv1d(padded, kernel)[0, 0].clamp(min=1.0)
