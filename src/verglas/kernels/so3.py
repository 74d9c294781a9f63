"""Rotations: Euler angles, quaternions, exponential map, distances and search grids.

Convention: Euler angles are RELION's, `rotation_ref_to_img = Rz(psi) Ry(tilt) Rz(rot)` with
passive elementary matrices, so that the last row is the viewing direction
`(sin tilt cos rot, sin tilt sin rot, cos tilt)`. Quaternions are (w, x, y, z).
"""

import torch
from torch import Tensor

from verglas.kernels._checks import check_tail
from verglas.kernels.healpix import healpix_angles, healpix_pixels
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "euler_to_matrix",
    "healpix_directions",
    "matrix_to_euler",
    "matrix_to_quaternion",
    "mean_rotation",
    "orientation_cells",
    "orientation_grid",
    "pose_distance_deg",
    "quaternion_to_matrix",
    "random_rotations",
    "refine_cells",
    "refine_orientation_grid",
    "rotation_angle_deg",
    "rotation_from_vector",
    "rotations_of_cells",
]

_POLE = 1e-12
_BLOCK = 1 << 16


def euler_to_matrix(angles_deg: Tensor) -> Tensor:
    """Matrix `rotation_ref_to_img` of Euler angles.

    Args:
        angles_deg: `[b, 3]` (rot, tilt, psi).

    Returns:
        `[b, 3, 3]`, float64.

    References:
        Heymann et al. 2005, doi:10.1016/j.jsb.2005.06.001.
    """
    check_tail("angles_deg", angles_deg, (3,))
    angles = torch.deg2rad(angles_deg.to(torch.float64))
    (ca, cb, cg), (sa, sb, sg) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    rows = [
        torch.stack([cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb], dim=-1),
        torch.stack([-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb], dim=-1),
        torch.stack([sb * ca, sb * sa, cb], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def matrix_to_euler(rotations_ref_to_img: Tensor) -> Tensor:
    """Euler angles of rotations.

    Convention: tilt in [0, 180], rot and psi in (-180, 180]; at the poles rot is 0.

    Args:
        rotations_ref_to_img: `[b, 3, 3]`.

    Returns:
        `[b, 3]` (rot, tilt, psi) in degrees, float64.
    """
    check_tail("rotations_ref_to_img", rotations_ref_to_img, (3, 3))
    m = rotations_ref_to_img.to(torch.float64)
    sine = torch.hypot(m[..., 2, 0], m[..., 2, 1])
    pole = sine < _POLE
    rot = torch.where(pole, 0.0, torch.atan2(m[..., 2, 1], m[..., 2, 0]))
    psi_away = torch.atan2(m[..., 1, 2], -m[..., 0, 2])
    psi = torch.where(pole, torch.atan2(m[..., 0, 1], m[..., 1, 1]), psi_away)
    tilt = torch.atan2(sine, m[..., 2, 2])
    return torch.rad2deg(torch.stack([rot, tilt, psi], dim=-1))


def rotation_from_vector(vectors: Tensor) -> Tensor:
    """Exponential map: the active right-handed turn about a vector by its length.

    Convention: `exp([v]x)`, so `(0, 0, a)` takes +x towards +y; the passive elementary
    matrix of an Euler angle a is the map of `-a`. Finite gradients at zero.

    Args:
        vectors: `[b, 3]`, radians.

    Returns:
        `[b, 3, 3]`, dtype of the vectors.
    """
    check_tail("vectors", vectors, (3,))
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1)
    cross = cross.reshape(*vectors.shape, 3)
    square = vectors.square().sum(-1)
    small = square < 1e-4
    angle = torch.sqrt(torch.where(small, 1.0, square))
    sine = torch.where(small, 1 - square / 6 + square**2 / 120, torch.sin(angle) / angle)
    versine = torch.where(
        small, 0.5 - square / 24 + square**2 / 720, (1 - torch.cos(angle)) / angle**2
    )
    eye = torch.eye(3, dtype=vectors.dtype, device=vectors.device)
    return eye + sine[..., None, None] * cross + versine[..., None, None] * (cross @ cross)


def rotation_angle_deg(rotations: Tensor) -> Tensor:
    """Angle by which each rotation turns, in [0, 180].

    Args:
        rotations: `[b, 3, 3]`.

    Returns:
        `[b]`, float64; accurate near 0 and near 180.
    """
    check_tail("rotations", rotations, (3, 3))
    m = rotations.to(torch.float64)
    axial = torch.stack(
        [
            m[..., 2, 1] - m[..., 1, 2],
            m[..., 0, 2] - m[..., 2, 0],
            m[..., 1, 0] - m[..., 0, 1],
        ],
        dim=-1,
    )
    trace = m.diagonal(dim1=-2, dim2=-1).sum(-1)
    return torch.rad2deg(torch.atan2(axial.norm(dim=-1), trace - 1))


def pose_distance_deg(rotations_a: Tensor, rotations_b: Tensor, operators: Tensor) -> Tensor:
    """Smallest angle between poses, over the mates of a point group.

    Convention: poses are `rotation_ref_to_img`; mates are `rotation_ref_to_img @ g`.

    Args:
        rotations_a: `[b, 3, 3]`.
        rotations_b: `[b, 3, 3]`.
        operators: `[g, 3, 3]`, from `symmetry_operators`.

    Returns:
        `[b]`, degrees, float64.
    """
    for name, tensor in (("a", rotations_a), ("b", rotations_b), ("operators", operators)):
        check_tail(name, tensor, (3, 3))
    if rotations_a.shape != rotations_b.shape:
        raise ValueError(f"shapes differ: {rotations_a.shape} and {rotations_b.shape}")
    group = operators.to(rotations_a.device, torch.float64)
    n = len(rotations_a)
    blocks = [slice(at, at + _BLOCK) for at in range(0, max(n, 1), _BLOCK)]
    return torch.cat([_block_distance(rotations_a[s], rotations_b[s], group) for s in blocks])


def matrix_to_quaternion(rotations: Tensor) -> Tensor:
    """Unit quaternions (w, x, y, z) of rotations, with w >= 0.

    Args:
        rotations: `[b, 3, 3]`.

    Returns:
        `[b, 4]`, dtype of the rotations.

    References:
        Shepperd 1978, doi:10.2514/3.55767b.
    """
    check_tail("rotations", rotations, (3, 3))
    (xx, xy, xz), (yx, yy, yz), (zx, zy, zz) = (r.unbind(-1) for r in rotations.unbind(-2))
    # row i is the quaternion times 4 q_i; the longest row is the safe one
    rows = torch.stack(
        [
            torch.stack([1 + xx + yy + zz, zy - yz, xz - zx, yx - xy], dim=-1),
            torch.stack([zy - yz, 1 + xx - yy - zz, xy + yx, xz + zx], dim=-1),
            torch.stack([xz - zx, xy + yx, 1 - xx + yy - zz, yz + zy], dim=-1),
            torch.stack([yx - xy, xz + zx, yz + zy, 1 - xx - yy + zz], dim=-1),
        ],
        dim=-2,
    )
    best = rows.diagonal(dim1=-2, dim2=-1).argmax(-1)
    row = torch.take_along_dim(rows, best[..., None, None], dim=-2).squeeze(-2)
    quaternion = row / row.norm(dim=-1, keepdim=True)
    return torch.where(quaternion[..., :1] < 0, -quaternion, quaternion)


def quaternion_to_matrix(quaternions: Tensor) -> Tensor:
    """Rotations of quaternions (w, x, y, z) of any length but zero.

    Args:
        quaternions: `[b, 4]`.

    Returns:
        `[b, 3, 3]`, dtype of the quaternions.
    """
    check_tail("quaternions", quaternions, (4,))
    w, x, y, z = (quaternions / quaternions.norm(dim=-1, keepdim=True)).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], dim=-1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], dim=-1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], dim=-1),
    ]
    return torch.stack(rows, dim=-2)


