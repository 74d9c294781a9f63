"""What is known before and learnt between iterations: noise, scale, signal-to-noise, shifts."""

import torch
from torch import Tensor

from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation

__all__ = [
    "half_map_fsc",
    "inverse_snr_of_fsc",
    "last_shell_above",
    "updated_noise",
    "updated_scale",
]

_FSC_CEILING = 0.999


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


def last_shell_above(fsc: Tensor, threshold: float) -> int:
    """Return the last shell before the FSC first falls below a threshold for two shells."""
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
    n = residual_power.shape[1]
    pooled = residual_power.sum(0) / residual_count.sum(0).clamp_min(1)
    level = residual_power.sum(1) / (residual_count * pooled).sum(1).clamp_min(1e-30)
    expected = level[:, None] * pooled
    mixed = (residual_power + pooling * expected) / (residual_count + pooling)
    out = previous.clone()
    measured = (residual_count.sum(0) > 0) & (residual_count.sum(1) > 0)[:, None]
    out[:, :n] = torch.where(measured, mixed.float(), out[:, :n])
    out[:, 0] = out[:, 1]
    return out


def updated_scale(scale: Tensor, cross: Tensor, power: Tensor) -> Tensor:
    """Estimate each group's intensity scale, kept within a factor 5 of the median.

    Args:
        scale: `[g]`, the scale used when the sums were made.
        cross, power: `[g]`, summed <CTF P, X> and |CTF P|^2, both over sigma^2.

    Returns:
        `[g]`, float32, geometric mean 1.
    """
    ratio = (cross / power.clamp_min(1e-30)).clamp(0.2, 5.0).float()
    new = scale * torch.where(power > 0, ratio, torch.ones_like(ratio))
    median = new.median()
    new = new.clamp(median / 5, median * 5)
    return new / new.log().mean().exp()
