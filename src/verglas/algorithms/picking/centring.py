"""Put picks at the middle of their particles, where a correlation has a broad top.

The correlation of a long particle with a round template is a ridge along it, and noise decides
where on the ridge its maximum lies. The centroid of the ridge is the particle's middle, for any
shape; for a round particle it is the maximum itself.
"""

import math

import torch
from torch import Tensor

__all__ = ["centroid_of_top"]

_REACH = 0.4  # of the diameter: how far the top of the correlation is followed
_SHARE = 0.3  # of the height: what lies below is not top
_ROUNDS = 3


def centroid_of_top(score: Tensor, position_px: Tensor, *, diameter_px: float) -> Tensor:
    """Move each pick to the centroid of what is high about it.

    Args:
        score: `[h, w]`, correlation with a round template.
        position_px: `[n, 2]` (x, y), near maxima of the score.
        diameter_px: of the particle.

    Returns:
        `[n, 2]`, float64.
    """
    height, width = score.shape
    reach = _REACH * diameter_px
    side = math.ceil(reach)
    axis = torch.arange(-side, side + 1, device=score.device)
    place = position_px.double()
    for _ in range(_ROUNDS):
        centre = place.round().long()
        x = centre[:, 0, None, None] + axis[None, None, :]
        y = centre[:, 1, None, None] + axis[None, :, None]
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        values = score[y.clamp(0, height - 1), x.clamp(0, width - 1)].double()
        across, down = x - place[:, 0, None, None], y - place[:, 1, None, None]
        window = (1 - (across.square() + down.square()) / reach**2).clamp(min=0) * inside
        seen = torch.where(window > 0, values, -torch.inf)
        top = seen.flatten(1).amax(dim=1)[:, None, None].clamp(min=0)
        weight = (values - _SHARE * top).clamp(min=0) * window
        total = weight.sum((1, 2)).clamp(min=1e-12)
        step = torch.stack([(weight * across).sum((1, 2)), (weight * down).sum((1, 2))], dim=1)
        place = place + step / total[:, None]
    return place
