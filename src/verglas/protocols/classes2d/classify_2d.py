"""Sort particles into 2D class averages.

Particles that show the same view are turned, shifted and averaged, which shows whether they are
good, and which are not particles at all. All classes, in-plane rotations and shifts are compared
with every particle, and each particle counts for each class by its probability; the resolution
grows from coarse to fine. Classes that lose their particles take over half of the largest one.

Large sets are sampled: the early iterations use a random part, the last ones all particles. The
resolution of an average is where averages of its odd and even particles stop to agree
(correlation 0.5).
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import PortError
from verglas.model import CLASSES2D, PARTICLES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack, views_of_rows
from verglas.protocols._poses import diameter_of, pose_rows
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.classify import ClassifyConfig, ClassifyState
    from verglas.algorithms.em.mstep import Sums

__all__ = ["Classify2dParams", "Inputs", "Outputs", "expect_classes", "run"]

_CHUNK = 1000
_PART = "x_part"
_SAMPLE_PER_CLASS = 200
_SMALLEST_SAMPLE = 1500
_ITERATIONS_ON_ALL = 4
_SAME = 0.5  # correlation down to which halves of a class agree


class Classify2dParams(Params):
    """Number of classes, size, and how long to iterate."""

    n_classes: int = param(50, ge=1, le=1000, help="Number of class averages.")
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    max_resolution_angst: float = param(
        10.0, gt=0, help="Finest detail that is compared; finer is slower and rarely better."
    )
    start_resolution_angst: float = param(
        25.0, gt=0, advanced=True, help="Finest detail that is compared at the start."
    )
    iterations: int = param(20, ge=2, le=500, help="Number of iterations.")
    ramp_iterations: int = param(
        10, ge=1, le=200, advanced=True, help="Iterations over which the resolution grows."
    )
    tau: float = param(
        2.0, gt=0, advanced=True, help="Trust in the data against the prior of smooth averages."
    )
    shift_range_angst: float = param(15.0, gt=0, help="Largest shift that is searched.")
    step_deg: float = param(
        5.0, gt=0.5, le=30, advanced=True, help="Finest step between in-plane rotations."
    )


class Inputs(Ports):
    """Particles with their CTF."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))


class Outputs(Ports):
    """Class averages, largest first, and the particles with class and in-plane pose."""

    classes: DataSet = port(CLASSES2D)
    particles: DataSet = port(PARTICLES)


