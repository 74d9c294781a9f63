"""Cut particles out of a micrograph and bring them to a common grey scale.

Boxes are cut at whole pixels, so nothing is interpolated; the rest of the position goes into the
shift of the particle. Protein comes out bright. What a box lacks beyond the micrograph's border is
filled, see `box_fill`.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verglas.algorithms.box_fill import BoxFill, present_pixels, spectrum_for_boxes
from verglas.algorithms.grey_levels import robust_level
from verglas.core.checks import check_range
from verglas.kernels.crop import level_boxes, normalise_boxes, window_boxes
from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import fourier_resize2, irfft2, rfft2, rfft_grid

__all__ = [
    "ExtractConfig",
    "Extracted",
    "MustBeInside",
    "extract_boxes",
    "flip_phases",
    "replace_dust",
]

MustBeInside = Literal["particle", "box", "centre"]
"""What must lie in the micrograph for a box to be cut."""

_BATCH = 32  # boxes that stay in the cache while they are worked on


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
        particle_radius_px: of the particle's disc.
        must_be_inside: what must lie in the micrograph: the disc, the whole box, or the centre.
    """

    box_px: int
    output_px: int
    background_radius_px: float
    particle_radius_px: float
    invert: bool = True
    ramp: bool = True
    dust_sigma: float = 5.0
    must_be_inside: MustBeInside = "particle"


@dataclass(frozen=True)
class Extracted:
    """Boxes of one micrograph.

    Attributes:
        images: `[m, output_px, output_px]`, float32, background of mean 0 and deviation 1.
        index: `[m]`, which of the given positions each box belongs to.
        shift_px: `[m, 2]` (x, y) in pixels of the micrograph, moves the particle to the centre
            of its box; each within half a pixel.
        background_mean, background_std: `[m]`, grey values outside the particle before.
        fill_fraction: `[m]`, share of the box that lay beyond the border and was filled.
    """

    images: Tensor
    index: Tensor
    shift_px: Tensor
    background_mean: Tensor
    background_std: Tensor
    fill_fraction: Tensor


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
        generator: for the noise in place of dust and beyond the border.
    """
    check_range("box_px", config.box_px, ge=2)
    check_range("output_px", config.output_px, ge=2)
    check_range("background_radius_px", config.background_radius_px, gt=0)
    image = image.float()
    if config.dust_sigma > 0:
        # once for all boxes, which overlap and hold many times the pixels of the image
        level, spread = robust_level(image)
        image = replace_dust(image, level, spread, n_sigma=config.dust_sigma, generator=generator)
    shape = (image.shape[0], image.shape[1])
    centre = position_px.round().long()
    index = torch.nonzero(_is_wanted(position_px, shape, config)).flatten()
    centre = centre[index]
    is_whole = _is_whole(centre, shape, config.box_px)
    images = image.new_empty(len(index), config.output_px, config.output_px)
    background = image.new_empty(2, len(index))
    fill_fraction = torch.zeros(len(index), dtype=torch.float64, device=image.device)
    for rows in _parts(is_whole):
        images[rows], background[:, rows] = _scaled(image, centre[rows], config)
    if not bool(is_whole.all()):
        fill = BoxFill(
            spectrum_for_boxes(image, config.box_px), config.background_radius_px, config.ramp
        )
        for rows in _parts(~is_whole):
            boxes, _ = window_boxes(image, centre[rows], box=config.box_px)
            present = present_pixels(centre[rows], shape, box=config.box_px)
            fill_fraction[rows] = 1 - present.double().mean(dim=(1, 2))
            boxes = fill(boxes, present, generator=generator)
            images[rows], background[:, rows] = _scaled(*_as_column(boxes), config)
    return Extracted(
        images=images,
        index=index,
        shift_px=centre - position_px[index],
        background_mean=background[0],
        background_std=background[1],
        fill_fraction=fill_fraction,
    )


def _is_wanted(position_px: Tensor, shape: tuple[int, int], config: ExtractConfig) -> Tensor:
    """Choose the positions whose disc, box or centre lies in the micrograph, `[n]` bool.

    Pixels reach half a pixel beyond their centres. A micrograph smaller than a box gives none.
    """
    if config.box_px > min(shape):
        return torch.zeros(len(position_px), dtype=torch.bool, device=position_px.device)
    size = torch.tensor(shape[::-1], device=position_px.device)
    if config.must_be_inside == "box":
        low = position_px.round() - config.box_px // 2
        return ((low >= 0) & (low + config.box_px <= size)).all(dim=1)
    radius = config.particle_radius_px if config.must_be_inside == "particle" else 0.0
    return ((position_px - radius >= -0.5) & (position_px + radius <= size - 0.5)).all(dim=1)


def _is_whole(centre_px: Tensor, shape: tuple[int, int], box: int) -> Tensor:
    """Choose the boxes that lie wholly in the micrograph, `[m]` bool."""
    low = centre_px - box // 2
    size = torch.tensor(shape[::-1], device=centre_px.device)
    return ((low >= 0) & (low + box <= size)).all(dim=1)


def _parts(chosen: Tensor) -> tuple[Tensor, ...]:
    """Numbers of the chosen boxes, some at a time."""
    return torch.split(torch.nonzero(chosen).flatten(), _BATCH)


def _as_column(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes below each other as one image, and the centres that cut them out again."""
    n, box, _ = boxes.shape
    centre = torch.full((n, 2), box // 2, device=boxes.device)
    centre[:, 1] += box * torch.arange(n, device=boxes.device)
    return boxes.reshape(n * box, box), centre


def _scaled(image: Tensor, centre_px: Tensor, config: ExtractConfig) -> tuple[Tensor, Tensor]:
    """Cut, invert, rescale and normalise boxes that lie in an image.

    Returns:
        Boxes, and mean and deviation of their background before, `[2, m]`.
    """
    radius = config.background_radius_px
    # a level background has no step at the edge that would ring
    cut = level_boxes(image, centre_px, box=config.box_px, radius_px=radius, ramp=config.ramp)
    boxes = cut.boxes.neg_() if config.invert else cut.boxes
    if config.output_px != config.box_px:
        boxes = fourier_resize2(boxes, shape=(config.output_px, config.output_px))
        radius *= config.output_px / config.box_px
    boxes = normalise_boxes(boxes, radius_px=radius, ramp=config.ramp)
    return boxes, torch.stack([cut.background_mean, cut.background_std])
