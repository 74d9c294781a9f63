"""Describe every place of a micrograph by what tells contamination from ice with particles.

Carbon, crystals, aggregates and tears differ from ice in grey level and in how strongly the image
varies at each scale. The measures are relative to the ice of the same micrograph and to the
diameter of the particle, so that neither contrast nor pixel size matters. What is ice is not
known beforehand: a summary of the whole micrograph says how its measures are distributed.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.picking._score_map import Correlator, gaussian_kernel, prepare_image

__all__ = [
    "DIRT_LEVEL",
    "DIRT_PIXELS_PER_DIAMETER",
    "N_DIRT_FEATURES",
    "N_DIRT_PIXELS",
    "N_DIRT_SUMMARY",
    "DirtFeatures",
    "measure_dirt_features",
    "mirror_measures",
]

DIRT_PIXELS_PER_DIAMETER = 16
_STRIDE_PX = 2
_BANDS = (0.045, 0.09, 0.18, 0.35, 0.7)  # of the diameter: Gaussians whose differences are taken
_POOLS = (0.3, 0.8)  # of the diameter: neighbourhoods over which strengths are averaged
_LEVELS = (0.35, 1.0)
_REFERENCE_QUANTILE = 0.35  # contamination is the rougher part, ice the smoother
_QUANTILES = (0.05, 0.5, 0.95)  # of the summary
_CLIP = 8.0
N_DIRT_PIXELS = _STRIDE_PX**2
"""The last measures: the pixels of a cell themselves."""
N_DIRT_FEATURES = len(_BANDS) * len(_POOLS) + len(_LEVELS) + 4 + N_DIRT_PIXELS
DIRT_LEVEL = len(_BANDS) * len(_POOLS)
"""Which measure is the grey level, in deviations of the particles' band; as its asinh."""
N_DIRT_SUMMARY = len(_QUANTILES) * (len(_BANDS) + 2) + len(_BANDS) - 1


@dataclass(frozen=True)
class DirtFeatures:
    """Measures on a lattice over the micrograph.

    Attributes:
        values: `[h, w, N_DIRT_FEATURES]`.
        summary: `[N_DIRT_SUMMARY]`, of the whole micrograph.
        valid: `[h, w]` bool, False in blank margins.
        step_x_px, step_y_px: pixels of the micrograph per cell.
        origin_x_px, origin_y_px: of the first cell, in pixels of the micrograph.
        cells_per_diameter: of the lattice.
    """

    values: Tensor
    summary: Tensor
    valid: Tensor
    step_x_px: float
    step_y_px: float
    origin_x_px: float
    origin_y_px: float
    cells_per_diameter: float

    def to_cells(self, position_px: Tensor) -> Tensor:
        """Convert `[n, 2]` (x, y) pixels of the micrograph to cells."""
        origin = torch.tensor([self.origin_x_px, self.origin_y_px]).to(position_px)
        step = torch.tensor([self.step_x_px, self.step_y_px]).to(position_px)
        return (position_px - origin) / step


class _Blur:
    """Gaussian means over the valid pixels."""

    def __init__(self, valid: Tensor, diameter_px: float) -> None:
        reach = len(gaussian_kernel(max((*_POOLS, *_LEVELS, *_BANDS)) * diameter_px, valid.device))
        self._correlator = Correlator((valid.shape[0], valid.shape[1]), reach)
        self._valid, self._diameter = valid, diameter_px
        self._weight: dict[float, Tensor] = {}

    def __call__(self, image: Tensor, size: float) -> Tensor:
        kernel = gaussian_kernel(size * self._diameter, image.device)
        if size not in self._weight:
            seen = self._correlator.correlate(self._correlator.transform(self._valid), kernel)
            self._weight[size] = seen.clamp(min=1e-3)
        total = self._correlator.correlate(self._correlator.transform(image * self._valid), kernel)
        return total / self._weight[size]


def _without_plane(image: Tensor, valid: Tensor) -> Tensor:
    """Subtract the plane that most of the valid pixels follow."""
    height, width = image.shape
    y = torch.linspace(-1, 1, height, device=image.device)[:, None].expand(height, width)
    x = torch.linspace(-1, 1, width, device=image.device)[None].expand(height, width)
    basis = torch.stack([torch.ones_like(x), x, y], dim=-1)[::4, ::4].reshape(-1, 3)
    values = image[::4, ::4].reshape(-1)
    weight = (valid[::4, ::4] > 0).reshape(-1).float()
    plane = torch.zeros(3, device=image.device)
    for _ in range(6):
        scaled = basis * weight[:, None]
        ridge = 1e-3 * torch.eye(3, device=image.device)
        plane = torch.linalg.solve(scaled.T @ basis + ridge, scaled.T @ values)
        rest = (values - basis @ plane).abs()
        spread = rest[weight > 0].median().clamp(min=1e-6) if bool((weight > 0).any()) else 1.0
        weight = (rest < 2.5 * spread).float() * (weight > 0)
    return image - (plane[0] + plane[1] * x + plane[2] * y)


