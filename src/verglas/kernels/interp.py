"""Cubic B-spline interpolation of real or complex volumes at arbitrary points.

The same sampler serves both domains. Rotating a map in real space wants coefficients of an
oversampled map; reading rotated Fourier samples wants coefficients of a zero-padded map's
transform. In both cases the coefficients come from dividing, in the *other* domain, by the
transform of the kernel (`bspline_response`), so that what is left of the error are images of
the object outside its own box or band.
"""

import torch
from torch import Tensor

__all__ = ["bspline_response", "sample_cubic", "sample_cubic_gradient"]


def bspline_response(
    frequencies: Tensor,
    *,
    order: int = 3,
) -> Tensor:
    """Evaluate the Fourier transform of the B-spline kernel, `sinc(f)^(order + 1)`.

    Args:
        frequencies: any shape; cycles per sample (or, the other way round, position
            divided by the length of the transformed axis), in [-1/2, 1/2].
        order: 0 nearest, 1 linear, 3 cubic.

    Returns:
        Same shape; 1 at the origin, never below `(2 / pi)^(order + 1)` in the range.

    References:
        Unser 1999, IEEE Signal Process. Mag. 16:22, eq. 6.
    """
    return torch.sinc(frequencies) ** (order + 1)


def _tap_weights(fraction: Tensor) -> Tensor:
    """Cubic B-spline weights of the 4 neighbours, `[..., 4]`."""
    f, f2 = fraction, fraction * fraction
    f3 = f2 * f
    return torch.stack(
        ((1 - f) ** 3, 3 * f3 - 6 * f2 + 4, -3 * f3 + 3 * f2 + 3 * f + 1, f3), dim=-1
    ).div_(6)


def _tap_slopes(fraction: Tensor) -> Tensor:
    """Derivative of `_tap_weights` by the position, `[..., 4]`."""
    f, f2 = fraction, fraction * fraction
    return torch.stack((-((1 - f) ** 2) / 2, 1.5 * f2 - 2 * f, -1.5 * f2 + f + 0.5, f2 / 2), dim=-1)


def _check(coefficients: Tensor, points_px: Tensor) -> None:
    if coefficients.ndim != 4:
        raise ValueError(f"coefficients must be [b, d, h, w]: got {tuple(coefficients.shape)}")
    if points_px.ndim != 3 or points_px.shape[-1] != 3:
        raise ValueError(f"points must be [b, n, 3]: got {tuple(points_px.shape)}")
    if points_px.shape[0] != coefficients.shape[0]:
        raise ValueError(
            f"batches differ: {coefficients.shape[0]} volumes, {points_px.shape[0]} point sets"
        )


def _rows(coefficients: Tensor, base: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Flat x indices `[b, n, 4]` and row offsets of the 4 neighbours along y and z."""
    b, d, h, w = coefficients.shape
    taps = torch.arange(-1, 3, device=base.device)
    x = torch.remainder(base[..., 0:1] + taps, w)
    y = torch.remainder(base[..., 1:2] + taps, h) * w
    z = torch.remainder(base[..., 2:3] + taps, d) * (h * w)
    z = z + torch.arange(b, device=base.device).view(b, 1, 1) * (d * h * w)
    return x, list(y.unbind(-1)), list(z.unbind(-1))


def sample_cubic(coefficients: Tensor, points_px: Tensor) -> Tensor:
    """Evaluate a cubic B-spline series at points.

    Convention: points are x, y, z indices into the array (0 is the first sample), and the
    array is periodic.

    Args:
        coefficients: `[b, d, h, w]`, real or complex.
        points_px: `[b, n, 3]`.

    Returns:
        `[b, n]`, dtype of the coefficients.
    """
    _check(coefficients, points_px)
    floor = points_px.floor()
    weight_x, weight_y, weight_z = _tap_weights(
        (points_px - floor).to(coefficients.real.dtype)
    ).unbind(-2)
    x, rows_y, rows_z = _rows(coefficients, floor.long())
    flat = coefficients.reshape(-1)
    total = torch.zeros(points_px.shape[:2], dtype=flat.dtype, device=flat.device)
    for row_z, w_z in zip(rows_z, weight_z.unbind(-1), strict=True):
        for row_y, w_y in zip(rows_y, weight_y.unbind(-1), strict=True):
            line = (flat[x + (row_y + row_z).unsqueeze(-1)] * weight_x).sum(-1)
            total += line * (w_y * w_z)
    return total


def sample_cubic_gradient(coefficients: Tensor, points_px: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate a cubic B-spline series and its gradient by the position.

    Args:
        coefficients: `[b, d, h, w]`, real or complex.
        points_px: `[b, n, 3]`, as in `sample_cubic`.

    Returns:
        Values `[b, n]` and derivatives by x, y, z index `[b, n, 3]`.
    """
    _check(coefficients, points_px)
    floor = points_px.floor()
    fraction = (points_px - floor).to(coefficients.real.dtype)
    weight_x, weight_y, weight_z = _tap_weights(fraction).unbind(-2)
    slope_x, slope_y, slope_z = _tap_slopes(fraction).unbind(-2)
    x, rows_y, rows_z = _rows(coefficients, floor.long())
    flat = coefficients.reshape(-1)
    value = torch.zeros(points_px.shape[:2], dtype=flat.dtype, device=flat.device)
    by_x, by_y, by_z = (torch.zeros_like(value) for _ in range(3))
    for tap_z, row_z in enumerate(rows_z):
        w_z, s_z = weight_z[..., tap_z], slope_z[..., tap_z]
        for tap_y, row_y in enumerate(rows_y):
            w_y, s_y = weight_y[..., tap_y], slope_y[..., tap_y]
            samples = flat[x + (row_y + row_z).unsqueeze(-1)]
            line = (samples * weight_x).sum(-1)
            value += line * (w_y * w_z)
            by_x += (samples * slope_x).sum(-1) * (w_y * w_z)
            by_y += line * (s_y * w_z)
            by_z += line * (w_y * s_z)
    return value, torch.stack((by_x, by_y, by_z), dim=-1)
