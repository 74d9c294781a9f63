"""The network of the micrograph cleaner: small, fully convolutional, seeing twenty diameters.

It works on the measures of `dirt_features` on a lattice of eight cells a diameter. Five coarser
levels let it follow the outline of a crystal or the rim of a film far beyond one place, and a
summary of the whole micrograph tells it which part of what it sees is usual there.
"""

from typing import Any

import torch
from torch import Tensor, nn

from verglas.algorithms.picking.dirt_features import (
    N_DIRT_FEATURES,
    N_DIRT_SUMMARY,
    mirror_measures,
)
from verglas.algorithms.picking.dirt_spread import N_DIRT_CLUES

__all__ = ["DirtNetwork"]

_WIDTHS = (24, 40, 64, 96, 96, 96)
_MIRRORS = ((), (-1,), (-2,), (-2, -1))


def _pair(n_in: int, n_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(n_in, n_out, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(n_out, n_out, 3, padding=1),
        nn.ReLU(),
    )


class DirtNetwork(nn.Module):
    """Log-odds of contamination from measures and summary.

    Takes `[b, N_DIRT_FEATURES, h, w]` and `[b, N_DIRT_SUMMARY]`, gives `[b, h, w]`.
    """

    centre: Tensor
    width: Tensor
    summary_centre: Tensor
    summary_width: Tensor
    clue_weight: Tensor
    clue_bias: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(N_DIRT_FEATURES))
        self.register_buffer("width", torch.ones(N_DIRT_FEATURES))
        self.register_buffer("summary_centre", torch.zeros(N_DIRT_SUMMARY))
        self.register_buffer("summary_width", torch.ones(N_DIRT_SUMMARY))
        self.register_buffer("clue_weight", torch.eye(N_DIRT_CLUES)[0])
        self.register_buffer("clue_bias", torch.zeros(1))
        inputs = (N_DIRT_FEATURES, *_WIDTHS)
        n_levels = len(_WIDTHS)
        self.down = nn.ModuleList(_pair(inputs[i], inputs[i + 1]) for i in range(n_levels))
        self.told = nn.ModuleList(nn.Linear(N_DIRT_SUMMARY, each) for each in _WIDTHS)
        self.up = nn.ModuleList(
            _pair(_WIDTHS[i] + _WIDTHS[i + 1], _WIDTHS[i]) for i in range(n_levels - 1)
        )
        self.last = nn.Conv2d(_WIDTHS[0], 1, 1)

    def forward(self, measures: Tensor, summary: Tensor) -> Tensor:
        """Say of every cell how likely it is contaminated, by what lies about it."""
        image = (measures - self.centre[:, None, None]) / self.width[:, None, None]
        whole = (summary - self.summary_centre) / self.summary_width
        seen: list[Tensor] = []
        for down, told in zip(self.down, self.told, strict=True):
            image = down(_halved(image) if seen else image) + told(whole)[:, :, None, None]
            seen.append(image)
        for level in range(len(seen) - 2, -1, -1):
            image = self.up[level](torch.cat([_grown(image, seen[level]), seen[level]], dim=1))
        logit: Tensor = self.last(image)[:, 0]
        return logit

    def answer(self, measures: Tensor, summary: Tensor) -> Tensor:
        """Average over mirrored views of one micrograph, `[N_DIRT_FEATURES, h, w]`: `[h, w]`."""
        total = torch.zeros_like(measures[0])
        for dims in _MIRRORS:
            seen = mirror_measures(measures, dims)
            total += self(seen[None], summary[None])[0].flip(dims)
        return total / len(_MIRRORS)

    def judge(self, clues: Tensor) -> Tensor:
        """Weigh the clues of `gather_clues` into log-odds; at 0 a pick is dropped."""
        return torch.einsum("c,chw->hw", self.clue_weight, clues) + self.clue_bias

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `forward`."""
        answer: Tensor = super().__call__(*args, **kwargs)
        return answer


def _halved(image: Tensor) -> Tensor:
    return nn.functional.avg_pool2d(image, 2, ceil_mode=True)


def _grown(image: Tensor, like: Tensor) -> Tensor:
    return nn.functional.interpolate(image, like.shape[-2:], mode="bilinear", align_corners=False)
