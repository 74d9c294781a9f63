"""What classification in 2D does with a chunk of particles."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import views_of_rows
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.planar import PlanarConfig, PlanarState
    from verglas.algorithms.em.turning import Turned
    from verglas.algorithms.views import Views

__all__ = ["HALF", "MASS", "SHIFT", "centre", "expect_classes", "vary"]

HALF = "x_half"
MASS = "class_mass"
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
        disc=half_disc(config.box, state.radius),
        noise_power=state.noise_power,
        scale=state.scale,
        pixel_size_angst=config.pixel_size_angst,
    )
    return rows, views, torch.tensor(rows.select(SHIFT).to_numpy(), dtype=torch.float64)


def _expect(
    rows: pl.DataFrame, task: Task, config: "PlanarConfig", state: "PlanarState"
) -> "tuple[pl.DataFrame, Turned, Sums]":
    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.planar import planar_turning
    from verglas.algorithms.em.turning import expect_turned
    from verglas.kernels.denormals import denormals_flushed

    half = int(rows[HALF][0])
    rows, views, shifts = _views(rows, task, config, state)
    with denormals_flushed():
        poses, sums = expect_turned(
            views,
            planar_turning(config, state, half=half),
            n_groups=len(state.noise_power),
            shifts_angst=shifts.to(task.device),
        )
    return rows, to_device(poses, "cpu"), sums


def _shift_rows(rows: pl.DataFrame, poses: "Turned") -> pl.DataFrame:
    return rows.select("item_id").with_columns(
        shift_x_angst=pl.Series(poses.shift_angst[:, 0].numpy()),
        shift_y_angst=pl.Series(poses.shift_angst[:, 1].numpy()),
    )


def expect_classes(
    rows: pl.DataFrame, task: Task, *, config: "PlanarConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles of one half set with the averages and add up what they say."""
    from verglas.algorithms.em.planar import PlanarState, log_pose_count, planar_turning

    current = PlanarState.from_arrays(task.load(state))
    rows, poses, sums = _expect(rows, task, config, current)
    count = log_pose_count(config, planar_turning(config, current))
    found = _shift_rows(rows, poses).with_columns(
        angle_psi_deg=pl.Series((poses.psi_deg + 180).remainder(360).sub(180).numpy()),
        class_index=pl.Series(poses.reference.numpy(), dtype=pl.Int64),
        class_prob=pl.Series(poses.reference_weight.double().numpy()).clip(0.0, 1.0),
        score=pl.Series(poses.loglik.numpy() - count),
    )
    if config.classes_after(current.iteration) < poses.class_mass.shape[1]:
        found = found.with_columns(pl.Series(MASS, poses.class_mass.numpy()))
    return found, sums.to_arrays()


def vary(
    rows: pl.DataFrame, task: Task, *, config: "PlanarConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Add up how particles differ from their radial average."""
    from dataclasses import replace

    from verglas.algorithms.em.planar import PlanarState, planar_grid, planar_mask
    from verglas.algorithms.em.planar_start import radial_average_ft
    from verglas.algorithms.em.steerable import ring_covariance

    current = PlanarState.from_arrays(task.load(state))
    rows, views, shifts = _views(rows, task, config, current)
    grid = replace(planar_grid(config, views.disc.radius), n_orders=config.n_orders)
    covariance = ring_covariance(
        views.shifted(shifts),
        radial_average_ft(config, current, views.disc.radius),
        current.mean_weight,
        planar_mask(config, current.averages.shape[-1]),
        grid,
    )
    return rows.select("item_id"), covariance.to_arrays()


def centre(
    rows: pl.DataFrame, task: Task, *, config: "PlanarConfig", state: ArrayRef
) -> pl.DataFrame:
    """Centre particles that come in late on the radial average of the others."""
    from verglas.algorithms.em.planar import PlanarState

    rows, poses, _ = _expect(rows, task, config, PlanarState.from_arrays(task.load(state)))
    return _shift_rows(rows, poses)
