"""Isotropic Fourier filters of images and volumes.

Every filter is real and depends on the modulus of the frequency only, so centre and
symmetry stay. Cut-offs are resolutions in Å, edges raised cosines in Fourier pixels.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verglas.core.checks import check_range
from verglas.kernels._checks import check_image_or_volume
from verglas.kernels.fsc import shell_average, shell_index

__all__ = [
    "apply_b_factor",
    "band_pass",
    "filter_by_shell",
    "gaussian",
    "high_pass",
    "low_pass",
    "low_pass_weights",
    "whiten",
]


def low_pass(
    arrays: Tensor, *, resolution_angst: float, pixel_size_angst: float, edge_px: float = 5.0
) -> Tensor:
    """Remove detail finer than a resolution.

    Args:
        arrays: `[b, h, w]` or `[b, d, h, w]`, real.
        resolution_angst: where the filter is 1/2.
        pixel_size_angst: edge of a pixel.
        edge_px: full width of the cosine edge in Fourier pixels of the longest axis; made
            narrower where it would reach the origin, so the mean always stays.

    Returns:
        As `arrays`.
    """
    weights = low_pass_weights(
        arrays.shape[1:],
        resolution_angst=resolution_angst,
        pixel_size_angst=pixel_size_angst,
        edge_px=edge_px,
        device=arrays.device,
    )
    return _multiply(arrays, weights)


def high_pass(
    arrays: Tensor, *, resolution_angst: float, pixel_size_angst: float, edge_px: float = 5.0
) -> Tensor:
    """Remove detail coarser than a resolution, and the mean; arguments as in `low_pass`."""
    return arrays - low_pass(
        arrays,
        resolution_angst=resolution_angst,
        pixel_size_angst=pixel_size_angst,
        edge_px=edge_px,
    )


def band_pass(
    arrays: Tensor,
    *,
    low_resolution_angst: float,
    high_resolution_angst: float,
    pixel_size_angst: float,
    edge_px: float = 5.0,
) -> Tensor:
    """Keep detail between two resolutions; other arguments as in `low_pass`.

    Args:
        arrays: `[b, h, w]` or `[b, d, h, w]`, real.
        low_resolution_angst: coarsest detail kept, the larger number.
        high_resolution_angst: finest detail kept.
        pixel_size_angst: edge of a pixel.
        edge_px: full width of either edge in Fourier pixels.

    Returns:
        As `arrays`, mean 0.
    """
    if not low_resolution_angst > high_resolution_angst:
        raise ValueError(
            "low_resolution_angst must exceed high_resolution_angst: "
            f"got {low_resolution_angst!r} and {high_resolution_angst!r}"
        )
    upper, lower = (
        low_pass_weights(
            arrays.shape[1:],
            resolution_angst=resolution,
            pixel_size_angst=pixel_size_angst,
            edge_px=edge_px,
            device=arrays.device,
        )
        for resolution in (high_resolution_angst, low_resolution_angst)
    )
    return _multiply(arrays, upper * (1 - lower))


def gaussian(arrays: Tensor, *, sigma_angst: float, pixel_size_angst: float) -> Tensor:
    """Blur with a Gaussian of the given standard deviation in real space.

    Args:
        arrays: `[b, h, w]` or `[b, d, h, w]`, real.
        sigma_angst: 0 and up; the array is taken as periodic.
        pixel_size_angst: edge of a pixel.

    Returns:
        As `arrays`.
    """
    check_range("sigma_angst", sigma_angst, ge=0)
    k2 = _square_frequency(arrays, pixel_size_angst)
    return _multiply(arrays, torch.exp(-2 * (math.pi * sigma_angst) ** 2 * k2))


def apply_b_factor(arrays: Tensor, *, b_factor_angst2: float, pixel_size_angst: float) -> Tensor:
    """Multiply the transform by `exp(-B k^2 / 4)`; a negative B sharpens.

    Args:
        arrays: `[b, h, w]` or `[b, d, h, w]`, real.
        b_factor_angst2: B.
        pixel_size_angst: edge of a pixel.

    Returns:
        As `arrays`.
    """
    check_range("b_factor_angst2", b_factor_angst2)
    k2 = _square_frequency(arrays, pixel_size_angst)
    return _multiply(arrays, torch.exp(-b_factor_angst2 / 4 * k2))


def whiten(arrays: Tensor, *, floor: float = 1e-5) -> Tensor:
    """Divide each shell by the root mean square of its coefficients.

    Args:
        arrays: `[b, h, w]` or `[b, d, h, w]`, real.
        floor: shells below this fraction of the strongest are not raised further, so an
            empty shell stays empty.

    Returns:
        As `arrays`, with mean 0 and a flat spectrum of 1 (unit variance).
    """
    check_image_or_volume("arrays", arrays)
    shape = tuple(arrays.shape[1:])
    axes = tuple(range(1, arrays.ndim))
    arrays_ft = torch.fft.rfftn(arrays, dim=axes)
    power = torch.view_as_real(arrays_ft).square().sum(-1) / math.prod(shape)
    n_shells = int(shell_index(shape).max()) + 1
    profile = shell_average(power, shape=shape, n_shells=n_shells)
    profile[:, 0] = 0
    strongest = profile.amax(1, keepdim=True)
    raised = torch.maximum(profile, strongest * floor**2)
    gain = torch.where(strongest > 0, torch.rsqrt(raised), 0.0)
    gain[:, 0] = 0
    weights = gain.to(arrays.dtype)[:, shell_index(shape, device=arrays.device)]
    whitened: Tensor = torch.fft.irfftn(arrays_ft * weights, s=shape, dim=axes)
    return whitened


def filter_by_shell(arrays: Tensor, weights: Tensor) -> Tensor:
    """Multiply the transform by a curve over the shells, interpolated linearly.

    Args:
        arrays: `[b, h, w]` or `[b, d, h, w]`, real.
        weights: `[b, n_shells]`, from shell 0; beyond the last shell its value holds.

    Returns:
        As `arrays`.
    """
    check_image_or_volume("arrays", arrays)
    if weights.ndim != 2 or len(weights) not in (1, len(arrays)):
        raise ValueError(f"weights must be [{len(arrays)}, n]: got {tuple(weights.shape)}")
    radius = torch.sqrt(_square_frequency(arrays, 1.0)) * max(arrays.shape[1:])
    radius = radius.clamp(max=weights.shape[1] - 1)
    below = radius.floor().to(torch.int64)
    above = (below + 1).clamp(max=weights.shape[1] - 1)
    curve = weights.to(arrays)
    return _multiply(arrays, torch.lerp(curve[:, below], curve[:, above], radius - below))


def low_pass_weights(
    shape: Sequence[int],
    *,
    resolution_angst: float,
    pixel_size_angst: float,
    edge_px: float = 5.0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Raised-cosine transfer function of `low_pass` on a half transform.

    Args:
        shape: `(h, w)` or `(d, h, w)` of the real array.
        resolution_angst: where the filter is 1/2.
        pixel_size_angst: edge of a pixel.
        edge_px: full width of the edge in Fourier pixels of the longest axis.
        device: where the weights are made.

    Returns:
        `[h, w//2+1]` or `[d, h, w//2+1]` in [0, 1]; exactly 1 at the origin.
    """
    check_range("resolution_angst", resolution_angst, gt=0)
    check_range("edge_px", edge_px, ge=0)
    like = torch.empty(1, *shape, device=device)
    radius = torch.sqrt(_square_frequency(like, pixel_size_angst)) * (max(shape) * pixel_size_angst)
    cutoff = max(shape) * pixel_size_angst / resolution_angst
    width = max(min(edge_px, 2 * cutoff), 1e-6)
    position = ((radius - cutoff) / width + 0.5).clamp(0, 1)
    return 0.5 + 0.5 * torch.cos(math.pi * position)


def _square_frequency(arrays: Tensor, pixel_size_angst: float) -> Tensor:
    """`k^2` of each coefficient of the half transforms, in 1/Å^2."""
    check_image_or_volume("arrays", arrays)
    check_range("pixel_size_angst", pixel_size_angst, gt=0)
    square = torch.zeros((), device=arrays.device)
    for axis, n in enumerate(arrays.shape[1:], start=1):
        make = torch.fft.rfftfreq if axis == arrays.ndim - 1 else torch.fft.fftfreq
        frequency = make(n, d=pixel_size_angst, device=arrays.device)
        square = square[..., None] + frequency.square()
    return square


def _multiply(arrays: Tensor, weights: Tensor) -> Tensor:
    # a real even filter needs no centred phases
    axes = tuple(range(1, arrays.ndim))
    filtered: Tensor = torch.fft.irfftn(
        torch.fft.rfftn(arrays, dim=axes) * weights.to(arrays.dtype),
        s=arrays.shape[1:],
        dim=axes,
    )
    return filtered
