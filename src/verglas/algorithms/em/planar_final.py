"""The result of a classification in 2D: averages of all particles, and their resolution."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.average import CompactSpace, RingSums, Shrinkage, plain_averages
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.planar import PlanarConfig, planar_mask, planar_side
from verglas.kernels.fourier import fourier_resize2, rfft2
from verglas.kernels.fsc import fourier_shell_correlation, resolution_at
from verglas.kernels.rings import images_of_orders

__all__ = ["FinalAverages", "final_averages"]

_SAME = 0.5  # correlation down to which the halves of a class agree


@dataclass(frozen=True)
class FinalAverages:
    """The result.

    Attributes:
        images: `[c, box, box]`, at the images' own pixel, zero outside the particle's disc.
        resolution_angst: `[c]`, where averages of the two halves stop to agree (0.5).
    """

    images: Tensor
    resolution_angst: Tensor


def final_averages(config: PlanarConfig, sums: Mapping[int, Sums]) -> FinalAverages:
    """Make the averages of all particles, and measure their resolution between halves.

    Args:
        config: of the run.
        sums: of each part of the particles, by its number.
    """
    parts = [RingSums.of(sums[part]) for part in sorted(sums)]
    both = RingSums.join(parts)
    n_orders, radius = both.numerator.shape[1:]
    n = planar_side(radius)
    mask = planar_mask(config, n)
    compact = CompactSpace.make(mask, radius=radius, n_orders=n_orders)
    found = Shrinkage.learn(parts, compact, tau=config.tau).averages(both)
    small = images_of_orders(found, n) * mask
    # coefficients stay as they are when the box has more pixels
    images = fourier_resize2(small, shape=(config.box, config.box)) * (n / config.box) ** 2
    if len(parts) < 2:
        return FinalAverages(images, torch.full((len(images),), config.extent_angst))
    halves = [RingSums.join(parts[start::2]) for start in (0, 1)]
    pair = [rfft2(images_of_orders(plain_averages(half, compact), n) * mask) for half in halves]
    curves = fourier_shell_correlation(pair[0], pair[1], n_shells=radius + 1)
    resolution = resolution_at(curves, _SAME, box=n, pixel_size_angst=config.extent_angst / n)
    return FinalAverages(images, resolution.clamp_max(config.extent_angst))
