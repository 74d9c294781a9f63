"""Centred real transforms, frequency grids, shifts and Fourier resizing.

One layout everywhere: unshifted rfft, zero frequency at index 0, last axis halved, and
the phase origin at the centre pixel n // 2, so that rotations and projections need no
phase ramps. No scaling forward, 1/N backward.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verglas.core.checks import check_ndim, check_range
from verglas.kernels._checks import check_tail, rfft_shape

__all__ = [
    "fourier_resize2",
    "fourier_resize3",
    "fourier_shift",
    "irfft2",
    "irfft3",
    "next_fast_size",
    "resize_ft",
    "rfft2",
    "rfft3",
    "rfft_grid",
]


def rfft2(images: Tensor) -> Tensor:
    """Transform real images with the phase origin at the centre pixel.

    Args:
        images: `[b, h, w]`, real.

    Returns:
        `[b, h, w//2+1]`, complex; element `[0, 0]` is the sum of the image.
    """
    check_ndim("images", images, 3)
    return _centred_forward(images, 2)


def rfft3(volumes: Tensor) -> Tensor:
    """Transform real volumes with the phase origin at the centre voxel.

    Args:
        volumes: `[b, d, h, w]`, real.

    Returns:
        `[b, d, h, w//2+1]`, complex; element `[0, 0, 0]` is the sum of the volume.
    """
    check_ndim("volumes", volumes, 4)
    return _centred_forward(volumes, 3)


def irfft2(images_ft: Tensor, *, shape: Sequence[int]) -> Tensor:
    """Invert `rfft2`.

    Args:
        images_ft: `[b, h, w//2+1]`, phase origin at the centre pixel.
        shape: `(h, w)` of the images; the transform alone does not tell even from odd w.

    Returns:
        `[b, h, w]`, real.
    """
    check_ndim("images_ft", images_ft, 3)
    return _centred_backward(images_ft, shape)


def irfft3(volumes_ft: Tensor, *, shape: Sequence[int]) -> Tensor:
    """Invert `rfft3`.

    Args:
        volumes_ft: `[b, d, h, w//2+1]`, phase origin at the centre voxel.
        shape: `(d, h, w)` of the volumes.

    Returns:
        `[b, d, h, w]`, real.
    """
    check_ndim("volumes_ft", volumes_ft, 4)
    return _centred_backward(volumes_ft, shape)


def rfft_grid(
    shape: Sequence[int],
    pixel_size_angst: float,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Frequencies of each coefficient of a half transform, in 1/Å.

    Convention: the last axis holds x, y(, z). The Nyquist frequency of an even axis is
    negative on full axes and positive on the halved x axis, as the transforms store it.

    Args:
        shape: `(h, w)` or `(d, h, w)` of the real array.
        pixel_size_angst: edge of a pixel.
        device: where the grid is made.
        dtype: float32 or float64.

    Returns:
        `[h, w//2+1, 2]` or `[d, h, w//2+1, 3]`.
    """
    check_range("pixel_size_angst", pixel_size_angst, gt=0)
    if len(shape) not in (2, 3):
        raise ValueError(f"shape must have 2 or 3 axes: got {tuple(shape)}")
    axes = [
        _integer_frequencies(n, half=axis == len(shape) - 1, device=device) / (n * pixel_size_angst)
        for axis, n in enumerate(shape)
    ]
    mesh = torch.meshgrid(*axes, indexing="ij")
    return torch.stack(mesh[::-1], dim=-1).to(dtype)


def fourier_shift(
    images_ft: Tensor, shifts_angst: Tensor, *, shape: Sequence[int], pixel_size_angst: float
) -> Tensor:
    """Move images or volumes by a shift, in Fourier space.

    Convention: multiplies by `exp(-2 pi i k . shift)`, so content moves by `+shift`; the
    stored shift of a particle (RELION's origin) brings it onto the reference.

    Args:
        images_ft: `[b, h, w//2+1]` or `[b, d, h, w//2+1]`.
        shifts_angst: `[b, 2]` (x, y) or `[b, 3]` (x, y, z).
        shape: `(h, w)` or `(d, h, w)` of the real arrays.
        pixel_size_angst: edge of a pixel.

    Returns:
        As `images_ft`. A component at the Nyquist frequency of an even axis takes the
        phase of the sign that the transform stores, so shifts add up exactly.
    """
    check_tail("images_ft", images_ft, rfft_shape(shape))
    check_tail("shifts_angst", shifts_angst, (images_ft.shape[0], len(shape)))
    shifted = images_ft
    for axis, n in enumerate(shape):
        half = axis == len(shape) - 1
        frequency = _integer_frequencies(n, half=half, device=images_ft.device) / n
        shift_px = shifts_angst[:, len(shape) - 1 - axis].to(frequency) / pixel_size_angst
        # the product of frequency and shift is reduced to one turn in float64
        turns = shift_px[:, None] * frequency
        phase = torch.polar(torch.ones_like(turns), -2 * math.pi * (turns - turns.detach().round()))
        view = [len(turns), *(n_k if a == axis else 1 for a, n_k in enumerate(rfft_shape(shape)))]
        shifted = shifted * phase.to(images_ft.dtype).reshape(view)
    return shifted


