"""Class averages from sums along Fourier rings, shrunk towards the radial average of all."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums

__all__ = ["RingSums", "Shrinkage", "plain_averages"]

_LEAST_VARIANCE = 0.05  # of the radial average's power: what is never denied to a class
_LEAST_OF_NEIGHBOURS = 0.3  # of the mean weight of three rings
_WEIGHT_FLOOR = 1e-3  # of the mean of a ring


@dataclass(frozen=True)
class RingSums:
    """Weighted sums of the particles of each class.

    Attributes:
        numerator: `[c, radius, n_half]`, complex.
        denominator: the same shape, real.
    """

    numerator: Tensor
    denominator: Tensor

    @staticmethod
    def of(sums: Sums) -> "RingSums":
        """Take those of some views, as `turning.expect_turned` adds them up.

        Views were cut to a disc, which smears the numerator over neighbouring rings. Where all
        CTFs are near zero it is then not, and the weight may not be far smaller than around.
        """
        numerator = torch.as_tensor(sums.numerator).to(torch.complex64)
        denominator = torch.as_tensor(sums.denominator).float()
        around = torch.nn.functional.pad(denominator, (0, 0, 1, 1), mode="replicate")
        around = (around[:, :-2] + around[:, 1:-1] + around[:, 2:]) / 3
        denominator = torch.maximum(denominator, _LEAST_OF_NEIGHBOURS * around)
        mean = denominator.mean(-1, keepdim=True)
        return RingSums(numerator, torch.maximum(denominator, _WEIGHT_FLOOR * mean))

    @staticmethod
    def join(parts: Sequence["RingSums"]) -> "RingSums":
        """Add the sums of several sets of views."""
        return RingSums(
            torch.stack([part.numerator for part in parts]).sum(0),
            torch.stack([part.denominator for part in parts]).sum(0),
        )

    def take(self, classes: list[int]) -> "RingSums":
        """Return the sums of some classes."""
        return RingSums(self.numerator[classes], self.denominator[classes])


@dataclass(frozen=True)
class Shrinkage:
    """The prior of class averages: a radial average and the variance about it.

    Attributes:
        radial: `[radius]`, the mean over rings and classes.
        precision: `[radius]`, 1 / variance of a real component.
    """

    radial: Tensor
    precision: Tensor

    @staticmethod
    def learn(halves: Sequence[RingSums], *, tau: float) -> "Shrinkage":
        """Learn the prior from all classes together.

        Args:
            halves: of two half sets, whose noise is independent; of one, the variance is a
                fixed part of the radial power.
            tau: multiplies the variance.
        """
        both = RingSums.join(halves)
        top = both.numerator.real.double().sum((0, 2))
        radial = top / both.denominator.double().sum((0, 2)).clamp_min(1e-30)
        variance = _variance(halves, radial)
        return Shrinkage(radial.float(), (1 / (tau * variance)).float())

    def averages(self, sums: RingSums) -> Tensor:
        """Make averages: the radial one plus what of the rest is more than noise.

        Args:
            sums: of the classes.

        Returns:
            `[2, c, radius, n_half]`, real and imaginary parts.
        """
        radial = self.radial[:, None]
        rest = sums.numerator - sums.denominator * radial
        full = radial + rest / (sums.denominator + self.precision[:, None])
        return torch.stack([full.real, full.imag])


def _variance(halves: Sequence[RingSums], radial: Tensor) -> Tensor:
    """Return `[radius]`, variance of a real component of a class about the radial average."""
    floor = (_LEAST_VARIANCE * _smooth(radial.square() / 2, 3)).clamp_min(1e-30)
    if len(halves) < 2:
        return floor
    column = radial.float()[:, None]
    first, second = (half.numerator - half.denominator * column for half in halves)
    weight = (halves[0].denominator * halves[1].denominator).double().sum((0, 2))
    cross = (first * second.conj()).real.double().sum((0, 2))
    return torch.maximum(_smooth(cross / weight.clamp_min(1e-30) / 2, 1), floor)


def _smooth(values: Tensor, reach: int) -> Tensor:
    """Average over neighbouring rings."""
    padded = torch.nn.functional.pad(values[None, None], (reach, reach), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 2 * reach + 1, 1)[0, 0]


def plain_averages(sums: RingSums) -> Tensor:
    """Make averages without any prior, as halves are compared.

    Args:
        sums: of the classes.

    Returns:
        `[2, c, radius, n_half]`, real and imaginary parts.
    """
    plain = sums.numerator / sums.denominator.clamp_min(1e-30)
    return torch.stack([plain.real, plain.imag])
