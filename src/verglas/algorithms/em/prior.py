"""What is known before and learnt between iterations: noise, scale, signal-to-noise, shifts."""

import math

import torch
from torch import Tensor

from verglas.algorithms.em.shell_noise import noise_of_residuals
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation

__all__ = [
    "fsc_threshold",
    "half_map_fsc",
    "inverse_snr_of_fsc",
    "last_shell_above",
    "smoothed_fsc",
    "updated_envelope",
    "updated_noise",
    "updated_scale",
]

_FSC_CEILING = 0.999
_ENOUGH = 100.0  # independent coefficients that put noise at half of 0.143
_WINDOW = 0.1  # of the frequency: how far over the FSC is averaged at most
_DEVIATIONS = 2.0
_ENVELOPE_STEPS = 6
_WIDEST_B = 2.5  # standard deviations; poor poses of a poor group would drive it ever farther
_LOG_SCALE = math.log(5.0)


def half_map_fsc(half_maps: Tensor, mask: Tensor, *, n_shells: int) -> Tensor:
    """Correlate two half maps inside a mask.

    Args:
        half_maps: `[2, n, n, n]`.
        mask: `[n, n, n]`, soft.
        n_shells: number of shells, from the origin.

    Returns:
        `[n_shells]`, float64.
    """
    maps_ft = rfft3(half_maps * mask)
    return fourier_shell_correlation(maps_ft[:1], maps_ft[1:], n_shells=n_shells)[0].double()


def inverse_snr_of_fsc(fsc: Tensor, *, radius: int, tau: float = 1.0) -> Tensor:
    """Turn a half-map FSC into the 1 / SNR of each half, shell by shell.

    `SNR = F / (1 - F)` (Rosenthal & Henderson 2003). After the first shell without
    correlation everything is taken as noise, or the prior would let single lucky shells in.

    Args:
        fsc: `[s]`.
        radius: last shell of the result.
        tau: multiplies the SNR; above 1 trusts the data more.

    Returns:
        `[radius + 1]`, infinite where there is no signal.
    """
    clipped = fsc.clamp(0.0, _FSC_CEILING)
    alive = (clipped > 1e-3).cumprod(0).bool()
    snr = torch.where(alive, clipped / (1 - clipped), 0) * tau
    out = torch.full((radius + 1,), torch.inf, dtype=torch.float64)
    n = min(len(fsc), radius + 1)
    out[:n] = 1 / snr[:n]
    out[0] = out[1] if radius > 0 else 0.0
    return out


def _independent(n_shells: int, mask: Tensor, n_operators: int) -> Tensor:
    """Return `[n_shells]`, number of independent complex coefficients of each shell.

    A mask makes neighbouring coefficients alike, symmetry makes mates equal: under O a shell
    of radius 20 about a particle that fills a tenth of the box has no more than 10 of its own.
    """
    fill = float(mask.double().square().sum() ** 2 / mask.double().pow(4).sum()) / mask.numel()
    shells = torch.arange(n_shells, dtype=torch.float64)
    return 2 * math.pi * shells.square() * fill / n_operators


def smoothed_fsc(fsc: Tensor, *, mask: Tensor, n_operators: int) -> tuple[Tensor, Tensor]:
    """Average an FSC over neighbouring shells where each has few independent coefficients.

    Args:
        fsc: `[s]`, of maps under the mask.
        mask: `[n, n, n]`.
        n_operators: size of the point group.

    Returns:
        `[s]` the averages, over a tenth of the frequency at most, and `[s]` their standard
        deviation for noise alone (Harauz & van Heel 1986 for the mask and the symmetry).
    """
    count = _independent(len(fsc), mask, n_operators)
    mean, total = fsc.clone(), count.clone()
    for s in range(2, len(fsc)):
        for width in range(1, 2 + int(_WINDOW * s)):
            if total[s] >= _ENOUGH or width > s - 1:
                break
            window = slice(s - width, s + width + 1)
            total[s] = count[window].sum()
            mean[s] = (fsc[window] * count[window]).sum() / total[s]
    return mean, (2 * total).clamp_min(1.0).rsqrt()


def fsc_threshold(deviation: Tensor) -> Tensor:
    """Return `[s]`, above which an FSC is signal: 0.143, or more where noise reaches farther.

    Args:
        deviation: `[s]`, standard deviation of the FSC of noise.
    """
    # noise of few coefficients is bounded by 1, as the hyperbolic tangent is
    return torch.tanh(_DEVIATIONS * deviation).clamp_min(0.143)


