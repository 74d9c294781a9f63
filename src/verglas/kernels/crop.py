"""Cut boxes out of micrographs and bring them to a common grey scale."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.core.checks import check_ndim, check_range

__all__ = ["LevelledBoxes", "level_boxes", "normalise_boxes", "remove_dust", "window_boxes"]


@dataclass(frozen=True)
class LevelledBoxes:
    """Boxes without level and slope, and the background as it was.

    Attributes:
        boxes: `[n, box, box]`.
        background_mean, background_std: `[n]`, of the pixels outside the circle, slope included.
    """

    boxes: Tensor
    background_mean: Tensor
    background_std: Tensor


def window_boxes(image: Tensor, centres_px: Tensor, *, box: int) -> tuple[Tensor, Tensor]:
    """Cut square boxes out of an image.

    Convention: pixel box // 2 of a box is the pixel of its centre. Where a box crosses the
    border the nearest pixel of the image is repeated.

    Args:
        image: `[h, w]`.
        centres_px: `[n, 2]` (x, y), whole numbers, from the first pixel.
        box: side of the boxes.

    Returns:
        Boxes `[n, box, box]`, and `[n]` bool, true where the box lies wholly in the image.
    """
    check_ndim("image", image, 2)
    check_range("box", box, ge=1)
    if centres_px.ndim != 2 or centres_px.shape[1] != 2 or centres_px.is_floating_point():
        raise ValueError(
            "centres_px must be whole numbers [n, 2]: "
            f"got {centres_px.dtype} of shape {tuple(centres_px.shape)}"
        )
    height, width = image.shape
    start = centres_px.to(image.device, torch.int64) - box // 2
    size = torch.tensor([width, height], device=image.device)
    is_inside = ((start >= 0) & (start + box <= size)).all(-1)
    # a box that lies wholly outside sees only repeated pixels, wherever it is
    start = torch.minimum(start, size).clamp(min=-box) + box
    padded = F.pad(image[None, None], [box] * 4, mode="replicate")[0, 0]
    windows = padded.unfold(0, box, 1).unfold(1, box, 1)
    return windows[start[:, 1], start[:, 0]], is_inside


def level_boxes(
    image: Tensor, centres_px: Tensor, *, box: int, radius_px: float, ramp: bool = True
) -> LevelledBoxes:
    """Cut boxes that lie in the image, and take out the level and slope of their background.

    Args:
        image: `[h, w]`, float32.
        centres_px: `[n, 2]` (x, y), whole numbers; every box must lie wholly in the image.
        box: side of the boxes.
        radius_px: pixels farther than this from box // 2 are background.
        ramp: fit a plane, not only a level.
    """
    corners = centres_px.to(torch.int64) - box // 2
    size = torch.tensor([image.shape[1], image.shape[0]], device=corners.device)
    if not bool(((corners >= 0) & (corners + box <= size)).all()):
        raise ValueError(f"boxes of {box} px must lie in the image of {tuple(image.shape)}")
    if _is_plain(image):
        return _compiled(image, corners, (box, box), radius_px, ramp=ramp, scales=False)
    boxes, _ = window_boxes(image, centres_px, box=box)
    share = _outside_circle((box, box), radius_px, image.device).to(image.dtype)
    share = share / share.sum()
    mean = boxes.flatten(1) @ share
    variance = (boxes.flatten(1) - mean[:, None]).square() @ share
    levelled, _ = _levelled(boxes, radius_px, ramp=ramp)
    return LevelledBoxes(levelled.reshape(boxes.shape), mean, variance.sqrt())


def normalise_boxes(images: Tensor, *, radius_px: float, ramp: bool = True) -> Tensor:
    """Give the background outside a circle mean 0, no slope and standard deviation 1.

    Args:
        images: `[b, n, n]`.
        radius_px: pixels farther than this from n // 2 are background.
        ramp: fit a plane, not only a level.

    Returns:
        As `images`; a box of constant background is only levelled.
    """
    check_ndim("images", images, 3)
    n_batch, height, width = images.shape
    if _is_plain(images):
        corners = torch.zeros(n_batch, 2, dtype=torch.int64)
        corners[:, 1] = height * torch.arange(n_batch)
        tall = images.reshape(-1, width)
        return _compiled(tall, corners, (height, width), radius_px, ramp=ramp, scales=True).boxes
    flat, outside = _levelled(images, radius_px, ramp=ramp)
    variance = flat.square() @ (outside / outside.sum()).to(images.dtype)
    deviation = variance.sqrt()[:, None]
    normalised: Tensor = flat / torch.where(deviation > 0, deviation, 1)
    return normalised.reshape(images.shape)


def remove_dust(
    images: Tensor, *, n_sigma_bright: float, n_sigma_dark: float, generator: torch.Generator
) -> Tensor:
    """Replace pixels far from the mean by Gaussian noise of the image's mean and deviation.

    Args:
        images: `[b, h, w]`.
        n_sigma_bright: pixels this many standard deviations above the mean are replaced.
        n_sigma_dark: the same below; infinity leaves a side alone.
        generator: for the noise, on the device of the images.

    Returns:
        As `images`.
    """
    check_ndim("images", images, 3)
    deviation, mean = torch.std_mean(images, dim=(1, 2), keepdim=True)
    standard = (images - mean) / torch.where(deviation > 0, deviation, 1)
    is_dust = (standard > n_sigma_bright) | (standard < -n_sigma_dark)
    noise = torch.randn(images.shape, dtype=images.dtype, device=images.device, generator=generator)
    return torch.where(is_dust, mean + deviation * noise, images)


def _outside_circle(shape: tuple[int, ...], radius_px: float, device: torch.device) -> Tensor:
    """Flat mask of the pixels farther than a radius from the centre pixel."""
    y, x = (torch.arange(n, device=device) - n // 2 for n in shape)
    return (x.square() + y[:, None].square() > radius_px**2).reshape(-1)


def _background_basis(shape: tuple[int, ...], ramp: bool, device: torch.device) -> Tensor:
    """Level, and slopes in x and y, of a box: `[1 or 3, h * w]` float64."""
    n_y, n_x = shape
    y, x = (torch.linspace(-0.5, 0.5, n, dtype=torch.float64, device=device) for n in shape)
    terms = [torch.ones(shape, dtype=torch.float64, device=device)]
    if ramp:
        terms += [x.expand(n_y, n_x), y[:, None].expand(n_y, n_x)]
    return torch.stack(terms).reshape(len(terms), -1)


def _is_plain(images: Tensor) -> bool:
    """Whether the compiled loops may run: float32 on the CPU, and nothing is differentiated."""
    tracked = torch.is_grad_enabled() and images.requires_grad
    return images.device.type == "cpu" and images.dtype == torch.float32 and not tracked


def _levelled(images: Tensor, radius_px: float, *, ramp: bool) -> tuple[Tensor, Tensor]:
    """Flattened boxes without level and slope, `[b, h * w]`, and the mask of the background."""
    shape = tuple(images.shape[1:])
    outside = _outside_circle(shape, radius_px, images.device)
    _check_background(int(outside.sum()), ramp=ramp)
    basis = _background_basis(shape, ramp, images.device)
    # least squares over the background, as one matrix product with the whole boxes
    fit = torch.zeros_like(basis)
    fit[:, outside] = torch.linalg.pinv(basis[:, outside].T)
    flat = images.reshape(len(images), -1)
    # a level taken out first keeps float32 digits for images of large mean
    flat = flat - flat.mean(1, keepdim=True)
    return flat - (flat @ fit.T.to(images.dtype)) @ basis.to(images.dtype), outside


def _check_background(n_outside: int, *, ramp: bool) -> None:
    check_range("number of background pixels", n_outside, ge=4 if ramp else 1)


def _compiled(
    image: Tensor,
    corners: Tensor,
    shape: tuple[int, int],
    radius_px: float,
    *,
    ramp: bool,
    scales: bool,
) -> LevelledBoxes:
    """Run the compiled loops on boxes that lie wholly in an image."""
    from verglas.kernels import _numba_boxes

    height, width = shape
    inner, normal = _background_rows(shape, radius_px)
    _check_background(int(normal[0, 0]), ramp=ramp)
    inverse = torch.zeros(3, 3, dtype=torch.float64)
    n_terms = 3 if ramp else 1
    inverse[:n_terms, :n_terms] = torch.linalg.pinv(normal[:n_terms, :n_terms], hermitian=True)
    boxes = torch.empty(len(corners), height, width)
    mean, deviation = torch.empty(2, len(corners))
    _numba_boxes.level_boxes(
        image.contiguous().numpy(),
        corners.numpy(),
        inner.numpy(),
        inverse.numpy(),
        scales,
        boxes.numpy(),
        mean.numpy(),
        deviation.numpy(),
    )
    return LevelledBoxes(boxes, mean, deviation)


def _background_rows(shape: tuple[int, int], radius_px: float) -> tuple[Tensor, Tensor]:
    """Where the disc begins and ends in each row, and the normal matrix of the background.

    Returns:
        `[height, 2]`, first column of the disc and first after it, the width in rows without
        it; and `[3, 3]` of level, slope in x and slope in y about the centre pixel.
    """
    height, width = shape
    y = torch.arange(height, dtype=torch.float64) - height // 2
    x = torch.arange(width, dtype=torch.float64) - width // 2
    reach2 = radius_px**2 - y.square()
    begin = torch.searchsorted(x, -reach2.clamp(min=0).sqrt())
    end = torch.searchsorted(x, reach2.clamp(min=0).sqrt(), right=True)
    inner = torch.where(reach2[:, None] >= 0, torch.stack([begin, end], dim=1), width)
    # sums of 1, x and x^2 over what is left of each row
    powers = torch.stack([torch.ones_like(x), x, x.square()])
    sums = torch.nn.functional.pad(powers.cumsum(dim=1), (1, 0))
    one, along, square = sums[:, -1:] - sums[:, inner[:, 1]] + sums[:, inner[:, 0]]
    entries = [one, along, y * one, along, square, y * along, y * one, y * along, y.square() * one]
    return inner, torch.stack([entry.sum() for entry in entries]).reshape(3, 3)
