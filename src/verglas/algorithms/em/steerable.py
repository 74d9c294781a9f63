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
from verglas.kernels.disc import half_disc, scatter_disc
from verglas.kernels.fourier import irfft2
from verglas.kernels.rings import RingGrid, RingWaves, ring_orders, rings_of_images

__all__ = ["RingCovariance", "draw_deviations", "ring_covariance"]

_LEAST_GAIN = 0.05  # of the noise, given to every component, so that no two draws are equal


@dataclass(frozen=True)
class RingCovariance:
    """Sums over views of products between rings, for each angular order.

    Attributes:
        products: `[m, s, s]`, complex, order by ring by ring, of whitened residuals.
        n_views: `[1]`, number of views.
    """

    products: Tensor
    n_views: Tensor

    def to_arrays(self) -> dict[str, object]:
        """Return numpy arrays by name, which may be added over chunks."""
        return {name: value.numpy() for name, value in vars(self).items()}


def _circumference(grid: RingGrid) -> Tensor:
    """Return `[radius]`: white noise on rings times its root varies alike in every order."""
    return grid.radii_px.float()


def ring_covariance(
    views: Views, average_ft: Tensor, mean_weight: Tensor, mask: Tensor, grid: RingGrid
) -> RingCovariance:
    """Add up how residuals from the radial average covary between rings.

    Args:
        views: moved to their centres.
        average_ft: `[k]`, transform of the radial average on the views' disc.
        mean_weight: `[radius + 1]`, mean of CTF^2 / sigma^2 over views, by shell.
        mask: `[n, n]`, where the particle is.
        grid: rings of the same radius, and the orders wanted.

    Returns:
        The sums.
    """
    n = mask.shape[-1]
    small = half_disc(n, views.disc.radius)
    residual = views.data - views.ctf * average_ft
    signal = residual * views.ctf * views.inverse_noise
    signal = signal * mean_weight.clamp_min(1e-30).rsqrt()[views.disc.shell]
    images = irfft2(scatter_disc(signal, small), shape=(n, n)) * mask
    orders = ring_orders(rings_of_images(images, RingWaves.make(grid, n, radius_px=n / 2)), grid)
    orders = orders * _circumference(grid).sqrt() * _is_reached(grid)[:, None]
    products = orders.transpose(1, 2) @ orders.conj()
    return RingCovariance(products, torch.tensor([float(len(views))], dtype=torch.float64))


def _is_reached(grid: RingGrid) -> Tensor:
    """Return `[m, radius]`, 1 where particles have the order: it comes in from outside."""
    order = torch.arange(grid.n_orders)
    return (grid.radii_px >= (order // 2)[:, None]).float()


def draw_deviations(
    covariance: RingCovariance, mean_weight: Tensor, grid: RingGrid, *, n: int, seed: int
) -> Tensor:
    """Draw images that vary as the particles do about their radial average.

    The noise is taken from the highest orders, where particles have no signal at the
    resolution of the start. Orders 0 and 1 are left out: intensity and shift.

    Args:
        covariance: of all views.
        mean_weight: as given to `ring_covariance`.
        grid: of the rings.
        n: number of images.
        seed: of the draws.

    Returns:
        `[m, n, radius]`, complex: rings by angular order.
    """
    generator = torch.Generator().manual_seed(seed)
    products = torch.as_tensor(covariance.products).to(torch.complex128)
    values, vectors = torch.linalg.eigh(products / torch.as_tensor(covariance.n_views))
    n_orders = len(values)
    floor = values[-max(1, n_orders // 5) :].amax(1).median().clamp_min(1e-12)
    per_ring = (_circumference(grid) * mean_weight[1:]).double().clamp_min(1e-30).rsqrt()
    out = torch.zeros(n_orders, n, grid.radius, dtype=torch.complex128)
    for order in range(2, n_orders):
        gain = (values[order] / floor - 1).clamp_min(_LEAST_GAIN).sqrt()
        real, imaginary = torch.randn(2, n, len(gain), generator=generator, dtype=torch.float64)
        drawn = torch.complex(real, imaginary) / 2**0.5 * gain
        out[order] = (drawn @ vectors[order].T) * per_ring
    scaled: Tensor = (out * floor.sqrt()).to(torch.complex64)
    return scaled