def last_shell_above(fsc: Tensor, threshold: float | Tensor) -> int:
    """Return the last shell before the FSC first falls below a threshold for two shells.

    Args:
        fsc: `[s]`.
        threshold: a number or `[s]`.
    """
    below = fsc < threshold
    sustained = below & torch.cat([below[1:], below.new_ones(1)])
    sustained[:2] = False
    where = sustained.nonzero()
    return int(where[0]) - 1 if len(where) else len(fsc) - 1


def updated_noise(
    residual_power: Tensor, residual_count: Tensor, previous: Tensor, *, pooling: float = 50.0
) -> Tensor:
    """Estimate the noise variance of each group and shell from residuals.

    Groups with few coefficients in a shell lean on the shape of all groups together,
    scaled to their own level; a group without views keeps what it had.

    Args:
        residual_power, residual_count: `[g, s]`.
        previous: `[g, s_max]`, kept beyond the shells measured.
        pooling: number of coefficients the pooled value counts for.

    Returns:
        `[g, s_max]`, float32.
    """
    known = (x.cpu().double().numpy() for x in (residual_power, residual_count, previous))
    return torch.from_numpy(noise_of_residuals(*known, pooling=pooling)).to(previous)


def updated_scale(scale: Tensor, cross: Tensor, power: Tensor) -> Tensor:
    """Estimate each group's intensity scale, kept within a factor 5 of the median.

    Args:
        scale: `[g]`, the scale used when the sums were made.
        cross, power: `[g, s]`, summed <CTF P, X> and |CTF P|^2, both over sigma^2.

    Returns:
        `[g]`, float32, geometric mean 1.
    """
    cross, power = cross.sum(1), power.sum(1)
    ratio = (cross / power.clamp_min(1e-30)).clamp(0.2, 5.0).float()
    new = scale * torch.where(power > 0, ratio, torch.ones_like(ratio))
    median = new.median()
    new = new.clamp(median / 5, median * 5)
    return new / new.log().mean().exp()


def updated_envelope(
    scale: Tensor,
    b_factor_angst2: Tensor,
    cross: Tensor,
    power: Tensor,
    *,
    extent_angst: float,
    spread_angst2: float = 60.0,
) -> tuple[Tensor, Tensor]:
    """Estimate each group's intensity and B factor against the mean of all.

    Micrographs differ in drift, charging and ice, so their signal fades at different rates:
    `scale exp(-B k^2 / 4)`. The residuals' regression on the prediction, shell by shell, is
    fitted for both by Gauss-Newton, B with a Gaussian prior about the mean, which is zero
    because the map holds what all groups share.

    Args:
        scale: `[g]`, used when the sums were made.
        b_factor_angst2: `[g]`, likewise.
        cross, power: `[g, s]`, summed <CTF P, X> and |CTF P|^2, both over sigma^2.
        extent_angst: side of the box.
        spread_angst2: standard deviation of B among groups, before the data.

    Returns:
        `[g]` scale, geometric mean 1, and `[g]` B factor, mean 0 by weight; float32.
    """
    shells = torch.arange(cross.shape[1], dtype=torch.float64)
    quarter = (shells / extent_angst).square() / 4
    log_scale = torch.zeros(len(scale), dtype=torch.float64)
    more_b = torch.zeros_like(log_scale)
    known = power.sum(1) > 0
    for _ in range(_ENVELOPE_STEPS):
        model = (log_scale[:, None] - more_b[:, None] * quarter).exp()
        columns = torch.stack([model, -quarter * model], 1)
        normal = torch.einsum("gis,gjs,gs->gij", columns, columns, power)
        gradient = torch.einsum("gis,gs->gi", columns, cross - model * power)
        gradient[:, 1] -= (b_factor_angst2.double() + more_b) / spread_angst2**2
        normal[:, 1, 1] += spread_angst2**-2
        normal[:, 0, 0] += 1e-6
        step = torch.linalg.solve(normal, gradient)
        log_scale = (log_scale + step[:, 0].clamp(-1, 1)).clamp(-_LOG_SCALE, _LOG_SCALE)
        more_b = more_b + step[:, 1].clamp(-spread_angst2, spread_angst2)
    b_factor = b_factor_angst2.double() + torch.where(known, more_b, 0.0)
    weight = (power * quarter.square()).sum(1)
    b_factor = b_factor - (weight * b_factor).sum() / weight.sum().clamp_min(1e-30)
    b_factor = b_factor.clamp(-_WIDEST_B * spread_angst2, _WIDEST_B * spread_angst2)
    new = scale.double().log() + torch.where(known, log_scale, 0.0)
    new = new.clamp(new.median() - _LOG_SCALE, new.median() + _LOG_SCALE)
    return (new - new.mean()).exp().float(), b_factor.float()
