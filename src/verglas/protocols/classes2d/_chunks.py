"""What classification in 2D does with a chunk of particles."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import views_of_rows
from verglas.protocols._poses import pose_rows
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.expectation import Poses
    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.planar import PlanarConfig, PlanarState
    from verglas.algorithms.views import Views

__all__ = ["HALF", "SHIFT", "centre", "expect_classes", "vary"]

HALF = "x_half"
SHIFT = ("x_shift_x_angst", "x_shift_y_angst")


def _views(
    rows: pl.DataFrame, task: Task, config: "PlanarConfig", state: "PlanarState"
) -> "tuple[pl.DataFrame, Views, Tensor]":
    """Read a chunk: the rows that could be read, their views and present shifts."""
    import torch

    from verglas.kernels.disc import half_disc

    torch.set_num_threads(task.threads)
    rows, views = views_of_rows(
        rows,
        task,
        disc=half_disc(config.box, config.radius_at(state.iteration)),
        noise_power=state.noise_power,
        scale=state.scale,
        pixel_size_angst=config.pixel_size_angst,
    )
    return rows, views, torch.tensor(rows.select(SHIFT).to_numpy(), dtype=torch.float64)


def _expect(
    rows: pl.DataFrame, task: Task, config: "PlanarConfig", state: "PlanarState"
) -> "tuple[pl.DataFrame, Poses, Sums]":
    from verglas.algorithms.em.expectation import expect
    from verglas.algorithms.em.planar import planar_plan, planar_references

    half = int(rows[HALF][0])
    rows, views, shifts = _views(rows, task, config, state)
    poses, sums = expect(
        views,
        planar_references(config, state, views.disc.radius, half=half),
        planar_plan(config, state),
        n_groups=len(state.noise_power),
        shifts_angst=shifts,
    )
    return rows, poses, sums


def expect_classes(
    rows: pl.DataFrame, task: Task, *, config: "PlanarConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles of one half set with the averages and add up what they say."""
    from verglas.algorithms.em.planar import PlanarState, log_pose_count, planar_plan

    current = PlanarState.from_arrays(task.load(state))
    rows, poses, sums = _expect(rows, task, config, current)
    found = pose_rows(rows, poses).drop("angle_rot_deg", "angle_tilt_deg")
    found = found.with_columns(
        pl.col("score") - log_pose_count(config, planar_plan(config, current)),
        class_prob=pl.Series(poses.reference_weight.double().numpy()).clip(0.0, 1.0),
    )
    return found, sums.to_arrays()


def vary(
    rows: pl.DataFrame, task: Task, *, config: "PlanarConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Add up how particles differ from their radial average."""
    from verglas.algorithms.em.planar import PlanarState, planar_mask, radial_average_ft
    from verglas.algorithms.em.steerable import ring_covariance

    current = PlanarState.from_arrays(task.load(state))
    rows, views, shifts = _views(rows, task, config, current)
    covariance = ring_covariance(
        views.shifted(shifts),
        radial_average_ft(config, current, views.disc.radius),
        current.mean_weight,
        planar_mask(config, current.averages.shape[-1]),
        n_orders=config.n_orders,
    )
    return rows.select("item_id"), covariance.to_arrays()


def centre(
    rows: pl.DataFrame, task: Task, *, config: "PlanarConfig", state: ArrayRef
) -> pl.DataFrame:
    """Centre particles that come in late on the radial average of the others."""
    from verglas.algorithms.em.planar import PlanarState

    rows, poses, _ = _expect(rows, task, config, PlanarState.from_arrays(task.load(state)))
    return pose_rows(rows, poses).select("item_id", "shift_x_angst", "shift_y_angst")
