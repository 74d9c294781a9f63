"""Make a compact bank of templates: every view at every in-plane angle, in few basis images.

Views are class averages turned in the plane, or projections of a map in all directions. Their
singular vectors span them: tens of basis images stand for thousands of templates, so that a
micrograph is correlated with the basis alone.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from verglas.core.checks import check_cubic, check_ndim
from verglas.kernels.disc import half_disc, scatter_disc
from verglas.kernels.fourier import fourier_resize2, fourier_resize3, irfft2
from verglas.kernels.masks import soft_circle
from verglas.kernels.slices import extract_slices, volume_to_half_volume
from verglas.kernels.so3 import orientation_grid

__all__ = ["TemplateBank", "bank_of_images", "bank_of_volume"]

_ENERGY_KEPT = 0.99
_MOST_BASIS = 96
_EDGE = 0.1  # of the diameter
_BOX = 1.3  # of the diameter, holds disc and edge
_MOST_TEMPLATES = 6000


@dataclass(frozen=True)
class TemplateBank:
    """Templates as sums of basis images, particles bright.

    Attributes:
        basis: `[r, b, b]`, orthonormal, centred at `b // 2`.
        weights: `[n, r]`, each template is `weights @ basis`, of energy 1.
        view: `[n]`, which class average or direction a template shows.
        pixel_size_angst: of the basis.
        diameter_angst: of the disc outside of which templates are zero.
    """

    basis: Tensor
    weights: Tensor
    view: Tensor
    pixel_size_angst: float
    diameter_angst: float

    def to_arrays(self) -> dict[str, Any]:
        """Give what a bank is made of as arrays."""
        sizes = torch.tensor([self.pixel_size_angst, self.diameter_angst], dtype=torch.float64)
        parts = {"basis": self.basis, "weights": self.weights, "view": self.view, "sizes": sizes}
        return {name: value.cpu().numpy() for name, value in parts.items()}

    @staticmethod
    def from_arrays(arrays: dict[str, Any]) -> "TemplateBank":
        """Make a bank of the arrays of `to_arrays`."""
        basis, weights, view = (
            torch.from_numpy(arrays[name].copy()) for name in ("basis", "weights", "view")
        )
        pixel, diameter = (float(value) for value in arrays["sizes"])
        return TemplateBank(basis, weights, view, pixel, diameter)

    def to(self, device: torch.device | str) -> "TemplateBank":
        """Return a copy on another device."""
        moved = {name: getattr(self, name).to(device) for name in ("basis", "weights", "view")}
        return replace(self, **moved)


def _even(value: float) -> int:
    return 2 * max(4, round(0.5 * value))


def _angle_step_deg(resolution_angst: float, diameter_angst: float) -> float:
    """Turn that moves the rim of the particle by about a third of the finest detail."""
    return min(20.0, math.degrees(0.7 * resolution_angst / diameter_angst))


def _turned(images: Tensor, angles_deg: Tensor) -> Tensor:
    """Turn each image about its centre n // 2: `[k * a, n, n]`, image by image."""
    n = images.shape[-1]
    axis = torch.arange(n, dtype=torch.float32, device=images.device) - n // 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    made = []
    for angle in torch.deg2rad(angles_deg).tolist():
        cos, sin = math.cos(angle), math.sin(angle)
        place = torch.stack([cos * x + sin * y, cos * y - sin * x], dim=-1) + n // 2
        grid = (2 * place / (n - 1) - 1).expand(len(images), n, n, 2)
        made.append(
            torch.nn.functional.grid_sample(
                images[:, None], grid, mode="bicubic", align_corners=True
            )[:, 0]
        )
    return torch.stack(made, dim=1).flatten(0, 1)


def _framed(images: Tensor, diameter_px: float) -> Tensor:
    """Cut or pad to a box about the disc, with the level outside of the disc as zero."""
    n = images.shape[-1]
    radius, edge = 0.5 * diameter_px, max(1.5, _EDGE * diameter_px)
    box = 2 * math.ceil(0.5 * max(_BOX * diameter_px, diameter_px + 2 * edge + 2))
    disc = soft_circle(n, radius, edge, device=images.device)
    outside = (disc == 0).float()
    if float(outside.sum()) > 0:
        images = images - ((images * outside).sum((1, 2)) / outside.sum())[:, None, None]
    masked = images * disc
    before, pad = n // 2 - box // 2, max(0, box - n)
    if pad:
        return torch.nn.functional.pad(masked, [-before, box - n + before] * 2)
    return masked[:, before : before + box, before : before + box]


