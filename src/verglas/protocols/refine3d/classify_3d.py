"""Sort particles into classes of different structure, and make a map of each.

Poses come first: by a short refinement of one map (given as `reference`, at low resolution),
or, with `align` off, from the particles themselves. At these poses the particles are divided
from several random starts; `agreement` tells which share of them the second best start puts
into the same class, and `gain_loglik` by how much classes made of one half of the particles
explain the other half better than one map does. At zero or below the data do not support
different classes: a warning says so, and the classes that are given mean nothing. Otherwise
poses and classes are followed together until few particles change.

With as many maps as classes for a `reference` the classes start from those instead. A mask
says where classes may differ; elsewhere they share the mean. Maps are filtered for comparison,
and their resolution is not of a gold standard: refine the particles of a class that you keep.
"""

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import ParamsError, PortError
from verglas.model import MASKS, PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack
from verglas.protocols._poses import diameter_of
from verglas.protocols.refine3d._class_loop import (
    Divided,
    Found,
    divide,
    follow_classes,
    mean_state,
    state_of_maps,
    state_of_refinement,
)
from verglas.protocols.refine3d._class_maps import class_volumes
from verglas.protocols.refine3d._gold import FOUND_POSE, iterate_halves, scaled_start
from verglas.protocols.refine3d._halves import (
    check_diameter,
    mask_map,
    parsed_symmetry,
    reference_map,
    with_halves,
)
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.classify import ClassifyConfig, ClassState
    from verglas.algorithms.em.refine_state import RefineConfig, RefineState

__all__ = ["Classify3dParams", "Inputs", "Outputs", "run"]

_ID = "particles.classify_3d"
_SURE = 0.8
_SETTLED = 0.02  # of the particles
_LEAST_FOCUS = 1e-3  # of the reference's power: where classes differ may be small
_ALIGNMENTS = 8  # iterations of the first map at most
_FEWEST_ALIGNMENTS = 6  # poses and noise still improve when particles no longer jump
_LOW_PASS_ANGST = 30.0


class Classify3dParams(Params):
    """Number of classes, poses, size and limits."""

    n_classes: int = param(3, ge=2, le=50, help="Number of classes.")
    align: bool = param(True, help="Seek poses; otherwise those of the particles are kept.")
    n_seeds: int = param(
        3, ge=1, le=50, help="Random starts; the one that explains unseen particles best is kept."
    )
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    symmetry: str = param("C1", help="Point group: C1, Cn, Dn, T, O or I.")
    initial_low_pass_angst: float = param(
        _LOW_PASS_ANGST, gt=0, help="Resolution of the reference at the start."
    )
    split_resolution_angst: float = param(
        20.0, gt=0, help="Resolution at which particles are divided at first."
    )
    shift_range_angst: float = param(
        12.0, gt=0, help="Largest shift that is searched.", show_if={"align": True}
    )
    max_resolution_angst: float = param(
        0.0, ge=0, advanced=True, help="Never use data beyond this; 0 for no limit."
    )
    max_iterations: int = param(
        12, ge=1, le=100, help="Stop then, whether particles still change or not."
    )
    max_split_particles: int = param(
        20000, ge=100, advanced=True, help="Particles that the random starts are compared on."
    )
    tau: float = param(
        1.0, gt=0, advanced=True, help="Trust in what classes differ by; 1 is neutral."
    )


