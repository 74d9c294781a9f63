"""Correlate a micrograph with round templates, blank parts and borders taken into account."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.grey_levels import clip_outliers
from verglas.kernels.fourier import fourier_resize2, next_fast_size

# Enough pixels to draw the wall of a hollow particle; more only costs time.
PIXELS_PER_DIAMETER = 32
LOCAL_SIGMA = 0.5  # of the diameter, for local mean and deviation
_CLIP_SIGMA = 4.0
_BLANK_CONTRAST = 0.2


@dataclass(frozen=True)
class PickingImage:
    """Micrograph at picking resolution, particles bright, local mean 0 and deviation 1.

    Attributes:
        values: `[h, w]`, zero where not valid.
        valid: `[h, w]`, 1 or 0; 0 in blank margins.
        local_std: `[h, w]`, deviation before it was divided out, over its median.
        diameter_px: of the particle at this resolution.
        step_x_px, step_y_px: pixels of the micrograph per pixel here.
        shape: rows and columns of the micrograph.
    """

    values: Tensor
    valid: Tensor
    local_std: Tensor
    diameter_px: float
    step_x_px: float
    step_y_px: float
    shape: tuple[int, int]

    def to_micrograph(self, position_px: Tensor) -> Tensor:
        """Convert `[n, 2]` (x, y) positions to pixels of the micrograph."""
        height, width = self.values.shape
        centre = torch.tensor([width // 2, height // 2]).to(position_px)
        full = torch.tensor([self.shape[1] // 2, self.shape[0] // 2]).to(position_px)
        step = torch.tensor([self.step_x_px, self.step_y_px]).to(position_px)
        return (position_px - centre) * step + full


class Correlator:
    """Correlations with small kernels by padded Fourier transforms; values outside are zero."""

    def __init__(self, shape: tuple[int, int], reach_px: int) -> None:
        self._shape = shape
        self._padded = [next_fast_size(side + reach_px) for side in shape]

    def transform(self, image: Tensor) -> Tensor:
        """Transform an image once for many kernels."""
        image_ft: Tensor = torch.fft.rfft2(image, s=self._padded)
        return image_ft

    def correlate(self, image_ft: Tensor, kernel: Tensor) -> Tensor:
        """Sum of kernel times image about every pixel; the kernel is odd-sized and centred."""
        half = kernel.shape[0] // 2
        padded = torch.zeros(self._padded, dtype=kernel.dtype, device=kernel.device)
        padded[: kernel.shape[0], : kernel.shape[1]] = kernel
        kernel_ft = torch.fft.rfft2(padded.roll((-half, -half), (0, 1)))
        product: Tensor = torch.fft.irfft2(image_ft * kernel_ft.conj(), s=self._padded)
        return product[: self._shape[0], : self._shape[1]]


def radius_grid(half: int, device: torch.device) -> Tensor:
    """Distance from the centre pixel: `[2 half + 1, 2 half + 1]`."""
    axis = torch.arange(-half, half + 1, dtype=torch.float32, device=device)
    return torch.hypot(axis[:, None], axis[None, :])


def gaussian_kernel(sigma_px: float, device: torch.device) -> Tensor:
    """Gaussian of sum 1 out to three sigma."""
    radius = radius_grid(math.ceil(3 * sigma_px), device)
    kernel = torch.exp(-0.5 * (radius / sigma_px).square())
    scaled: Tensor = kernel / kernel.sum()
    return scaled


def log_kernel(diameter_px: float, half: int, device: torch.device) -> Tensor:
    """Negative Laplacian of a Gaussian that answers most to a disc of the given diameter."""
    reduced = 4.0 * (radius_grid(half, device) / diameter_px).square()
    kernel: Tensor = (1.0 - reduced) * torch.exp(-reduced)
    return kernel


def _valid_pixels(image: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mark parts of the image with contrast between neighbours, at picking resolution."""
    contrast = torch.zeros_like(image)
    contrast[:, 1:] = (image[:, 1:] - image[:, :-1]).abs()
    blocks = torch.nn.functional.adaptive_avg_pool2d(contrast[None], shape)[0]
    valid = (blocks > _BLANK_CONTRAST * blocks.median()).float()
    eroded = -torch.nn.functional.max_pool2d(-valid[None], 3, stride=1, padding=1)[0]
    return eroded if bool((valid == 0).any()) else valid


