"""The stages of a 3D classification, over chunks of particles."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols.refine3d._class_chunks import START, expect_chunk, split_chunk
from verglas.protocols.refine3d._gold import FOUND_POSE, with_poses
from verglas.sdk import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.classify import ClassifyConfig, ClassState
    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.refine_state import RefineConfig, RefineState

__all__ = [
    "Divided",
    "Found",
    "divide",
    "follow_classes",
    "mean_state",
    "state_of_maps",
    "state_of_refinement",
]

_CHUNK = 2000
_MEAN_ITERATIONS = 3  # noise and envelopes settle


@dataclass(frozen=True)
class Divided:
    """The best of several random divisions.

    Attributes:
        state: with its maps.
        gain_loglik: evidence per particle above that of one map, on unseen particles.
        agreement: share of particles that the most alike other start puts in the same class;
            None for one start.
    """

    state: "ClassState"
    gain_loglik: float
    agreement: float | None

    @property
    def is_supported(self) -> bool:
        """Whether classes explain unseen particles better than one map does."""
        return self.gain_loglik > 0


@dataclass(frozen=True)
class Found:
    """Where the classes ended.

    Attributes:
        state: the last one.
        rows: poses and classes of the particles.
    """

    state: "ClassState"
    rows: pl.DataFrame


def state_of_maps(config: "RefineConfig", volumes: "list[Tensor]", noise: "Tensor") -> "ClassState":
    """Start from a map for each class, `[n, n, n]` on the images' grey scale."""
    import torch

    from verglas.algorithms.em.classify import ClassState

    n = len(volumes)
    return ClassState(
        maps=torch.stack(volumes),
        share=torch.full((n,), 1 / n),
        noise_power=noise,
        scale=torch.ones(len(noise)),
        b_factor_angst2=torch.zeros(len(noise)),
        class_shell=torch.full((n,), config.first_shell),
        radius=0,
        shell=config.first_shell,
        step_deg=360.0,
        effective_cells=1e9,
        shift_prior_angst=config.shift_range_angst / 2,
        iteration=0,
        stalled=0,
        n_polished=0,
        jumped=1.0,
        changed=1.0,
        loglik=0.0,
    )


def state_of_refinement(config: "RefineConfig", refined: "RefineState") -> "ClassState":
    """Take noise, envelopes, shifts and the mean map of a refinement."""
    import dataclasses

    start = state_of_maps(config, [refined.half_maps.mean(0)], refined.noise_power)
    return dataclasses.replace(
        start,
        scale=refined.scale,
        b_factor_angst2=refined.b_factor_angst2,
        radius=refined.radius,
        shell=refined.shell,
        step_deg=refined.step_deg,
        effective_cells=refined.effective_cells,
        shift_prior_angst=refined.shift_prior_angst,
        n_polished=min(refined.n_polished, 1),
        jumped=refined.jumped,
    )


def mean_state(
    ctx: Context,
    rows: pl.DataFrame,
    config: "ClassifyConfig",
    noise: "Tensor",
    poses: "NDArray[np.float64]",
) -> "ClassState":
    """Make the mean map at poses that are kept, and learn the noise from it."""
    import dataclasses

    import torch

    from verglas.algorithms.em.classify import update_classes

    refine = config.refine
    empty = torch.zeros((8,) * 3)
    state = state_of_maps(refine, [empty], noise)
    posed = with_poses(rows, poses)
    for _ in range(_MEAN_ITERATIONS):
        # an empty map has no scale, and all the power of the images for its noise
        state = dataclasses.replace(state, shell=max(state.shell, refine.first_shell))
        _, sums = _expect(ctx, posed, config, state)
        new = update_classes(config, state, sums, effective_cells=1.0, jumped=0.0, changed=1.0)
        if state.iteration == 0:
            new = dataclasses.replace(new, scale=state.scale, b_factor_angst2=state.b_factor_angst2)
        state = new
    return dataclasses.replace(state, iteration=0, stalled=0)


def _expect(
    ctx: Context, rows: pl.DataFrame, config: "ClassifyConfig", state: "ClassState"
) -> "tuple[pl.DataFrame, dict[int, Sums]]":
    from verglas.algorithms.em.mstep import Sums

    found = ctx.accumulate(
        expect_chunk,
        rows,
        chunk=_CHUNK,
        by="half_set",
        gpus=1,
        config=config,
        state=_put(ctx, state),
    )
    return found.rows, {int(h) - 1: Sums.from_arrays(sums) for h, sums in found.sums.items()}


def _put(ctx: Context, state: "ClassState") -> Any:
    import numpy as np

    return ctx.put({name: np.asarray(value) for name, value in state.to_arrays().items()})


