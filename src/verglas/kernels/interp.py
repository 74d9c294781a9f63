"""Cubic B-spline interpolation of real or complex volumes at arbitrary points.

The same sampler serves both domains. Rotating a map in real space wants coefficients of an
oversampled map; reading rotated Fourier samples wants coefficients of a zero-padded map's
transform. In both cases the coefficients come from dividing, in the *other* domain, by the
transform of the kernel (`bspline_response`), so that what is left of the error are images of
the object outside its own box or band. On the CPU compiled loops do the same as the torch code.
"""

import torch
from torch import Tensor

__all__ = [
    "bspline_response",
    "sample_cubic",
    "sample_cubic_gradient",
    "sample_cubic_lattice",
]

# Points per call of the torch code: 4 neighbours at a time are about 8 MB.
_POINTS_PER_BLOCK = 1 << 18


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
    if _is_plain(coefficients, points_px):
        from verglas.kernels import _numba_interp

        values = torch.empty(points_px.shape[:2], dtype=coefficients.dtype)
        places = points_px.to(torch.float64).contiguous().numpy()
        for volume, place, out in zip(coefficients, places, values, strict=True):
            _numba_interp.sample(volume.contiguous().numpy(), place, out.numpy())
        return values
    return _sample(coefficients, points_px)


def sample_cubic_gradient(coefficients: Tensor, points_px: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate a cubic B-spline series and its gradient by the position.

    Args:
        coefficients: `[b, d, h, w]`, real or complex.
        points_px: `[b, n, 3]`, as in `sample_cubic`.

    Returns:
        Values `[b, n]` and derivatives by x, y, z index `[b, n, 3]`.
    """
    _check(coefficients, points_px)
    if _is_plain(coefficients, points_px):
        from verglas.kernels import _numba_interp

        values = torch.empty(points_px.shape[:2], dtype=coefficients.dtype)
        slopes = torch.empty(points_px.shape, dtype=coefficients.dtype)
        places = points_px.to(torch.float64).contiguous().numpy()
        for volume, place, out, slope in zip(coefficients, places, values, slopes, strict=True):
            _numba_interp.sample_gradient(
                volume.contiguous().numpy(), place, out.numpy(), slope.numpy()
            )
        return values, slopes
    return _sample_gradient(coefficients, points_px)


def sample_cubic_lattice(
    coefficients: Tensor,
    *,
    origin_px: Tensor,
    steps_px: Tensor,
    low_px: Tensor,
    high_px: Tensor,
    shape: tuple[int, int, int],
) -> Tensor:
    """Evaluate a cubic B-spline series on a lattice, as when a volume is turned.

    Convention: voxel (x, y, z) of the result reads `origin + x s_0 + y s_1 + z s_2`, all
    in x, y, z indices of the coefficients.

    Args:
        coefficients: `[b, d, h, w]`, real or complex.
        origin_px: `[b, 3]`, point of the first voxel.
        steps_px: `[b, 3, 3]`; row i is the step `s_i` along axis x, y or z of the result.
        low_px: `[3]`; points below it on any axis give 0.
        high_px: `[3]`; points above it on any axis give 0.
        shape: `(d, h, w)` of the result.

    Returns:
        `[b, *shape]`, dtype of the coefficients.
    """
    lattice = [t.to(torch.float64).contiguous() for t in (origin_px, steps_px, low_px, high_px)]
    _check(coefficients, lattice[0][:, None])
    result = coefficients.new_empty((len(coefficients), *shape))
    if _is_plain(coefficients, origin_px):
        from verglas.kernels import _numba_interp

        low, high = lattice[2].numpy(), lattice[3].numpy()
        for volume, origin, steps, out in zip(coefficients, *lattice[:2], result, strict=True):
            _numba_interp.sample_lattice(
                volume.contiguous().numpy(), origin.numpy(), steps.numpy(), low, high, out.numpy()
            )
        return result
    origin, steps, low_limit, high_limit = (t.to(coefficients.device) for t in lattice)
    y, x = (torch.arange(n, device=coefficients.device) for n in shape[1:])
    plane = x[:, None] * steps[:, None, None, 0] + y[:, None, None] * steps[:, None, None, 1]
    rows = max(1, _POINTS_PER_BLOCK // (shape[1] * shape[2]))
    for start in range(0, shape[0], rows):
        z = torch.arange(start, min(start + rows, shape[0]), device=coefficients.device)
        points = (
            plane[:, None] + (origin[:, None] + z[:, None] * steps[:, None, 2])[:, :, None, None]
        )
        inside = ((points >= low_limit) & (points <= high_limit)).all(-1)
        values = _sample(coefficients, points.flatten(1, 3)).view(inside.shape)
        result[:, start : start + rows] = torch.where(inside, values, 0)
    return result


def _is_plain(coefficients: Tensor, points_px: Tensor) -> bool:
    """Whether the compiled loops may run: on the CPU, and nothing is differentiated."""
    tracked = torch.is_grad_enabled() and (coefficients.requires_grad or points_px.requires_grad)
    return coefficients.device.type == "cpu" and points_px.device.type == "cpu" and not tracked


def _sample(coefficients: Tensor, points_px: Tensor) -> Tensor:
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


def _sample_gradient(coefficients: Tensor, points_px: Tensor) -> tuple[Tensor, Tensor]:
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