def mean_rotation(rotations: Tensor, weights: Tensor | None = None) -> Tensor:
    """Rotation nearest to a set of rotations in the least-squares (chordal) sense.

    Args:
        rotations: `[b, n, 3, 3]`.
        weights: `[b, n]`, not negative; equal weights without it.

    Returns:
        `[b, 3, 3]`, dtype of the rotations.

    References:
        Moakher 2002, doi:10.1137/S0895479801383877.
    """
    check_tail("rotations", rotations, (3, 3))
    weighted = rotations if weights is None else rotations * weights[..., None, None]
    u, _, vh = torch.linalg.svd(weighted.sum(-3))
    sign = torch.ones_like(u[..., 0])
    sign[..., 2] = torch.linalg.det(u @ vh)
    mean: Tensor = (u * sign[..., None, :]) @ vh
    return mean


def random_rotations(n: int, *, generator: torch.Generator) -> Tensor:
    """Rotations uniform in SO(3), `[n, 3, 3]` float64, on the generator's device.

    References:
        Shoemake 1992, Graphics Gems III, 124 (a Gaussian 4-vector is a uniform quaternion).
    """
    normal = torch.randn(n, 4, dtype=torch.float64, generator=generator, device=generator.device)
    return quaternion_to_matrix(normal)


def healpix_directions(order: int) -> Tensor:
    """Viewing directions of the HEALPix grid, NESTED.

    Returns:
        `[12 * 4^order, 2]` (rot, tilt) in degrees, float64.
    """
    return healpix_angles(torch.arange(12 * 4**order), order=order)


