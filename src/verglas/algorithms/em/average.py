"""Class averages from sums, shrunk towards the radial average of all classes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import (
    Sums,
    radial_mean,
    reconstruct,
    shell_of_voxels,
    symmetrise_sums,
)
from verglas.kernels.slices import half_plane_to_image

__all__ = ["Planes", "Shrinkage", "plain_averages"]

_LEAST_VARIANCE = 0.05  # of the radial average's power: what is never denied to a class


@dataclass(frozen=True)
class Planes:
    """Weighted sums of the particles of each class in Fourier space, made Hermitian.

    Attributes:
        numerator: `[c, 3, m, m // 2 + 1]`, complex.
        denominator: the same shape, real.
        radius: last shell.
        padding: oversampling factor.
    """

    numerator: Tensor
    denominator: Tensor
    radius: int
    padding: int

    @staticmethod
    def of(sums: Sums, padding: int) -> "Planes":
        """Take the planes of the sums of some views."""
        identity = torch.eye(3, dtype=torch.float64)[None]
        pairs = [
            symmetrise_sums(
                torch.as_tensor(numerator).to(torch.complex64),
                torch.as_tensor(denominator).float(),
                identity,
            )
            for numerator, denominator in zip(sums.numerator, sums.denominator, strict=True)
        ]
        return Planes(
            torch.stack([pair[0] for pair in pairs]),
            torch.stack([pair[1] for pair in pairs]),
            sums.residual_power.shape[1] - 1,
            padding,
        )

    @staticmethod
    def join(parts: Sequence["Planes"]) -> "Planes":
        """Add the planes of several sets of views."""
        return Planes(
            torch.stack([part.numerator for part in parts]).sum(0),
            torch.stack([part.denominator for part in parts]).sum(0),
            parts[0].radius,
            parts[0].padding,
        )

    def take(self, classes: list[int]) -> "Planes":
        """Return the planes of some classes."""
        return Planes(self.numerator[classes], self.denominator[classes], self.radius, self.padding)


@dataclass(frozen=True)
class Shrinkage:
    """The prior of class averages: a radial average and the variance about it.

    Attributes:
        radial: `[3, m, m // 2 + 1]`, the mean over rings and classes.
        precision: `[radius + 1]`, 1 / variance of a real component, per oversampled voxel.
        radius: last shell.
    """

    radial: Tensor
    precision: Tensor
    radius: int

    @staticmethod
    def learn(halves: Sequence[Planes], *, tau: float) -> "Shrinkage":
        """Learn the prior from all classes together.

        Args:
            halves: of two half sets, whose noise is independent; of one, the variance is a
                fixed part of the radial power.
            tau: multiplies the variance.
        """
        both = Planes.join(halves)
        radial = _radial(both.numerator.sum(0), both.denominator.sum(0))
        variance = _variance(halves, radial)
        return Shrinkage(radial, 1 / (tau * variance * both.padding**2), both.radius)

    def images(self, planes: Planes, box: int) -> Tensor:
        """Make averages: the radial one plus what of the rest is more than noise.

        Args:
            planes: of the classes.
            box: side of the images; their extent is that of the particles' box.

        Returns:
            `[c, box, box]`, not masked.
        """
        shell = shell_of_voxels(self.radial.shape, planes.padding)
        inside = shell <= self.radius
        prior = self.precision.float()[shell.clamp_max(self.radius)]
        rest = planes.numerator - planes.denominator * self.radial
        full = self.radial + rest / (planes.denominator + prior)
        return half_plane_to_image(torch.where(inside, full, 0), box=box, padding=planes.padding)


def _radial(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Return the mean over rings one voxel wide, spread over the plane."""
    ring = shell_of_voxels(numerator.shape, 1).clamp_max(2 * numerator.shape[1])
    top, bottom = torch.zeros(2, int(ring.max()) + 1, dtype=torch.float64)
    top.index_add_(0, ring.flatten(), numerator.real.double().flatten())
    bottom.index_add_(0, ring.flatten(), denominator.double().flatten())
    spread: Tensor = (top / bottom.clamp_min(1e-30)).float()[ring]
    return spread


def _variance(halves: Sequence[Planes], radial: Tensor) -> Tensor:
    """Return `[radius + 1]`, variance of a real component of a class about the radial average."""
    radius, padding = halves[0].radius, halves[0].padding
    power = radial_mean(radial.square() / 2, radius=radius, padding=padding)
    floor = (_LEAST_VARIANCE * _smooth(power, 3)).clamp_min(1e-30)
    if len(halves) < 2:
        return floor
    first, second = (half.numerator - half.denominator * radial for half in halves)
    weight = (halves[0].denominator * halves[1].denominator).sum(0)
    cross, weight = (
        radial_mean(values, radius=radius, padding=padding)
        for values in ((first * second.conj()).real.sum(0), weight)
    )
    return torch.maximum(_smooth(cross / weight.clamp_min(1e-30) / 2, 1), floor)


def _smooth(values: Tensor, reach: int) -> Tensor:
    """Average over neighbouring shells."""
    padded = torch.nn.functional.pad(values[None, None], (reach, reach), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 2 * reach + 1, 1)[0, 0]


def plain_averages(planes: Planes, box: int) -> Tensor:
    """Make averages without any prior, as halves are compared.

    Args:
        planes: of the classes.
        box: side of the images.

    Returns:
        `[c, box, box]`, not masked.
    """
    pairs = zip(planes.numerator, planes.denominator, strict=True)
    return torch.stack(
        [
            reconstruct(
                numerator,
                denominator,
                radius=planes.radius,
                box=box,
                padding=planes.padding,
                planar=True,
            )
            for numerator, denominator in pairs
        ]
    )