class Inputs(Ports):
    """Particles with their CTF; a map to align to, or one for each class; where they differ."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))
    reference: DataSet | None = port(VOLUMES, optional=True)
    mask: DataSet | None = port(MASKS, optional=True)


class Outputs(Ports):
    """The particles with their classes and poses, and a map of each class."""

    particles: DataSet = port(PARTICLES)
    volumes: DataSet = port(VOLUMES)


@dataclass(frozen=True)
class _Job:
    """What every step needs."""

    ctx: Context
    params: Classify3dParams
    inputs: Inputs
    rows: pl.DataFrame
    noise: "Tensor"
    refine: "RefineConfig"
    focus: "Tensor | None"

    def config(self, n_classes: int, *, align: bool, limit_shell: int = 0) -> "ClassifyConfig":
        from verglas.algorithms.em.classify import ClassifyConfig

        return ClassifyConfig(self.refine, n_classes, align, self.params.tau, limit_shell)


def _n_maps(params: Classify3dParams, inputs: Inputs) -> int:
    """Return how many maps are given, and check that they make sense."""
    n = 0 if inputs.reference is None else inputs.reference.n_items
    if params.align and n == 0:
        raise PortError(
            f"{_ID} needs a reference to align particles to",
            "give a map, or poses with align off",
        )
    if n > 1 and n != params.n_classes:
        raise PortError(
            f"{_ID}: {n} maps are given for {params.n_classes} classes",
            "give one map, or as many as classes",
        )
    return n


def _config(params: Classify3dParams, inputs: Inputs, stack: ParticleStack, seed: int) -> Any:
    from verglas.algorithms.em.refine_state import RefineConfig

    extent = stack.box_px * stack.pixel_size_angst
    diameter = diameter_of(params.diameter_angst, inputs.particles, extent)
    check_diameter(diameter, extent)
    if params.split_resolution_angst < params.max_resolution_angst:
        raise ParamsError(
            "max_resolution_angst must be finer than split_resolution_angst: got "
            f"{params.max_resolution_angst:g} and {params.split_resolution_angst:g}"
        )
    return RefineConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter,
        symmetry=parsed_symmetry(params.symmetry),
        initial_low_pass_angst=params.initial_low_pass_angst,
        shift_range_angst=params.shift_range_angst,
        max_resolution_angst=params.max_resolution_angst,
        max_iterations=params.max_iterations,
        seed=seed,
    )


def _aligned(config: "RefineConfig", state: "RefineState") -> bool:
    """Tell whether poses of the first map are good enough to divide the particles."""
    from verglas.algorithms.em.plan import is_local

    settled = is_local(state) and state.iteration >= _FEWEST_ALIGNMENTS
    return settled or state.iteration >= min(_ALIGNMENTS, config.max_iterations)


def _given_poses(particles: DataSet, rows: pl.DataFrame) -> "NDArray[np.float64]":
    import numpy as np

    particles.require(("pose3d",), needed_by=f"{_ID} with align off")
    poses = rows.select("item_id").join(
        particles.rows(("item_id", *FOUND_POSE)), on="item_id", how="left", maintain_order="left"
    )
    missing = poses.filter(pl.any_horizontal(pl.col(*FOUND_POSE).is_null()))
    if missing.height:
        raise PortError(
            f"{missing.height} particles have no pose, as item {missing['item_id'][0]}",
            "select the particles that have one",
        )
    return np.array(poses.select(FOUND_POSE).to_numpy(), dtype=np.float64)


def _one_map(job: _Job) -> "tuple[ClassState, NDArray[np.float64]]":
    """Find poses and the mean of all particles."""
    if job.params.align:
        volume = reference_map(job.ctx, _reference(job.inputs), job.refine)
        start = scaled_start(job.ctx, job.rows, volume, job.refine, job.noise)
        state, poses = iterate_halves(job.ctx, job.rows, job.refine, start, _aligned)
        return state_of_refinement(job.refine, state), poses
    poses = _given_poses(job.inputs.particles, job.rows)
    return mean_state(job.ctx, job.rows, job.config(1, align=False), job.noise, poses), poses


def _reference(inputs: Inputs) -> DataSet:
    assert inputs.reference is not None, "checked by _n_maps"
    return inputs.reference


def _from_one(job: _Job) -> tuple["ClassifyConfig", Found]:
    """Divide the particles at the poses of one map, then follow the classes."""
    ctx, params = job.ctx, job.params
    ctx.progress(0, 3, "poses")
    state, poses = _one_map(job)
    ctx.progress(1, 3, f"{params.n_seeds} starts")
    config = job.config(params.n_classes, align=params.align, limit_shell=state.shell)
    shell = round(job.refine.extent_angst / params.split_resolution_angst)
    divided = divide(
        ctx,
        job.rows,
        config,
        state,
        poses,
        n_seeds=params.n_seeds,
        radius=max(5, min(shell, job.refine.max_radius)),
        max_particles=params.max_split_particles,
        focus=job.focus,
    )
    _tell(job, divided)
    ctx.progress(2, 3, "classes")
    if not divided.is_supported:
        # there is nothing to follow; one pass gives every particle a class
        config = replace(config, refine=replace(config.refine, max_iterations=1))
    return config, follow_classes(ctx, job.rows, config, divided.state, poses, job.focus)


def _tell(job: _Job, divided: Divided) -> None:
    """Report how sure the classes are."""
    ctx = job.ctx
    ctx.metric("gain_loglik", divided.gain_loglik)
    if not divided.is_supported:
        ctx.warn(
            "classes made of one half of the particles do not explain the other half better than "
            f"one map (by {divided.gain_loglik:.2f} log units a particle): the data do not "
            "support different classes"
        )
    elif divided.agreement is not None:
        ctx.metric("agreement", divided.agreement)
        if divided.agreement < _SURE:
            ctx.warn(
                f"no second start found the same classes (agreement {divided.agreement:.2f}, by "
                f"lot {1 / job.params.n_classes:.2f} or more): raise n_seeds, or look for fewer"
            )


def _from_maps(job: _Job) -> tuple["ClassifyConfig", Found]:
    """Start the classes from a map each."""
    import numpy as np

    ctx = job.ctx
    config = job.config(job.params.n_classes, align=job.params.align)
    volumes = [
        scaled_start(
            ctx,
            job.rows,
            reference_map(ctx, _reference(job.inputs), job.refine, row),
            job.refine,
            job.noise,
        ).half_maps[0]
        for row in range(job.params.n_classes)
    ]
    state = state_of_maps(job.refine, volumes, job.noise)
    poses = np.zeros((job.rows.height, len(FOUND_POSE)))
    if not job.params.align:
        poses = _given_poses(job.inputs.particles, job.rows)
    return config, follow_classes(ctx, job.rows, config, state, poses, job.focus)


@protocol(
    "particles.classify_3d",
    version=3,
    label="Classify particles in 3D",
    citations=("10.1016/j.jsb.2012.09.006", "10.1038/nmeth992"),
)
def run(ctx: Context, params: Classify3dParams, inputs: Inputs) -> Outputs:
    """Find poses, divide the particles from several starts, and follow the best classes."""
    n_maps = _n_maps(params, inputs)
    stack = read_stack(inputs.particles, extra=("half_set",), needed_by=_ID)
    refine = _config(params, inputs, stack, ctx.seed)
    reference = None
    if inputs.reference is not None:
        reference = reference_map(ctx, inputs.reference, refine)
    focus = mask_map(ctx, inputs.mask, refine, reference, least_kept=_LEAST_FOCUS)
    stack, noise = initial_noise(ctx, stack, radius=refine.max_radius)
    rows = with_halves(stack, ctx.seed, needed_by=_ID)
    job = _Job(ctx, params, inputs, rows, noise, refine, focus)
    config, found = (_from_maps if n_maps > 1 else _from_one)(job)
    state = found.state
    if state.iteration >= params.max_iterations and state.changed > _SETTLED:
        ctx.warn(
            f"stopped after {state.iteration} iterations, while {100 * state.changed:.0f} % of the "
            "particles changed their class"
        )
    ctx.metric("iterations", float(state.iteration))
    volumes = class_volumes(ctx, inputs.particles, config, found)
    for name in ("angle_sd_deg", "shift_sd_angst"):
        spread = found.rows[name].median()
        if spread is not None and math.isfinite(float(str(spread))):
            ctx.metric(name, float(str(spread)))
    kept = inputs.particles.select(found.rows.select("item_id"))
    posed = found.rows.join(rows.select("item_id", "half_set"), on="item_id")
    return Outputs(particles=kept.with_columns(posed), volumes=volumes)
