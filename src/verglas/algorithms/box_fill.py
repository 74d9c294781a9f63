"""Fill what a box lacks where it leaves its micrograph.

The missing rim gets noise with the power spectrum of the micrograph, about the background that
is fitted to the rest of the box and with its deviation, and drawn under the condition that the
rest is what it is: so there is neither an edge in the grey values nor a jump in their slow
variation. Repeating or mirroring pixels would put streaks or a second particle there, and white
noise would change the spectrum by which images are weighted.

References:
    Hoffman & Ribak 1991, doi:10.1086/186160 (constrained realisations of Gaussian fields).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.fourier import irfft2, rfft2
from verglas.kernels.spectrum import average_periodogram

__all__ = ["BoxFill", "draw_like", "present_pixels", "spectrum_for_boxes"]

_MAX_STEPS = 40  # of conjugate gradients; some 10 are enough but for very unequal spectra
_TOLERANCE = 1e-3  # of the residual, far below the noise
_LOWEST_POWER = 1e-3  # of the mean: keeps the equations well conditioned
_LARGEST_SAMPLE_PX = 2048  # part of a micrograph that is enough for a spectrum


@dataclass(frozen=True)
class BoxFill:
    """How to fill the boxes of one micrograph.

    Attributes:
        power: `[box, box//2+1]`, power per pixel of the micrograph; only its form counts.
        radius_px: pixels farther than this from the centre are background.
        ramp: the background may slope.
    """

    power: Tensor
    radius_px: float
    ramp: bool

    def __call__(self, boxes: Tensor, present: Tensor, *, generator: torch.Generator) -> Tensor:
        """Replace the pixels that are not present.

        Args:
            boxes: `[m, box, box]`, finite; values that are not present do not count.
            present: as `boxes`, bool: a rectangle of each box.
            generator: for the noise, on the device of the boxes.
        """
        plane, deviation = _background(boxes, present, self.radius_px, ramp=self.ramp)
        noise = draw_like(self.power, len(boxes), generator=generator)
        filler = plane + deviation[:, None, None] * noise
        known = torch.where(present, boxes - filler, 0)
        return torch.where(present, boxes, filler + _continue(known, present, self.power))


def spectrum_for_boxes(image: Tensor, box: int) -> Tensor:
    """Power of a micrograph, or of a central part, on the grid of a box.

    Args:
        image: `[h, w]`, at least one box in either direction.
        box: side.

    Returns:
        `[box, box//2+1]`, power per pixel.
    """
    height, width = (min(n, max(box, _LARGEST_SAMPLE_PX)) for n in image.shape)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    part = image[top : top + height, left : left + width]
    part = part - part.mean()
    for axis, size in enumerate(part.shape):
        along = torch.linspace(-1, 1, size, device=image.device).unsqueeze(1 - axis)
        part = part - along * (along * part).mean() / along.square().mean()
    power = average_periodogram(part[None], tile_px=box)[0]
    power[0, 0] = 0.5 * (power[0, 1] + power[1, 0])  # tiles have lost their means
    lowest = _LOWEST_POWER * power.mean()
    return power.clamp(min=lowest) if lowest > 0 else torch.ones_like(power)


def draw_like(power: Tensor, n: int, *, generator: torch.Generator) -> Tensor:
    """Draw Gaussian noise of a given spectrum, with deviation 1 and mean 0.

    Args:
        power: `[box, box//2+1]`, more than 0.
        n: images to draw.
        generator: on the device of the power.

    Returns:
        `[n, box, box]`.
    """
    box = power.shape[0]
    white = torch.randn(n, box, box, generator=generator, device=power.device)
    full = torch.cat([power, power[:, 1 : (box + 1) // 2]], dim=1)  # mean over the whole plane
    return irfft2(rfft2(white) * (power / full.mean()).sqrt(), shape=(box, box))


def present_pixels(centre_px: Tensor, shape: tuple[int, int], *, box: int) -> Tensor:
    """Say which pixels of boxes lie in the image.

    Args:
        centre_px: `[m, 2]` (x, y), whole numbers: pixel `box // 2` of each box.
        shape: height and width of the image.
        box: side.

    Returns:
        `[m, box, box]`, bool.
    """
    along = torch.arange(box, device=centre_px.device) - box // 2
    x, y = (centre_px[:, axis, None] + along for axis in (0, 1))
    has_row = (y >= 0) & (y < shape[0])
    has_column = (x >= 0) & (x < shape[1])
    return has_row[:, :, None] & has_column[:, None, :]


def _background(
    boxes: Tensor, present: Tensor, radius_px: float, *, ramp: bool
) -> tuple[Tensor, Tensor]:
    """Fit level and slope to the background that is present; planes and deviations about them."""
    box = boxes.shape[-1]
    axis = torch.arange(box, device=boxes.device) - box // 2
    outside = axis.square()[:, None] + axis.square() > radius_px**2
    weight = (present & outside).flatten(1).double()
    slope = (axis.double() / box).expand(box, box)
    terms = [torch.ones_like(slope), slope, slope.T] if ramp else [torch.ones_like(slope)]
    basis = torch.stack(terms).reshape(len(terms), -1)
    values = boxes.flatten(1).double()
    # normal equations of each box; pinv, since a sliver of background may not fix a slope
    normal = (weight[:, None] * basis) @ basis.T
    right = (weight * values) @ basis.T
    fit = (torch.linalg.pinv(normal, hermitian=True) @ right[:, :, None])[..., 0]
    plane = fit @ basis
    variance = (weight * (values - plane).square()).sum(1) / weight.sum(1).clamp(min=1)
    return plane.reshape(boxes.shape).to(boxes.dtype), variance.sqrt().to(boxes.dtype)


def _continue(known: Tensor, present: Tensor, power: Tensor) -> Tensor:
    """Continue fields over the border: the most likely values under a power spectrum.

    With the inverse P of the covariance, which is a product in Fourier space, the missing
    values m solve `P_mm m = -P_mk k`; they do so by conjugate gradients, with the covariance
    itself as preconditioner.

    Args:
        known: `[b, n, n]`, 0 where not present.
        present: as `known`, bool.
        power: `[n, n//2+1]`.

    Returns:
        `[b, n, n]`, 0 where present.
    """
    missing = ~present
    power = power / power.mean()

    def product(values: Tensor, spectrum: Tensor) -> Tensor:
        return irfft2(rfft2(values) * spectrum, shape=(values.shape[1], values.shape[2])) * missing

    def dot(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum(dim=(1, 2), keepdim=True)

    found = torch.zeros_like(known)
    rest = -product(known, 1 / power)
    step = preconditioned = product(rest, power)
    slope = dot(rest, preconditioned)
    limit = _TOLERANCE**2 * slope.clamp(min=torch.finfo(known.dtype).tiny)
    for _ in range(_MAX_STEPS):
        if bool((slope <= limit).all()):
            break
        image = product(step, 1 / power)
        length = slope / dot(step, image).clamp(min=torch.finfo(known.dtype).tiny)
        found = found + length * step
        rest = rest - length * image
        preconditioned = product(rest, power)
        former, slope = slope, dot(rest, preconditioned)
        step = preconditioned + slope / former.clamp(min=torch.finfo(known.dtype).tiny) * step
    return found
