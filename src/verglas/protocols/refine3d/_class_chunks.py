"""What a 3D classification does with a chunk of particles."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import views_of_rows
from verglas.protocols._poses import pose_rows
from verglas.protocols.refine3d._refine_chunks import POSE_ANGLES, POSE_SHIFTS
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from verglas.algorithms.em.class_split import SplitConfig
    from verglas.algorithms.em.classify import ClassifyConfig, ClassState
    from verglas.algorithms.em.step import KnownPoses

__all__ = ["START", "expect_chunk", "split_chunk"]

START = "x_start"
"""Column that says which seed a row is for."""


def _known(rows: pl.DataFrame) -> "KnownPoses":
    import torch

    from verglas.algorithms.em.step import KnownPoses
    from verglas.kernels.so3 import euler_to_matrix

    angles, shifts = (torch.tensor(rows.select(x).to_numpy()) for x in (POSE_ANGLES, POSE_SHIFTS))
    return KnownPoses(euler_to_matrix(angles), shifts)


def _views(
    rows: pl.DataFrame, task: Task, config: "ClassifyConfig", state: "ClassState", radius: int
) -> tuple[pl.DataFrame, Any]:
    from verglas.kernels.disc import half_disc

    return views_of_rows(
        rows,
        task,
        disc=half_disc(config.refine.box, radius),
        noise_power=state.noise_power,
        scale=state.scale,
        b_factor_angst2=state.b_factor_angst2,
        pixel_size_angst=config.refine.pixel_size_angst,
    )


def expect_chunk(
    rows: pl.DataFrame, task: Task, *, config: "ClassifyConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles with the maps of all classes and add up what they say."""
    import torch

    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.classify import ClassState, expect_classes, next_class_radius
    from verglas.kernels.denormals import denormals_flushed

    torch.set_num_threads(task.threads)
    current = to_device(ClassState.from_arrays(task.load(state)), task.device)
    radius = next_class_radius(config, current)
    rows, views = _views(rows, task, config, current, radius)
    known = to_device(_known(rows), task.device)
    with denormals_flushed():
        poses, sums = expect_classes(config, current, views, known)
    poses = to_device(poses, "cpu")
    found = pose_rows(rows, poses).with_columns(
        class_prob=pl.Series(poses.reference_weight.double().numpy()).clip(0.0, 1.0),
        n_effective_orientations=pl.Series(poses.effective_cells.double().numpy()),
        angle_sd_deg=pl.Series(poses.angle_sd_deg.double().numpy()).fill_nan(None),
        shift_sd_angst=pl.Series(poses.shift_sd_angst.double().numpy()).fill_nan(None),
    )
    return found, sums.to_arrays()


def split_chunk(
    rows: pl.DataFrame,
    task: Task,
    *,
    config: "ClassifyConfig",
    how: "SplitConfig",
    state: ArrayRef,
    radius: int,
    focus: ArrayRef | None,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Divide all particles into classes at their poses, from one random start."""
    import numpy as np
    import torch

    from verglas.algorithms.em.class_split import split_views
    from verglas.algorithms.em.classify import ClassState, focus_on, map_grid
    from verglas.kernels.denormals import denormals_flushed

    torch.set_num_threads(task.threads)
    seed = int(rows[START][0])
    current = ClassState.from_arrays(task.load(state))
    rows, views = _views(rows, task, config, current, radius)
    known, grid = _known(rows), map_grid(config.refine, radius)
    mask = None if focus is None else torch.as_tensor(task.load(focus)["mask"])
    with denormals_flushed():
        found = split_views(
            views,
            how,
            grid,
            rotations_ref_to_img=known.rotations_ref_to_img,
            shifts_angst=known.shifts_angst,
            half=torch.tensor(rows["half_set"].to_numpy().astype("int64")) - 1,
            seed=seed,
            focus=focus_on(grid, mask),
        )
    labelled = rows.select("item_id", START).with_columns(
        class_index=pl.Series(found.label.numpy(), dtype=pl.Int64)
    )
    arrays = {
        "maps": found.maps.numpy(),
        "share": found.share.numpy(),
        "gain_loglik": np.array([found.gain_loglik]),
    }
    return labelled, arrays
