"""Regularisation that differs from place to place, chosen by locally cross-validating the halves.

The uniform Wiener filter weighs every voxel by the mean signal of its shells. Where a particle
moves, signal ends earlier, and what the filter keeps there is noise. Here the prior's variance
fades by a further factor exp(-g k^2), and g is chosen at each voxel such that each half, so
filtered, best foretells the other one, unfiltered, about that place. To choose filters so is
the idea of Punjani et al. 2020 (doi:10.1038/s41592-020-00990-8); their filters are a family of
low-passes, ours the uniform filter with another B factor, of which it is a member itself.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from verglas.kernels.filters import gaussian

__all__ = ["FADES", "filters_of", "local_weights", "regularise_locally"]

FADES = (-2.0, 0.0, 3.0, 8.0, 20.0, 50.0)
"""Values of g, k in units of the last shell with signal; zero is the uniform filter."""

_WINDOW = 1.5  # standard deviation of the local averages, in resolutions
_BETTER = 0.02  # a filter must foretell better by this share of the noise to be preferred


def local_weights(
    filtered: Sequence[Tensor], unfiltered: Tensor, *, resolution_px: float
) -> list[Tensor]:
    """Choose at each voxel which of several filters foretells the other half best.

    Args:
        filtered: `[2, n, n, n]` each, both halves under one of the filters of `FADES`.
        unfiltered: `[2, n, n, n]`, to the same shell.
        resolution_px: in voxels.

    Returns:
        `[n, n, n]` for each filter: its weight; they add up to 1 everywhere.
    """
    sigma = _WINDOW * resolution_px

    def smooth(values: Tensor) -> Tensor:
        return gaussian(values[None], sigma_angst=sigma, pixel_size_angst=1.0)[0]

    # of |a - b|^2 only what depends on the filter: |b|^2 is noise that all of them share
    errors = torch.stack(
        [smooth((maps * (maps - 2 * unfiltered.flip(0))).sum(0)) for maps in filtered]
    )
    noise = smooth((unfiltered[0] - unfiltered[1]).square())
    uniform = FADES.index(0.0)
    errors[uniform] -= _BETTER * noise.clamp_min(0.0)
    chosen = errors.argmin(0)
    weights = [smooth((chosen == i).float()).clamp_min(0.0) for i in range(len(filtered))]
    total = torch.stack(weights).sum(0).clamp_min(1e-6)
    return [weight / total for weight in weights]


def filters_of(inverse_snr: Tensor) -> list[Tensor]:
    """Return `[s]` of 1 / SNR for each of `FADES`, of shells `[s]`."""
    last = int(inverse_snr.isfinite().sum()) - 1
    square = (torch.arange(len(inverse_snr), dtype=torch.float64) / max(last, 1)).square()
    return [inverse_snr * (fade * square).exp() for fade in FADES]


def regularise_locally(
    reconstruct: Callable[[Tensor], Tensor], inverse_snr: Tensor, *, resolution_px: float
) -> Tensor:
    """Reconstruct both halves with a prior whose variance suits every place.

    The halves share the field of g and nothing else, as they share a mask: it is made of
    products averaged over three times the resolution. Their FSC is measured before, on maps
    that have seen no filter; no g gives signal to shells in which the FSC found none.

    Args:
        reconstruct: makes both half maps `[2, n, n, n]` for a 1 / SNR of each shell.
        inverse_snr: `[s]`, of the uniform filter; infinite where there is no signal.
        resolution_px: in voxels.

    Returns:
        `[2, n, n, n]`.
    """
    known = inverse_snr.isfinite()
    unfiltered = reconstruct(torch.where(known, 0.0, torch.inf).to(inverse_snr))
    filtered = [reconstruct(one) for one in filters_of(inverse_snr)]
    weights = local_weights(filtered, unfiltered, resolution_px=resolution_px)
    return torch.stack([weight * maps for weight, maps in zip(weights, filtered, strict=True)]).sum(
        0
    )
