"""What a refinement does with a chunk of particles."""

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import views_of_rows
from verglas.protocols._poses import pose_rows
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from verglas.algorithms.em.refine_state import RefineConfig, RefineState

__all__ = ["POSE_ANGLES", "POSE_SHIFTS", "audit_half", "calibrate", "expect_half"]

POSE_ANGLES = ("x_rot_deg", "x_tilt_deg", "x_psi_deg")
POSE_SHIFTS = ("x_shift_x_angst", "x_shift_y_angst")
"""Columns of the poses that the iteration before found."""

_CALIBRATION_ROUNDS = 4
_START_ENERGY = 20.0  # log-likelihood that the unscaled reference is brought to


def _views(
    rows: pl.DataFrame, task: Task, config: "RefineConfig", state: "RefineState", radius: int
) -> tuple[pl.DataFrame, Any]:
    from verglas.kernels.disc import half_disc

    return views_of_rows(
        rows,
        task,
        disc=half_disc(config.box, radius),
        noise_power=state.noise_power,
        scale=state.scale,
        b_factor_angst2=state.b_factor_angst2,
        pixel_size_angst=config.pixel_size_angst,
    )


def expect_half(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", state: ArrayRef, final: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles of one half with their map and add up what they say."""
    import torch

    from verglas.algorithms.em.plan import plan
    from verglas.algorithms.em.refine_state import RefineState
    from verglas.algorithms.em.step import KnownPoses
    from verglas.algorithms.em.step import expect_half as expect
    from verglas.kernels.denormals import denormals_flushed
    from verglas.kernels.so3 import euler_to_matrix

    torch.set_num_threads(task.threads)
    current = RefineState.from_arrays(task.load(state))
    radius = plan(config, current, final=final).radius
    rows, views = _views(rows, task, config, current, radius)
    angles, shifts = (torch.tensor(rows.select(x).to_numpy()) for x in (POSE_ANGLES, POSE_SHIFTS))
    known = KnownPoses(euler_to_matrix(angles), shifts)
    half = int(rows["half_set"][0]) - 1
    with denormals_flushed():
        poses, sums = expect(config, current, views, half, known, final=final)
    found = pose_rows(rows, poses).with_columns(
        n_effective_orientations=pl.Series(poses.effective_cells.double().numpy()),
        angle_sd_deg=pl.Series(poses.angle_sd_deg.double().numpy()).fill_nan(None),
        shift_sd_angst=pl.Series(poses.shift_sd_angst.double().numpy()).fill_nan(None),
    )
    return found, sums.to_arrays()


def audit_half(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", state: ArrayRef, wanted: float
) -> pl.DataFrame:
    """Find how wide the search must be for these particles; return that and the recall."""
    import torch

    from verglas.algorithms.em.audit import audit_search
    from verglas.algorithms.em.plan import plan
    from verglas.algorithms.em.refine import references
    from verglas.algorithms.em.refine_state import RefineState
    from verglas.algorithms.em.step import KnownPoses
    from verglas.kernels.denormals import denormals_flushed
    from verglas.kernels.so3 import euler_to_matrix

    torch.set_num_threads(task.threads)
    current = RefineState.from_arrays(task.load(state))
    search = plan(config, current)
    rows, views = _views(rows, task, config, current, search.radius)
    angles, shifts = (torch.tensor(rows.select(x).to_numpy()) for x in (POSE_ANGLES, POSE_SHIFTS))
    known = KnownPoses(euler_to_matrix(angles), shifts).starts() if current.n_polished else None
    reference = references(config, current, int(rows["half_set"][0]) - 1, search.radius)
    with denormals_flushed():
        found = audit_search(
            views,
            reference,
            search,
            shifts_angst=shifts,
            known=known,
            width=current.width,
            wanted=wanted,
        )
    return rows.select("item_id").with_columns(
        recall=pl.Series(found.recall.double().numpy()),
        planned=pl.Series(found.planned.double().numpy()),
        width=pl.lit(found.width, pl.Int64),
    )


def calibrate(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Find by how much the reference must be multiplied to match the images.

    Beginning weak, the reference is scaled by what the images say of it under the
    posterior, a few times over; the maximum of the likelihood in the scale is a fixed
    point of this, and it is reached from below without committing to wrong poses.
    """
    import dataclasses

    import torch

    from verglas.algorithms.em.expectation import expect
    from verglas.algorithms.em.plan import calibration_search
    from verglas.algorithms.em.refine import references
    from verglas.algorithms.em.refine_state import RefineState
    from verglas.kernels.denormals import denormals_flushed

    torch.set_num_threads(task.threads)
    current = RefineState.from_arrays(task.load(state))
    search = calibration_search(config, current)
    radius = search.levels[0].radius
    rows, views = _views(rows, task, config, current, radius)
    reference = references(config, current, 0, radius)
    factor = 1.0
    for turn in range(_CALIBRATION_ROUNDS + 1):
        scaled = dataclasses.replace(reference, half_volumes=reference.half_volumes * factor)
        with denormals_flushed():
            _, sums = expect(views, scaled, search, n_groups=len(current.noise_power))
        if turn == 0:
            energy = float(sums.scale_power.sum()) / len(views)
            factor *= math.sqrt(_START_ENERGY / max(energy, 1e-30))
        else:
            cross, power = float(sums.scale_cross.sum()), float(sums.scale_power.sum())
            factor *= min(5.0, max(0.2, cross / max(power, 1e-30)))
    return rows.select("item_id"), {"log_factor": torch.tensor([math.log(factor), 1.0]).numpy()}
