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
The half maps are neither masked nor sharpened: `volumes.postprocess` does that.
"""

import math
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import ParamsError, PortError
from verglas.model import CURVES, PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack
from verglas.protocols._poses import diameter_of, write_map
from verglas.protocols.refine3d._refine_chunks import (
    POSE_ANGLES,
    POSE_SHIFTS,
    calibrate,
    expect_half,
)
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.refine import RefineConfig, RefineState

__all__ = ["Inputs", "Outputs", "Refine3dParams", "run"]

_FEWEST = 40
_CHUNK = 2000
_CALIBRATION_VIEWS = 200
_PATTERN = ("item_id", "half_set")
_FOUND = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg", "shift_x_angst", "shift_y_angst")


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


class Inputs(Ports):
    """Particles with their CTF, and a map to start from."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))
    reference: DataSet = port(VOLUMES)


class Outputs(Ports):
    """The map with its half maps, the particles with poses, and the FSC."""

    volumes: DataSet = port(VOLUMES)
    particles: DataSet = port(PARTICLES)
    curves: DataSet = port(CURVES)


def _with_halves(stack: ParticleStack, seed: int) -> pl.DataFrame:
    """Give every particle its half, once: those it has are kept."""
    import numpy as np

    rows = stack.rows
    if rows.height < _FEWEST:
        raise PortError(
            f"particles.refine_3d needs at least {_FEWEST} particles for two halves: got "
            f"{rows.height}",
            "pick more, or loosen the selection",
        )
    if "half_set" in rows.columns and rows["half_set"].null_count() == 0:
        if rows["half_set"].n_unique() != 2:
            raise PortError(
                "particles.refine_3d: all particles are in one half set",
                "give both halves, or particles without a half_set column",
            )
        return rows
    order = np.random.default_rng(seed).permutation(rows.height)
    half = np.empty(rows.height, np.int8)
    half[order] = np.arange(rows.height) % 2 + 1
    return rows.with_columns(half_set=pl.Series(half))


def _reference_map(ctx: Context, inputs: Inputs, config: "RefineConfig") -> "Tensor":
    """Bring the first map of the reference onto the box of the particles."""
    import torch

    from verglas.algorithms.em.refine import fit_to_box
    from verglas.io.mrc import read_mrc

    row = inputs.reference.rows(with_optics=True).row(0, named=True)
    array, header_pixel = read_mrc(ctx.path(row["image_path"]))
    pixel = row.get("pixel_size_angst") or header_pixel
    if pixel is None:
        raise PortError("the reference has no pixel size", "import it with one")
    return fit_to_box(torch.from_numpy(array), pixel_size_angst=float(pixel), config=config)


def _start_resolution(params: Refine3dParams, reference: DataSet) -> float:
    if params.initial_low_pass_angst is not None:
        return params.initial_low_pass_angst
    if "resolution_angst" in reference.columns:
        claimed = reference.rows(("resolution_angst",))["resolution_angst"][0]
        if claimed is not None and math.isfinite(claimed):
            return 1.5 * float(claimed)
    return 30.0


def _make_config(params: Refine3dParams, inputs: Inputs, stack: ParticleStack, seed: int) -> Any:
    from verglas.algorithms.em.refine import RefineConfig
    from verglas.kernels.symmetry import parse_symmetry

    extent = stack.box_px * stack.pixel_size_angst
    diameter = diameter_of(params.diameter_angst, inputs.particles, extent)
    if diameter > extent:
        raise ParamsError(
            f"diameter_angst must fit the box of {extent:.0f} Å: got {diameter:.0f}",
            "extract with a larger box",
        )
    try:
        symmetry = parse_symmetry(params.symmetry)
    except ValueError as error:
        raise ParamsError(str(error), "give a point group, as C1, D7 or O") from error
    return RefineConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter,
        symmetry=symmetry,
        initial_low_pass_angst=_start_resolution(params, inputs.reference),
        shift_range_angst=params.shift_range_angst,
        finest_step_deg=params.finest_step_deg,
        max_resolution_angst=params.max_resolution_angst,
        max_iterations=params.max_iterations,
        seed=seed,
    )


def _expect(
    ctx: Context, rows: pl.DataFrame, config: "RefineConfig", state: "RefineState", *, final: bool
) -> "tuple[pl.DataFrame, dict[int, Sums]]":
    import numpy as np

    from verglas.algorithms.em.mstep import Sums

    arrays = {name: np.asarray(value) for name, value in state.to_arrays().items()}
    found = ctx.accumulate(
        expect_half,
        rows,
        chunk=_CHUNK,
        by="half_set",
        config=config,
        state=ctx.put(arrays),
        final=final,
    )
    return found.rows, {int(h) - 1: Sums.from_arrays(sums) for h, sums in found.sums.items()}


def _start(
    ctx: Context, rows: pl.DataFrame, inputs: Inputs, config: "RefineConfig", noise: "Tensor"
) -> "RefineState":
    """Low-pass the reference and bring it to the images' grey scale."""
    import dataclasses

    import numpy as np

    from verglas.algorithms.em.refine import initial_state

    state = initial_state(config, _reference_map(ctx, inputs, config), noise)
    sample = rows.sample(min(rows.height, _CALIBRATION_VIEWS), seed=config.seed).sort("item_id")
    arrays = {name: np.asarray(value) for name, value in state.to_arrays().items()}
    found = ctx.accumulate(
        calibrate, sample, chunk=_CALIBRATION_VIEWS // 2, config=config, state=ctx.put(arrays)
    )
    total, count = found.sums[None]["log_factor"]
    factor = math.exp(float(total) / float(count))
    ctx.log.info("reference multiplied by %.4g", factor)
    return dataclasses.replace(state, half_maps=state.half_maps * factor)


