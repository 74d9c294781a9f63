"""Shell averages of half transforms and the Fourier shell (or ring) correlation.

Sums run over the whole transform: coefficients that the half transform leaves out count
through a weight of 2, the x = 0 and Nyquist planes through 1. Sums are float64.
"""

import torch
from torch import Tensor

from verglas.core.checks import check_ndim, check_range, check_same_shape
from verglas.kernels._checks import box_of_half_transform, rfft_shape

__all__ = [
    "fourier_shell_correlation",
    "resolution_at",
    "shell_average",
    "shell_count",
    "shell_index",
    "shell_total",
]

_SUSTAINED_SHELLS = 3


def shell_index(shape: tuple[int, ...], *, device: torch.device | str | None = None) -> Tensor:
    """Shell that each coefficient of a half transform belongs to.

    Convention: shells are one Fourier voxel of the longest axis wide and centred on whole
    radii; corners beyond Nyquist have indices above n // 2.

    Args:
        shape: `(h, w)` or `(d, h, w)` of the real array.
        device: where the index is made.

    Returns:
        `[h, w//2+1]` or `[d, h, w//2+1]`, int64.
    """
    longest = max(shape)
    square = torch.zeros((), device=device)
    for axis, n in enumerate(shape):
        half = axis == len(shape) - 1
        index = torch.arange(n // 2 + 1 if half else n, device=device)
        if not half:
            index = torch.minimum(index, n - index)
        part = (index * (longest / n)).square()
        square = square[..., None] + part if axis else part
    # radii are at most a few thousand, so float32 tells k + 1/2 from its neighbours
    return torch.sqrt(square).round_().to(torch.int64)


def shell_count(
    shape: tuple[int, ...], *, n_shells: int, device: torch.device | str | None = None
) -> Tensor:
    """Number of coefficients of the whole transform in each shell.

    Args:
        shape: `(h, w)` or `(d, h, w)` of the real array.
        n_shells: shells from the origin.
        device: where the count is made.

    Returns:
        `[n_shells]`, float64.
    """
    ones = torch.ones(1, *rfft_shape(shape), device=device)
    return _weighted_totals(ones, shape, n_shells)[0]


def shell_total(values: Tensor, *, shape: tuple[int, ...], n_shells: int) -> Tensor:
    """Sum real values over the shells of the whole transform.

    Args:
        values: `[b, h, w//2+1]` or `[b, d, h, w//2+1]`, real and even in frequency.
        shape: `(h, w)` or `(d, h, w)` of the real arrays.
        n_shells: shells from the origin; what lies beyond is left out.

    Returns:
        `[b, n_shells]`, float64; an empty shell gives 0.
    """
    check_ndim("values", values, 1 + len(shape))
    if tuple(values.shape[1:]) != rfft_shape(shape):
        raise ValueError(f"values {tuple(values.shape)} do not fit arrays of shape {shape}")
    check_range("n_shells", n_shells, ge=1)
    return _weighted_totals(values, shape, n_shells)


def shell_average(values: Tensor, *, shape: tuple[int, ...], n_shells: int) -> Tensor:
    """Average real values, such as power, over the shells of the whole transform.

    Args:
        values: `[b, h, w//2+1]` or `[b, d, h, w//2+1]`, real and even in frequency.
        shape: `(h, w)` or `(d, h, w)` of the real arrays.
        n_shells: shells from the origin; what lies beyond is left out.

    Returns:
        `[b, n_shells]`, float64; an empty shell gives 0.
    """
    total = shell_total(values, shape=shape, n_shells=n_shells)
    count = shell_count(shape, n_shells=n_shells, device=values.device)
    return total / count.clamp(min=1)


def fourier_shell_correlation(a_ft: Tensor, b_ft: Tensor, *, n_shells: int) -> Tensor:
    """Correlate two volumes shell by shell, or two images ring by ring.

    Convention: shells are one Fourier voxel wide and centred on whole radii; the redundant
    half of the x = 0 plane is counted once. An empty shell gives 0.

    Args:
        a_ft: `[b, n, n, n//2+1]` or `[b, n, n//2+1]`, unshifted.
        b_ft: as `a_ft`, with the same phase origin.
        n_shells: shells from the origin; beyond `n//2 + 1` come the corners.

    Returns:
        `[b, n_shells]`, float64 in [-1, 1]; shell 0 compares the means.

    References:
        Harauz & van Heel 1986, Optik 73:146.
    """
    n = box_of_half_transform("a_ft", a_ft)
    check_same_shape("a_ft", a_ft, "b_ft", b_ft)
    check_range("n_shells", n_shells, ge=1)
    shape = (n,) * (a_ft.ndim - 1)
    pairs = ((a_ft, b_ft), (a_ft, a_ft), (b_ft, b_ft))
    products = torch.cat([x.real * y.real + x.imag * y.imag for x, y in pairs])
    cross, power_a, power_b = _weighted_totals(products, shape, n_shells).chunk(3)
    # a product of powers may under- or overflow where the powers do not
    scale = torch.sqrt(power_a) * torch.sqrt(power_b)
    return torch.where(scale > 0, cross / scale.clamp(min=1e-300), 0.0).clamp(-1, 1)


def resolution_at(fsc: Tensor, threshold: float, *, box: int, pixel_size_angst: float) -> Tensor:
    """Resolution where a correlation curve falls below a threshold for good.

    Convention: the first crossing after which three shells in a row (or all that are left)
    stay below, interpolated linearly between the shells around it; shell 0 is not used. A
    curve that never falls gives the resolution of its last shell, one that is below from
    shell 1 on gives infinity.

    Args:
        fsc: `[b, n_shells]`, from shell 0.
        threshold: 0.143 between half maps, 0.5 against a model.
        box: side of the real array in pixels.
        pixel_size_angst: edge of a pixel.

    Returns:
        `[b]`, Å, float64.

    References:
        Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013.
    """
    check_ndim("fsc", fsc, 2)
    check_range("n_shells", fsc.shape[1], ge=2)
    check_range("pixel_size_angst", pixel_size_angst, gt=0)
    curve = fsc[:, 1:].to(torch.float64)
    n = curve.shape[1]
    # a curve that is not a number carries no signal either
    below = ~(curve >= threshold)
    padded = torch.nn.functional.pad(below, (0, _SUSTAINED_SHELLS - 1), value=True)
    sustained = padded.unfold(1, _SUSTAINED_SHELLS, 1).all(-1)
    falls = sustained.any(-1)
    after = torch.where(falls, sustained.to(torch.int8).argmax(-1), n)
    last_above = (after - 1).clamp(min=0)[:, None]
    first_below = after.clamp(max=n - 1)[:, None]
    high = curve.gather(1, last_above).squeeze(1)
    low = curve.gather(1, first_below).squeeze(1).nan_to_num(nan=-1.0)
    fraction = torch.where(high > low, (high - threshold) / (high - low).clamp(min=1e-12), 0.0)
    shell = torch.where(falls, after + fraction, float(n))
    resolution = box * pixel_size_angst / shell.clamp(min=1)
    return torch.where(after == 0, torch.inf, resolution)


def _weighted_totals(values: Tensor, shape: tuple[int, ...], n_shells: int) -> Tensor:
    """Shell sums over the whole transform, `[b, n_shells]` float64."""
    n_half = values.shape[-1]
    column = torch.full((n_half,), 2.0, dtype=torch.float64, device=values.device)
    column[0] = 1
    if shape[-1] % 2 == 0:
        column[-1] = 1
    index = shell_index(shape, device=values.device).clamp_(max=n_shells).reshape(-1)
    # one volume at a time, so that float64 copies stay small
    sums = [
        torch.bincount(index, (row * column).reshape(-1), minlength=n_shells + 1)[:n_shells]
        for row in values
    ]
    return torch.stack(sums)
