"""Describe places of a micrograph by numbers that do not depend on how the particle is turned.

Rings of the surroundings after evening out local contrast: their mean (what a particle looks
like when averaged in the plane), their spread (texture), and the correlation with the average
of trusted picks of the same micrograph.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.algorithms.picking._score_map import PickingImage, prepare_image, radius_grid

__all__ = ["N_FEATURES", "background_places", "describe_places"]

_PIXELS_PER_DIAMETER = 20
_N_RINGS = 8
_REACH = 0.8  # of the diameter
N_FEATURES = 2 * _N_RINGS + 4

Floats = NDArray[np.float64]


def _windows(image: PickingImage, places_px: Tensor, half: int) -> tuple[Tensor, Tensor]:
    """Cut boxes with interpolation at places of the picking image; also the share seen."""
    axis = torch.arange(-half, half + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    grid = torch.stack([x, y], dim=-1)[None] + places_px.float()[:, None, None]
    height, width = image.values.shape
    scale = torch.tensor([2.0 / (width - 1), 2.0 / (height - 1)])
    layers = torch.stack([image.values, image.valid, image.local_std]).cpu()
    flat = (grid * scale - 1).reshape(1, -1, 2 * half + 1, 2)
    cut = torch.nn.functional.grid_sample(layers[None], flat, align_corners=True)[0]
    cut = cut.reshape(3, len(places_px), 2 * half + 1, 2 * half + 1)
    return cut[:2].transpose(0, 1), cut[2, :, half, half]


def _to_picking(image: PickingImage, position_px: Floats) -> Tensor:
    """Turn `to_micrograph` round."""
    height, width = image.values.shape
    place = torch.from_numpy(np.ascontiguousarray(position_px, dtype=np.float64))
    full = torch.tensor([image.shape[1] // 2, image.shape[0] // 2], dtype=torch.float64)
    step = torch.tensor([image.step_x_px, image.step_y_px], dtype=torch.float64)
    return (place - full) / step + torch.tensor([width // 2, height // 2], dtype=torch.float64)


def describe_places(
    micrograph: Tensor,
    position_px: Floats,
    *,
    trusted: NDArray[np.bool_],
    pixel_size_angst: float,
    diameter_angst: float,
) -> Floats:
    """Measure the surroundings of places in one micrograph.

    Args:
        micrograph: `[h, w]`, particles dark.
        position_px: `[n, 2]`, x and y.
        trusted: `[n]`, places that are surely particles, for the average.
        pixel_size_angst: of the micrograph.
        diameter_angst: of the particle.

    Returns:
        `[n, N_FEATURES]`.
    """
    image = prepare_image(
        micrograph,
        pixel_size_angst=pixel_size_angst,
        diameter_angst=diameter_angst,
        pixels_per_diameter=_PIXELS_PER_DIAMETER,
        local_sigma=1.0,
    )
    half = math.ceil(_REACH * image.diameter_px)
    cut, contrast = _windows(image, _to_picking(image, position_px), half)
    values, seen = cut[:, 0], cut[:, 1]
    ring = (radius_grid(half, values.device) * _N_RINGS / (half + 0.5)).long()
    features = []
    for i in range(_N_RINGS):
        inside = (ring == i).float()
        count = (seen * inside).sum((1, 2)).clamp(min=1)
        mean = (values * seen * inside).sum((1, 2)) / count
        square = (values.square() * seen * inside).sum((1, 2)) / count
        features += [mean, (square - mean.square()).clamp(min=0).sqrt()]
    disc = (ring < _N_RINGS).float()
    likeness = _likeness(values, seen * disc, trusted)
    features += [*likeness, contrast.log(), (seen * disc).sum((1, 2)) / disc.sum()]
    return torch.stack(features, dim=1).double().numpy()


def _likeness(values: Tensor, weight: Tensor, trusted: NDArray[np.bool_]) -> list[Tensor]:
    """Correlation with the average of trusted places made round, and with it as strength."""
    chosen = torch.from_numpy(trusted)
    average = (values[chosen] if bool(chosen.any()) else values).mean(dim=0)
    # the mean over quarter turns and mirrors has no direction of its own
    turns = [torch.rot90(average, k) for k in range(4)]
    average = torch.stack([*turns, *(turn.flip(0) for turn in turns)]).mean(dim=0)
    total = weight.sum((1, 2)).clamp(min=1)
    template = average - ((average * weight).sum((1, 2)) / total)[:, None, None]
    centred = values - ((values * weight).sum((1, 2)) / total)[:, None, None]
    product = (centred * template * weight).sum((1, 2))
    energy = (template.square() * weight).sum((1, 2)).clamp(min=1e-6)
    own = (centred.square() * weight).sum((1, 2)).clamp(min=1e-6)
    return [product / (energy * own).sqrt(), product / energy]


def background_places(
    position_px: Floats,
    shape: tuple[int, int],
    *,
    diameter_px: float,
    n: int,
    rng: np.random.Generator,
) -> Floats:
    """Draw places at least a diameter away from every pick; fewer where there is no room.

    Args:
        position_px: `[m, 2]`, all picks.
        shape: rows and columns of the micrograph.
        diameter_px: of the particle.
        n: wanted.
        rng: where the randomness comes from.
    """
    from scipy.spatial import cKDTree

    last = np.array([shape[1] - 1, shape[0] - 1], dtype=np.float64)
    margin = np.minimum(0.5 * diameter_px, 0.4 * last)
    candidates = rng.uniform(margin, last - margin, (20 * n, 2))
    if len(position_px):
        near = cKDTree(position_px).query(candidates)[0]
        candidates = candidates[near >= diameter_px]
    return np.asarray(candidates[:n])
