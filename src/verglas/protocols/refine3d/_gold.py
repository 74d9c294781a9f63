"""The iterations of a gold-standard refinement, over chunks of particles."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols.refine3d._refine_chunks import (
    POSE_ANGLES,
    POSE_SHIFTS,
    audit_half,
    calibrate,
    expect_half,
)
from verglas.sdk import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.refine_state import RefineConfig, RefineState

__all__ = ["FOUND_POSE", "expect_halves", "iterate_halves", "scaled_start", "with_poses"]

_CHUNK = 2000
_LONGEST_CHUNK = 10_000
_FEWEST_CHUNKS = 32
_CALIBRATION_VIEWS = 200
_RECALL = 0.98
FOUND_POSE = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg", "shift_x_angst", "shift_y_angst")
"""Columns of the poses that an iteration gives."""


def _chunk_size(n: int) -> int:
    """Return how many particles make a chunk: many, since each chunk gives back whole maps."""
    return min(max(_CHUNK, n // _FEWEST_CHUNKS), _LONGEST_CHUNK)


def expect_halves(
    ctx: Context, rows: pl.DataFrame, config: "RefineConfig", state: "RefineState", *, final: bool
) -> "tuple[pl.DataFrame, dict[int, Sums]]":
    """Compare all particles with their half's map; return poses and sums by half, from 0."""
    import numpy as np

    from verglas.algorithms.em.mstep import Sums

    arrays = {name: np.asarray(value) for name, value in state.to_arrays().items()}
    found = ctx.accumulate(
        expect_half,
        rows,
        chunk=_chunk_size(rows.height),
        by="half_set",
        gpus=1,
        config=config,
        state=ctx.put(arrays),
        final=final,
    )
    return found.rows, {int(h) - 1: Sums.from_arrays(sums) for h, sums in found.sums.items()}


def scaled_start(
    ctx: Context, rows: pl.DataFrame, reference: "Tensor", config: "RefineConfig", noise: "Tensor"
) -> "RefineState":
    """Low-pass the reference, `[n, n, n]`, and bring it to the images' grey scale."""
    import dataclasses

    import numpy as np

    from verglas.algorithms.em.refine_start import initial_state

    state = initial_state(config, reference, noise)
    sample = rows.sample(min(rows.height, _CALIBRATION_VIEWS), seed=config.seed).sort("item_id")
    arrays = {name: np.asarray(value) for name, value in state.to_arrays().items()}
    found = ctx.accumulate(
        calibrate,
        sample,
        chunk=_CALIBRATION_VIEWS // 2,
        gpus=1,
        config=config,
        state=ctx.put(arrays),
    )
    total, count = found.sums[None]["log_factor"]
    factor = math.exp(float(total) / float(count))
    ctx.log.info("reference multiplied by %.4g", factor)
    return dataclasses.replace(state, half_maps=state.half_maps * factor)


def with_poses(rows: pl.DataFrame, poses: "NDArray[np.float64]") -> pl.DataFrame:
    """Give particles the poses of the last iteration, `[n, 5]`."""
    names = (*POSE_ANGLES, *POSE_SHIFTS)
    return rows.with_columns(**{name: pl.Series(poses[:, i]) for i, name in enumerate(names)})


def _jumped(config: "RefineConfig", before: Any, after: Any, state: "RefineState") -> float:
    import torch

    from verglas.algorithms.em.refine_state import jumped_share
    from verglas.kernels.so3 import euler_to_matrix

    if state.iteration == 0 and not state.n_polished:
        return 1.0
    pair = (euler_to_matrix(torch.from_numpy(poses[:, :3].copy())) for poses in (before, after))
    return jumped_share(config, *pair)


