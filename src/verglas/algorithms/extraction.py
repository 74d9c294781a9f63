"""Cut particles out of a micrograph and bring them to a common grey scale.

Boxes are cut at whole pixels, so nothing is interpolated; the rest of the position goes into the
shift of the particle. Protein comes out bright.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.grey_levels import robust_level
from verglas.core.checks import check_range
from verglas.kernels.crop import normalise_boxes, window_boxes
from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import fourier_resize2, irfft2, rfft2, rfft_grid

__all__ = ["ExtractConfig", "Extracted", "extract_boxes", "flip_phases", "replace_dust"]

_BATCH = 64  # boxes that stay in the cache while they are worked on


@dataclass(frozen=True)
class ExtractConfig:
    """How boxes are made.

    Attributes:
        box_px: side of the box in the micrograph, even.
        output_px: side after Fourier rescaling; equal to `box_px` for none.
        background_radius_px: pixels of the micrograph farther than this from the centre are
            background.
        invert: change the sign, for micrographs with dark particles.
        ramp: take out a sloping background, not only a level.
        dust_sigma: pixels this far from the micrograph's median are replaced by noise; 0 for none.
        keep_border: repeat border pixels in boxes that leave the micrograph, instead of
            leaving them out.
    """

    box_px: int
    output_px: int
    background_radius_px: float
    invert: bool = True
    ramp: bool = True
    dust_sigma: float = 5.0
    keep_border: bool = False


@dataclass(frozen=True)
class Extracted:
    """Boxes of one micrograph.

    Attributes:
        images: `[m, output_px, output_px]`, float32, background of mean 0 and deviation 1.
        index: `[m]`, which of the given positions each box belongs to.
        shift_px: `[m, 2]` (x, y) in pixels of the micrograph, moves the particle to the centre
            of its box; each within half a pixel.
        background_mean, background_std: `[m]`, grey values outside the particle before.
    """

    images: Tensor
    index: Tensor
    shift_px: Tensor
    background_mean: Tensor
    background_std: Tensor


def flip_phases(
    image: Tensor,
    *,
    pixel_size_angst: float,
    defocus_u_angst: float,
    defocus_v_angst: float,
    defocus_angle_deg: float,
    phase_shift_deg: float,
    voltage_kv: float,
    spherical_aberration_mm: float,
    amplitude_contrast: float,
) -> Tensor:
    """Multiply a micrograph by the sign of its CTF, before anything is cut off.

    Args:
        image: `[h, w]`.
        pixel_size_angst: of the image.
        defocus_u_angst, defocus_v_angst, defocus_angle_deg, phase_shift_deg: of the image.
        voltage_kv, spherical_aberration_mm, amplitude_contrast: of the microscope.
    """
    shape = (image.shape[0], image.shape[1])
    angles = {
        "defocus_u_angst": defocus_u_angst,
        "defocus_v_angst": defocus_v_angst,
        "defocus_angle_deg": defocus_angle_deg,
        "phase_shift_deg": phase_shift_deg,
    }
    transfer = evaluate_ctf(
        rfft_grid(shape, pixel_size_angst, device=image.device),
        voltage_kv=voltage_kv,
        spherical_aberration_mm=spherical_aberration_mm,
        amplitude_contrast=amplitude_contrast,
        **{
            name: torch.tensor([value], dtype=torch.float64, device=image.device)
            for name, value in angles.items()
        },
    )
    level = image.mean()
    flipped = irfft2(rfft2((image - level)[None]) * transfer.sign(), shape=shape)[0]
    return flipped + level


def _background(boxes: Tensor, radius_px: float) -> tuple[Tensor, Tensor]:
    """Mean and deviation outside a circle, `[m]` each."""
    box = boxes.shape[-1]
    axis = torch.arange(box, device=boxes.device) - box // 2
    outside = (axis.square()[:, None] + axis.square() > radius_px**2).flatten()
    values = boxes.flatten(1)
    share = (outside / outside.sum()).to(boxes.dtype)
    mean = values @ share
    square = (values - mean[:, None]).square() @ share
    return mean, square.sqrt()


def replace_dust(
    images: Tensor, level: float, spread: float, *, n_sigma: float, generator: torch.Generator
) -> Tensor:
    """Put noise in place of pixels far from a level.

    Args:
        images: any shape.
        level, spread: of the whole micrograph, see `grey_levels.robust_level`.
        n_sigma: pixels farther than this many spreads are replaced.
        generator: for the noise, on the device of the images.
    """
    is_dust = (images - level).abs() > n_sigma * spread
    n_dust = int(is_dust.sum())
    if not n_dust:
        return images
    noise = torch.randn(n_dust, generator=generator, device=images.device)
    cleaned = images.clone()
    cleaned[is_dust] = level + spread * noise
    return cleaned


def extract_boxes(
    image: Tensor, position_px: Tensor, *, config: ExtractConfig, generator: torch.Generator
) -> Extracted:
    """Cut, scale and normalise the boxes about some positions of one micrograph.

    Convention: positions count from the centre of the first pixel; pixel `box_px // 2` of a box is
    the nearest whole pixel, and a particle to the right of it gets a negative x shift.

    Args:
        image: `[h, w]`.
        position_px: `[n, 2]` (x, y), float64.
        config: sizes and choices.
        generator: for the noise in place of dust.
    """
    check_range("box_px", config.box_px, ge=2)
    check_range("output_px", config.output_px, ge=2)
    check_range("background_radius_px", config.background_radius_px, gt=0)
    image = image.float()
    level, spread = robust_level(image) if config.dust_sigma > 0 else (0.0, 0.0)
    centre = position_px.round().long()
    windows, is_inside = window_boxes(image, centre, box=config.box_px)
    within = ((centre >= 0) & (centre < torch.tensor(image.shape[::-1]).to(centre))).all(dim=1)
    index = torch.nonzero(within if config.keep_border else is_inside).flatten()
    images = windows.new_empty(len(index), config.output_px, config.output_px)
    background = windows.new_empty(2, len(index))
    for first in range(0, len(index), _BATCH):
        part = slice(first, first + _BATCH)
        boxes = windows[index[part]]
        if config.dust_sigma > 0:
            boxes = replace_dust(
                boxes, level, spread, n_sigma=config.dust_sigma, generator=generator
            )
        background[:, part] = torch.stack(_background(boxes, config.background_radius_px))
        images[part] = _scaled(boxes, config)
    return Extracted(images, index, (centre - position_px)[index], background[0], background[1])


def _scaled(boxes: Tensor, config: ExtractConfig) -> Tensor:
    """Invert, rescale and normalise boxes."""
    radius = config.background_radius_px
    if config.invert:
        boxes = -boxes
    if config.output_px != config.box_px:
        # a level background has no step at the edge that would ring
        boxes = normalise_boxes(boxes, radius_px=radius, ramp=config.ramp)
        boxes = fourier_resize2(boxes, shape=(config.output_px, config.output_px))
        radius *= config.output_px / config.box_px
    return normalise_boxes(boxes, radius_px=radius, ramp=config.ramp)
