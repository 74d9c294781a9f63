"""The maximisation step of classes: a map of all views and what each class differs by.

Classes of one particle share most of their density. So each map is the mean of all views plus
a difference, and only the difference is shrunk, by how much of it two halves of the views
agree on, all classes together. A small class, or one without views, is then like the mean and
not like noise: it neither loses its views for being noisy nor keeps them for having fitted
their noise. On 1,000 simulated particles of SNR 0.5 at 20 Å, maps that were each filtered on
their own ended with 0.63 to 0.88 of the particles right; these with 0.96 from four starts.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from verglas.algorithms.em.map_step import MapGrid
from verglas.algorithms.em.mstep import shell_of_voxels, symmetrise_sums
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import fourier_shell_correlation
from verglas.kernels.slices import half_volume_to_volume

__all__ = ["ClassSums", "Differences", "class_fsc", "differences_of", "mean_map"]

_FSC_BOUNDS = (0.02, 0.98)
_MEAN_BOUNDS = (0.05, 0.999)
_FLOOR = 1e-3  # of the shell's mean weight


@dataclass(frozen=True)
class _Ball:
    """Voxels of a half volume up to a radius.

    Attributes:
        place: `[v]`, in the flat half volume.
        shell: `[v]`.
        count: `[s]`, voxels of each shell, those that stand for their mates counted twice.
        twice: `[v]`, 2 for those, else 1.
    """

    place: Tensor
    shell: Tensor
    count: Tensor
    twice: Tensor

    def means(self, values: Tensor) -> Tensor:
        """Average `[.., v]` over shells: `[.., s]`, float64."""
        out = torch.zeros(*values.shape[:-1], len(self.count), dtype=torch.float64)
        out.index_add_(-1, self.shell, (values * self.twice).double())
        return out / self.count


@lru_cache(maxsize=4)
def _ball(side: int, radius: int, padding: int) -> _Ball:
    shell = shell_of_voxels((side, side, side // 2 + 1), padding).flatten()
    place = (shell <= radius).nonzero().squeeze(1)
    twice = torch.where(place % (side // 2 + 1) == 0, 1.0, 2.0)
    shell = shell[place]
    count = torch.zeros(radius + 1, dtype=torch.float64).index_add_(0, shell, twice.double())
    return _Ball(place, shell, count.clamp_min(1.0), twice)


@dataclass(frozen=True)
class ClassSums:
    """Symmetrised sums of classes, by half, on the voxels up to a radius.

    Attributes:
        grid: sizes.
        top: `[2, c, v]`, complex64.
        weight: `[2, c, v]`.
    """

    grid: MapGrid
    top: Tensor
    weight: Tensor

    @staticmethod
    def make(
        grid: MapGrid, numerators: Tensor, denominators: Tensor, operators: Tensor
    ) -> "ClassSums":
        """Take `[2, c, m, m, m // 2 + 1]`, and the point group `[g, 3, 3]`."""
        place = _ball(grid.side, grid.radius, grid.padding).place
        lead = numerators.shape[:2]
        top = torch.empty(*lead, len(place), dtype=torch.complex64)
        weight = torch.empty(*lead, len(place))
        for h in range(lead[0]):
            for c in range(lead[1]):
                pair = symmetrise_sums(numerators[h, c], denominators[h, c], operators)
                top[h, c], weight[h, c] = (value.flatten()[place] for value in pair)
        return ClassSums(grid, top, weight)

    @property
    def ball(self) -> _Ball:
        """The voxels."""
        return _ball(self.grid.side, self.grid.radius, self.grid.padding)

    def volume(self, values: Tensor) -> Tensor:
        """Return `[n, n, n]` of a quotient `[v]`."""
        m = self.grid.side
        full = torch.zeros(m * m * (m // 2 + 1), dtype=torch.complex64)
        full[self.ball.place] = values
        half = full.view(1, m, m, m // 2 + 1)
        return half_volume_to_volume(half, box=self.grid.box, padding=self.grid.padding)[0]

    def quotient(self, top: Tensor, weight: Tensor, prior: Tensor | None = None) -> Tensor:
        """Divide `[.., v]`; the prior `[.., s]` is a weight."""
        ball = self.ball
        floor = (_FLOOR * ball.means(weight) + 1e-30).float()[..., ball.shell]
        if prior is not None:
            weight = weight + prior.float()[..., ball.shell]
        return top / torch.maximum(weight, floor)


@dataclass(frozen=True)
class Differences:
    """What classes differ by, in Fourier space, before they are masked.

    Attributes:
        sums: they are made of.
        rest: `[2, c, v]`, sums less the mean's share.
        snr: `[2, c, s]`, of each half difference.
        shared: `[s]`, FSC of a typical difference between halves.
        mask: `[n, n, n]`, where classes may differ.
        tau: factor on the SNR.
    """

    sums: ClassSums
    rest: Tensor
    snr: Tensor
    shared: Tensor
    mask: Tensor
    tau: float

    def _maps(self, rest: Tensor, weight: Tensor, snr: Tensor) -> Tensor:
        mean = self.sums.ball.means(weight)
        prior = mean / (self.tau * snr).clamp_min(1e-9)
        quotient = self.sums.quotient(rest, weight, prior)
        return torch.stack([self.sums.volume(one) for one in quotient]) * self.mask

    def maps(self) -> Tensor:
        """`[c, n, n, n]`, of all views."""
        return self._maps(self.rest.sum(0), self.sums.weight.sum(0), self.snr.sum(0))

    def of_half(self, half: int) -> Tensor:
        """`[c, n, n, n]`, of half the views."""
        return self._maps(self.rest[half], self.sums.weight[half], self.snr[half])


def mean_map(sums: ClassSums) -> Tensor:
    """Return `[n, n, n]`, of the views of all classes, filtered by what their halves share."""
    top, weight = sums.top.sum(1), sums.weight.sum(1)
    quotient = sums.quotient(top, weight)
    cross, power = _cross_and_power(sums.ball, quotient[0], quotient[1])
    ratio = (cross / (power - cross).clamp_min(1e-30)).clamp_min(0.0) / _fill(
        sums.grid.mask, sums.grid.padding
    )
    fsc = _smooth(ratio / (1 + ratio)).clamp(*_MEAN_BOUNDS)
    prior = sums.ball.means(weight.sum(0)) * (1 - fsc) / (2 * fsc)
    return sums.volume(sums.quotient(top.sum(0), weight.sum(0), prior)) * sums.grid.mask


def differences_of(
    sums: ClassSums, *, tau: float = 1.0, focus: Tensor | None = None
) -> Differences:
    """Find by how much classes differ from the mean, and how much of it is signal.

    With P_c and X_c the mean power and cross-power of the halves of difference c in a shell,
    and D_c its weight: S = <X_c> is the differences' power, n = <D_c (P_c - X_c)> their noise
    at unit weight, and the SNR of difference c is S D_c / n, over the share of the box that
    the mask leaves.

    Args:
        sums: of the expectation step.
        tau: factor on the SNR of the differences.
        focus: `[n, n, n]` of the grid's box, in [0, 1]: classes differ only here.
    """
    ball = sums.ball
    mask = sums.grid.mask if focus is None else sums.grid.mask * focus
    common = sums.quotient(sums.top.sum((0, 1)), sums.weight.sum((0, 1)))
    rest = sums.top - sums.weight * common
    quotient = sums.quotient(rest, sums.weight)
    weight = ball.means(sums.weight)
    cross, power = _cross_and_power(ball, quotient[0], quotient[1])
    signal = _smooth(cross.mean(0))
    noise = _smooth((weight.mean(0) * (power - cross)).mean(0)).clamp_min(1e-30)
    typical = weight.mean((0, 1)).clamp_min(1e-30)
    ratio = (signal * typical / noise).clamp_min(0.0) / _fill(mask, sums.grid.padding)
    shared = (ratio / (1 + ratio)).clamp(*_FSC_BOUNDS)
    snr = shared / (1 - shared) * weight / typical
    return Differences(sums, rest, snr, shared, mask, tau)


def class_fsc(sums: ClassSums) -> Tensor:
    """Return `[c, radius + 1]`, between the halves of each class, in the soft sphere.

    The halves share their references: this is no gold standard.
    """
    quotient = sums.quotient(sums.top, sums.weight)
    out = []
    for c in range(quotient.shape[1]):
        a, b = (rfft3((sums.volume(quotient[h, c]) * sums.grid.mask)[None]) for h in (0, 1))
        out.append(fourier_shell_correlation(a, b, n_shells=sums.grid.radius + 1)[0].double())
    return _smooth(torch.stack(out))


def _cross_and_power(ball: _Ball, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return `[.., s]`: cross-power, and mean power of both."""
    cross = ball.means((a * b.conj()).real)
    return cross, ball.means((a.abs().square() + b.abs().square()) / 2)


def _fill(mask: Tensor, padding: int) -> float:
    """Return the share of a padded half volume's noise that the mask leaves.

    Insertion by linear interpolation has spread it over the padded box as sinc^2 by axis.
    """
    n = mask.shape[-1]
    period = n * padding
    axis = (torch.arange(period, dtype=torch.float64) - period // 2) / period
    spread = torch.sinc(axis).pow(4)
    inner = spread[period // 2 - n // 2 :][:n]
    box = inner[:, None, None] * inner[:, None] * inner
    return max(float((mask.double().square() * box).sum() / spread.sum() ** 3), 1e-6)


def _smooth(values: Tensor) -> Tensor:
    """Average `[.., s]` over neighbours."""
    lead = torch.cat([values[..., :1], values, values[..., -1:]], -1)
    return (lead[..., :-2] + lead[..., 1:-1] + lead[..., 2:]) / 3