def divide(
    ctx: Context,
    rows: pl.DataFrame,
    config: "ClassifyConfig",
    state: "ClassState",
    poses: "NDArray[np.float64]",
    *,
    n_seeds: int,
    radius: int,
    max_particles: int,
    focus: "Tensor | None",
) -> Divided:
    """Divide particles from several random starts and keep the best.

    Args:
        ctx: of the job.
        rows: of all particles.
        config: of the run.
        state: of the mean map.
        poses: `[n, 5]`.
        n_seeds: number of starts.
        radius: last shell.
        max_particles: drawn at random from all.
        focus: where classes differ.
    """
    import dataclasses

    import torch

    from verglas.algorithms.em.class_split import SplitConfig, labels_agreement

    posed = with_poses(rows, poses)
    posed = posed.sample(min(posed.height, max_particles), seed=ctx.seed).sort("item_id")
    seeds = [1000 * ctx.seed + i for i in range(n_seeds)]
    found = ctx.accumulate(
        split_chunk,
        pl.DataFrame({START: seeds}).join(posed, how="cross"),
        chunk=posed.height,
        by=START,
        config=config,
        how=SplitConfig(config.n_classes, config.refine.symmetry, tau=config.tau),
        state=_put(ctx, state),
        radius=radius,
        focus=None if focus is None else ctx.put({"mask": focus.numpy()}),
    )
    gains = {int(seed): float(sums["gain_loglik"][0]) for seed, sums in found.sums.items()}
    ranked = sorted(gains, key=lambda seed: -gains[seed])
    labels = {
        seed: torch.tensor(
            found.rows.filter(pl.col(START) == seed).sort("item_id")["class_index"].to_numpy()
        )
        for seed in ranked
    }
    alike = [labels_agreement(labels[ranked[0]], labels[s], config.n_classes) for s in ranked]
    for seed, agreement in zip(ranked, alike, strict=True):
        ctx.log.info(
            "start %d: %.2f log units a particle above one map, agreement with the best %.2f",
            seed,
            gains[seed],
            agreement,
        )
    best = found.sums[ranked[0]]
    return Divided(
        state=dataclasses.replace(
            state,
            maps=torch.as_tensor(best["maps"]).float(),
            share=torch.as_tensor(best["share"]).float(),
            class_shell=torch.full((config.n_classes,), radius),
            changed=1.0,
        ),
        gain_loglik=gains[ranked[0]],
        agreement=max(alike[1:], default=None),
    )


def follow_classes(
    ctx: Context,
    rows: pl.DataFrame,
    config: "ClassifyConfig",
    start: "ClassState",
    poses: "NDArray[np.float64]",
    focus: "Tensor | None",
) -> Found:
    """Iterate until few particles change their class.

    Args:
        ctx: of the job.
        rows: of all particles, with half sets.
        config: of the run.
        start: with a map of each class.
        poses: `[n, 5]`, from which to start, or to keep.
        focus: where classes differ.
    """
    import numpy as np

    from verglas.algorithms.em.classify import (
        ClassState,
        classes_finished,
        kind_of_search,
        update_classes,
    )

    def step(arrays: dict[str, Any], iteration: int) -> dict[str, Any]:
        state, before = ClassState.from_arrays(arrays), arrays["particle_poses"]
        found, sums = _expect(ctx, with_poses(rows, before), config, state)
        all_rows = rows.select("item_id").join(
            found, on="item_id", how="left", maintain_order="left"
        )
        after = np.where(np.isnan(new := all_rows.select(FOUND_POSE).to_numpy()), before, new)
        label = all_rows["class_index"].fill_null(-1).to_numpy()
        new_state = update_classes(
            config,
            state,
            sums,
            effective_cells=float(str(found["n_effective_orientations"].median())),
            jumped=_jumped(config, before, after),
            changed=float((label != arrays["particle_class"]).mean()),
            focus=focus,
        )
        ctx.log.info(
            "iteration %d, %s: %.2f Å, %.1f %% changed their class, classes of %s",
            new_state.iteration,
            kind_of_search(config, state),
            config.refine.extent_angst / max(new_state.shell, 1),
            100 * new_state.changed,
            ", ".join(f"{100 * float(share):.0f} %" for share in new_state.share),
        )
        ctx.progress(new_state.iteration, config.refine.max_iterations)
        kept = {name: np.array(all_rows[name].to_numpy(), np.float64) for name in _KEPT}
        return {
            **new_state.to_arrays(),
            "particle_poses": after,
            "particle_class": label,
            **kept,
        }

    def until(arrays: dict[str, Any]) -> bool:
        return classes_finished(config, ClassState.from_arrays(arrays))

    first = {
        **start.to_arrays(),
        "particle_poses": poses,
        "particle_class": np.full(rows.height, -1),
        **{name: np.full(rows.height, np.nan) for name in _KEPT},
    }
    last = ctx.iterate(step, first, until=until)
    columns = {name: np.asarray(last["particle_poses"])[:, i] for i, name in enumerate(FOUND_POSE)}
    columns |= {name: np.asarray(last[name]) for name in _KEPT}
    table = rows.select("item_id").with_columns(
        **{name: pl.Series(values.copy()) for name, values in columns.items()},
        class_index=pl.Series(np.asarray(last["particle_class"]), dtype=pl.Int64),
    )
    table = table.with_columns(pl.col("angle_sd_deg", "shift_sd_angst").fill_nan(None))
    return Found(ClassState.from_arrays(last), table.filter(pl.col("class_index") >= 0))


_KEPT = ("class_prob", "score", "angle_sd_deg", "shift_sd_angst", "n_effective_orientations")


def _jumped(config: "ClassifyConfig", before: Any, after: Any) -> float:
    import torch

    from verglas.algorithms.em.refine_state import jumped_share
    from verglas.kernels.so3 import euler_to_matrix

    pair = (euler_to_matrix(torch.from_numpy(poses[:, :3].copy())) for poses in (before, after))
    return jumped_share(config.refine, *pair)
