"""Central slices: projection of a volume in Fourier space, and its adjoint, insertion.

Volumes are held as *centred half volumes*: `[m, m, m // 2 + 1]`, m odd, the origin at
`[m // 2, m // 2, 0]`, x >= 0 only, oversampled `padding` times and cut at the radius in use.
An image is a volume one plane thick (`[3, m, m // 2 + 1]`, the outer planes empty), turned
about z only, so that 2D and 3D references share every line. On the CPU the loops are
numba's, on a GPU Triton's; elsewhere, or for autograd, plain torch.
"""

import math

import torch
from torch import Tensor

from verglas.kernels.fourier import irfft2, irfft3, rfft2, rfft3
from verglas.kernels.fused import is_fused
from verglas.kernels.half_volumes import half_volume_size

__all__ = [
    "check_reach",
    "complete_hermitian_plane",
    "extract_slices",
    "half_plane_to_image",
    "half_volume_size",
    "half_volume_to_volume",
    "image_to_half_plane",
    "insert_slices",
    "symmetrise_half_volume",
    "volume_to_half_volume",
]

_VOXELS_AT_ONCE = 4_000_000


def _gridding_correction(size: int, period: int, n_axes: int, device: torch.device) -> Tensor:
    """Return `[size] * n_axes` of sinc^2, the real-space image of linear interpolation."""
    x = (torch.arange(size, device=device, dtype=torch.float64) - size // 2) / period
    one = torch.sinc(x).square()
    out = one
    for _ in range(n_axes - 1):
        out = out[..., None] * one
    return out.float()


def image_to_half_plane(images: Tensor, *, radius: int, padding: int = 2) -> Tensor:
    """Transform images into half volumes one plane thick.

    Args:
        images: `[b, n, n]`, real, centred at n // 2.
        radius: largest shell needed, in Fourier pixels of the box n.
        padding: oversampling factor.

    Returns:
        `[b, 3, m, m // 2 + 1]`, complex64; the image is plane 1.
    """
    b, n = images.shape[0], images.shape[-1]
    period = n * padding
    flat = images.float() / _gridding_correction(n, period, 2, images.device)
    before = period // 2 - n // 2
    after = period - n - before
    images_ft = rfft2(torch.nn.functional.pad(flat, (before, after) * 2))
    m = half_volume_size(radius, padding)
    usable = min(m // 2, (period - 1) // 2)
    wanted = torch.arange(-usable, usable + 1, device=images.device)
    out = images_ft.new_zeros(b, 3, m, m // 2 + 1)
    inner = slice(m // 2 - usable, m // 2 + usable + 1)
    out[:, 1, inner, : usable + 1] = images_ft[:, wanted % period, : usable + 1]
    return out


def half_plane_to_image(half_planes: Tensor, *, box: int, padding: int = 2) -> Tensor:
    """Transform half volumes one plane thick back into images.

    Args:
        half_planes: `[b, 3, m, m // 2 + 1]`, complex.
        box: side of the images wanted.
        padding: oversampling factor of the half planes.

    Returns:
        `[b, box, box]`, float32.
    """
    b, _, m, _ = half_planes.shape
    period = box * padding
    usable = min(m // 2, (period - 1) // 2)
    wanted = torch.arange(-usable, usable + 1, device=half_planes.device)
    images_ft = half_planes.new_zeros(b, period, period // 2 + 1)
    inner = slice(m // 2 - usable, m // 2 + usable + 1)
    images_ft[:, wanted % period, : usable + 1] = half_planes[:, 1, inner, : usable + 1]
    padded = irfft2(images_ft, shape=(period, period))
    start = period // 2 - box // 2
    keep = slice(start, start + box)
    return padded[:, keep, keep] / _gridding_correction(box, period, 2, padded.device)


def volume_to_half_volume(volumes: Tensor, *, radius: int, padding: int = 2) -> Tensor:
    """Transform volumes into oversampled half volumes, ready for slicing.

    The volume is divided by sinc^2 first, so that trilinear interpolation of the result
    gives the transform of the volume itself.

    Args:
        volumes: `[b, n, n, n]`, real, centred at n // 2.
        radius: largest shell needed, in Fourier pixels of the box n.
        padding: oversampling factor.

    Returns:
        `[b, m, m, m // 2 + 1]`, complex64, `m = half_volume_size(radius, padding)`.
    """
    b, n = volumes.shape[0], volumes.shape[-1]
    period = n * padding
    flat = volumes.float() / _gridding_correction(n, period, 3, volumes.device)
    before = period // 2 - n // 2
    after = period - n - before
    padded = torch.nn.functional.pad(flat, (before, after) * 3)
    volumes_ft = rfft3(padded)
    m = half_volume_size(radius, padding)
    reach = m // 2
    usable = min(reach, (period - 1) // 2)
    out = volumes_ft.new_zeros(b, m, m, reach + 1)
    wanted = torch.arange(-usable, usable + 1, device=volumes.device)
    block = volumes_ft[:, wanted % period][:, :, wanted % period][..., : usable + 1]
    inner = slice(reach - usable, reach + usable + 1)
    out[:, inner, inner, : usable + 1] = block
    return out


def half_volume_to_volume(half_volumes: Tensor, *, box: int, padding: int = 2) -> Tensor:
    """Transform half volumes back into real space and undo the interpolation's window.

    This is the way back from insertion, which spread every sample over a cell; it is not
    the inverse of `volume_to_half_volume`, which divides by the same window in advance.

    Args:
        half_volumes: `[b, m, m, m // 2 + 1]`, complex.
        box: side of the volume wanted, whose Fourier pixels define the half volume.
        padding: oversampling factor of the half volume.

    Returns:
        `[b, box, box, box]`, float32.
    """
    b, m = half_volumes.shape[:2]
    period = box * padding
    reach = m // 2
    usable = min(reach, (period - 1) // 2)
    wanted = torch.arange(-usable, usable + 1, device=half_volumes.device)
    volumes_ft = half_volumes.new_zeros(b, period, period, period // 2 + 1)
    rows = (wanted % period)[:, None]
    inner = slice(reach - usable, reach + usable + 1)
    block = half_volumes[:, inner, inner, : usable + 1]
    volumes_ft[:, rows, wanted % period, : usable + 1] = block
    padded = irfft3(volumes_ft, shape=(period,) * 3)
    start = period // 2 - box // 2
    keep = slice(start, start + box)
    return padded[:, keep, keep, keep] / _gridding_correction(box, period, 3, padded.device)


def extract_slices(
    half_volume: Tensor, rotations_ref_to_img: Tensor, frequencies_px: Tensor, *, padding: int = 2
) -> Tensor:
    """Sample central slices of a half volume: the transforms of its projections.

    Convention: a slice samples the volume at `rotation_ref_to_img.T @ (kx, ky, 0)`.

    Args:
        half_volume: `[m, m, m // 2 + 1]`, complex64.
        rotations_ref_to_img: `[r, 3, 3]`.
        frequencies_px: `[k, 2]`, x and y in Fourier pixels of the unpadded box.
        padding: oversampling factor of the half volume.

    Returns:
        `[r, k]`, complex64.
    """
    check_reach(half_volume, frequencies_px, padding)
    rotations = rotations_ref_to_img.to(half_volume.device, torch.float32).contiguous()
    if half_volume.device.type == "cpu" and not half_volume.requires_grad:
        from verglas.kernels import _numba_slices

        out = torch.empty(len(rotations), len(frequencies_px), dtype=torch.complex64)
        _numba_slices.extract(
            half_volume.numpy(),
            rotations.numpy(),
            frequencies_px.float().contiguous().numpy(),
            float(padding),
            out.numpy(),
        )
        return out
    if is_fused(half_volume):
        from verglas.kernels import _triton_poses

        frequencies = frequencies_px.float().contiguous()
        return _triton_poses.extract(half_volume.contiguous(), rotations, frequencies, padding)
    return _interpolated(half_volume, _slice_points(rotations, frequencies_px, padding))


def insert_slices(
    slices: Tensor,
    weights: Tensor,
    rotations_ref_to_img: Tensor,
    frequencies_px: Tensor,
    *,
    radius: int,
    padding: int = 2,
    planar: bool = False,
    into: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Add slices to a half volume: the adjoint of `extract_slices`.

    Args:
        slices: `[r, k]`, complex, already multiplied by their weights.
        weights: `[r, k]`, real, what is added to the denominator.
        rotations_ref_to_img: `[r, 3, 3]`.
        frequencies_px: `[k, 2]`.
        radius: largest shell among the frequencies.
        padding: oversampling factor.
        planar: the rotations are about z and the result is one plane thick.
        into: sums to go on with, which are used up; new ones by default.

    Returns:
        Numerator `[m, m, m // 2 + 1]` complex64 and denominator of the same shape, float32.
        The x = 0 plane holds only what fell on it; see `complete_hermitian_plane`.
    """
    m = half_volume_size(radius, padding)
    shape = (3 if planar else m, m, m // 2 + 1)
    rotations = rotations_ref_to_img.to(slices.device, torch.float32).contiguous()
    if into is None:
        numerator = torch.zeros(shape, dtype=torch.complex64, device=slices.device)
        denominator = torch.zeros(shape, dtype=torch.float32, device=slices.device)
    else:
        numerator, denominator = into
    check_reach(numerator, frequencies_px, padding)
    if slices.device.type == "cpu":
        from verglas.kernels import _numba_slices

        _numba_slices.insert(
            slices.to(torch.complex64).contiguous().numpy(),
            weights.float().contiguous().numpy(),
            rotations.numpy(),
            frequencies_px.float().contiguous().numpy(),
            float(padding),
            numerator.numpy(),
            denominator.numpy(),
        )
        return numerator, denominator
    if is_fused(slices) and numerator.is_contiguous() and denominator.is_contiguous():
        from verglas.kernels import _triton_poses

        still = rotations.new_zeros(len(rotations), 1, 2, dtype=torch.float64)
        _triton_poses.insert(
            slices.to(torch.complex64).contiguous(),
            weights.float().contiguous(),
            rotations,
            still,
            still[..., 0].float() + 1,
            frequencies_px.float().contiguous(),
            box=1,
            padding=padding,
            into=(numerator, denominator),
        )
        return numerator, denominator
    points = _slice_points(rotations, frequencies_px, padding)
    index, weight, conjugate = _corners(shape, points)
    values = torch.where(conjugate, slices.conj(), slices)
    numerator.view(-1).index_add_(0, index.flatten(), (weight * values).flatten())
    denominator.view(-1).index_add_(0, index.flatten(), (weight * weights).flatten())
    return numerator, denominator


def complete_hermitian_plane(half_volume: Tensor) -> Tensor:
    """Add to each point of the x = 0 plane the conjugate of its mirror point.

    Insertion leaves on that plane, for a pair (k, -k), each sample at one of the two points
    only; afterwards both hold the sum.

    Args:
        half_volume: `[m, m, m // 2 + 1]`, real or complex.

    Returns:
        The same shape.
    """
    out = half_volume.clone()
    plane = half_volume[..., 0]
    out[..., 0] = plane + plane.flip(0, 1).conj()
    return out


def symmetrise_half_volume(half_volume: Tensor, operators: Tensor) -> Tensor:
    """Sum a half volume over the rotations of a point group.

    Operators that permute the axes (all of O, D2, D4) are exact; others interpolate.

    Args:
        half_volume: `[m, m, m // 2 + 1]`, complex64, or float32 and even, as weights are;
            Hermitian on its x = 0 plane.
        operators: `[g, 3, 3]`.

    Returns:
        The same shape; the sum, not the mean.
    """
    if len(operators) == 1:
        return half_volume.clone()
    if half_volume.device.type != "cpu":
        return _plain_symmetrise(half_volume, operators)
    from verglas.kernels.symmetrise import symmetrise_channels

    values = half_volume.contiguous()
    channels = torch.view_as_real(values) if values.is_complex() else values[..., None]
    out = torch.from_numpy(symmetrise_channels(channels.numpy(), operators.cpu().double().numpy()))
    return torch.view_as_complex(out) if values.is_complex() else out[..., 0]


def _plain_symmetrise(half_volume: Tensor, operators: Tensor) -> Tensor:
    """Sum without numba, on any device: some planes of voxels at a time."""
    m, _, width = half_volume.shape
    axis = torch.arange(m, device=half_volume.device, dtype=torch.float32) - m // 2
    blocks = []
    for z in torch.split(axis, max(1, _VOXELS_AT_ONCE // (m * width))):
        mesh = torch.meshgrid(z, axis, axis[m // 2 :], indexing="ij")
        points = torch.stack(mesh[::-1], -1)
        inside = points.square().sum(-1) <= (m // 2 - 1) ** 2
        total = half_volume.new_zeros(inside.shape)
        for operator in operators.to(points):
            mates = torch.where(inside[..., None], points @ operator.T, 0.0)
            total += _interpolated(half_volume, mates)
        blocks.append(total * inside)
    return torch.cat(blocks)


def check_reach(half_volume: Tensor, frequencies_px: Tensor, padding: int) -> None:
    """Refuse frequencies whose cells do not lie wholly inside a half volume.

    Args:
        half_volume: `[.., m, m // 2 + 1]`.
        frequencies_px: `[k, 2]`.
        padding: oversampling factor.
    """
    reach = half_volume.shape[1] // 2
    longest = math.sqrt(float(frequencies_px.square().sum(-1).max())) * padding
    if longest > reach - 1:
        raise ValueError(
            f"half volume must reach past every frequency: got side {half_volume.shape[1]} "
            f"(reach {reach}) for a frequency of {longest:.1f} voxels"
        )


def _slice_points(rotations: Tensor, frequencies_px: Tensor, padding: int) -> Tensor:
    """Return `[r, k, 3]`, where slices sample a half volume, in voxels from its origin."""
    frequencies = frequencies_px.to(rotations) * padding
    return torch.einsum("kc,rcd->rkd", frequencies, rotations[:, :2])


def _interpolated(half_volume: Tensor, points: Tensor) -> Tensor:
    """Interpolate a half volume at points `[.., 3]`."""
    index, weight, conjugate = _corners(half_volume.shape, points)
    values = (half_volume.reshape(-1)[index] * weight).sum(0)
    return torch.where(conjugate, values.conj(), values)


def _corners(shape: tuple[int, ...] | torch.Size, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return flat index `[8, ..]`, trilinear weight and conjugation mask of points `[.., 3]`."""
    conjugate = points[..., 0] < 0
    points = torch.where(conjugate[..., None], -points, points)
    low = points.floor()
    part = points - low
    origin = torch.tensor([0, shape[1] // 2, shape[0] // 2], device=points.device)
    low_index = low.long() + origin
    indices, weights = [], []
    for dz in (0, 1):
        for dy in (0, 1):
            for dx in (0, 1):
                step = torch.tensor([dx, dy, dz], device=points.device)
                weights.append(torch.where(step.bool(), part, 1 - part).prod(-1))
                x, y, z = (low_index + step).unbind(-1)
                indices.append((z * shape[1] + y) * shape[2] + x)
    return torch.stack(indices), torch.stack(weights), conjugate
