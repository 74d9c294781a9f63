"""What a refinement does with a chunk of particles."""

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import view_blocks, views_of_rows
from verglas.protocols._poses import pose_rows
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from verglas.algorithms.em.references import Poses
    from verglas.algorithms.em.refine_state import RefineConfig, RefineState
    from verglas.algorithms.em.step import KnownPoses

__all__ = ["POSE_ANGLES", "POSE_SHIFTS", "audit_half", "calibrate", "expect_half"]

POSE_ANGLES = ("x_rot_deg", "x_tilt_deg", "x_psi_deg")
POSE_SHIFTS = ("x_shift_x_angst", "x_shift_y_angst")
"""Columns of the poses that the iteration before found."""

_CALIBRATION_ROUNDS = 4
_START_ENERGY = 20.0  # log-likelihood that the unscaled reference is brought to


def _state(task: Task, state: ArrayRef) -> "RefineState":
    """Load where the refinement stands to the device of the chunk."""
    import torch

    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.refine_state import RefineState

    torch.set_num_threads(task.threads)
    return to_device(RefineState.from_arrays(task.load(state)), task.device)


def _known(rows: pl.DataFrame, device: str) -> "KnownPoses":
    import torch

    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.step import KnownPoses
    from verglas.kernels.so3 import euler_to_matrix

    angles, shifts = (torch.tensor(rows.select(x).to_numpy()) for x in (POSE_ANGLES, POSE_SHIFTS))
    return to_device(KnownPoses(euler_to_matrix(angles), shifts), device)


def _how(config: "RefineConfig", state: "RefineState", radius: int) -> dict[str, Any]:
    """Return the arguments of `views_of_rows`."""
    from verglas.kernels.disc import half_disc

    return {
        "disc": half_disc(config.box, radius),
        "noise_power": state.noise_power,
        "scale": state.scale,
        "b_factor_angst2": state.b_factor_angst2,
        "pixel_size_angst": config.pixel_size_angst,
    }


def expect_half(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", state: ArrayRef, final: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles of one half with their map and add up what they say."""
    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.step import HalfExpectation
    from verglas.kernels.denormals import denormals_flushed

    current = _state(task, state)
    step = HalfExpectation.make(config, current, int(rows["half_set"][0]) - 1, final=final)
    found = []
    for block, views in view_blocks(rows, task, **_how(config, current, step.search.radius)):
        with denormals_flushed():
            poses = step.add(views, _known(block, task.device))
        found.append(_pose_table(block, to_device(poses, "cpu")))
    return pl.concat(found), step.sums.to_arrays()


def _pose_table(rows: pl.DataFrame, poses: "Poses") -> pl.DataFrame:
    return pose_rows(rows, poses).with_columns(
        n_effective_orientations=pl.Series(poses.effective_cells.double().numpy()),
        angle_sd_deg=pl.Series(poses.angle_sd_deg.double().numpy()).fill_nan(None),
        shift_sd_angst=pl.Series(poses.shift_sd_angst.double().numpy()).fill_nan(None),
    )


def audit_half(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", state: ArrayRef, wanted: float
) -> pl.DataFrame:
    """Find how wide the search must be for these particles; return that and the recall."""
    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.audit import audit_search
    from verglas.algorithms.em.plan import plan
    from verglas.algorithms.em.refine import references
    from verglas.kernels.denormals import denormals_flushed

    current = _state(task, state)
    search = to_device(plan(config, current), task.device)
    rows, views = views_of_rows(rows, task, **_how(config, current, search.radius))
    known = _known(rows, task.device)
    reference = references(config, current, int(rows["half_set"][0]) - 1, search.radius)
    with denormals_flushed():
        found = audit_search(
            views,
            reference,
            search,
            shifts_angst=known.shifts_angst,
            known=known.starts() if current.n_polished else None,
            width=current.width,
            wanted=wanted,
        )
    found = to_device(found, "cpu")
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

    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.expectation import expect
    from verglas.algorithms.em.plan import calibration_search
    from verglas.algorithms.em.refine import references
    from verglas.kernels.denormals import denormals_flushed

    current = _state(task, state)
    search = to_device(calibration_search(config, current), task.device)
    radius = search.levels[0].radius
    rows, views = views_of_rows(rows, task, **_how(config, current, radius))
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
