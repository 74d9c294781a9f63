"""How images of particles vary when turned: the start of a classification in 2D.

Averages over all particles and in-plane rotations are rings, and plain iterations leave that
state slowly. What differs between views shows in the covariance of the images, which is the
same for every rotation and so splits by angular order (steerable principal components; Zhao &
Singer 2014, doi:10.1016/j.jsb.2014.03.001). The first class averages are drawn from it.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.views import Views
from verglas.kernels.disc import HalfDisc, gather_disc, scatter_disc
from verglas.kernels.fourier import irfft2, rfft2

__all__ = ["RingCovariance", "draw_deviations", "ring_covariance"]

_LEAST_GAIN = 0.05  # of the noise, given to every component, so that no two draws are equal


@dataclass(frozen=True)
class RingCovariance:
    """Sums over views of products between rings, for each angular order.

    Attributes:
        products: `[m, s, s]`, complex, order by shell by shell, of whitened residuals.
        n_views: `[1]`, number of views.
    """

    products: Tensor
    n_views: Tensor

    def to_arrays(self) -> dict[str, object]:
        """Return numpy arrays by name, which may be added over chunks."""
        return {name: value.numpy() for name, value in vars(self).items()}


def _ring_coefficients(data: Tensor, disc: HalfDisc, order: int) -> Tensor:
    """Return `[b, radius + 1]`, the angular coefficient of each ring.

    White noise of unit variance per real component gives coefficients of unit variance.
    Rings that the order does not reach within the particle are left out.
    """
    angle = torch.atan2(disc.frequencies_px[:, 1], disc.frequencies_px[:, 0])
    turned = torch.polar(torch.ones_like(angle), -order * angle)
    # the other half of each ring is the conjugate, at an angle of half a turn more
    both = data * turned + (-1) ** order * data.conj() * turned
    count = torch.bincount(disc.shell, minlength=disc.radius + 1).clamp_min(1)
    rings = data.new_zeros(len(data), disc.radius + 1).index_add_(1, disc.shell, both)
    rings = rings / (2 * count.sqrt())
    rings[:, : max(1, order // 2)] = 0
    return rings


def ring_covariance(
    views: Views, average_ft: Tensor, mean_weight: Tensor, mask: Tensor, *, n_orders: int
) -> RingCovariance:
    """Add up how residuals from the radial average covary between rings.

    Args:
        views: moved to their centres.
        average_ft: `[k]`, transform of the radial average on the views' disc.
        mean_weight: `[radius + 1]`, mean of CTF^2 / sigma^2 over views, by shell.
        mask: `[n, n]`, where the particle is; n at least `2 * radius + 3`.
        n_orders: angular orders from 0.

    Returns:
        The sums.
    """
    disc = views.disc
    n = mask.shape[-1]
    small = HalfDisc(n, disc.frequencies_px, _index(disc, n), disc.shell, disc.ends)
    residual = views.data - views.ctf * average_ft
    signal = residual * views.ctf * views.inverse_noise
    signal = signal * mean_weight.clamp_min(1e-30).rsqrt()[disc.shell]
    images = irfft2(scatter_disc(signal, small), shape=(n, n)) * mask
    signal = gather_disc(rfft2(images), small)
    products = []
    for order in range(n_orders):
        rings = _ring_coefficients(signal, small, order)
        products.append(rings.T @ rings.conj())
    return RingCovariance(
        torch.stack(products), torch.tensor([float(len(views))], dtype=torch.float64)
    )


def _index(disc: HalfDisc, n: int) -> Tensor:
    kx, ky = disc.frequencies_px.long().unbind(1)
    return (ky % n) * (n // 2 + 1) + kx


def draw_deviations(
    covariance: RingCovariance, mean_weight: Tensor, disc: HalfDisc, *, n: int, seed: int
) -> Tensor:
    """Draw images that vary as the particles do about their radial average.

    The noise is taken from the highest orders, where particles have no signal at the
    resolution of the start. Orders 0 and 1 are left out: intensity and shift.

    Args:
        covariance: of all views.
        mean_weight: as given to `ring_covariance`.
        disc: the coefficients wanted, of the same radius.
        n: number of images.
        seed: of the draws.

    Returns:
        `[n, k]`, complex coefficients.
    """
    generator = torch.Generator().manual_seed(seed)
    products = torch.as_tensor(covariance.products).to(torch.complex128)
    values, vectors = torch.linalg.eigh(products / torch.as_tensor(covariance.n_views))
    n_orders = len(values)
    floor = values[-max(1, n_orders // 5) :].amax(1).median().clamp_min(1e-12)
    angle = torch.atan2(disc.frequencies_px[:, 1], disc.frequencies_px[:, 0]).double()
    count = torch.bincount(disc.shell, minlength=disc.radius + 1).clamp_min(1)
    per_ring = (count * mean_weight.double().clamp_min(1e-30)).rsqrt()
    out = torch.zeros(n, disc.n_coefficients, dtype=torch.complex128)
    for order in range(2, n_orders):
        gain = (values[order] / floor - 1).clamp_min(_LEAST_GAIN).sqrt()
        real, imaginary = torch.randn(2, n, len(gain), generator=generator, dtype=torch.float64)
        drawn = torch.complex(real, imaginary) / 2**0.5 * gain
        rings = ((drawn @ vectors[order].T) * per_ring)[:, disc.shell]
        wave = torch.polar(torch.ones_like(angle), order * angle)
        out += rings * wave + (-1) ** order * (rings * wave).conj()
    scaled: Tensor = (out * floor.sqrt()).to(torch.complex64)
    return scaled
