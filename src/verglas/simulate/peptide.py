"""Helices and strands with side chains, built atom by atom for specimens that need no file.

Bond lengths, angles and L-chirality are those of proteins, so that a phantom has the
secondary structure, density and hand that maps of proteins have. Sequences are random, and
rings are left out: what matters is the signal from 20 to 3 Å, not chemistry.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from verglas.simulate.atoms import Atoms

__all__ = ["Fold", "add_side_chains", "helix", "strand"]

Floats = NDArray[np.float64]

# Engh & Huber 1991, Acta Cryst. A47:392: bonds in Å, angles in degree.
_N_CA, _CA_C, _C_N, _C_O, _C_C = 1.458, 1.525, 1.329, 1.231, 1.53
_AT_CA, _AT_C, _AT_N, _AT_O, _AT_CHAIN = 111.0, 117.2, 121.7, 120.1, 112.0
_CB_FROM_N, _CB_IMPROPER = 110.5, -122.6

_YZX, _ZXY = [1, 2, 0], [2, 0, 1]

_CLASH_ANGST = 3.6
_REACH_ANGST = 10.0  # of a stretched side chain, and a contact
_TRIALS = 10
_B_BACKBONE_ANGST2, _B_PER_BOND_ANGST2 = 20.0, 4.0


@dataclass(frozen=True)
class _SideChain:
    """Atoms from the C-alpha outwards; `twin` is a second last atom, 0 for none."""

    chain: tuple[int, ...]
    twin: int
    share: float


# Shares follow the residues of proteins (Swiss-Prot); a ring is replaced by a chain as heavy.
_SIDE_CHAINS = (
    _SideChain((), 0, 7.1),
    _SideChain((6,), 0, 9.6),
    _SideChain((6, 8), 0, 6.6),
    _SideChain((6, 6), 8, 5.4),
    _SideChain((6, 6), 6, 6.9),
    _SideChain((6, 6, 6), 6, 15.6),
    _SideChain((6, 6, 8), 8, 5.5),
    _SideChain((6, 6, 7), 8, 4.1),
    _SideChain((6, 6, 6, 8), 8, 6.7),
    _SideChain((6, 6, 6, 7), 8, 3.9),
    _SideChain((6, 6, 16, 6), 0, 2.4),
    _SideChain((6, 6, 6, 6, 7), 0, 5.8),
    _SideChain((6, 6, 6, 7, 6, 7), 7, 5.5),
    _SideChain((6, 6, 6, 6, 6, 6), 6, 8.0),
)


def _cross(a: Floats, b: Floats) -> Floats:
    """Cross product without numpy's overhead, which is most of the time for single vectors."""
    return np.asarray(a[..., _YZX] * b[..., _ZXY] - a[..., _ZXY] * b[..., _YZX])


def _unit(vectors: Floats) -> Floats:
    return np.asarray(vectors / np.sqrt((vectors * vectors).sum(-1, keepdims=True)))


def _place(
    a: Floats, b: Floats, c: Floats, bond: float, angle_deg: float, dihedral_deg: Floats | float
) -> Floats:
    """Put an atom at `bond` from c, `angle_deg` at c to b and `dihedral_deg` a-b-c-new.

    Args:
        a, b, c: `[..., 3]`.
        dihedral_deg: number or `[...]`.
    """
    axis = _unit(c - b)
    normal = _unit(_cross(b - a, axis))
    third = _cross(normal, axis)
    t, p = np.deg2rad(angle_deg), np.deg2rad(np.asarray(dihedral_deg))[..., None]
    across = np.cos(p) * third + np.sin(p) * normal
    return np.asarray(c + bond * (np.sin(t) * across - np.cos(t) * axis))


@dataclass(frozen=True)
class Fold:
    """The backbone of one stretch: `[n_residues, 4, 3]`, atoms N, CA, C, O."""

    backbone_angst: Floats

    def moved(self, rotation_ref_to_ref: Floats, offset_angst: Floats) -> Fold:
        """Turn about the origin, then move."""
        return Fold(self.backbone_angst @ rotation_ref_to_ref.T + offset_angst)


def _backbone(n_residues: int, phi_deg: float, psi_deg: float) -> Fold:
    """Build a stretch of one phi and psi, its axis on z and its middle at the origin."""
    n, ca = np.zeros(3), np.array([_N_CA, 0.0, 0.0])
    t = np.deg2rad(_AT_CA)
    c = ca + _CA_C * np.array([-np.cos(t), np.sin(t), 0.0])
    atoms = []
    for _ in range(n_residues):
        after = _place(n, ca, c, _C_N, _AT_C, psi_deg)
        oxygen = _place(n, ca, c, _C_O, _AT_O, psi_deg + 180)
        atoms.append([n, ca, c, oxygen])
        following = _place(ca, c, after, _N_CA, _AT_N, 180.0)
        n, ca, c = after, following, _place(c, after, following, _CA_C, _AT_CA, phi_deg)
    return _along_z(np.array(atoms))


