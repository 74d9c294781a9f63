"""Rotations as numpy arrays: needed where torch is not loaded; conventions as in `so3`."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["angles_of_rotations", "rotations_of_angles", "turned"]

Double = NDArray[np.float64]

_POLE = 1e-7


def rotations_of_angles(angles_deg: Double) -> Double:
    """Return `rotation_ref_to_img`, `[b, 3, 3]`, of `[b, 3]` (rot, tilt, psi)."""
    (ca, cb, cg), (sa, sb, sg) = (f(np.radians(angles_deg)).T for f in (np.cos, np.sin))
    rows = [
        [cg * cb * ca - sg * sa, cg * cb * sa + sg * ca, -cg * sb],
        [-sg * cb * ca - cg * sa, -sg * cb * sa + cg * ca, sg * sb],
        [sb * ca, sb * sa, cb],
    ]
    return np.moveaxis(np.array(rows), -1, 0)


def angles_of_rotations(rotation_ref_to_img: Double) -> Double:
    """Return `[b, 3]` (rot, tilt, psi) in degrees; at the poles rot is 0."""
    m = rotation_ref_to_img
    sine = np.hypot(m[:, 2, 0], m[:, 2, 1])
    pole = sine < _POLE
    rot = np.where(pole, 0.0, np.arctan2(m[:, 2, 1], m[:, 2, 0]))
    psi_away = np.arctan2(m[:, 1, 2], -m[:, 0, 2])
    psi = np.where(pole, np.arctan2(m[:, 0, 1], m[:, 1, 1]), psi_away)
    angles = np.stack([rot, np.arctan2(sine, m[:, 2, 2]), psi], axis=1)
    return np.asarray(np.degrees(angles))


def turned(rotation_ref_to_img: Double, vectors: Double) -> Double:
    """Turn images' frames by rotation vectors: `exp([v]) @ rotation_ref_to_img`.

    Args:
        rotation_ref_to_img: `[b, 3, 3]`.
        vectors: `[b, 3]`, radians.
    """
    x, y, z = vectors.T
    zero = np.zeros_like(x)
    cross = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    angle = np.maximum(np.linalg.norm(vectors, axis=1), 1e-12)
    # sin a / a and (1 - cos a) / a^2, neither of which loses digits at small angles
    sine = np.sin(angle) / angle
    versine = 0.5 * np.sinc(angle / (2 * np.pi)) ** 2
    turn = np.eye(3) + sine[:, None, None] * cross + versine[:, None, None] * (cross @ cross)
    out: Double = turn @ rotation_ref_to_img
    return out
