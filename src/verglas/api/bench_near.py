"""Particles whose poses are nearly right, for benchmarks of local refinement."""

import math
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from verglas.api.project import Project

__all__ = ["MOVE_ANGST", "TURN_DEG", "disturb_poses", "import_disturbed"]

TURN_DEG, MOVE_ANGST = 7.5, 1.8
_EULER = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
_SHIFT = ("shift_x_angst", "shift_y_angst")


def disturb_poses(rows: pl.DataFrame, *, turn_deg: float, move_angst: float) -> pl.DataFrame:
    """Turn every pose about an axis, and move it along a direction, drawn by lot.

    Args:
        rows: with poses.
        turn_deg: by how much each is turned.
        move_angst: by how much each is moved.
    """
    from scipy.spatial.transform import Rotation

    from verglas.kernels.rotations import rotations_of_angles

    rng = np.random.default_rng(0)
    axis = rng.normal(size=(rows.height, 3))
    axis *= math.radians(turn_deg) / np.linalg.norm(axis, axis=1, keepdims=True)
    turn = Rotation.from_rotvec(axis).as_matrix()
    turned = turn @ rotations_of_angles(rows.select(_EULER).to_numpy())
    # passive elementary rotations are the transposes of scipy's
    found = Rotation.from_matrix(np.swapaxes(turned, 1, 2)).as_euler("ZYZ", degrees=True)
    along = rng.uniform(0, 2 * math.pi, rows.height)
    moves = move_angst * np.stack([np.cos(along), np.sin(along)])
    return rows.with_columns(
        *(pl.Series(name, found[:, i].copy()) for i, name in enumerate(_EULER)),
        *(pl.col(name) + pl.Series(moves[i]) for i, name in enumerate(_SHIFT)),
    )


def import_disturbed(project: "Project", truth: str) -> str:
    """Put particles into a project again, with disturbed poses; return the data set's number.

    Args:
        project: that has them.
        truth: number of the data set with their poses.
    """
    from verglas.api.exchange import export

    data = project.dataset(truth)
    poses = data.rows(("item_id", *_EULER, *_SHIFT))
    near = disturb_poses(poses, turn_deg=TURN_DEG, move_angst=MOVE_ANGST)
    file = project.root / f"near-{truth}.star"
    export(data.with_columns(near), file, form="relion", paths="absolute")
    return project.run("particles.import", file=str(file)).output().id
