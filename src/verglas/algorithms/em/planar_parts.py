"""The sums of each part of the particles, kept from pass to pass, so that parts take turns.

Averages that are renewed after every part, not after every pass, use at once what a part has
taught (incremental EM; Neal & Hinton 1998, doi:10.1007/978-94-011-5014-9_12): the sums of a
part replace those that it gave in the pass before, and the next part meets averages that know.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.average import CompactSpace, RingSums, Shrinkage
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.planar import PlanarConfig, PlanarState, planar_mask, planar_side
from verglas.kernels.rings import images_of_orders

__all__ = ["PartSums", "others_averages", "renewed_averages"]


@dataclass(frozen=True)
class PartSums:
    """What the averages are made of, by part of the particles.

    Attributes:
        part_numerator: `[h, c, m, radius]`, complex, by angular order.
        part_denominator: `[h, c, radius]`, real.
    """

    part_numerator: Tensor
    part_denominator: Tensor

    @staticmethod
    def of(sums: Mapping[int, Sums]) -> "PartSums":
        """Take the sums of a whole pass, by number of the part."""
        parts = [sums[part] for part in sorted(sums)]
        return PartSums(
            torch.stack([torch.as_tensor(part.numerator) for part in parts]),
            torch.stack([torch.as_tensor(part.denominator) for part in parts]),
        )

    def renewed(self, place: int, sums: Sums) -> "PartSums":
        """Replace the sums of one part; the others know nothing of new orders and rings.

        Args:
            place: of the part.
            sums: of the part, for the same classes.
        """
        orders, rings = sums.numerator.shape[1:]
        more = rings - self.part_denominator.shape[-1]
        pad = torch.nn.functional.pad
        numerator = pad(self.part_numerator, (0, more, 0, orders - self.part_numerator.shape[2]))
        denominator = pad(self.part_denominator, (0, more))
        numerator[place], denominator[place] = sums.numerator, sums.denominator
        return PartSums(numerator, denominator)

    def take(self, classes: Tensor) -> "PartSums":
        """Return the sums of some classes."""
        return PartSums(self.part_numerator[:, classes], self.part_denominator[:, classes])

    def ring_sums(self) -> list[RingSums]:
        """Return the sums of the parts one by one."""
        return [
            RingSums.make(numerator, denominator)
            for numerator, denominator in zip(
                self.part_numerator, self.part_denominator, strict=True
            )
        ]

    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays by name."""
        return {name: value.numpy() for name, value in vars(self).items()}

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "PartSums":
        """Rebuild from what `to_arrays` gave."""
        return PartSums(
            **{name: torch.as_tensor(arrays[name]) for name in PartSums.__dataclass_fields__}
        )


def renewed_averages(
    config: PlanarConfig, state: PlanarState, known: PartSums, place: int
) -> PlanarState:
    """Make new averages for a part within a pass, and leave all else as it is.

    Args:
        config: of the run.
        state: of the pass.
        known: the last sums of every part.
        place: of the part, which meets averages of the others.
    """
    parts = known.ring_sums()
    n_orders, radius = parts[0].numerator.shape[1:]
    n = planar_side(radius)
    mask = planar_mask(config, n)
    compact = CompactSpace.make(mask, radius=radius, n_orders=n_orders)
    shrinkage = Shrinkage.learn(parts, compact, tau=config.tau)
    orders = shrinkage.averages(RingSums.join([*parts[:place], *parts[place + 1 :]]))
    return replace(state, averages=(images_of_orders(orders, n) * mask)[None])


def others_averages(parts: Sequence[RingSums], shrinkage: Shrinkage) -> Tensor:
    """Return `[h, c, m, radius]`: for each part averages of the others.

    Args:
        parts: sums of the parts, at least two.
        shrinkage: of the averages.
    """
    others = [RingSums.join([*parts[:i], *parts[i + 1 :]]) for i in range(len(parts))]
    return torch.stack([shrinkage.averages(other) for other in others])
