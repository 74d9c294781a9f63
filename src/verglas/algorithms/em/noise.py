"""Noise inside the particle's own disc.

In a crowded micrograph a box holds pieces of neighbours. They lie outside the reference's
support and hardly touch the scores, but counted as noise they would make every particle
look less certain than it is. The residual is therefore measured inside a soft disc.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.kernels.disc import HalfDisc, gather_disc, half_disc, scatter_disc, shell_sums
from verglas.kernels.fourier import irfft2, next_fast_size, rfft2
from verglas.kernels.masks import soft_circle

__all__ = ["NoiseWindow", "noise_window", "windowed_power"]

_MARGIN = 10  # shells that the window's own transform reaches


@dataclass(frozen=True)
class NoiseWindow:
    """A soft disc and what it does to band-limited white noise.

    Attributes:
        disc: the coefficients on a box just large enough for them.
        mask: `[n, n]`, on that box.
        response: `[radius + 1]`, power that white noise of unit variance keeps, by shell.
    """

    disc: HalfDisc
    mask: Tensor
    response: Tensor


def noise_window(disc: HalfDisc, radius_px: float) -> NoiseWindow:
    """Prepare the window for coefficients up to a radius.

    Multiplying by a mask convolves the power spectrum with the mask's own, which moves
    power across the edge of the band; the response allows for it.

    Args:
        disc: the coefficients that residuals are given on.
        radius_px: of the window, in pixels of the disc's box.

    Returns:
        The window.
    """
    n = min(disc.box, next_fast_size(2 * (disc.radius + _MARGIN)))
    small = half_disc(n, disc.radius)
    ratio = n / disc.box
    edge_px = min(0.12 * disc.box, 2 * (disc.box / 2 - radius_px))
    mask = soft_circle(n, radius_px * ratio, edge_px * ratio)
    spread = rfft2(mask[None]).abs().square()
    ones = torch.ones(1, small.n_coefficients, dtype=torch.complex64)
    band = scatter_disc(ones, small)
    # both are even functions of frequency, so their convolution is a product of real images
    product = irfft2(spread.to(torch.complex64), shape=(n, n)) * irfft2(band, shape=(n, n))
    kept = gather_disc(rfft2(product).real, small) / n**2
    response = (shell_sums(kept, small)[0] / shell_sums(torch.ones_like(kept), small)[0]).float()
    response[0] = response[1]
    window = NoiseWindow(small, mask, response.clamp_min(1e-3))
    return to_device(window, disc.frequencies_px.device)


def windowed_power(residual: Tensor, window: NoiseWindow) -> Tensor:
    """Return `[b, radius + 1]`, summed half squared moduli by shell, inside the window.

    Args:
        residual: `[b, k]`, complex, listed as on the window's disc.
        window: made for the same radius.
    """
    n = window.disc.box
    images = irfft2(scatter_disc(residual, window.disc), shape=(n, n)) * window.mask
    inside = gather_disc(rfft2(images), window.disc)
    return shell_sums(inside.abs().square() / 2, window.disc) / window.response