def expect_classes(
    rows: pl.DataFrame, task: Task, *, config: "ClassifyConfig", state: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles with all averages and add up what they say."""
    import torch

    from verglas.algorithms.em.classify import ClassifyState, classify_plan, classify_references
    from verglas.algorithms.em.expectation import expect, scatter
    from verglas.kernels.disc import half_disc

    torch.set_num_threads(task.threads)
    current = ClassifyState.from_arrays(task.load(state))
    search = classify_plan(config, current)
    radius = search.levels[-1].radius
    rows, views = views_of_rows(
        rows,
        task,
        disc=half_disc(config.box, radius),
        noise_power=current.noise_power,
        scale=current.scale,
        pixel_size_angst=config.pixel_size_angst,
    )
    n_groups = len(current.noise_power)
    if current.iteration == 0:
        generator = torch.Generator().manual_seed(int(task.rng.integers(2**62)))
        sums = scatter(
            views,
            search,
            n_references=config.n_classes,
            n_groups=n_groups,
            padding=config.padding,
            planar=True,
            generator=generator,
        )
        return rows.select("item_id"), sums.to_arrays()
    references = classify_references(config, current, radius)
    poses, sums = expect(views, references, search, n_groups=n_groups)
    return pose_rows(rows, poses), sums.to_arrays()


def _make_config(
    params: Classify2dParams, inputs: Inputs, stack: ParticleStack, seed: int
) -> "ClassifyConfig":
    from verglas.algorithms.em.classify import ClassifyConfig

    extent = stack.box_px * stack.pixel_size_angst
    return ClassifyConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter_of(params.diameter_angst, inputs.particles, extent),
        n_classes=params.n_classes,
        planar=True,
        tau=params.tau,
        start_resolution_angst=max(params.start_resolution_angst, params.max_resolution_angst),
        max_resolution_angst=max(params.max_resolution_angst, 2.2 * stack.pixel_size_angst),
        ramp_iterations=params.ramp_iterations,
        max_iterations=params.iterations,
        shift_range_angst=params.shift_range_angst,
        finest_step_deg=params.step_deg,
        coarsest_step_deg=max(10.0, params.step_deg),
        seed=seed,
    )


def _put(ctx: Context, state: "ClassifyState") -> ArrayRef:
    import numpy as np

    return ctx.put({name: np.asarray(value) for name, value in state.to_arrays().items()})


def _sample(rows: pl.DataFrame, config: "ClassifyConfig", iteration: int) -> pl.DataFrame:
    """Draw the particles of an iteration; the last few use all."""
    wanted = max(_SMALLEST_SAMPLE, _SAMPLE_PER_CLASS * config.n_classes)
    if rows.height <= wanted or iteration >= config.max_iterations - _ITERATIONS_ON_ALL:
        return rows
    return rows.sample(wanted, seed=config.seed + iteration).sort("item_id")


def _iterate(
    ctx: Context, rows: pl.DataFrame, config: "ClassifyConfig", noise: "Tensor"
) -> "ClassifyState":
    from verglas.algorithms.em.classify import (
        ClassifyState,
        classify_update,
        first_state,
        revive_empty,
    )
    from verglas.algorithms.em.mstep import Sums

    def step(arrays: dict[str, Any], iteration: int) -> dict[str, Any]:
        state = ClassifyState.from_arrays(arrays)
        found = ctx.accumulate(
            expect_classes,
            _sample(rows, config, iteration),
            chunk=min(_CHUNK, max(200, -(-rows.height // 2))),
            config=config,
            state=_put(ctx, state),
        )
        state = classify_update(config, state, Sums.from_arrays(found.sums[None]))
        if iteration < config.max_iterations - _ITERATIONS_ON_ALL:
            state = revive_empty(config, state)
        ctx.log.info(
            "iteration %d: evidence %.2f a particle, shifts %.1f Å, largest class %.1f %%",
            state.iteration,
            state.evidence_loglik,
            state.shift_prior_angst,
            100 * float(state.class_weight.max()),
        )
        resolution = config.extent_angst / config.radius_at(iteration)
        ctx.progress(state.iteration, config.max_iterations, f"{resolution:.0f} Å")
        return state.to_arrays()

    def until(arrays: dict[str, Any]) -> bool:
        return int(arrays["iteration"]) >= config.max_iterations

    return ClassifyState.from_arrays(
        ctx.iterate(step, first_state(config, noise).to_arrays(), until=until)
    )


def _averages(
    config: "ClassifyConfig", state: "ClassifyState", halves: "list[Sums]"
) -> "tuple[Tensor, list[float]]":
    """Make the averages at the images' own pixel, and measure their resolution."""
    import torch

    from verglas.algorithms.em.classify import class_averages
    from verglas.kernels.fourier import rfft2
    from verglas.kernels.fsc import fourier_shell_correlation, resolution_at
    from verglas.kernels.masks import soft_circle

    pixel = config.pixel_size_angst
    radius_px = min(0.55 * config.diameter_angst / pixel, 0.45 * config.box)
    mask = soft_circle(config.box, radius_px, max(4.0, 10.0 / pixel))
    pair = [class_averages(config, sums) * mask for sums in halves]
    shells = halves[0].residual_power.shape[1]
    curves = fourier_shell_correlation(rfft2(pair[0]), rfft2(pair[1]), n_shells=shells)
    resolution = resolution_at(curves, _SAME, box=config.box, pixel_size_angst=pixel)
    both = class_averages(config, halves[0], halves[1], snr=curves) * mask
    limit = torch.full_like(resolution, config.extent_angst)
    return both, torch.minimum(resolution, limit).tolist()


@protocol(
    "particles.classify_2d",
    version=1,
    label="Classify in 2D",
    citations=("10.1016/j.jmb.2011.11.010",),
)
def run(ctx: Context, params: Classify2dParams, inputs: Inputs) -> Outputs:
    """Iterate, then assign all particles once more, in two halves."""
    from verglas.algorithms.em.mstep import Sums

    stack = read_stack(inputs.particles, needed_by="particles.classify_2d")
    if stack.rows.height < 2 * params.n_classes:
        raise PortError(
            f"particles.classify_2d: {stack.rows.height} particles are too few for "
            f"{params.n_classes} classes",
            f"ask for at most {max(1, stack.rows.height // 20)} classes",
        )
    config = _make_config(params, inputs, stack, ctx.seed)
    stack, noise = initial_noise(ctx, stack, radius=config.radius_at(config.max_iterations))
    state = _iterate(ctx, stack.rows, config, noise)
    parted = stack.rows.with_columns(pl.int_range(pl.len()).mod(2).alias(_PART))
    found = ctx.accumulate(
        expect_classes, parted, chunk=_CHUNK, by=_PART, config=config, state=_put(ctx, state)
    )
    halves = [Sums.from_arrays(found.sums[part]) for part in sorted(found.sums)]
    averages, resolutions = _averages(config, state, halves)
    classes, rank = _classes(ctx, inputs, found.rows, averages, resolutions, config)
    ctx.metric("n_classes", float(classes.n_items))
    ctx.metric("best_resolution_angst", min(resolutions))
    poses = found.rows.with_columns(
        pl.col("class_index").replace_strict(rank, return_dtype=pl.Int64)
    ).drop("angle_rot_deg", "angle_tilt_deg")
    kept = inputs.particles.select(poses.select("item_id"))
    return Outputs(classes=classes, particles=kept.with_columns(poses))


def _classes(
    ctx: Context,
    inputs: Inputs,
    poses: pl.DataFrame,
    averages: "Tensor",
    resolutions: list[float],
    config: "ClassifyConfig",
) -> tuple[DataSet, dict[int, int]]:
    """Write the averages, largest class first; also give the new number of each class."""
    from verglas.io.mrc import write_mrc

    counts = dict(poses.group_by("class_index").len().iter_rows())
    scores = dict(poses.group_by("class_index").agg(pl.col("score").mean()).iter_rows())
    order = sorted(range(config.n_classes), key=lambda c: -counts.get(c, 0))
    filled = [c for c in order if counts.get(c, 0) > 0]
    array = averages[filled].float().numpy()
    path = ctx.write_file(
        "averages.mrcs",
        lambda target: write_mrc(target, array, config.pixel_size_angst, is_stack=True),
    )
    optics = inputs.particles.optics.head(1)
    rows = pl.DataFrame(
        {
            "image_path": [path] * len(filled),
            "image_slice": range(len(filled)),
            "class_index": range(len(filled)),
            "n_particles": [counts[c] for c in filled],
            "resolution_angst": [resolutions[c] for c in filled],
            "score": [scores[c] for c in filled],
            "optics_group": [int(optics["optics_group"][0])] * len(filled),
        }
    )
    rank = {c: i for i, c in enumerate(filled)}
    return ctx.dataset(CLASSES2D, rows, optics=optics, source=inputs.particles), rank
