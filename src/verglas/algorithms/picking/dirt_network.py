"""The network of the micrograph cleaner: small, fully convolutional, seeing four diameters.

It works on the measures of `dirt_features` on a lattice of eight cells a diameter. Two coarser
levels let it follow the outline of a crystal or the rim of a film far beyond one place.
"""

from typing import Any

import torch
from torch import Tensor, nn

from verglas.algorithms.picking.dirt_features import N_DIRT_FEATURES

__all__ = ["DirtNetwork"]

_WIDTHS = (24, 32, 48)


def _pair(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.ReLU(),
    )


class DirtNetwork(nn.Module):
    """Log-odds of contamination from measures: `[b, N_DIRT_FEATURES, h, w]` to `[b, h, w]`."""

    centre: Tensor
    width: Tensor
    offset: Tensor

    def __init__(self) -> None:
        super().__init__()
        fine, middle, coarse = _WIDTHS
        self.register_buffer("centre", torch.zeros(N_DIRT_FEATURES))
        self.register_buffer("width", torch.ones(N_DIRT_FEATURES))
        self.register_buffer("offset", torch.zeros(1))
        self.down_0 = _pair(N_DIRT_FEATURES, fine)
        self.down_1 = _pair(fine, middle)
        self.bottom = _pair(middle, coarse)
        self.up_1 = _pair(coarse + middle, middle)
        self.up_0 = _pair(middle + fine, fine)
        self.last = nn.Conv2d(fine, 1, 1)

    def forward(self, measures: Tensor) -> Tensor:
        """Say of every cell how likely it is contaminated; `offset` is the log-odds called 0."""
        scaled = (measures - self.centre[:, None, None]) / self.width[:, None, None]
        fine = self.down_0(scaled)
        middle = self.down_1(_halved(fine))
        coarse = self.bottom(_halved(middle))
        middle = self.up_1(torch.cat([_grown(coarse, middle), middle], dim=1))
        fine = self.up_0(torch.cat([_grown(middle, fine), fine], dim=1))
        logit: Tensor = self.last(fine)[:, 0] - self.offset
        return logit

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `forward`."""
        answer: Tensor = super().__call__(*args, **kwargs)
        return answer


def _halved(image: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(image, 2, ceil_mode=True)


def _grown(image: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(image, like.shape[-2:], mode="bilinear", align_corners=False)
