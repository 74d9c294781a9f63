"""Refine a map from particles, by gold standard.

The particles are split into two halves once and for ever; each half has its own map, and the
two meet only in the Fourier shell correlation (FSC) that tells signal from noise. Every
iteration compares all particles with projections of their half's map, keeps all poses by their
probability, and makes new maps. While poses are uncertain, orientations and shifts lie on grids;
then a grid only finds where a continuous climb to the best pose begins; and at last the climb
begins where the particle was. Grids, noise, intensities and resolution adapt by themselves,
until nothing improves. Each pose comes with its standard deviations.

The reference need not be on the images' grey scale. Give the point group if the particle has
one: its axes must be where the reference has them, as maps of `particles.initial_volume` do.
A uniform filter keeps the noise of places where the particle moves; `regularisation` chooses a
filter for each place by foretelling one half from the other. The half maps are neither masked
nor sharpened: `volumes.postprocess` does that.
"""

import math
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from verglas.core.memory import check_memory, memory_of_machine
from verglas.model import CURVES, PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack
from verglas.protocols._poses import diameter_of
from verglas.protocols.refine3d._gold import (
    expect_halves,
    iterate_halves,
    scaled_start,
    with_poses,
)
from verglas.protocols.refine3d._halves import (
    check_diameter,
    parsed_symmetry,
    reference_map,
    with_halves,
)
from verglas.protocols.refine3d._outputs import fsc_curve, posed_particles, refined_volumes
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.em.refine_state import RefineConfig

__all__ = ["Inputs", "Outputs", "Refine3dParams", "run"]

_ID = "particles.refine_3d"
_AUDITED = 20  # one of so many particles at most


class Refine3dParams(Params):
    """Size, symmetry and limits."""

    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    symmetry: str = param("C1", help="Point group: C1, Cn, Dn, T, O or I.")
    initial_low_pass_angst: float | None = param(
        None,
        gt=0,
        help="Resolution of the reference at the start; by itself 1.5 times what it claims, "
        "or 30 where it claims nothing.",
    )
    shift_range_angst: float = param(12.0, gt=0, help="Largest shift that is searched.")
    finest_step_deg: float = param(
        0.9, gt=0.1, le=15, advanced=True, help="Finest step between orientations."
    )
    max_resolution_angst: float = param(
        0.0, ge=0, advanced=True, help="Never use data beyond this; 0 for no limit."
    )
    max_iterations: int = param(20, ge=1, le=100, help="Stop then, converged or not.")
    n_audited: int = param(
        200,
        ge=0,
        advanced=True,
        help="Particles, a twentieth of all at most, that are searched twice as widely too; "
        "if that finds more, all are.",
    )
    regularisation: Literal["uniform", "non_uniform"] = param(
        "uniform",
        advanced=True,
        help="One filter for the whole map, or one that suits every place, where parts move.",
    )


class Inputs(Ports):
    """Particles with their CTF, and a map to start from."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))
    reference: DataSet = port(VOLUMES)


class Outputs(Ports):
    """The map with its half maps, the particles with poses, and the FSC."""

    volumes: DataSet = port(VOLUMES)
    particles: DataSet = port(PARTICLES)
    curves: DataSet = port(CURVES)


def _start_resolution(params: Refine3dParams, reference: DataSet) -> float:
    if params.initial_low_pass_angst is not None:
        return params.initial_low_pass_angst
    if "resolution_angst" in reference.columns:
        claimed = reference.rows(("resolution_angst",))["resolution_angst"][0]
        if claimed is not None and math.isfinite(claimed):
            return 1.5 * float(claimed)
    return 30.0


def _make_config(params: Refine3dParams, inputs: Inputs, stack: ParticleStack, seed: int) -> Any:
    from verglas.algorithms.em.refine_state import RefineConfig

    extent = stack.box_px * stack.pixel_size_angst
    diameter = diameter_of(params.diameter_angst, inputs.particles, extent)
    check_diameter(diameter, extent)
    return RefineConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter,
        symmetry=parsed_symmetry(params.symmetry),
        initial_low_pass_angst=_start_resolution(params, inputs.reference),
        shift_range_angst=params.shift_range_angst,
        finest_step_deg=params.finest_step_deg,
        max_resolution_angst=params.max_resolution_angst,
        max_iterations=params.max_iterations,
        seed=seed,
        regularisation=params.regularisation,
    )


def _check_memory(ctx: Context, config: "RefineConfig") -> None:
    """Refuse to begin what cannot end for want of memory."""
    from verglas.algorithms.em.memory import refinement_memory_gb

    said = check_memory(
        refinement_memory_gb(config.max_radius, padding=config.padding),
        f"a refinement of {config.box} px to {config.extent_angst / config.max_radius:.2g} Å",
        "bin the particles, or set max_resolution_angst",
        memory_of_machine(),
    )
    if said:
        ctx.warn(said)


@protocol(
    _ID,
    version=5,
    label="Refine a map",
    citations=(
        "10.1016/j.jsb.2012.09.006",
        "10.1016/j.jmb.2003.07.013",
        "10.1038/s41592-020-00990-8",
    ),
)
def run(ctx: Context, params: Refine3dParams, inputs: Inputs) -> Outputs:
    """Iterate to convergence, then look once more, well beyond what is resolved."""
    from verglas.algorithms.em.refine import half_maps, update

    stack = read_stack(inputs.particles, extra=("half_set",), needed_by=_ID)
    config = _make_config(params, inputs, stack, ctx.seed)
    _check_memory(ctx, config)
    stack, noise = initial_noise(ctx, stack, radius=config.max_radius)
    rows = with_halves(stack, ctx.seed, needed_by=_ID)
    start = scaled_start(ctx, rows, reference_map(ctx, inputs.reference, config), config, noise)
    state, known = iterate_halves(
        ctx, rows, config, start, n_audited=min(params.n_audited, rows.height // _AUDITED)
    )
    if state.iteration >= config.max_iterations:
        ctx.warn(f"stopped after {state.iteration} iterations, not yet converged")
    poses, sums = expect_halves(ctx, with_poses(rows, known), config, state, final=True)
    final = update(
        config, state, sums, step_deg=state.step_deg, effective_cells=state.effective_cells
    )
    halves = half_maps(config, sums)
    resolution = final.resolution_angst(config)
    ctx.metric("resolution_angst", resolution)
    ctx.metric("iterations", float(state.iteration))
    spread = poses.select(pl.col("angle_sd_deg", "shift_sd_angst").median()).row(0)
    for name, value in zip(("angle_sd_deg", "shift_sd_angst"), spread, strict=True):
        if value is not None:
            ctx.metric(name, float(value))
    return Outputs(
        volumes=refined_volumes(ctx, inputs.particles, halves, resolution, config),
        particles=posed_particles(inputs.particles, rows, poses),
        curves=fsc_curve(ctx, final, config),
    )
