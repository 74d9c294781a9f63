"""Level and spread of an image that a few wild pixels cannot move."""

import torch
from torch import Tensor

__all__ = ["clip_outliers", "robust_level"]

_MAD_TO_STD = 1.4826  # of a normal distribution
_SAMPLE = 200_000


def robust_level(image: Tensor) -> tuple[float, float]:
    """Median and scaled median absolute deviation, from an even sample of the pixels.

    Where more than half of the pixels are equal the ordinary deviation is given.

    Args:
        image: any shape, finite.
    """
    values = image.reshape(-1)
    values = values[:: max(1, len(values) // _SAMPLE)].float()
    level = values.median()
    spread = float((values - level).abs().median()) * _MAD_TO_STD
    return float(level), spread if spread > 0 else float(values.std())


def clip_outliers(image: Tensor, *, n_sigma: float) -> Tensor:
    """Subtract the level and clip hot, dead and missing pixels.

    Args:
        image: any shape; not-a-number becomes 0, the level.
        n_sigma: robust deviations that are kept on either side.
    """
    finite = torch.isfinite(image)
    level, spread = robust_level(image[finite] if not bool(finite.all()) else image)
    clipped = (image - level).clamp(-n_sigma * spread, n_sigma * spread)
    return torch.nan_to_num(clipped)
