"""Random particles of many kinds, as clouds of Gaussian blobs.

For training where variety counts and atoms do not: balls, shells, rods, barrels of stacked rings,
discs with domains as membrane proteins in detergent, three-armed and beaded complexes, and
domains repeated about cyclic, dihedral, tetrahedral, octahedral and icosahedral axes.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from verglas.kernels.symmetry import symmetry_operators

__all__ = ["KINDS_OF_SHAPE", "Shape", "draw_shape", "project_shape", "random_rotations"]

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Rng = np.random.Generator

_BLOBS = 220
_OUTER_QUANTILE = 0.98


@dataclass(frozen=True)
class Shape:
    """A specimen about its centre of mass; lengths in diameters of its circumscribed sphere.

    Attributes:
        centres: `[n, 3]`, blobs within 0.5 of the origin.
        weights: `[n]`.
        sigma: of every blob.
        kind: name of the recipe.
    """

    centres: Floats
    weights: Floats
    sigma: float
    kind: str


def _in_ball(rng: Rng, n: int) -> Doubles:
    points = rng.normal(size=(n, 3))
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    inside: Doubles = points * rng.uniform(size=(n, 1)) ** (1 / 3)
    return inside


def _ball(rng: Rng, n: int) -> Doubles:
    return _in_ball(rng, n) * rng.uniform(0.6, 1.0, 3)


def _shell(rng: Rng, n: int) -> Doubles:
    direction = rng.normal(size=(n, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    shell: Doubles = direction * rng.uniform(rng.uniform(0.5, 0.85), 1.0, (n, 1))
    return shell


def _rod(rng: Rng, n: int) -> Doubles:
    width = rng.uniform(0.2, 0.5)
    points = _in_ball(rng, n) * width
    points[:, 2] = rng.uniform(-1, 1, n)
    if rng.uniform() < 0.3:  # bent or with a head
        points[:, 0] += rng.uniform(-0.6, 0.6) * points[:, 2] ** 2
    return points


def _barrel(rng: Rng, n: int) -> Doubles:
    """Stack rings of subunits; a ring alone is flat."""
    fold, n_rings = int(rng.integers(5, 15)), int(rng.integers(1, 5))
    angle = 2 * np.pi / fold * (rng.integers(0, fold, n) + rng.normal(0, 0.12, n))
    radius = 1 + rng.uniform(-1, 1, n) * rng.uniform(0.15, 0.45)
    height = rng.uniform(0.35, 0.75) * (rng.integers(0, n_rings, n) + rng.uniform(-0.4, 0.4, n))
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], axis=1)


def _membrane(rng: Rng, n: int) -> Doubles:
    """Protein through a belt of detergent, with domains on one side or both."""
    n_belt = int(n * rng.uniform(0.2, 0.5))
    belt = _in_ball(rng, n_belt) * [1.0, 1.0, rng.uniform(0.25, 0.5)]
    core = _in_ball(rng, n - n_belt) * rng.uniform(0.35, 0.7)
    core[:, 2] = rng.uniform(-rng.uniform(0.3, 1.0), rng.uniform(0.5, 1.8), len(core))
    return np.concatenate([belt, core])


def _arms(rng: Rng, n: int) -> Doubles:
    """Join arms of ellipsoids in one middle, as an antibody does."""
    n_arms = int(rng.integers(2, 5))
    parts = []
    for direction in Rotation.random(n_arms, rng=rng).as_matrix()[:, 0]:
        along = rng.uniform(0, 1, (n // n_arms, 1)) * rng.uniform(0.6, 1.2)
        parts.append(along * direction + _in_ball(rng, n // n_arms) * rng.uniform(0.2, 0.4))
    return np.concatenate(parts)


def _domains(rng: Rng, n: int, n_domains: int | None = None) -> Doubles:
    """Grow a chain of touching balls of different sizes."""
    n_domains = n_domains or int(rng.integers(2, 10))
    parts, middles, radii = [], [np.zeros(3)], [rng.uniform(0.5, 1.0)]
    for _ in range(n_domains - 1):
        parent = int(rng.integers(0, len(middles)))
        direction = rng.normal(size=3)
        direction /= np.linalg.norm(direction)
        radius = rng.uniform(0.35, 1.0)
        middles.append(middles[parent] + direction * 0.9 * (radius + radii[parent]))
        radii.append(radius)
    shares = np.array(radii) ** 3 / np.sum(np.array(radii) ** 3)
    for middle, radius, share in zip(middles, radii, shares, strict=True):
        parts.append(middle + radius * _in_ball(rng, max(3, round(n * share))))
    return np.concatenate(parts)


def _oligomer(rng: Rng, n: int) -> Doubles:
    """Repeat a few domains about the axes of a point group."""
    groups = ["C2", "C3", "C4", "C5", "C7", "D2", "D3", "D4", "D5", "D7", "T", "O", "I"]
    operators = symmetry_operators(groups[int(rng.integers(0, len(groups)))]).numpy()
    unit = _domains(rng, max(12, n // len(operators)), int(rng.integers(1, 4)))
    size = np.linalg.norm(unit, axis=1).max()
    direction = rng.normal(size=3)
    direction /= np.linalg.norm(direction)
    unit = unit + direction * size * rng.uniform(0.5, 0.9) * len(operators) ** 0.4
    return np.concatenate([unit @ operator.T for operator in operators])


KINDS_OF_SHAPE: dict[str, tuple[float, Callable[[Rng, int], Doubles]]] = {
    "ball": (0.12, _ball),
    "shell": (0.10, _shell),
    "rod": (0.12, _rod),
    "barrel": (0.14, _barrel),
    "membrane": (0.14, _membrane),
    "arms": (0.06, _arms),
    "domains": (0.16, _domains),
    "oligomer": (0.16, _oligomer),
}
"""How often each recipe is drawn, and the recipe."""


def draw_shape(rng: Rng, kind: str | None = None) -> Shape:
    """Draw a specimen; of any kind when none is named."""
    names = list(KINDS_OF_SHAPE)
    shares = np.array([KINDS_OF_SHAPE[name][0] for name in names])
    kind = kind or names[int(rng.choice(len(names), p=shares / shares.sum()))]
    centres = KINDS_OF_SHAPE[kind][1](rng, _BLOBS)
    weights = rng.gamma(4.0, 0.25, len(centres))
    centres = centres - weights @ centres / weights.sum()
    sigma = rng.uniform(0.03, 0.06)
    reach = np.quantile(np.linalg.norm(centres, axis=1), _OUTER_QUANTILE)
    scaled = centres * ((0.5 - sigma) / reach)
    return Shape(scaled.astype(np.float32), weights.astype(np.float32), float(sigma), kind)


def random_rotations(rng: Rng, n: int) -> Doubles:
    """Draw rotations, all equally likely: `[n, 3, 3]`."""
    matrices: Doubles = Rotation.random(n, rng=rng).as_matrix().reshape(n, 3, 3)
    return matrices


def project_shape(
    shape: Shape, rotations_ref_to_img: Doubles, fractions_px: Doubles, *, diameter_px: float
) -> Floats:
    """Project a shape along z: `[n, side, side]`, centre at `side // 2` plus the fraction.

    Args:
        shape: the specimen.
        rotations_ref_to_img: `[n, 3, 3]`.
        fractions_px: `[n, 2]`, x and y.
        diameter_px: of the specimen.
    """
    half = int(np.ceil(0.62 * diameter_px + 1))
    axis = np.arange(-half, half + 1, dtype=np.float32)
    sigma = shape.sigma * diameter_px
    turned = np.asarray(rotations_ref_to_img[:, :2], np.float32) @ shape.centres.T * diameter_px
    places = turned + np.asarray(fractions_px, np.float32)[:, :, None]
    distance = axis[None, None, :, None] - places[:, :, None, :]
    waves = np.exp(-0.5 * np.square(distance / np.float32(sigma)))
    images: Floats = (waves[:, 1] * shape.weights) @ waves[:, 0].transpose(0, 2, 1)
    return images
