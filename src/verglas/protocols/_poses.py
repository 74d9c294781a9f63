"""Turn what the likelihood engine finds into columns, and maps into files."""

from typing import TYPE_CHECKING

import polars as pl

from verglas.model import DataSet
from verglas.sdk import Context

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.expectation import Poses

__all__ = ["diameter_of", "pose_rows", "write_map"]


def pose_rows(rows: pl.DataFrame, poses: "Poses") -> pl.DataFrame:
    """Write poses as columns beside the ids of their particles.

    Args:
        rows: with `item_id`, in the order of the poses.
        poses: of the engine.
    """
    from verglas.kernels.so3 import matrix_to_euler

    angles = matrix_to_euler(poses.rotation_ref_to_img)
    return rows.select("item_id").with_columns(
        angle_rot_deg=pl.Series(angles[:, 0].numpy()),
        angle_tilt_deg=pl.Series(angles[:, 1].numpy()),
        angle_psi_deg=pl.Series(angles[:, 2].numpy()),
        shift_x_angst=pl.Series(poses.shift_angst[:, 0].numpy()),
        shift_y_angst=pl.Series(poses.shift_angst[:, 1].numpy()),
        class_index=pl.Series(poses.reference.numpy(), dtype=pl.Int64),
        class_prob=pl.Series(poses.weight.double().numpy()).clip(0.0, 1.0),
        score=pl.Series(poses.loglik.numpy()),
    )


def write_map(ctx: Context, name: str, volume: "Tensor", pixel_size_angst: float) -> str:
    """Write a map as MRC below the job's files; return its path as stored in tables."""
    from verglas.io.mrc import write_mrc

    array = volume.float().cpu().numpy()
    return ctx.write_file(
        name, lambda path: write_mrc(path, array, pixel_size_angst, is_stack=False)
    )


def diameter_of(given: float | None, particles: DataSet, extent_angst: float) -> float:
    """Return the particle's diameter: given, or that of the particles, or 2/3 of the box."""
    if given is not None:
        return given
    if "diameter_angst" in particles.columns:
        median = particles.rows(("diameter_angst",))["diameter_angst"].median()
        if median is not None:
            return float(str(median))
    return extent_angst * 2 / 3