def _with_poses(rows: pl.DataFrame, poses: "NDArray[np.float64]") -> pl.DataFrame:
    """Give particles the poses of the last iteration, `[n, 5]`."""
    names = (*POSE_ANGLES, *POSE_SHIFTS)
    return rows.with_columns(**{name: pl.Series(poses[:, i]) for i, name in enumerate(names)})


def _jumped(config: "RefineConfig", before: Any, after: Any, state: "RefineState") -> float:
    import torch

    from verglas.algorithms.em.refine import jumped_share
    from verglas.kernels.so3 import euler_to_matrix

    if state.iteration == 0:
        return 1.0
    pair = (euler_to_matrix(torch.from_numpy(poses[:, :3].copy())) for poses in (before, after))
    return jumped_share(config, *pair)


def _refine(
    ctx: Context, rows: pl.DataFrame, config: "RefineConfig", start: "RefineState"
) -> "tuple[RefineState, NDArray[np.float64]]":
    """Iterate; return the last state and the poses of the particles."""
    import numpy as np

    from verglas.algorithms.em.plan import is_concentrated, is_local, plan
    from verglas.algorithms.em.refine import RefineState, finished, update

    def step(arrays: dict[str, Any], iteration: int) -> dict[str, Any]:
        state, before = RefineState.from_arrays(arrays), arrays["particle_poses"]
        found, sums = _expect(ctx, _with_poses(rows, before), config, state, final=False)
        poses = rows.select("item_id").join(found, on="item_id", how="left", maintain_order="left")
        after = np.where(np.isnan(new := poses.select(_FOUND).to_numpy()), before, new)
        new_state = update(
            config,
            state,
            sums,
            step_deg=plan(config, state).levels[-1].step_deg,
            effective_cells=float(str(found["n_effective_orientations"].median())),
            searched=is_concentrated(state) and not is_local(state),
            jumped=_jumped(config, before, after, state),
        )
        _log_iteration(ctx, config, state, new_state, found)
        return {**new_state.to_arrays(), "particle_poses": after}

    def until(arrays: dict[str, Any]) -> bool:
        return finished(config, RefineState.from_arrays(arrays))

    first = {**start.to_arrays(), "particle_poses": np.zeros((rows.height, 5))}
    last = ctx.iterate(step, first, until=until)
    return RefineState.from_arrays(last), np.asarray(last["particle_poses"])


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


@protocol(
    "particles.refine_3d",
    version=2,
    label="Refine a map",
    citations=("10.1016/j.jsb.2012.09.006", "10.1016/j.jmb.2003.07.013"),
)
def run(ctx: Context, params: Refine3dParams, inputs: Inputs) -> Outputs:
    """Iterate to convergence, then look once more, well beyond what is resolved."""
    from verglas.algorithms.em.refine import half_maps, update

    stack = read_stack(inputs.particles, extra=("half_set",), needed_by="particles.refine_3d")
    config = _make_config(params, inputs, stack, ctx.seed)
    stack, noise = initial_noise(ctx, stack, radius=config.max_radius)
    rows = _with_halves(stack, ctx.seed)
    state, known = _refine(ctx, rows, config, _start(ctx, rows, inputs, config, noise))
    if state.iteration >= config.max_iterations:
        ctx.warn(f"stopped after {state.iteration} iterations, not yet converged")
    poses, sums = _expect(ctx, _with_poses(rows, known), config, state, final=True)
    final = update(
        config, state, sums, step_deg=state.step_deg, effective_cells=state.effective_cells
    )
    halves = half_maps(config, sums)
    resolution = final.resolution_angst(config)
    names = ("half_map_1.mrc", "half_map_2.mrc", "map.mrc")
    paths = [
        write_map(ctx, name, volume, config.pixel_size_angst)
        for name, volume in zip(names, (*halves, halves.mean(0)), strict=True)
    ]
    ctx.metric("resolution_angst", resolution)
    ctx.metric("iterations", float(state.iteration))
    spread = poses.select(pl.col("angle_sd_deg", "shift_sd_angst").median()).row(0)
    for name, value in zip(("angle_sd_deg", "shift_sd_angst"), spread, strict=True):
        if value is not None:
            ctx.metric(name, float(value))
    return Outputs(
        volumes=_volumes(ctx, inputs, paths, resolution, config.symmetry),
        particles=_posed(ctx, inputs.particles, rows, poses),
        curves=_curve(ctx, final, config),
    )


def _volumes(
    ctx: Context, inputs: Inputs, paths: list[str], resolution: float, symmetry: str
) -> DataSet:
    optics = inputs.particles.optics.head(1)
    rows = pl.DataFrame(
        {
            "image_path": [paths[2]],
            "image_slice": [0],
            "half_map_1_path": [paths[0]],
            "half_map_2_path": [paths[1]],
            "resolution_angst": [resolution],
            "symmetry": [symmetry],
            "optics_group": [int(optics["optics_group"][0])],
        }
    )
    return ctx.dataset(VOLUMES, rows, optics=optics, source=inputs.particles)


def _posed(ctx: Context, particles: DataSet, rows: pl.DataFrame, poses: pl.DataFrame) -> DataSet:
    changed = poses.join(rows.select(_PATTERN), on="item_id")
    kept = particles.select(changed.select("item_id"))
    return kept.with_columns(changed)


def _curve(ctx: Context, state: "RefineState", config: "RefineConfig") -> DataSet:
    fsc = state.fsc.tolist()
    rows = pl.DataFrame(
        {
            "label": ["half maps, soft sphere"],
            "x_per_angst": [[s / config.extent_angst for s in range(len(fsc))]],
            "y": [fsc],
        }
    )
    return ctx.dataset(CURVES, rows)