def prepare_image(
    image: Tensor,
    *,
    pixel_size_angst: float,
    diameter_angst: float,
    pixels_per_diameter: float = PIXELS_PER_DIAMETER,
    local_sigma: float = LOCAL_SIGMA,
    is_levelled: bool = True,
) -> PickingImage:
    """Reduce a micrograph to picking resolution and even out its local mean and deviation.

    Args:
        image: `[h, w]`, particles dark.
        pixel_size_angst: of the image.
        diameter_angst: of the particle.
        pixels_per_diameter: picking resolution.
        local_sigma: of the Gaussian for local mean and deviation, in diameters.
        is_levelled: even out local mean and deviation.
    """
    factor = min(1.0, pixels_per_diameter * pixel_size_angst / diameter_angst)
    height, width = (2 * max(16, round(0.5 * side * factor)) for side in image.shape)
    image = clip_outliers(image.float(), n_sigma=5.0)
    small = -fourier_resize2(image[None], shape=(height, width))[0]
    valid = _valid_pixels(image, (height, width))
    diameter_px = diameter_angst / pixel_size_angst * width / image.shape[1]
    if not is_levelled:
        return PickingImage(
            values=small * valid,
            valid=valid,
            local_std=torch.ones_like(small),
            diameter_px=diameter_px,
            step_x_px=image.shape[1] / width,
            step_y_px=image.shape[0] / height,
            shape=(image.shape[0], image.shape[1]),
        )
    kernel = gaussian_kernel(local_sigma * diameter_px, image.device)
    correlator = Correlator((height, width), len(kernel))
    weight = correlator.correlate(correlator.transform(valid), kernel).clamp(min=1e-3)
    mean = correlator.correlate(correlator.transform(small * valid), kernel) / weight
    centred = (small - mean) * valid
    variance = correlator.correlate(correlator.transform(centred.square()), kernel) / weight
    std = variance.clamp(min=1e-12).sqrt()
    middle = std[valid > 0].median() if bool((valid > 0).any()) else std.median()
    std = std.clamp(min=0.1 * float(middle))
    return PickingImage(
        values=(centred / std).clamp(-_CLIP_SIGMA, _CLIP_SIGMA),
        valid=valid,
        local_std=std / middle,
        diameter_px=diameter_px,
        step_x_px=image.shape[1] / width,
        step_y_px=image.shape[0] / height,
        shape=(image.shape[0], image.shape[1]),
    )


class TemplateMatcher:
    """Normalised correlation of one image with templates inside a circle."""

    def __init__(self, image: PickingImage, half: int) -> None:
        self._window = (radius_grid(half, image.values.device) <= half + 0.5).float()
        height, width = image.values.shape
        self._correlator = Correlator((height, width), 2 * half + 1)
        self._valid_ft = self._correlator.transform(image.valid)
        self._image_ft = self._correlator.transform(image.values)
        self._seen = self._sum(self._valid_ft, self._window).clamp(min=1.0)
        self._mean = self._sum(self._image_ft, self._window) / self._seen
        square_ft = self._correlator.transform(image.values.square())
        energy = self._sum(square_ft, self._window) - self._seen * self._mean.square()
        self._energy = energy.clamp(min=1e-3 * float(energy.median().clamp(min=1e-6)))
        self.seen_fraction = self._seen / self._window.sum()

    def _sum(self, image_ft: Tensor, kernel: Tensor) -> Tensor:
        return self._correlator.correlate(image_ft, kernel)

    def score(self, template: Tensor) -> Tensor:
        """Correlation coefficient over the valid pixels of the window, times root of their share.

        The factor keeps the noise at the border as low as inside.
        """
        template = template * self._window
        template = template / template.square().sum().sqrt().clamp(min=1e-12)
        total = self._sum(self._valid_ft, template)
        square = self._sum(self._valid_ft, template.square())
        template_energy = (square - total.square() / self._seen).clamp(min=1e-3)
        product = self._sum(self._image_ft, template) - self._mean * total
        return product / (self._energy * template_energy).sqrt() * self.seen_fraction.sqrt()
