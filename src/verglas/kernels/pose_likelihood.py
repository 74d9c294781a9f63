"""Log-likelihood of views at poses of their own, with its derivatives.

The dense search compares every view with the same poses, which is a matrix product. Here
every view has its own: the score is interpolated from the half volume at each pose, and so
are its derivatives by rotation and shift. On the CPU the loops are numba's, on a GPU Triton's;
without either plain torch.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from verglas.kernels.fused import is_fused
from verglas.kernels.slices import check_reach, insert_slices

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["PoseNormals", "insert_at_poses", "pose_normals", "pose_scores"]


@dataclass(frozen=True)
class PoseNormals:
    """Scores and derivatives by rotation vector (radians, image frame) and shift (pixels).

    Attributes:
        score: `[b]`, float64.
        gradient: `[b, 5]`, of the score.
        normal: `[b, 5, 5]`, Gauss-Newton approximation of minus its second derivatives.
    """

    score: Tensor
    gradient: Tensor
    normal: Tensor


def pose_scores(
    half_volume: Tensor,
    signal: Tensor,
    weight: Tensor,
    rotations_ref_to_img: Tensor,
    shifts_px: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: int,
) -> Tensor:
    """Score views at several poses each.

    `score = sum Re(conj(P) S w) - c |P|^2 / 2`, as in the dense search, with P the slice at
    the pose and S the phases of the shift.

    Args:
        half_volume: `[m, m, m // 2 + 1]`, complex64.
        signal: `[b, k]`, `w = CTF X / sigma^2`.
        weight: `[b, k]`, `c = CTF^2 / sigma^2`.
        rotations_ref_to_img: `[b, s, 3, 3]`.
        shifts_px: `[b, s, 2]`, in pixels of the image; the stored convention.
        frequencies_px: `[k, 2]`, whole numbers.
        box: side of the image in pixels.
        padding: oversampling factor of the half volume.

    Returns:
        `[b, s]`, float64.
    """
    check_reach(half_volume, frequencies_px, padding)
    if half_volume.device.type == "cpu":
        from verglas.kernels import _numba_pose_likelihood

        out = torch.empty(shifts_px.shape[:2], dtype=torch.float64)
        _numba_pose_likelihood.scores(
            _parts(half_volume.flatten()),
            len(half_volume),
            _parts(signal),
            weight.contiguous().numpy(),
            rotations_ref_to_img.float().contiguous().numpy(),
            shifts_px.double().contiguous().numpy(),
            frequencies_px.int().T.contiguous().numpy(),
            float(padding),
            box,
            out.numpy(),
        )
        return out
    if is_fused(signal):
        from verglas.kernels import _triton_poses

        return _triton_poses.scores(
            half_volume.contiguous(),
            signal.contiguous(),
            weight.contiguous(),
            rotations_ref_to_img.float().contiguous(),
            shifts_px.double().contiguous(),
            frequencies_px.float().contiguous(),
            box=box,
            padding=padding,
        )
    return _plain_scores(
        half_volume,
        signal,
        weight,
        rotations_ref_to_img,
        shifts_px,
        frequencies_px,
        box=box,
        padding=padding,
    )


def pose_normals(
    half_volume: Tensor,
    signal: Tensor,
    weight: Tensor,
    rotations_ref_to_img: Tensor,
    shifts_px: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: int,
) -> PoseNormals:
    """Score views at one pose each, with derivatives.

    The rotation vector v changes a pose to `exp([v]) @ rotation_ref_to_img`, so that it is
    given in the frame of the image, its third component turning the image in its plane.

    Args:
        half_volume: `[m, m, m // 2 + 1]`, complex64.
        signal, weight: `[b, k]`, as for `pose_scores`.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_px: `[b, 2]`.
        frequencies_px: `[k, 2]`, whole numbers.
        box: side of the image in pixels.
        padding: oversampling factor of the half volume.

    Returns:
        Score, gradient and normal matrix, float64.
    """
    check_reach(half_volume, frequencies_px, padding)
    if half_volume.device.type == "cpu":
        from verglas.kernels import _numba_pose_likelihood

        b = len(signal)
        score = torch.empty(b, dtype=torch.float64)
        gradient = torch.empty(b, 5, dtype=torch.float64)
        normal = torch.empty(b, 5, 5, dtype=torch.float64)
        _numba_pose_likelihood.normals(
            _parts(half_volume.flatten()),
            len(half_volume),
            _parts(signal),
            weight.contiguous().numpy(),
            rotations_ref_to_img.float().contiguous().numpy(),
            shifts_px.double().contiguous().numpy(),
            frequencies_px.int().T.contiguous().numpy(),
            float(padding),
            box,
            score.numpy(),
            gradient.numpy(),
            normal.numpy(),
        )
        return PoseNormals(score, gradient, normal)
    if is_fused(signal):
        from verglas.kernels import _triton_poses

        return PoseNormals(
            *_triton_poses.normals(
                half_volume.contiguous(),
                signal.contiguous(),
                weight.contiguous(),
                rotations_ref_to_img.float().contiguous(),
                shifts_px.double().contiguous(),
                frequencies_px.float().contiguous(),
                box=box,
                padding=padding,
            )
        )
    return _plain_normals(
        half_volume,
        signal,
        weight,
        rotations_ref_to_img,
        shifts_px,
        frequencies_px,
        box=box,
        padding=padding,
    )


def insert_at_poses(
    signal: Tensor,
    weight: Tensor,
    rotations_ref_to_img: Tensor,
    shifts_px: Tensor,
    probability: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    radius: int,
    padding: int,
    into: tuple[Tensor, Tensor],
) -> None:
    """Add views to a half volume at several poses each, by their probability, in place.

    Args:
        signal, weight: `[b, k]`, as for `pose_scores`.
        rotations_ref_to_img: `[b, s, 3, 3]`.
        shifts_px: `[b, s, 2]`.
        probability: `[b, s]`; poses of probability zero cost nothing.
        frequencies_px: `[k, 2]`, whole numbers.
        box: side of the image in pixels.
        radius: largest shell among the frequencies.
        padding: oversampling factor.
        into: numerator (complex64) and denominator, `[m, m, m // 2 + 1]`.
    """
    check_reach(into[0], frequencies_px, padding)
    if signal.device.type == "cpu":
        from verglas.kernels import _numba_pose_likelihood

        _numba_pose_likelihood.insert(
            signal.contiguous().numpy(),
            weight.contiguous().numpy(),
            rotations_ref_to_img.float().contiguous().numpy(),
            shifts_px.double().contiguous().numpy(),
            probability.float().contiguous().numpy(),
            frequencies_px.int().contiguous().numpy(),
            float(padding),
            box,
            into[0].numpy(),
            into[1].numpy(),
        )
        return
    if is_fused(signal) and into[0].is_contiguous() and into[1].is_contiguous():
        from verglas.kernels import _triton_poses

        _triton_poses.insert(
            signal.contiguous(),
            weight.contiguous(),
            rotations_ref_to_img.float().contiguous(),
            shifts_px.double().contiguous(),
            probability.float().contiguous(),
            frequencies_px.float().contiguous(),
            box=box,
            padding=padding,
            into=into,
        )
        return
    _plain_insert(
        signal,
        weight,
        rotations_ref_to_img,
        shifts_px,
        probability,
        frequencies_px,
        box=box,
        radius=radius,
        padding=padding,
        into=into,
    )


def _parts(values: Tensor) -> "NDArray[np.float32]":
    """View `[.., k]` complex as `[.., 2 k]` real."""
    real: NDArray[np.float32] = torch.view_as_real(values.contiguous()).flatten(-2).numpy()
    return real


def _plain_scores(
    half_volume: Tensor,
    signal: Tensor,
    weight: Tensor,
    rotations_ref_to_img: Tensor,
    shifts_px: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: int,
) -> Tensor:
    """Score without numba, on any device."""
    out = torch.empty(shifts_px.shape[:2], dtype=torch.float64, device=signal.device)
    for j in range(shifts_px.shape[1]):
        rotations = rotations_ref_to_img[:, j]
        value, _ = _slices_and_slopes(half_volume, rotations, frequencies_px, padding)
        shifted = _shifted(signal, shifts_px[:, j], frequencies_px, box)
        out[:, j] = _score(value, shifted, weight)
    return out


def _plain_normals(
    half_volume: Tensor,
    signal: Tensor,
    weight: Tensor,
    rotations_ref_to_img: Tensor,
    shifts_px: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: int,
) -> PoseNormals:
    """Score and differentiate without numba, on any device."""
    value, slope = _slices_and_slopes(half_volume, rotations_ref_to_img, frequencies_px, padding)
    shifted = _shifted(signal, shifts_px, frequencies_px, box)
    u, v = frequencies_px.to(value.real).unbind(1)
    cycle = 2j * math.pi / box
    columns = torch.stack(
        [
            -v * slope[2],
            u * slope[2],
            v * slope[0] - u * slope[1],
            cycle * u * value,
            cycle * v * value,
        ],
        1,
    )
    residual = shifted - weight * value
    gradient = (columns.conj() * residual[:, None]).real.sum(-1)
    real = torch.view_as_real(columns * weight.sqrt()[:, None]).flatten(2)
    return PoseNormals(_score(value, shifted, weight), gradient.double(), (real @ real.mT).double())


def _plain_insert(
    signal: Tensor,
    weight: Tensor,
    rotations_ref_to_img: Tensor,
    shifts_px: Tensor,
    probability: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    radius: int,
    padding: int,
    into: tuple[Tensor, Tensor],
) -> None:
    """Insert without numba loops of its own, on any device."""
    for j in range(shifts_px.shape[1]):
        part = probability[:, j, None].to(weight)
        insert_slices(
            _shifted(signal, shifts_px[:, j], frequencies_px, box) * part,
            weight * part,
            rotations_ref_to_img[:, j],
            frequencies_px,
            radius=radius,
            padding=padding,
            into=into,
        )


def _score(value: Tensor, shifted: Tensor, weight: Tensor) -> Tensor:
    cross = (value.conj() * shifted).real
    return (cross - 0.5 * weight * value.abs().square()).double().sum(-1)


def _shifted(signal: Tensor, shifts_px: Tensor, frequencies_px: Tensor, box: int) -> Tensor:
    cycles = shifts_px.double() @ frequencies_px.to(shifts_px.device).double().T / box
    phases = torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    return signal * phases.to(signal.dtype)


def _slices_and_slopes(
    half_volume: Tensor, rotations_ref_to_img: Tensor, frequencies_px: Tensor, padding: int
) -> tuple[Tensor, Tensor]:
    """Return slices `[b, k]` and their slopes `[3, b, k]` in the images' frames."""
    rotations = rotations_ref_to_img.to(half_volume.device, torch.float32)
    frequencies = frequencies_px.to(rotations) * padding
    points = torch.einsum("kc,rcd->rkd", frequencies, rotations[:, :2])
    mirrored = points[..., :1] < 0
    points = torch.where(mirrored, -points, points)
    low = points.floor()
    fx, fy, fz = (points - low).unbind(-1)
    size = half_volume.shape
    origin = torch.tensor([0, size[1] // 2, size[0] // 2], device=points.device)
    x, y, z = (low.long() + origin).unbind(-1)
    flat = half_volume.reshape(-1)
    base = (z * size[1] + y) * size[2] + x
    row, plane = size[2], size[1] * size[2]
    v = [
        [[flat[base + dz * plane + dy * row + dx] for dx in (0, 1)] for dy in (0, 1)]
        for dz in (0, 1)
    ]
    along_x = [[v[i][j][1] - v[i][j][0] for j in (0, 1)] for i in (0, 1)]
    at_x = [[v[i][j][0] + fx * along_x[i][j] for j in (0, 1)] for i in (0, 1)]
    slope_x = [a[0] + fy * (a[1] - a[0]) for a in along_x]
    along_y = [a[1] - a[0] for a in at_x]
    at_y = [a[0] + fy * (a[1] - a[0]) for a in at_x]
    slope_z = at_y[1] - at_y[0]
    value = at_y[0] + fz * slope_z
    slope = torch.stack(
        [
            slope_x[0] + fz * (slope_x[1] - slope_x[0]),
            along_y[0] + fz * (along_y[1] - along_y[0]),
            slope_z,
        ]
    )
    mirrored = mirrored[..., 0]
    value = torch.where(mirrored, value.conj(), value)
    slope = torch.where(mirrored, -slope.conj(), slope) * padding
    return value, torch.einsum("rij,jrk->irk", rotations.to(slope.dtype), slope)
