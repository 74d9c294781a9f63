"""Class averages from sums along Fourier rings: compact, and shrunk towards the radial average.

Particle images show more than an average may hold: neighbours, and what the CTF carried beyond
the mask. Dividing by the weights and cutting afterwards leaves that in every ring. An average
is therefore the most probable one among compact images, given the sums. In polar coordinates
that is one small system of equations for each angular order, whose unknowns are values at a few
radii and whose matrix holds Bessel functions (Penczek, Renka & Schomberg 2004,
doi:10.1364/JOSAA.21.000499, for transforms of compact images on rings).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from numpy.polynomial.legendre import leggauss
from torch import Tensor

from verglas.algorithms.em.mstep import Sums

__all__ = [
    "CompactSpace",
    "RingSums",
    "Shrinkage",
    "plain_averages",
    "resolved_ring",
]

_LEAST_VARIANCE = 0.05  # of the radial average's power: what is never denied to a class
_WEIGHT_FLOOR = 1e-4  # of the mean of all rings
_LOOSE = 10.0  # times the power seen: a prior that leaves an average to its data
_AGREED = 0.5  # correlation of halves at the last ring that tells classes apart
_SMEAR = 2  # rings over which a mask mixes neighbours
_JITTER = 1e-9  # of the mean of a matrix's diagonal
_MORE_POINTS = 8  # radii beyond two for each detail that fits into the mask
_MORE_RINGS = 1.5
_BEYOND = 10.0  # times the largest precision: that of rings beyond the last


@dataclass(frozen=True)
class RingSums:
    """Weighted sums of the particles of each class, by angular order.

    Attributes:
        numerator: `[c, m, radius]`, complex, orders from 0.
        denominator: `[c, radius]`, real, above zero; the mean along each ring.
    """

    numerator: Tensor
    denominator: Tensor

    @staticmethod
    def of(sums: Sums) -> "RingSums":
        """Take those of some views, as `turning.expect_turned` adds them up."""
        return RingSums.make(torch.as_tensor(sums.numerator), torch.as_tensor(sums.denominator))

    @staticmethod
    def make(numerator: Tensor, denominator: Tensor) -> "RingSums":
        """Take sums in single precision, whose weights may be zero."""
        weight = denominator.double()
        floor = _WEIGHT_FLOOR * weight.mean(1, keepdim=True) + 1e-30
        return RingSums(numerator.to(torch.complex128), weight.maximum(floor))

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

    def about(self, radial: Tensor) -> "RingSums":
        """Return the sums of what differs from a radial average, `[radius]`."""
        rest = self.numerator.clone()
        rest[:, 0] -= self.denominator * radial
        return RingSums(rest, self.denominator)


@dataclass(frozen=True)
class CompactSpace:
    """Images that vanish outside a round mask, in polar coordinates.

    Attributes:
        waves: `[m, s, p]`, transforms on rings 1 to s of an image that is 1 at one radius and
            turns with an order; there are more rings than data, so that nothing hides there.
        fill: part of the box that such images fill.
    """

    waves: Tensor
    fill: float

    @staticmethod
    def make(mask: Tensor, *, radius: int, n_orders: int) -> "CompactSpace":
        """Work out the transforms.

        Args:
            mask: `[n, n]`, over the box in whose Fourier pixels rings are counted.
            radius: last ring with data.
            n_orders: number of angular orders, from 0.
        """
        n = mask.shape[-1]
        profile = mask[n // 2, n // 2 :].double()
        reach = float((profile > 0).sum())
        n_points = math.ceil(2 * reach * radius / n) + _MORE_POINTS
        at, width = (torch.from_numpy(x) for x in leggauss(n_points))
        at, width = (at + 1) * reach / 2, width * reach / 2
        low = at.floor().long().clamp_max(len(profile) - 2)
        edge = torch.lerp(profile[low], profile[low + 1], at - low)
        bessel = _bessel(at, n, math.ceil(_MORE_RINGS * radius), n_orders)
        root = edge * (2 * math.pi * at * width).sqrt()
        waves = (bessel * root[:, None, None]).permute(2, 1, 0).contiguous()
        return CompactSpace(waves, float(mask.double().square().mean()))

    def solve(self, sums: RingSums, precision: Tensor) -> Tensor:
        """Find the most probable compact images.

        Args:
            sums: of each class; orders that are missing count as zero.
            precision: `[radius]`, of a real component before the data, as images that fill
                the box have it; finer rings hold next to nothing.

        Returns:
            `[c, m, radius]`, complex.
        """
        n_orders, radius = sums.numerator.shape[1:]
        waves = self.waves[:n_orders]
        n_rings = waves.shape[1]
        area = math.pi * torch.arange(1, n_rings + 1, dtype=torch.float64)
        # orders share the mean weight of a ring: rotations even out what astigmatism does
        weight = torch.full((len(sums.denominator), n_rings), _BEYOND * float(precision.max()))
        weight = weight.double()
        weight[:, :radius] = sums.denominator + precision
        normal = torch.einsum("mrp,cr,mrq->cmpq", waves, area * weight, waves)
        diagonal = normal.diagonal(dim1=-2, dim2=-1)
        diagonal.add_(_JITTER * diagonal.mean((1, 2), keepdim=True) + 1e-300)
        signal = torch.view_as_real(area[:radius] * sums.numerator)
        seen = torch.einsum("mrp,cmrk->cmpk", waves[:, :radius], signal)
        found = torch.cholesky_solve(seen, torch.linalg.cholesky(normal))
        orders = torch.einsum("mrp,cmpk->cmrk", waves[:, :radius], found)
        return torch.view_as_complex(orders.contiguous())


def _bessel(at_px: Tensor, n: int, radius: int, n_orders: int) -> Tensor:
    """Return `[p, radius, m]`: Bessel functions of orders 0 to m - 1, as rings of points.

    A ring of the transform of a point is `exp(-i z cos(angle))`, whose coefficient of order m
    is `(-i)^m J_m(z)`.
    """
    radii = torch.arange(1, radius + 1, dtype=torch.float64)
    z = 2 * math.pi / n * at_px[:, None] * radii
    n_angles = 2 * max(n_orders, math.ceil(float(z.max()))) + 32
    angle = torch.arange(n_angles, dtype=torch.float64) * (2 * math.pi / n_angles)
    wave = torch.polar(torch.ones(1, dtype=torch.float64), -z[..., None] * angle.cos())
    orders = torch.fft.fft(wave, dim=-1)[..., :n_orders] / n_angles
    turn = torch.tensor([1, 1j, -1, -1j], dtype=torch.complex128)
    values: Tensor = (orders * turn[torch.arange(n_orders) % 4]).real
    return values


@dataclass(frozen=True)
class Shrinkage:
    """The prior of class averages: a radial average and the variance about it.

    Attributes:
        compact: space of the averages.
        radial: `[radius]`, the mean over rings and classes.
        variance: `[radius]`, of a real component about it.
    """

    compact: CompactSpace
    radial: Tensor
    variance: Tensor

    @staticmethod
    def learn(parts: Sequence[RingSums], compact: CompactSpace, *, tau: float) -> "Shrinkage":
        """Learn the prior from all classes together.

        Args:
            parts: of sets of views whose noise is independent; of one, the variance is a
                fixed part of the radial power.
            compact: of the averages.
            tau: multiplies the variance.
        """
        both = RingSums.join(parts)
        whole = RingSums(
            both.numerator[:, :1].sum(0, keepdim=True), both.denominator.sum(0, keepdim=True)
        )
        radial = plain_averages(whole, compact)[0, 0].real
        return Shrinkage(compact, radial, tau * _variance(parts, radial))

    def averages(self, sums: RingSums) -> Tensor:
        """Make averages: the radial one plus what of the rest is more than noise.

        Args:
            sums: of the classes.

        Returns:
            `[c, m, radius]`, complex.
        """
        found = self.compact.solve(sums.about(self.radial), self.compact.fill / self.variance)
        found[:, 0] += self.radial
        return found


def resolved_ring(parts: Sequence[RingSums]) -> int:
    """Return the first ring from which on averages of two halves no longer agree.

    What all classes have in common does not count.

    Args:
        parts: of sets of views whose noise is independent, at least two.
    """
    both = RingSums.join(parts)
    radial = both.numerator[:, 0].real.sum(0) / both.denominator.sum(0)
    first, second = (RingSums.join(parts[start::2]).about(radial) for start in (0, 1))
    cross, one, other = (
        _smooth(_power(a, b).sum(0), _SMEAR)
        for a, b in (
            (first.numerator, second.numerator),
            (first.numerator, first.numerator),
            (second.numerator, second.numerator),
        )
    )
    agrees = cross > _AGREED * (one * other).sqrt()
    return int(agrees.long().cumprod(0).sum()) + 1


def _power(first: Tensor, second: Tensor) -> Tensor:
    """Return `[.., radius]`: products averaged along rings, orders below zero counted too."""
    product = (first * second.conj()).real
    return 2 * product.sum(-2) - product[..., 0, :]


def _variance(parts: Sequence[RingSums], radial: Tensor) -> Tensor:
    """Return `[radius]`, variance of a real component of a class about the radial average."""
    floor = (_LEAST_VARIANCE * _smooth(radial.square() / 2, 3)).clamp_min(1e-30)
    if len(parts) < 2:
        return floor
    first, second = (RingSums.join(parts[start::2]).about(radial) for start in (0, 1))
    cross = _power(first.numerator, second.numerator).sum(0)
    weight = (first.denominator * second.denominator).sum(0)
    ratio = _smooth(cross, _SMEAR) / _smooth(weight, _SMEAR).clamp_min(1e-30)
    return torch.maximum(ratio / 2, floor)


def _smooth(values: Tensor, reach: int) -> Tensor:
    """Average over neighbouring rings."""
    padded = torch.nn.functional.pad(values[None, None], (reach, reach), mode="replicate")
    return torch.nn.functional.avg_pool1d(padded, 2 * reach + 1, 1)[0, 0]


def plain_averages(sums: RingSums, compact: CompactSpace) -> Tensor:
    """Make averages with hardly a prior but that they are compact, as halves are compared.

    Args:
        sums: of the classes.
        compact: of the averages.

    Returns:
        `[c, m, radius]`, complex.
    """
    seen = _power(sums.numerator, sums.numerator).sum(0)
    power = _smooth(seen, _SMEAR) / _smooth(sums.denominator.square().sum(0), _SMEAR)
    return compact.solve(sums, compact.fill / (_LOOSE * power.clamp_min(1e-30)))
