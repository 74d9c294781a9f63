"""Bring micrographs to what the network knows: 20 pixels a particle, level, noise about 1."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.algorithms.grey_levels import clip_outliers
from verglas.algorithms.picking.network.model import PARTICLE_PX
from verglas.kernels.fourier import fourier_resize2

__all__ = ["LevelImage", "level_images", "reduce_micrograph"]

_POOL_PX = 4
_LEVEL_SIGMA_PX = PARTICLE_PX
_CLIP = 6.0
_OUTLIER = 3.0
_ROUNDS = 3
_LEAST_SIDE_PX = 32
_BLANK_CONTRAST = 0.2


@dataclass(frozen=True)
class LevelImage:
    """A micrograph as the network sees it, and the way back.

    Attributes:
        values: `[h, w]`, particles bright, 0 where not valid.
        valid: `[h, w]`, 1 or 0; 0 in blank margins.
        step_x_px, step_y_px: pixels of the micrograph per pixel here.
        shape: rows and columns of the micrograph.
    """

    values: Tensor
    valid: Tensor
    step_x_px: float
    step_y_px: float
    shape: tuple[int, int]

    def _centres(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        height, width = self.values.shape
        centre = torch.tensor([width // 2, height // 2]).to(like)
        full = torch.tensor([self.shape[1] // 2, self.shape[0] // 2]).to(like)
        return centre, full, torch.tensor([self.step_x_px, self.step_y_px]).to(like)

    def to_micrograph(self, position_px: Tensor) -> Tensor:
        """Convert `[n, 2]` (x, y) positions to pixels of the micrograph."""
        centre, full, step = self._centres(position_px)
        return (position_px - centre) * step + full

    def from_micrograph(self, position_px: Tensor) -> Tensor:
        """Convert `[n, 2]` (x, y) pixels of the micrograph to positions here."""
        centre, full, step = self._centres(position_px)
        return (position_px - full) / step + centre


def _blur_matrix(n: int, sigma: float, like: Tensor) -> Tensor:
    axis = torch.arange(n, dtype=like.dtype, device=like.device)
    return torch.exp(-0.5 * ((axis[:, None] - axis[None, :]) / sigma).square())


def _pooled(images: Tensor) -> Tensor:
    height, width = images.shape[-2:]
    padded = F.pad(images[:, None], (0, -width % _POOL_PX, 0, -height % _POOL_PX))
    return F.avg_pool2d(padded, _POOL_PX)[:, 0]


class _LocalMean:
    """Gaussian means over the valid pixels, worked out on a grid four times coarser."""

    def __init__(self, valid: Tensor, sigma_px: float) -> None:
        self._valid = valid
        pooled = _pooled(valid)
        sigma = sigma_px / _POOL_PX
        self._rows = _blur_matrix(pooled.shape[-2], sigma, valid)
        self._columns = _blur_matrix(pooled.shape[-1], sigma, valid)
        self._weight = self._blur(pooled).clamp(min=1e-3)

    def _blur(self, coarse: Tensor) -> Tensor:
        return self._rows @ coarse @ self._columns

    def __call__(self, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        mean = self._blur(_pooled(images * self._valid)) / self._weight
        size = [side * _POOL_PX for side in mean.shape[-2:]]
        wide = F.interpolate(mean[:, None], size=size, mode="bilinear", align_corners=False)
        return wide[:, 0, :height, :width]


def _middle(values: Tensor, valid: Tensor) -> Tensor:
    """Median over the valid pixels of each image: `[b, 1, 1]`."""
    marked = torch.where(valid > 0, values, torch.full_like(values, math.nan))
    median = marked.flatten(1)[:, ::7].nanmedian(dim=1).values
    return median.nan_to_num(1.0).clamp(min=1e-12)[:, None, None]


def level_images(images: Tensor, valid: Tensor) -> Tensor:
    """Take out the local mean and divide by the usual local deviation.

    The mean is found again without what stands out, so that ice does not darken its
    surroundings.

    Args:
        images: `[b, h, w]`, particles about 20 px wide.
        valid: `[b, h, w]`, 1 where there is an image.

    Returns:
        `[b, h, w]` within +-6, zero where not valid.
    """
    local_mean = _LocalMean(valid, _LEVEL_SIGMA_PX)
    centred = images - local_mean(images)
    scale = _middle(local_mean(centred.square()), valid).sqrt()
    for _ in range(_ROUNDS):
        tame = centred.clamp(-_OUTLIER * scale, _OUTLIER * scale)
        centred = centred - local_mean(tame)
        tame = centred.clamp(-_OUTLIER * scale, _OUTLIER * scale)
        scale = _middle(local_mean(tame.square()), valid).sqrt()
    return (centred / scale).clamp(-_CLIP, _CLIP) * valid


def _valid_pixels(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mark parts of the image with contrast between neighbours, along x and along y: `shape`.

    A border that was filled by repeating the last line has contrast one way only.
    """
    blocks = (max(1, shape[0] // _POOL_PX), max(1, shape[1] // _POOL_PX))
    is_blank = torch.zeros(blocks, device=image.device)
    for axis in (0, 1):
        contrast = torch.zeros_like(image)
        n = image.shape[axis] - 1
        contrast.narrow(axis, 1, n).copy_(image.diff(dim=axis).abs())
        mean = F.adaptive_avg_pool2d(contrast[None], blocks)[0]
        is_blank = torch.maximum(is_blank, (mean <= _BLANK_CONTRAST * mean.median()).float())
    wide = F.interpolate(is_blank[None, None], size=shape, mode="nearest")[0, 0]
    return 1.0 - wide


def reduce_micrograph(
    image: Tensor, *, pixel_size_angst: float, diameter_angst: float
) -> LevelImage:
    """Rescale a micrograph so that a particle is 20 pixels wide, and level it.

    Args:
        image: `[h, w]`, particles dark; not-a-number counts as blank.
        pixel_size_angst: of the image.
        diameter_angst: of the particle.
    """
    factor = PARTICLE_PX * pixel_size_angst / diameter_angst
    height, width = (
        2 * max(_LEAST_SIDE_PX // 2, round(0.5 * side * factor)) for side in image.shape
    )
    is_seen = bool(torch.isfinite(image).any())
    tame = clip_outliers(image.float(), n_sigma=5.0) if is_seen else torch.zeros_like(image)
    small = -fourier_resize2(tame[None], shape=(height, width))
    valid = _valid_pixels(tame, (height, width))[None]
    return LevelImage(
        values=level_images(small, valid)[0],
        valid=valid[0],
        step_x_px=image.shape[1] / width,
        step_y_px=image.shape[0] / height,
        shape=(image.shape[0], image.shape[1]),
    )