def resize_ft(images_ft: Tensor, *, shape: Sequence[int], new_shape: Sequence[int]) -> Tensor:
    """Crop or zero-pad half transforms to another box, keeping centre and grey values.

    Convention: the Nyquist component of an even axis stands for both signs; it is split
    in two halves when padded and summed from both when cropped, so the result samples
    the band-limited image exactly and padding then cropping is the identity.

    Args:
        images_ft: `[b, h, w//2+1]` or `[b, d, h, w//2+1]`, phase origin at the centre.
        shape: shape of the real arrays now.
        new_shape: shape of the real arrays wanted.

    Returns:
        `[b, *half of new_shape]`, scaled by the ratio of pixel numbers.
    """
    check_tail("images_ft", images_ft, rfft_shape(shape))
    if len(new_shape) != len(shape) or min(new_shape) < 1:
        raise ValueError(f"new shape {tuple(new_shape)} does not fit shape {tuple(shape)}")
    last = images_ft.ndim - 1
    # the halved axis first: folding its Nyquist column needs the whole other axes
    resized = _resize_half_axis(images_ft, shape[-1], new_shape[-1])
    for axis, (n, m) in enumerate(zip(shape[:-1], new_shape[:-1], strict=True)):
        resized = _resize_full_axis(resized, last - len(shape) + 1 + axis, n, m)
    return resized * (math.prod(new_shape) / math.prod(shape))


def fourier_resize2(images: Tensor, *, shape: Sequence[int]) -> Tensor:
    """Resample images to another box of the same extent by Fourier cropping or padding.

    Convention: the centre pixel n // 2 stays the centre pixel, the mean grey value stays.

    Args:
        images: `[b, h, w]`, real.
        shape: `(h, w)` wanted; the pixel size changes by the ratio.

    Returns:
        `[b, *shape]`.
    """
    check_ndim("images", images, 3)
    return _resampled(images, shape)


def fourier_resize3(volumes: Tensor, *, shape: Sequence[int]) -> Tensor:
    """Resample volumes to another box of the same extent by Fourier cropping or padding.

    Convention: the centre voxel n // 2 stays the centre voxel, the mean grey value stays.

    Args:
        volumes: `[b, d, h, w]`, real.
        shape: `(d, h, w)` wanted; the pixel size changes by the ratio.

    Returns:
        `[b, *shape]`.
    """
    check_ndim("volumes", volumes, 4)
    return _resampled(volumes, shape)


def next_fast_size(n: int) -> int:
    """Find the smallest even size >= n with no prime factor above 5."""
    check_range("n", n, ge=1)
    size = n + n % 2
    while not _is_smooth(size):
        size += 2
    return size


def _is_smooth(n: int) -> bool:
    for prime in (2, 3, 5):
        while n % prime == 0:
            n //= prime
    return n == 1


