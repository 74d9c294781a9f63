"""What an iteration teaches about the images, whatever the maps: noise, intensity, shifts."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.prior import updated_envelope, updated_noise

__all__ = ["Learnt", "learn"]

_MIN_SHIFT_PRIOR_ANGST = 1.5


@dataclass(frozen=True)
class Learnt:
    """What an iteration teaches about the images.

    Attributes:
        noise_power: `[g, s]`.
        scale, b_factor_angst2: `[g]`.
        shift_prior_angst: standard deviation of shifts.
    """

    noise_power: Tensor
    scale: Tensor
    b_factor_angst2: Tensor
    shift_prior_angst: float


def learn(
    sums: Sequence[Sums],
    *,
    noise_power: Tensor,
    scale: Tensor,
    b_factor_angst2: Tensor,
    extent_angst: float,
    shell: int,
) -> Learnt:
    """Learn noise, envelopes and shifts from the sums of all views, on the processor.

    Args:
        sums: of both halves.
        noise_power, scale, b_factor_angst2: used when they were made.
        extent_angst: side of the box.
        shell: last shell with signal.
    """
    residual, count, cross, power, shifts = (
        torch.stack([torch.as_tensor(getattr(s, name)).cpu() for s in sums]).sum(0)
        for name in (
            "residual_power",
            "residual_count",
            "scale_cross",
            "scale_power",
            "shift_square_angst2",
        )
    )
    square, n_views = shifts
    measured = math.sqrt(float(square) / max(float(n_views), 1.0))
    new_scale, b_factor = updated_envelope(
        scale, b_factor_angst2, cross, power, extent_angst=extent_angst
    )
    return Learnt(
        noise_power=updated_noise(residual, count, noise_power),
        scale=new_scale,
        b_factor_angst2=b_factor,
        shift_prior_angst=max(
            math.hypot(measured, extent_angst / shell / 8), _MIN_SHIFT_PRIOR_ANGST
        ),
    )