def iterate_halves(
    ctx: Context,
    rows: pl.DataFrame,
    config: "RefineConfig",
    start: "RefineState",
    until: "Callable[[RefineConfig, RefineState], bool] | None" = None,
    *,
    poses: "NDArray[np.float64] | None" = None,
    solvent: "Tensor | None" = None,
    n_audited: int = 0,
) -> "tuple[RefineState, NDArray[np.float64]]":
    """Iterate; return the last state and the poses of the particles.

    Args:
        ctx: of the job.
        rows: with half sets.
        config: of the run.
        start: the first state.
        until: says when to stop; when nothing improves by default.
        poses: `[n, 5]`, present poses; none by default.
        solvent: `[box, box, box]`: density is kept here only.
        n_audited: particles, drawn anew for each search of all orientations, that are also
            searched more widely; if that finds more, all are.
    """
    import numpy as np

    from verglas.algorithms.em.plan import is_concentrated, is_local, plan
    from verglas.algorithms.em.refine import update
    from verglas.algorithms.em.refine_state import RefineState, finished

    def step(arrays: dict[str, Any], iteration: int) -> dict[str, Any]:
        state, before = RefineState.from_arrays(arrays), arrays["particle_poses"]
        posed = with_poses(rows, before)
        recall = arrays["search_recall"]
        if n_audited and not is_local(state):
            state, recall = _audited(ctx, posed, config, state, n_audited)
        found, sums = expect_halves(ctx, posed, config, state, final=False)
        table = rows.select("item_id").join(found, on="item_id", how="left", maintain_order="left")
        after = np.where(np.isnan(new := table.select(FOUND_POSE).to_numpy()), before, new)
        new_state = update(
            config,
            state,
            sums,
            step_deg=plan(config, state).levels[-1].step_deg,
            effective_cells=float(str(found["n_effective_orientations"].median())),
            searched=is_concentrated(state) and not is_local(state),
            jumped=_jumped(config, before, after, state),
            solvent=solvent,
        )
        _log_iteration(ctx, config, state, new_state, found)
        return {**new_state.to_arrays(), "particle_poses": after, "search_recall": recall}

    stop = until or finished

    def stopped(arrays: dict[str, Any]) -> bool:
        return stop(config, RefineState.from_arrays(arrays))

    begun = np.zeros((rows.height, 5)) if poses is None else np.array(poses, np.float64)
    first = {**start.to_arrays(), "particle_poses": begun, "search_recall": 1.0}
    last = ctx.iterate(step, first, until=stopped)
    if n_audited:
        _tell_recall(ctx, float(last["search_recall"]))
    return RefineState.from_arrays(last), np.asarray(last["particle_poses"])


def _audited(
    ctx: Context, rows: pl.DataFrame, config: "RefineConfig", state: "RefineState", n: int
) -> "tuple[RefineState, float]":
    """Widen the search of this iteration as needed; also return the posterior's share it keeps.

    Half of what the iteration before needed is tried first; the first with a continuous stage
    begins as planned.
    """
    import dataclasses

    import numpy as np

    from verglas.algorithms.em.plan import is_concentrated

    begins = is_concentrated(state) and not state.n_polished
    state = dataclasses.replace(state, width=1 if begins else max(1, state.width // 2))
    seed = config.seed * 1000 + state.iteration
    sample = rows.sample(min(n, rows.height), seed=seed).sort("half_set", "item_id")
    arrays = {name: np.asarray(value) for name, value in state.to_arrays().items()}
    ref = ctx.put(arrays)
    parts = [
        ctx.map(audit_half, part, chunk=_CHUNK, gpus=1, config=config, state=ref, wanted=_RECALL)
        for part in sample.partition_by("half_set")
    ]
    found = pl.concat(parts)
    recall, planned = (float(found[name].to_numpy().mean()) for name in ("recall", "planned"))
    width = int(found["width"].to_numpy().max())
    ctx.log.info(
        "audit of %d particles: the search keeps %.2f %%%s",
        sample.height,
        100 * recall,
        "" if width == state.width else f", widened {width} times; before {100 * planned:.2f} %",
    )
    return dataclasses.replace(state, width=width), recall


def _tell_recall(ctx: Context, recall: float) -> None:
    """Report what the last search of all orientations kept; earlier ones are in the log."""
    ctx.metric("search_recall", recall)
    if recall < _RECALL:
        ctx.warn(
            f"the last search of all orientations kept {100 * recall:.1f} % of what the audited "
            f"particles say of their poses, less than {100 * _RECALL:.0f} %"
        )


def _log_iteration(
    ctx: Context,
    config: "RefineConfig",
    state: "RefineState",
    new: "RefineState",
    found: pl.DataFrame,
) -> None:
    from verglas.algorithms.em.plan import is_concentrated, is_local

    kind = "all orientations on a grid"
    if is_concentrated(state):
        kind = "vicinity" if is_local(state) else "all orientations"
    spread = found.select(pl.col("angle_sd_deg").median()).item()
    ctx.log.info(
        "iteration %d, %s: %.2f Å, shifts %.1f Å, %s, %.1f %% jumped",
        new.iteration,
        kind,
        new.resolution_angst(config),
        new.shift_prior_angst,
        f"{new.effective_cells:.0f} orientations a particle"
        if spread is None
        else f"orientations within {spread:.2f} deg",
        100 * new.jumped,
    )
    text = f"{new.resolution_angst(config):.1f} Å"
    ctx.progress(new.iteration, config.max_iterations, text)