def orientation_cells(order: int, *, symmetry: str = "C1") -> Tensor:
    """Numbers of the grid cells in one fundamental domain of a point group.

    Convention: cell = direction pixel (NESTED) * n_psi + psi index, n_psi = 6 * 2^order. A
    direction is kept when it is nearer than all its mates to one fixed direction of no
    symmetry, so each set of mates is kept about once and all psi of a direction together.

    Args:
        order: 0 and up; steps of 60 / 2^order degrees.
        symmetry: name of the point group.

    Returns:
        `[n]`, int64, ascending; n is about 72 * 8^order / group order.
    """
    rot, tilt = torch.deg2rad(healpix_directions(order)).unbind(-1)
    sine = torch.sin(tilt)
    directions = torch.stack([sine * torch.cos(rot), sine * torch.sin(rot), torch.cos(tilt)], -1)
    generic = torch.tensor([0.3131, 0.1723, 0.9340], dtype=torch.float64)
    mates = symmetry_operators(symmetry) @ generic
    cosines = directions @ mates.T
    pixels = torch.nonzero(cosines.argmax(-1) == 0).squeeze(-1)
    if not len(pixels):
        # a coarse grid may miss a small domain
        pixels = cosines[:, 0].argmax()[None]
    n_psi = 6 * 2**order
    cells: Tensor = pixels[:, None] * n_psi + torch.arange(n_psi)
    return cells.reshape(-1)


def rotations_of_cells(cells: Tensor, *, order: int) -> Tensor:
    """Rotations at the centres of grid cells.

    Convention: psi = (j + 1/2) step - rot on the four faces around tilt 0, + rot on those
    around tilt 180 and unpaired between them (the Hopf pairing and its two other charts), so
    that cells neither crowd at a pole nor are torn apart there by refinement.

    Args:
        cells: `[n]`, from `orientation_cells` or `refine_cells`.
        order: of the grid that the cells are numbered in.

    Returns:
        `[n, 3, 3]` `rotation_ref_to_img`, float64.

    References:
        Yershova et al. 2010, doi:10.1177/0278364909352700.
    """
    n_psi = 6 * 2**order
    pixels = cells // n_psi
    angles = healpix_angles(pixels, order=order)
    psi = (cells % n_psi + 0.5) * (360 / n_psi) - _pairing(pixels, order) * angles[:, 0]
    return euler_to_matrix(torch.cat([angles, psi[:, None]], dim=-1))


def refine_cells(cells: Tensor, *, order: int) -> Tensor:
    """Children of grid cells at the next order: 4 directions x 2 psi.

    Args:
        cells: `[n]`, numbered at `order`.
        order: of the parents; the children have `order + 1`.

    Returns:
        `[n, 8]`, int64, numbered at `order + 1`.
    """
    n_psi = 6 * 2**order
    pixel, psi = cells // n_psi, cells % n_psi
    child = torch.arange(8, device=cells.device)
    pixels = 4 * pixel[:, None] + child // 2
    cells_of_children: Tensor = pixels * (2 * n_psi) + 2 * psi[:, None] + child % 2
    return cells_of_children


def orientation_grid(order: int, *, symmetry: str = "C1") -> Tensor:
    """Near-uniform grid of poses over one fundamental domain of a point group.

    Args:
        order: 0 and up; steps of 60 / 2^order degrees.
        symmetry: name of the point group.

    Returns:
        `[n, 3, 3]` `rotation_ref_to_img`, float64, all psi of a direction together; n is
        72 * 8^order for C1 and about that over the group order else.
    """
    return rotations_of_cells(orientation_cells(order, symmetry=symmetry), order=order)


def refine_orientation_grid(parents: Tensor, order: int) -> Tensor:
    """Eight poses at half the step around each parent pose.

    Args:
        parents: `[n, 3, 3]`, any poses; each is replaced by the cell that it falls in.
        order: of the grid that the parents belong to.

    Returns:
        `[n, 8, 3, 3]`, float64, poses of the grid of `order + 1`.
    """
    check_tail("parents", parents, (3, 3))
    n_psi = 6 * 2**order
    angles = matrix_to_euler(parents)
    pixels = healpix_pixels(angles[:, :2], order=order)
    twist = (angles[:, 2] + _pairing(pixels, order) * angles[:, 0]) % 360
    cells = pixels * n_psi + (twist * (n_psi / 360)).floor().to(torch.int64) % n_psi
    children = refine_cells(cells, order=order).reshape(-1)
    return rotations_of_cells(children, order=order + 1).reshape(-1, 8, 3, 3)


def _pairing(pixels: Tensor, order: int) -> Tensor:
    """Sign with which rot is paired with psi: 1 on northern faces, 0, -1 on southern ones."""
    sign: Tensor = 1 - pixels // (4 * 4**order)
    return sign


def _block_distance(a: Tensor, b: Tensor, group: Tensor) -> Tensor:
    between = a.to(torch.float64).transpose(-1, -2) @ b.to(torch.float64)
    # trace(between @ g) for all operators at once
    traces = between.reshape(-1, 9) @ group.transpose(-1, -2).reshape(-1, 9).T
    nearest = group[traces.argmax(-1)]
    return rotation_angle_deg(between @ nearest)