def _compress(templates: Tensor, view: Tensor, pixel: float, diameter: float) -> TemplateBank:
    """Find the basis that holds nearly all energy of templates of energy 1."""
    flat = templates.flatten(1)
    energy = flat.square().sum(1)
    usable = energy > 1e-6 * energy.max().clamp(min=1e-30)
    if not bool(usable.any()):
        raise ValueError("templates are empty: got nothing but a level within the disc")
    flat, view = flat[usable] / energy[usable].sqrt()[:, None], view[usable]
    values, vectors = torch.linalg.eigh((flat.T @ flat).double())
    order = torch.argsort(values, descending=True)
    share = values[order].clamp(min=0).cumsum(0) / values.clamp(min=0).sum()
    rank = min(_MOST_BASIS, int((share < _ENERGY_KEPT).sum()) + 1, len(flat))
    basis = vectors[:, order[:rank]].T.float()
    box = templates.shape[-1]
    return TemplateBank(basis.reshape(rank, box, box), flat @ basis.T, view, pixel, diameter)


def bank_of_images(
    images: Tensor, *, pixel_size_angst: float, diameter_angst: float, resolution_angst: float
) -> TemplateBank:
    """Turn images, as class averages, to all angles in the plane.

    Args:
        images: `[k, n, n]`, particles bright and centred.
        pixel_size_angst: of the images.
        diameter_angst: of the particle.
        resolution_angst: finest detail to use.
    """
    check_ndim("images", images, 3)
    extent = images.shape[-1] * pixel_size_angst
    box = _even(extent / max(pixel_size_angst, 0.5 * resolution_angst))
    # turned at twice the sampling, where the interpolation loses nothing
    fine = fourier_resize2(images.float(), shape=(2 * box, 2 * box))
    n_angles = math.ceil(360.0 / _angle_step_deg(resolution_angst, diameter_angst))
    n_angles = max(8, min(n_angles, _MOST_TEMPLATES // len(images)))
    angles = torch.arange(n_angles, device=images.device) * (360.0 / n_angles)
    turned = fourier_resize2(_turned(fine, angles), shape=(box, box))
    view = torch.arange(len(images), device=images.device).repeat_interleave(n_angles)
    pixel = extent / box
    return _compress(_framed(turned, diameter_angst / pixel), view, pixel, diameter_angst)


def bank_of_volume(
    volume: Tensor,
    *,
    pixel_size_angst: float,
    diameter_angst: float,
    resolution_angst: float,
    symmetry: str = "C1",
) -> TemplateBank:
    """Project a map in all directions and turn it to all angles in the plane.

    Args:
        volume: `[n, n, n]`, particle bright and centred.
        pixel_size_angst: of the map.
        diameter_angst: of the particle.
        resolution_angst: finest detail to use.
        symmetry: point group, of whose directions one each is taken.
    """
    check_cubic("volume", volume, n_axes=3)
    extent = volume.shape[-1] * pixel_size_angst
    box = _even(extent / max(pixel_size_angst, 0.5 * resolution_angst))
    small = fourier_resize3(volume.float()[None], shape=(box, box, box))
    disc = half_disc(box, (box - 1) // 2)
    halves = volume_to_half_volume(small, radius=disc.radius)[0]
    wanted = math.ceil(math.log2(60.0 / _angle_step_deg(resolution_angst, diameter_angst)) - 0.4)
    order = max(1, min(2, wanted))
    grid = orientation_grid(order, symmetry=symmetry)
    slices = extract_slices(halves, grid, disc.frequencies_px.to(halves.device))
    images = irfft2(scatter_disc(slices, disc.to(slices.device)), shape=(box, box))
    n_psi = 6 * 2**order
    view = torch.arange(len(images), device=images.device) // n_psi
    pixel = extent / box
    return _compress(_framed(images, diameter_angst / pixel), view, pixel, diameter_angst)
