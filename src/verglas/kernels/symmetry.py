"""Point groups in RELION's axes, and symmetrising volumes.

Names are C n, D n, T, O, I1 ... I4; `I` means I2. The n-fold axis is z; D has a 2-fold
along x; T a 3-fold along z; O its 4-folds along x, y, z; I1 and I2 have 2-folds along
x, y, z (they differ by a quarter turn), I3 and I4 a 5-fold along z (and differ by a half turn).
Source of the axes: RELION 5, src/symmetries.cpp.
"""

import math
import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.core.checks import check_cubic, check_ndim, check_range
from verglas.kernels._checks import check_tail
from verglas.kernels.fourier import fourier_resize3

__all__ = ["parse_symmetry", "symmetrise_volume", "symmetry_operators"]

_MAX_FOLD = 99
_Axis = tuple[int, Sequence[float]]

_SHORT, _LONG = math.sqrt((5 - math.sqrt(5)) / 10), math.sqrt((5 + math.sqrt(5)) / 10)
_POLYHEDRAL: dict[str, list[_Axis]] = {
    "T": [(3, (0, 0, 1)), (2, (0, math.sqrt(2), 1))],
    "O": [(3, (1, 1, 1)), (4, (0, 0, 1))],
    "I1": [(2, (1, 0, 0)), (5, (_LONG, 0, -_SHORT))],
    "I2": [(2, (0, 0, 1)), (5, (_SHORT, 0, _LONG))],
    "I3": [(2, (-_SHORT, 0, _LONG)), (5, (0, 0, 1))],
    "I4": [(2, (_SHORT, 0, _LONG)), (5, (2, 0, 1))],
}
_ORDERS = {"T": 12, "O": 24, "I1": 60, "I2": 60, "I3": 60, "I4": 60}


def parse_symmetry(name: str) -> str:
    """Normalise the name of a point group, or raise `ValueError`.

    Returns:
        One of `C1` ... `C99`, `D1` ... `D99`, `T`, `O`, `I1` ... `I4`.
    """
    group = name.strip().upper()
    if group == "I":
        return "I2"
    if group in _POLYHEDRAL:
        return group
    match = re.fullmatch(r"([CD])(\d+)", group)
    if match and 1 <= int(match[2]) <= _MAX_FOLD:
        return f"{match[1]}{int(match[2])}"
    raise ValueError(f"point group must be Cn, Dn, T, O, I or I1 ... I4: got {name!r}")


def symmetry_operators(name: str) -> Tensor:
    """Rotations of a point group.

    Convention: `volume(g r) = volume(r)` for every operator g, which acts on (x, y, z)
    column vectors; a pose `rotation_ref_to_img` is equivalent to `rotation_ref_to_img @ g`.

    Returns:
        `[g, 3, 3]`, float64, the identity first; n, 2 n, 12, 24 or 60 operators.
    """
    group = parse_symmetry(name)
    if group in _POLYHEDRAL:
        generators, order = _POLYHEDRAL[group], _ORDERS[group]
    else:
        fold = int(group[1:])
        generators, order = [(fold, (0, 0, 1))], fold
        if group[0] == "D":
            generators, order = [*generators, (2, (1, 0, 0))], 2 * fold
    operators = _close([_axis_rotation(fold, axis) for fold, axis in generators])
    assert len(operators) == order, f"{group} closed with {len(operators)} operators"
    return operators


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
    group = operators.detach().to("cpu", torch.float64)
    exact, representatives = _split(group)
    # the weight is carried along as one more volume: it is 1 inside the box and 0 outside
    stack = torch.cat([volumes, torch.ones_like(volumes[:1])])
    if len(representatives) > 1:
        stack = stack + _sum_interpolated(volumes, representatives[1:], oversampling)
    total = torch.zeros_like(stack)
    for operator in exact:
        total = total + _permute_voxels(stack, operator)
    return total[:-1] / total[-1:].clamp(min=1e-3)


def _split(group: Tensor) -> tuple[Tensor, Tensor]:
    """Signed permutations h, and representatives c, such that each operator is one c h."""
    rounded = group.round()
    exact = rounded[(group - rounded).abs().amax((1, 2)) < 1e-9]
    remaining, representatives = group, []
    while len(remaining):
        representatives.append(remaining[0])
        coset = (remaining[0] @ exact).reshape(1, -1, 9)
        gap = (remaining.reshape(-1, 1, 9) - coset).abs().amax(-1).amin(1)
        remaining = remaining[gap > 1e-6]
    return exact.to(torch.int64), torch.stack(representatives)


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


def _axis_rotation(fold: int, axis: Sequence[float]) -> Tensor:
    direction = torch.tensor(axis, dtype=torch.float64)
    x, y, z = (direction / direction.norm() * (2 * math.pi / fold)).tolist()
    generator = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
    rotation: Tensor = torch.linalg.matrix_exp(generator)
    return rotation


def _close(generators: list[Tensor]) -> Tensor:
    """All products of the generators, each once, in a stable order."""
    operators = torch.eye(3, dtype=torch.float64)[None]
    frontier = operators
    while len(frontier):
        products = torch.cat([frontier @ generator for generator in generators])
        fresh: list[Tensor] = []
        for product in products:
            known = torch.cat([operators, *[f[None] for f in fresh]])
            if (known - product).abs().amax((1, 2)).min() > 1e-6:
                fresh.append(_clean(product))
        frontier = torch.stack(fresh) if fresh else operators[:0]
        operators = torch.cat([operators, frontier])
    return operators


def _clean(rotation: Tensor) -> Tensor:
    """Nearest rotation, with entries that are 0, 1/2 or 1 up to rounding made exact."""
    u, _, vh = torch.linalg.svd(rotation)
    nearest = u @ vh
    halves = (nearest * 2).round() / 2
    return torch.where((nearest - halves).abs() < 1e-12, halves, nearest)
