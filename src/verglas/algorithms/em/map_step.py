"""From half sums to a map, at the radius in use: the maximisation step of a first map.

The two halves share their reference, so they are no gold standard; but what they agree on is
more than noise, and their shell correlation gives a Wiener filter that lets a shell grow as
soon as it holds anything. A prior on the power of the last map (Scheres 2012) keeps shells
out that were empty before: on 300 real apoferritin particles it left shells beyond 22 Å at a
correlation of 0.2 with the truth after 12 iterations, where the halves reached 0.8.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import reconstruct, symmetrise_sums
from verglas.kernels.fourier import fourier_resize3, next_fast_size, rfft3
from verglas.kernels.fsc import fourier_shell_correlation
from verglas.kernels.masks import soft_sphere
from verglas.kernels.slices import half_volume_size, volume_to_half_volume

__all__ = ["MapGrid", "lift_odd_part", "odd_share"]

_FSC_BOUNDS = (0.05, 0.98)


@dataclass(frozen=True)
class MapGrid:
    """Sizes that go with a radius, of one extent in Å.

    Attributes:
        radius: last shell.
        extent_angst: side of the box.
        diameter_angst: of the particle; a soft sphere about it is kept.
        padding: oversampling of half volumes.
    """

    radius: int
    extent_angst: float
    diameter_angst: float
    padding: int = 2

    @cached_property
    def box(self) -> int:
        """Side of maps, in voxels."""
        return next_fast_size(2 * self.radius + 6)

    @cached_property
    def side(self) -> int:
        """Side of half volumes."""
        return half_volume_size(self.radius, self.padding)

    @cached_property
    def mask(self) -> Tensor:
        """`[n, n, n]`, the soft sphere."""
        voxel = self.extent_angst / self.box
        radius = min(0.55 * self.diameter_angst, 0.45 * self.extent_angst) / voxel
        return soft_sphere(self.box, radius, max(4.0, 10.0 / voxel))

    def zeros(self, *lead: int, device: torch.device | str = "cpu") -> tuple[Tensor, Tensor]:
        """Return an empty numerator and denominator, `[*lead, m, m, m // 2 + 1]`."""
        shape = (*lead, self.side, self.side, self.side // 2 + 1)
        numerator = torch.zeros(shape, dtype=torch.complex64, device=device)
        return numerator, torch.zeros(shape, device=device)

    def embed(self, half_volumes: Tensor) -> Tensor:
        """Put half volumes of a smaller radius into empty ones of this radius."""
        old = half_volumes.shape[-2]
        if old == self.side:
            return half_volumes
        reach, at = old // 2, self.side // 2
        if reach > at:
            raise ValueError(f"half volumes must not shrink: got side {old}, here {self.side}")
        lead = half_volumes.shape[:-3]
        out = half_volumes.new_zeros(*lead, self.side, self.side, at + 1)
        inner = slice(at - reach, at + reach + 1)
        out[..., inner, inner, : reach + 1] = half_volumes
        return out

    def resize(self, maps: Tensor) -> Tensor:
        """Bring maps `[c, k, k, k]` of the same extent onto this box."""
        old = maps.shape[-1]
        if old == self.box:
            return maps
        return (
            fourier_resize3(maps, shape=(self.box,) * 3)
            * (old / self.box) ** 3
            * self.mask.to(maps)
        )

    def half_volumes(self, maps: Tensor) -> Tensor:
        """Transform maps `[c, n, n, n]` for slicing."""
        return volume_to_half_volume(maps, radius=self.radius, padding=self.padding)

    def maps_of(
        self, numerators: Tensor, denominators: Tensor, operators: Tensor, *, tau: float
    ) -> Tensor:
        """Divide the sums and filter them by what their halves agree on.

        Args:
            numerators, denominators: `[2, c, m, m, m // 2 + 1]`, by half and reference.
            operators: `[g, 3, 3]`.
            tau: factor on the signal-to-noise ratio.

        Returns:
            `[c, n, n, n]`.
        """
        out = []
        for c in range(numerators.shape[1]):
            halves = [
                symmetrise_sums(numerators[h, c], denominators[h, c], operators) for h in (0, 1)
            ]
            inverse_snr = self._inverse_snr(halves, tau)
            numerator = halves[0][0] + halves[1][0]
            denominator = halves[0][1] + halves[1][1]
            out.append(self._divide(numerator, denominator, inverse_snr))
        return torch.stack(out)

    def _divide(self, numerator: Tensor, denominator: Tensor, inverse_snr: Tensor | None) -> Tensor:
        plain = reconstruct(
            numerator,
            denominator,
            radius=self.radius,
            box=self.box,
            padding=self.padding,
            inverse_snr=inverse_snr,
        )
        return plain * self.mask.to(plain)

    def _inverse_snr(self, halves: list[tuple[Tensor, Tensor]], tau: float) -> Tensor:
        """Return `[radius + 1]` of both halves together."""
        a, b = (rfft3(self._divide(n, d, None)[None]) for n, d in halves)
        fsc = fourier_shell_correlation(a, b, n_shells=self.radius + 1)[0].double()
        # neighbours share what they know; shells of symmetric maps have few coefficients
        around = torch.nn.functional.pad(fsc[None], (1, 1), mode="replicate")[0]
        fsc = (around[:-2] + around[1:-1] + around[2:]).div(3).clamp(*_FSC_BOUNDS)
        return (1 - fsc) / (2 * fsc * tau)


def _inverted(maps: Tensor) -> Tensor:
    """Return maps seen in the other hand: r to -r about index n // 2."""
    flipped = maps.flip(1, 2, 3)
    return flipped if maps.shape[-1] % 2 else flipped.roll((1, 1, 1), (1, 2, 3))


def odd_share(maps: Tensor) -> Tensor:
    """Return `[c]`, the norm of the part that changes sign under inversion over the rest's."""
    inverted = _inverted(maps)
    odd, even = (maps - inverted).flatten(1), (maps + inverted).flatten(1)
    share: Tensor = odd.norm(dim=1) / even.norm(dim=1).clamp_min(1e-30)
    return share


def lift_odd_part(maps: Tensor, *, share: float, gain: float) -> Tensor:
    """Amplify the odd part of maps that have all but lost their hand.

    At low resolution many particles look like their mirror image, and maps settle on the mean
    of both hands: a saddle of the likelihood, which plain iterations leave slowly. Iterating
    while the odd part is held at a share of the map is a power iteration for the direction
    in which the saddle falls off most steeply.

    Args:
        maps: `[c, n, n, n]`.
        share: least ratio of the odd to the even part that is aimed at.
        gain: largest amplification.
    """
    inverted = _inverted(maps)
    factor = (share / odd_share(maps).clamp_min(1e-30)).clamp(1.0, gain)
    lifted: Tensor = (maps + inverted) / 2 + factor[:, None, None, None] * (maps - inverted) / 2
    return lifted
