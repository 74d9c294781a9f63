"""Specimens that need no file: a hollow octahedral shell and an asymmetric complex.

Both are made of helices and strands with side chains at the density of protein, so that
maps, resolutions and hands mean what they mean for real specimens. Equal seed, equal atoms.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from verglas.kernels.symmetry import symmetry_operators
from verglas.simulate.atoms import Atoms, centred, concatenate, transformed
from verglas.simulate.peptide import Fold, add_side_chains, helix, strand

__all__ = ["PhantomName", "apoferritin_like", "asymmetric_complex", "make_phantom"]

Floats = NDArray[np.float64]
PhantomName = Literal["apoferritin", "asymmetric"]

_HALF_TURN = np.diag([1.0, -1.0, -1.0])  # antiparallel: z to -z
_HELIX_GAP_ANGST, _STRAND_GAP_ANGST, _SHEET_GAP_ANGST = 9.6, 4.8, 10.0
_HELIX_RISE_ANGST, _STRAND_RISE_ANGST = 1.55, 3.37
_CONTACT_ANGST = 2.8
_N_DOCKINGS = 48

# Place of one subunit (four helices and a short fifth) in the shell: found once by moving it
# until no helix axis comes nearer than 10 Å to another and all lie 44 to 58 Å from the centre,
# as in ferritin.
_SUBUNIT_TURN = (-0.5748, 1.4637, 3.2380)  # rotation vector, radian
_SUBUNIT_CENTRE_ANGST = (41.65, 25.57, 4.47)
_FIFTH_CENTRE_ANGST = (43.57, 26.47, 23.90)
_FIFTH_DIRECTION = (0.6304, -0.5148, -0.5810)


def _spun(fold: Fold, rng: np.random.Generator) -> Fold:
    """Turn a stretch about its own axis by a random angle."""
    turn = Rotation.from_rotvec([0, 0, rng.uniform(0, 2 * np.pi)]).as_matrix()
    return fold.moved(turn, np.zeros(3))


def _pointing(fold: Fold, direction: Floats, centre: Floats) -> Fold:
    """Turn the z axis of a stretch onto a direction and put its middle at a place."""
    turn = Rotation.align_vectors([direction], [[0.0, 0.0, 1.0]])[0].as_matrix()
    return fold.moved(turn, centre)


def _subunit(rng: np.random.Generator) -> list[Fold]:
    turn = Rotation.from_rotvec(_SUBUNIT_TURN).as_matrix()
    half = _HELIX_GAP_ANGST / 2
    folds = []
    for index, (x, y) in enumerate([(-half, -half), (-half, half), (half, half), (half, -half)]):
        fold = _spun(helix(29), rng)
        if index % 2:
            fold = fold.moved(_HALF_TURN, np.zeros(3))
        fold = fold.moved(np.eye(3), np.array([x, y, 0.0]))
        folds.append(fold.moved(turn, np.array(_SUBUNIT_CENTRE_ANGST)))
    fifth = _spun(helix(12), rng)
    direction = np.array(_FIFTH_DIRECTION)
    folds.append(_pointing(fifth, direction, np.array(_FIFTH_CENTRE_ANGST)))
    return folds


def apoferritin_like(seed: int = 0) -> Atoms:
    """Build a hollow shell of 24 five-helix subunits with octahedral symmetry.

    Convention: the symmetry axes are those of `symmetry_operators("O")`, 4-folds on x, y, z.

    Returns:
        About 26 thousand atoms, 40 to 62 Å from the origin.
    """
    rng = np.random.default_rng(seed)
    operators = symmetry_operators("O").numpy()
    folds = _subunit(rng)
    backbone = np.concatenate([fold.backbone_angst.reshape(-1, 3) for fold in folds])
    mates = np.concatenate([backbone @ operator.T for operator in operators[1:]])
    nearby = cKDTree(backbone).query(mates, distance_upper_bound=14)[0] < 14
    unit = add_side_chains(folds, rng, mates[nearby])
    return concatenate([transformed(unit, operator) for operator in operators])


def _helical_domain(radius_angst: float, rng: np.random.Generator) -> list[Fold]:
    """Fill a ball with antiparallel helices on a hexagonal lattice."""
    gap, folds = _HELIX_GAP_ANGST, []
    origin = rng.uniform(-gap / 2, gap / 2, 2)
    for row in range(-4, 5):
        for column in range(-4, 5):
            x = (column + row / 2) * gap + origin[0]
            y = row * gap * np.sqrt(3) / 2 + origin[1]
            half_length = np.sqrt(max(radius_angst**2 - x * x - y * y, 0))
            n_residues = int(2 * half_length / _HELIX_RISE_ANGST)
            if n_residues < 8:
                continue
            fold = _spun(helix(n_residues), rng)
            if (row + column) % 2:
                fold = fold.moved(_HALF_TURN, np.zeros(3))
            folds.append(fold.moved(np.eye(3), np.array([x, y, 0.0])))
    return folds


def _sheet_domain(radius_angst: float, rng: np.random.Generator) -> list[Fold]:
    """Fill a ball with layers of antiparallel strands, each layer turned against the last."""
    folds = []
    n_layers = int(2 * radius_angst / _SHEET_GAP_ANGST)
    for layer in range(n_layers):
        x = (layer - (n_layers - 1) / 2) * _SHEET_GAP_ANGST
        turn = Rotation.from_rotvec([np.deg2rad(30 * layer), 0, 0]).as_matrix()
        for row in range(-6, 7):
            y = row * _STRAND_GAP_ANGST
            half_length = np.sqrt(max(radius_angst**2 - x * x - y * y, 0))
            n_residues = int(2 * half_length / _STRAND_RISE_ANGST)
            if n_residues < 4:
                continue
            fold = strand(n_residues)
            if row % 2:
                fold = fold.moved(_HALF_TURN, np.zeros(3))
            folds.append(fold.moved(turn, turn @ np.array([x, y, 0.0])))
    return folds


# Radius in Å and fold of each domain, the first in the middle: unequal on purpose.
_DOMAINS = (
    (25.0, "helices"), (22.0, "helices"), (19.0, "sheets"), (23.0, "helices"),
    (17.0, "helices"), (21.0, "sheets"), (18.0, "helices"),
)  # fmt: skip


def _domain(radius_angst: float, content: str, rng: np.random.Generator) -> Atoms:
    build = _helical_domain if content == "helices" else _sheet_domain
    atoms = add_side_chains(build(radius_angst, rng), rng)
    return transformed(atoms, Rotation.random(rng=rng).as_matrix())


def _contact_angst(tree: cKDTree, positions_angst: Floats, direction: Floats) -> float:
    """Find how near a part can come along a direction before atoms touch."""
    near, far = 0.0, 200.0
    while far - near > 0.1:
        middle = (near + far) / 2
        moved = positions_angst + middle * direction
        touches = np.isfinite(tree.query(moved, distance_upper_bound=_CONTACT_ANGST)[0]).any()
        near, far = (middle, far) if touches else (near, middle)
    return far


def _docked(grown: Atoms, part: Atoms, rng: np.random.Generator) -> Atoms:
    """Bring a part in from several sides and keep the place nearest to the middle."""
    directions = rng.normal(size=(_N_DOCKINGS, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    tree = cKDTree(grown.positions_angst)
    sample = part.positions_angst[::8]
    best = directions[np.argmin([_contact_angst(tree, sample, each) for each in directions])]
    return transformed(part, np.eye(3), _contact_angst(tree, part.positions_angst, best) * best)


def asymmetric_complex(seed: int = 0) -> Atoms:
    """Build a complex of seven unequal domains of helices or sheets, without symmetry.

    Returns:
        About 17 thousand atoms, 230 kDa, centre of mass at the origin.
    """
    rng = np.random.default_rng(seed)
    grown = _domain(*_DOMAINS[0], rng)
    for radius, content in _DOMAINS[1:]:
        grown = concatenate([grown, _docked(grown, _domain(radius, content, rng), rng)])
    return centred(grown)


def make_phantom(name: PhantomName, seed: int = 0) -> Atoms:
    """Build the named specimen."""
    return apoferritin_like(seed) if name == "apoferritin" else asymmetric_complex(seed)