def _along_z(backbone: Floats) -> Fold:
    """Turn the helix axis, which the second differences of C-alpha are square to, onto z."""
    ca = backbone[:, 1]
    bends = np.diff(ca, n=2, axis=0)
    axis = np.linalg.svd(bends)[2][-1]
    axis *= np.sign(axis @ (ca[-1] - ca[0]))
    side = np.cross(axis, [1.0, 0.0, 0.0] if abs(axis[0]) < 0.9 else [0.0, 1.0, 0.0])
    side /= np.linalg.norm(side)
    turn = np.stack([side, np.cross(axis, side), axis])
    turned = backbone @ turn.T
    return Fold(turned - turned[:, :3].reshape(-1, 3).mean(0))


def helix(n_residues: int) -> Fold:
    """Build a right-handed alpha helix along z: 3.6 residues a turn, 1.5 Å rise."""
    return _backbone(n_residues, -57.8, -47.0)


def strand(n_residues: int) -> Fold:
    """Build an extended strand along z, 3.3 Å a residue."""
    return _backbone(n_residues, -120.0, 130.0)


def _grow(residue: Floats, side: _SideChain, torsions_deg: Floats) -> Floats:
    """Place a side chain for each row of torsions; `[t, n, 3]`, the twin last."""
    n, ca, c = (np.broadcast_to(residue[i], (len(torsions_deg), 3)) for i in range(3))
    atoms = [n, ca, _place(c, n, ca, _C_C, _CB_FROM_N, _CB_IMPROPER)]
    for torsion in torsions_deg.T:
        atoms.append(_place(atoms[-3], atoms[-2], atoms[-1], _C_C, _AT_CHAIN, torsion))
    if side.twin:
        twin = _place(atoms[-4], atoms[-3], atoms[-2], _C_C, _AT_CHAIN, torsions_deg[:, -1] + 120)
        atoms.append(twin)
    return np.stack(atoms[2:], 1)


def _best_side_chain(
    residue: Floats, side: _SideChain, around: Floats, rng: np.random.Generator
) -> Floats:
    """Try random rotamers and keep the one that collides least."""
    n_torsions = len(side.chain) - 1
    trials = rng.choice([-60.0, 60.0, 180.0], (_TRIALS if n_torsions else 1, n_torsions))
    trials += rng.normal(0, 10, trials.shape)
    grown = _grow(residue, side, trials)
    near = around[(np.abs(around - residue[1]) < _REACH_ANGST).all(1)]
    # the residue's own backbone is always near, by bonds and not by collision
    own = ((near[:, None] - residue[:3]) ** 2).sum(-1).min(1) < 1e-6
    square = ((grown[:, :, None] - near[~own]) ** 2).sum(-1)
    score = np.clip(_CLASH_ANGST**2 - square, 0, None).sum((1, 2))
    return np.asarray(grown[np.argmin(score)])


def _kept_apart(positions: Floats, bonds_out: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the atoms to keep when, of each pair nearer than 0.9 Å, the outer one is dropped."""
    keep = np.ones(len(positions), bool)
    for i, j in cKDTree(positions).query_pairs(0.9):
        keep[i if bonds_out[i] > bonds_out[j] else j] = False
    return keep


def add_side_chains(
    folds: list[Fold], rng: np.random.Generator, neighbours_angst: Floats | None = None
) -> Atoms:
    """Give every residue a random side chain that avoids what is there already.

    Args:
        folds: backbones in their final places.
        rng: draws the sequence and the rotamers.
        neighbours_angst: `[m, 3]`, atoms of others (symmetry mates) to keep clear of.
    """
    residues = np.concatenate([fold.backbone_angst for fold in folds])
    backbone = residues.reshape(-1, 3)
    others = np.empty((0, 3)) if neighbours_angst is None else neighbours_angst
    crowd = np.concatenate([backbone, others, np.full((8 * len(residues), 3), np.inf)])
    filled = len(backbone) + len(others)
    first = filled
    numbers = [np.tile([7, 6, 6, 8], len(residues))]
    bonds_out = [np.tile([0, 0, 0, 1], len(residues))]
    share = np.array([side.share for side in _SIDE_CHAINS])
    kinds = rng.choice(len(_SIDE_CHAINS), len(residues), p=share / share.sum())
    for residue, kind in zip(residues, kinds, strict=True):
        side = _SIDE_CHAINS[kind]
        if not side.chain:
            continue
        grown = _best_side_chain(residue, side, crowd[:filled], rng)
        crowd[filled : filled + len(grown)] = grown
        filled += len(grown)
        steps = np.arange(1, len(side.chain) + 1)
        numbers.append(np.array([*side.chain, side.twin][: len(grown)]))
        bonds_out.append(np.concatenate([steps, steps[-1:]])[: len(grown)])
    positions = np.concatenate([backbone, crowd[first:filled]])
    number, bonds = np.concatenate(numbers), np.concatenate(bonds_out)
    keep = _kept_apart(positions, bonds)
    b_factor = _B_BACKBONE_ANGST2 + _B_PER_BOND_ANGST2 * bonds
    return Atoms.from_arrays(positions[keep], number[keep], b_factor[keep])
