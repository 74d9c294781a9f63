"""Point groups as tensors, and symmetrising volumes; the axes are those of `point_groups`."""

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.core.checks import check_cubic, check_ndim, check_range
from verglas.kernels._checks import check_tail
from verglas.kernels.fourier import fourier_resize3
from verglas.kernels.point_groups import group_operators, parse_symmetry, split_operators

__all__ = ["parse_symmetry", "symmetrise_volume", "symmetry_operators"]


def symmetry_operators(name: str) -> Tensor:
    """Rotations of a point group.

    Convention: `volume(g r) = volume(r)` for every operator g, which acts on (x, y, z)
    column vectors; a pose `rotation_ref_to_img` is equivalent to `rotation_ref_to_img @ g`.

    Returns:
        `[g, 3, 3]`, float64, the identity first; n, 2 n, 12, 24 or 60 operators.
    """
    return torch.from_numpy(group_operators(name))


def symmetrise_volume(volumes: Tensor, operators: Tensor, *, oversampling: int = 2) -> Tensor:
    """Average volumes over the operators of a point group, in real space.

    Convention: rotations turn about voxel n // 2. Operators that permute the axes (all of O
    and D2, 12 of I2, ...) move voxels exactly; the others are written as one of those times
    one of few representatives, which are interpolated trilinearly in an oversampled volume.
    A voxel takes the mean of those mates that lie inside the box.

    Args:
        volumes: `[b, n, n, n]`.
        operators: `[g, 3, 3]`, a group, from `symmetry_operators`.
        oversampling: for interpolation. White noise keeps 0.95 of its amplitude at half the
            Nyquist frequency and 0.92 at all of it with 2; 0.82 and 0.52 with 1 (measured).

    Returns:
        `[b, n, n, n]`, dtype of the volumes.
    """
    check_ndim("volumes", volumes, 4)
    check_cubic("volumes", volumes, n_axes=3)
    check_tail("operators", operators, (3, 3))
    check_range("oversampling", oversampling, ge=1)
    group = operators.detach().to("cpu", torch.float64).numpy()
    exact, representatives = (torch.from_numpy(part) for part in split_operators(group))
    # the weight is carried along as one more volume: it is 1 inside the box and 0 outside
    stack = torch.cat([volumes, torch.ones_like(volumes[:1])])
    if len(representatives) > 1:
        stack = stack + _sum_interpolated(volumes, representatives[1:], oversampling)
    total = torch.zeros_like(stack)
    for operator in exact:
        total = total + _permute_voxels(stack, operator)
    return total[:-1] / total[-1:].clamp(min=1e-3)


def _sum_interpolated(volumes: Tensor, operators: Tensor, oversampling: int) -> Tensor:
    """Sum over operators of the values at `operator @ r`, with the number of those inside."""
    n = volumes.shape[-1]
    fine = oversampling * n
    source = volumes if oversampling == 1 else fourier_resize3(volumes, shape=(fine,) * 3)
    total = volumes.new_zeros(len(volumes) + 1, n, n, n)
    ones = torch.ones_like(volumes[:1])
    for operator in operators:
        inside = _turn(ones, operator, n, padding="zeros")
        values = _turn(source, operator, n, padding="border")
        total = total + torch.cat([values * inside, inside])
    return total


def _turn(volumes: Tensor, operator: Tensor, n: int, *, padding: str) -> Tensor:
    """Values at `operator @ r` for each voxel r of a box of n.

    The source has the same extent as the box and a whole multiple of its samples.
    """
    fine = volumes.shape[-1]
    # with align_corners the cube [-1, 1] reaches from the first sample to the last, so its
    # centre is (fine - 1) / 2, not fine // 2, and a voxel of the box is `step` long
    step = 2 * (fine // n) / max(fine - 1, 1)
    centre = (fine // 2 - (fine - 1) / 2) * 2 / max(fine - 1, 1)
    axis = (torch.arange(n, dtype=torch.float64) - n // 2) * step
    z, y, x = (operator[:, 2 - i, None] * axis for i in range(3))
    grid = z[:, :, None, None] + y[:, None, :, None] + x[:, None, None, :] + centre
    points = grid.movedim(0, -1).to(volumes)[None]
    turned = F.grid_sample(volumes[None], points, padding_mode=padding, align_corners=True)
    return turned[0]


def _permute_voxels(volumes: Tensor, operator: Tensor) -> Tensor:
    """Exact version of `_turn` for a signed permutation of the axes."""
    rows = operator.tolist()
    source = [next(column for column in range(3) if row[column]) for row in rows]
    # row i of the operator says which coordinate of r drives axis i of the source
    axes = [3 - source.index(column) for column in (2, 1, 0)]
    turned = volumes
    for i, row in enumerate(rows):
        if sum(row) < 0:
            turned = _reverse_about_centre(turned, 3 - i)
    return turned.permute(0, *axes)


def _reverse_about_centre(volumes: Tensor, axis: int) -> Tensor:
    """Mirror about index n // 2; the first plane of an even axis has no mate and is zero."""
    flipped = torch.flip(volumes, [axis])
    n = volumes.shape[axis]
    if n % 2 == 1:
        return flipped
    kept = flipped.narrow(axis, 0, n - 1)
    return torch.cat([torch.zeros_like(kept.narrow(axis, 0, 1)), kept], dim=axis)