def _integer_frequencies(n: int, *, half: bool, device: torch.device | str | None = None) -> Tensor:
    """Signed frequency index of each coefficient, float64."""
    index = torch.arange(n // 2 + 1 if half else n, dtype=torch.float64, device=device)
    return index if half else index - n * (index >= (n + 1) // 2)


def _centre_phase(n: int, *, half: bool, like: Tensor) -> Tensor:
    """Factor `exp(2 pi i k (n//2) / n)`: exact signs for even n, a phase for odd n."""
    index = torch.arange(n // 2 + 1 if half else n, device=like.device)
    if n % 2 == 0:
        return (1 - 2 * (index % 2)).to(like.real.dtype)
    turns = (index * (n // 2) % n).to(torch.float64) * (2 * math.pi / n)
    return torch.polar(torch.ones_like(turns), turns).to(like.dtype)


def _centre_phases(shape: Sequence[int], like: Tensor) -> Tensor:
    phase = _centre_phase(shape[-1], half=True, like=like)
    for axis, n in enumerate(reversed(shape[:-1]), start=1):
        phase = _centre_phase(n, half=False, like=like).reshape(-1, *[1] * axis) * phase
    return phase


def _centred_forward(arrays: Tensor, ndim: int) -> Tensor:
    axes = tuple(range(1, ndim + 1))
    arrays_ft: Tensor = torch.fft.rfftn(arrays, dim=axes)
    return arrays_ft * _centre_phases(arrays.shape[1:], arrays_ft)


def _centred_backward(arrays_ft: Tensor, shape: Sequence[int]) -> Tensor:
    check_tail("transform", arrays_ft, rfft_shape(shape))
    axes = tuple(range(1, len(shape) + 1))
    phase = _centre_phases(shape, arrays_ft).conj()
    arrays: Tensor = torch.fft.irfftn(arrays_ft * phase, s=tuple(shape), dim=axes)
    return arrays


def _resampled(arrays: Tensor, new_shape: Sequence[int]) -> Tensor:
    """Resample images or volumes in Fourier space about their centres."""
    shape = tuple(arrays.shape[1:])
    if any(n % 2 for n in (*shape, *new_shape)):
        arrays_ft = resize_ft(
            _centred_forward(arrays, len(shape)), shape=shape, new_shape=new_shape
        )
        return _centred_backward(arrays_ft, new_shape)
    # centres of even axes are half-way in either box: their phases cancel
    axes = tuple(range(1, len(shape) + 1))
    n, m = shape[-1], new_shape[-1]
    if m < n:
        # columns that are cropped need no transform along the other axes; there the mirror of
        # the new Nyquist column is its conjugate
        columns = torch.fft.rfft(arrays, dim=-1)[..., : m // 2 + 1]
        columns[..., -1] = 2.0 * columns[..., -1].real
        arrays_ft = torch.fft.fftn(columns, dim=axes[:-1])
        shape = (*shape[:-1], m)
    else:
        arrays_ft = torch.fft.rfftn(arrays, dim=axes)
    arrays_ft = resize_ft(arrays_ft, shape=shape, new_shape=new_shape)
    resampled: Tensor = torch.fft.irfftn(arrays_ft, s=tuple(new_shape), dim=axes)
    return resampled.mul_(m / n) if m < n else resampled


def _mirror(arrays_ft: Tensor) -> Tensor:
    """Values at the negative frequencies along every axis but the batch."""
    axes = tuple(range(1, arrays_ft.ndim))
    return torch.roll(torch.flip(arrays_ft, axes), [1] * len(axes), axes)


def _resize_half_axis(arrays_ft: Tensor, n: int, m: int) -> Tensor:
    if n == m:
        return arrays_ft
    if m < n:
        kept = arrays_ft[..., : m // 2 + 1]
        if m % 2 == 1:
            return kept
        nyquist = kept[..., -1]
        folded = nyquist + _mirror(nyquist).conj()
        return torch.cat([kept[..., :-1], folded[..., None]], dim=-1)
    padded = torch.nn.functional.pad(arrays_ft, (0, m // 2 - n // 2))
    if n % 2 == 1:
        return padded
    weight = torch.ones(m // 2 + 1, dtype=arrays_ft.real.dtype, device=arrays_ft.device)
    weight[n // 2] = 0.5
    return padded * weight


def _resize_full_axis(arrays_ft: Tensor, axis: int, n: int, m: int) -> Tensor:
    if n == m:
        return arrays_ft
    small = min(n, m)
    n_positive, n_negative = (small + 1) // 2, (small - 1) // 2
    positive = arrays_ft.narrow(axis, 0, n_positive)
    negative = arrays_ft.narrow(axis, n - n_negative, n_negative)
    parts = [positive]
    if small % 2 == 0:
        at = small // 2
        if m < n:
            parts.append(arrays_ft.narrow(axis, at, 1) + arrays_ft.narrow(axis, n - at, 1))
        else:
            half = arrays_ft.narrow(axis, at, 1) / 2
            parts.extend([half, _zeros_along(arrays_ft, axis, m - n - 1), half])
    elif m > n:
        parts.append(_zeros_along(arrays_ft, axis, m - n))
    return torch.cat([*parts, negative], dim=axis)


def _zeros_along(arrays_ft: Tensor, axis: int, count: int) -> Tensor:
    shape = list(arrays_ft.shape)
    shape[axis] = count
    return arrays_ft.new_zeros(shape)
