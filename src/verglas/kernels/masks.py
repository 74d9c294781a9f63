"""Soft masks: discs, spheres, and the outline of a map.

All edges are half a cosine wave, from 1 at the inner radius to 0 at the outer one.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.core.checks import check_cubic, check_ndim, check_range
from verglas.kernels.filters import low_pass

__all__ = ["auto_mask", "otsu_threshold", "soft_circle", "soft_sphere"]

_FULL_CONNECTIVITY = np.ones((3, 3, 3), dtype=bool)


def soft_circle(
    box: int,
    radius_px: float,
    edge_px: float,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Disc with a cosine edge about pixel box // 2.

    Args:
        box: side of the square.
        radius_px: the mask is 1 up to here.
        edge_px: width of the edge outside the radius; 0 gives a hard edge.
        device: where the mask is made.

    Returns:
        `[box, box]`, float32 in [0, 1].
    """
    return _soft_ball(box, radius_px, edge_px, 2, device)


def soft_sphere(
    box: int,
    radius_px: float,
    edge_px: float,
    *,
    device: torch.device | str | None = None,
) -> Tensor:
    """Ball with a cosine edge about voxel box // 2; arguments as in `soft_circle`.

    Returns:
        `[box, box, box]`, float32 in [0, 1].
    """
    return _soft_ball(box, radius_px, edge_px, 3, device)


def auto_mask(
    volumes: Tensor,
    *,
    pixel_size_angst: float,
    low_pass_angst: float = 15.0,
    dilate_angst: float = 6.0,
    edge_angst: float = 10.0,
    threshold: float | None = None,
    min_component_fraction: float = 0.1,
) -> Tensor:
    """Outline maps with a soft mask.

    The map is low-passed; voxels above the threshold and inside the inscribed sphere are
    kept; of their connected components (26 neighbours) the largest stays, and any that has
    at least a fraction of its size; the outline is moved out and given a cosine edge.

    Args:
        volumes: `[b, n, n, n]`, protein bright.
        pixel_size_angst: edge of a voxel.
        low_pass_angst: resolution of the map that is thresholded.
        dilate_angst: distance by which the outline is moved out.
        edge_angst: width of the edge outside that.
        threshold: on the low-passed map; by default Otsu's, which separates protein from
            solvent with the least variance inside the two classes.
        min_component_fraction: smallest component kept, relative to the largest.

    Returns:
        `[b, n, n, n]`, float32 in [0, 1].

    References:
        Otsu 1979, doi:10.1109/TSMC.1979.4310076 (threshold).
    """
    from scipy import ndimage

    check_ndim("volumes", volumes, 4)
    check_cubic("volumes", volumes, n_axes=3)
    check_range("dilate_angst", dilate_angst, ge=0)
    check_range("edge_angst", edge_angst, ge=0)
    n = volumes.shape[-1]
    smooth = low_pass(
        volumes, resolution_angst=low_pass_angst, pixel_size_angst=pixel_size_angst
    ).cpu()
    ball = soft_sphere(n, n / 2 - 1, 0) > 0
    masks = []
    for volume in smooth:
        level = otsu_threshold(volume[ball]) if threshold is None else threshold
        seed = _large_components(((volume > level) & ball).numpy(), min_component_fraction)
        # counted from the outermost kept voxels
        distance = ndimage.distance_transform_edt(~seed) * pixel_size_angst
        masks.append(_cosine_edge(torch.from_numpy(distance), dilate_angst, edge_angst))
    return torch.stack(masks).to(volumes.device)


def otsu_threshold(values: Tensor, *, n_bins: int = 256) -> float:
    """Value that splits a sample into two classes of least variance inside.

    Args:
        values: any shape; not all equal.
        n_bins: of the histogram that is searched.

    Returns:
        The threshold, at an edge of a bin.

    References:
        Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    sample = values.detach().to("cpu", torch.float64).reshape(-1).numpy()
    if not (sample.size and np.ptp(sample) > 0 and np.isfinite(sample).all()):
        raise ValueError("values must be finite and not all equal to be split in two classes")
    counts, edges = np.histogram(sample, bins=n_bins)
    centres = (edges[1:] + edges[:-1]) / 2
    below, above = np.cumsum(counts)[:-1], np.cumsum(counts[::-1])[::-1][1:]
    sum_below = np.cumsum(counts * centres)[:-1]
    sum_above = (counts * centres).sum() - sum_below
    gap = sum_below / np.maximum(below, 1) - sum_above / np.maximum(above, 1)
    return float(edges[1 + int(np.argmax(below * above * gap**2))])


def _soft_ball(
    box: int, radius_px: float, edge_px: float, n_axes: int, device: torch.device | str | None
) -> Tensor:
    check_range("box", box, ge=1)
    check_range("radius_px", radius_px, ge=0)
    check_range("edge_px", edge_px, ge=0)
    square = (torch.arange(box, device=device, dtype=torch.float32) - box // 2).square()
    total = square
    for _ in range(n_axes - 1):
        total = total[..., None] + square
    return _cosine_edge(torch.sqrt(total), radius_px, edge_px)


def _cosine_edge(distance: Tensor, inner: float, width: float) -> Tensor:
    """Return 1 up to the inner distance, 0 from inner + width on."""
    if width == 0:
        return (distance <= inner).to(torch.float32)
    position = ((distance - inner) / width).clamp(0, 1)
    return (0.5 + 0.5 * torch.cos(math.pi * position)).to(torch.float32)


def _large_components(seed: NDArray[np.bool_], min_fraction: float) -> NDArray[np.bool_]:
    from scipy import ndimage

    labels, _ = ndimage.label(seed, structure=_FULL_CONNECTIVITY)
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    if not sizes.any():
        raise ValueError("no voxel lies above the mask threshold")
    kept: NDArray[np.bool_] = (sizes >= max(1.0, min_fraction * sizes.max()))[labels]
    return kept