def _quantile(values: Tensor, valid: Tensor, share: float) -> Tensor:
    inside = values[valid > 0]
    return torch.quantile(inside[:: max(1, len(inside) // 50_000)], share)


def _relative(values: Tensor, valid: Tensor) -> Tensor:
    """Subtract what is usual for the ice of the micrograph."""
    return values - _quantile(values, valid, _REFERENCE_QUANTILE)


def _levels(
    image: Tensor, level: Tensor, valid: Tensor, blur: _Blur, scale: Tensor
) -> list[Tensor]:
    """Grey levels against the middle one, with and without the plane that was taken out.

    The inverse hyperbolic sine leaves weak differences as they are and tells strong ones apart.
    """
    means = [blur(level, size) / scale for size in _LEVELS] + [blur(image, _LEVELS[0]) / scale]
    return [torch.asinh(mean - mean[valid > 0].median()) for mean in means]


def _summary(logs: list[Tensor], wide: list[Tensor], valid: Tensor) -> Tensor:
    """Say how the measures of wide neighbourhoods are distributed over a micrograph.

    Args:
        logs: logarithms of the bands' strengths.
        wide: other measures.
        valid: pixels that count.
    """
    usual = [_quantile(one, valid, _REFERENCE_QUANTILE) for one in logs]
    parts = [one - reference for one, reference in zip(logs, usual, strict=True)] + wide
    spread = [_quantile(one, valid, share) for one in parts for share in _QUANTILES]
    return torch.stack(spread + [one - usual[0] for one in usual[1:]]).clamp(-_CLIP, _CLIP)


def measure_dirt_features(
    image: Tensor, *, pixel_size_angst: float, diameter_angst: float
) -> DirtFeatures:
    """Measure a micrograph.

    Args:
        image: `[h, w]`, any grey scale, particles dark; not-a-number counts as blank.
        pixel_size_angst: of the image.
        diameter_angst: of the particle.
    """
    small = prepare_image(
        image,
        pixel_size_angst=pixel_size_angst,
        diameter_angst=diameter_angst,
        pixels_per_diameter=DIRT_PIXELS_PER_DIAMETER,
        is_levelled=False,
    )
    valid = small.valid
    if not bool((valid > 0).any()):
        valid = torch.ones_like(valid)
    level = _without_plane(small.values, valid)
    blur = _Blur(valid, small.diameter_px)
    smooth = [blur(level, size) for size in _BANDS]
    bands = [level - smooth[0], *(a - b for a, b in itertools.pairwise(smooth))]
    logs = {
        pool: [0.5 * blur(band.square(), pool).clamp(min=1e-8).log() for band in bands]
        for pool in _POOLS
    }
    features = [_relative(logs[pool][i], valid) for i in range(len(bands)) for pool in _POOLS]
    scale = (1.4826 * bands[2][valid > 0].abs().median()).clamp(min=1e-6)
    levels = _levels(small.values, level, valid, blur, scale)
    features += levels
    for band in bands[2:4]:
        square = blur(band.square(), _POOLS[1]).clamp(min=1e-8)
        features.append(blur(band**3, _POOLS[1]) / square**1.5)
    slope_y, slope_x = torch.gradient(blur(level, _LEVELS[0]) / scale)
    slope = blur(slope_x.square() + slope_y.square(), _POOLS[0]).clamp(min=1e-8)
    features.append(_relative(0.5 * slope.log(), valid))
    stacked = torch.stack(features, dim=-1)[::_STRIDE_PX, ::_STRIDE_PX]
    # the pixels of a cell themselves, for lines that no neighbourhood tells of
    plain = torch.nn.functional.pixel_unshuffle(
        0.5 * (level * valid / scale)[None, None], _STRIDE_PX
    )
    stacked = torch.cat([stacked, plain[0].permute(1, 2, 0)], dim=-1)
    origin = small.to_micrograph(torch.zeros(1, 2, dtype=torch.float64))[0]
    return DirtFeatures(
        values=stacked.clamp(-_CLIP, _CLIP),
        summary=_summary(logs[_POOLS[1]], [levels[1], features[-1]], valid),
        valid=small.valid[::_STRIDE_PX, ::_STRIDE_PX] > 0,
        step_x_px=small.step_x_px * _STRIDE_PX,
        step_y_px=small.step_y_px * _STRIDE_PX,
        origin_x_px=float(origin[0]),
        origin_y_px=float(origin[1]),
        cells_per_diameter=small.diameter_px / _STRIDE_PX,
    )


def mirror_measures(measures: Tensor, dims: Sequence[int]) -> Tensor:
    """Flip `[N_DIRT_FEATURES, h, w]` along its last axes (-2, -1); pixels of a cell change, too."""
    flipped = measures.flip(tuple(dims))
    shape = (_STRIDE_PX, _STRIDE_PX, *measures.shape[-2:])
    pixels = flipped[-N_DIRT_PIXELS:].reshape(shape).flip(tuple(dim + 2 for dim in dims))
    return torch.cat([flipped[:-N_DIRT_PIXELS], pixels.flatten(0, 1)])
