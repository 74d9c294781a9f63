"""Carry what is known of an outline into what it encloses.

A network sees the rim of a film or of a crystal, and grows unsure where all that it sees is of one
grey level. There the answer is that of the surroundings as far as the grey level does not change:
the chance that a walk, which seldom crosses edges, ends at a contaminated place that the network
is sure of.
"""

import torch
from torch import Tensor

__all__ = ["N_DIRT_CLUES", "gather_clues", "spread"]

_CONTRASTS = (0.25, 0.5)  # of grey levels, in deviations of the particles' band: what is an edge
_HOLD = 0.02  # how much a place that the network is sure of holds to its answer
_LEAST_HOLD = 1e-4
_STEPS, _COARSEST = 120, 16
_MEAN, _TOP = 0.5, 1.0  # of the diameter: radii of the neighbourhoods that are asked, too
_EPS = 1e-4
N_DIRT_CLUES = 3 + len(_CONTRASTS)


def spread(logit: Tensor, level: Tensor, *, contrast: float) -> Tensor:
    """Spread probabilities over places of one grey level, from coarse to fine.

    Args:
        logit: `[h, w]`.
        level: `[h, w]`, grey level.
        contrast: difference of grey levels that stops most.

    Returns:
        `[h, w]`, probability.

    References:
        Grady 2006, doi:10.1109/TPAMI.2006.233 (random walks between labelled places).
    """
    own = torch.sigmoid(logit)
    start = own
    if min(logit.shape) >= _COARSEST:
        coarse = spread(_joined(logit), _joined(level), contrast=contrast)
        start = torch.nn.functional.interpolate(
            coarse[None, None], logit.shape, mode="bilinear", align_corners=False
        )[0, 0]
    return _walk(own, start, level, contrast)


def _joined(image: Tensor) -> Tensor:
    return torch.nn.functional.avg_pool2d(image[None, None], 2, ceil_mode=True)[0, 0]


def _walk(own: Tensor, start: Tensor, level: Tensor, contrast: float) -> Tensor:
    """Relax towards the mean of the neighbours that no edge parts, and one's own answer."""
    hold = _HOLD * (2 * own - 1).abs() ** 4 + _LEAST_HOLD
    right = torch.exp(-((level[:, 1:] - level[:, :-1]) / contrast).square())
    down = torch.exp(-((level[1:] - level[:-1]) / contrast).square())

    def from_neighbours(value: Tensor) -> Tensor:
        total = torch.zeros_like(value)
        total[:, 1:] += right * value[:, :-1]
        total[:, :-1] += right * value[:, 1:]
        total[1:] += down * value[:-1]
        total[:-1] += down * value[1:]
        return total

    weight = hold + from_neighbours(torch.ones_like(own))
    found = start
    for _ in range(_STEPS):
        found = (hold * own + from_neighbours(found)) / weight
    return found


def _odd(radius: float) -> int:
    return 2 * max(1, round(radius)) + 1


def gather_clues(logit: Tensor, level: Tensor, *, cells_per_diameter: float) -> Tensor:
    """Log-odds of a place, of its neighbourhood, and of what it is connected to.

    Args:
        logit: `[h, w]`, of the network.
        level: `[h, w]`, grey level in deviations of the particles' band.
        cells_per_diameter: of the lattice.

    Returns:
        `[N_DIRT_CLUES, h, w]`.
    """
    one = logit[None, None]
    mean, top = (_odd(radius * cells_per_diameter) for radius in (_MEAN, _TOP))
    clues = [
        one,
        torch.nn.functional.avg_pool2d(one, mean, 1, mean // 2, count_include_pad=False),
        torch.nn.functional.max_pool2d(one, top, 1, top // 2),
    ]
    coarse, grey = _joined(logit), _joined(level)
    for contrast in _CONTRASTS:
        chance = spread(coarse, grey, contrast=contrast).clamp(_EPS, 1 - _EPS)
        clues.append(
            torch.nn.functional.interpolate(
                torch.logit(chance)[None, None], logit.shape, mode="bilinear", align_corners=False
            )
        )
    return torch.cat(clues)[:, 0]
