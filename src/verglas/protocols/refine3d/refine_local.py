"""Refine poses that are nearly right, without a search.

From the pose it has, each particle climbs to the peak of the likelihood over three angles and
two shifts. The map's amplitude is first fitted to the images shell by shell, so that a map of
any grey scale, sharpening or low-pass will do, and shells without signal do not count. Each
pose comes with its standard deviations, from the Fisher information.

By itself this is one pass and changes poses only: as after refining the CTF or the point group,
or to align particles to a better map. With `n_iterations` the particles' halves are then
refined apart (gold standard), starting from the map low-passed, in the vicinity of their poses;
a mask keeps each half map's density. Poses that came from one map for both halves have seen
each other up to that map's resolution: keep `initial_low_pass_angst` well above it.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import PortError
from verglas.model import CURVES, MASKS, PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, first_noise, read_stack
from verglas.protocols._poses import diameter_of
from verglas.protocols.refine3d._gold import (
    FOUND_POSE,
    expect_halves,
    iterate_halves,
    with_poses,
)
from verglas.protocols.refine3d._halves import (
    check_diameter,
    mask_map,
    parsed_symmetry,
    reference_array,
    with_halves,
)
from verglas.protocols.refine3d._local_chunks import climb_chunk, measure_chunk
from verglas.protocols.refine3d._outputs import fsc_curve, posed_particles, refined_volumes
from verglas.sdk import ArrayRef, Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.local_pass import Amplitudes
    from verglas.algorithms.em.refine_config import RefineConfig
    from verglas.algorithms.em.refine_state import RefineState

__all__ = ["Inputs", "Outputs", "RefineLocalParams", "run"]

_ID = "particles.refine_local"
_CHUNK = 2000
_SAMPLE = 400  # particles, for the first amplitudes
_WEAK = 1e-3  # of the images' power


class RefineLocalParams(Params):
    """How far, and how often."""

    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    symmetry: str = param("C1", help="Point group: C1, Cn, Dn, T, O or I.")
    n_iterations: int = param(
        0, ge=0, le=50, help="Gold-standard iterations after the pass; 0 refines poses only."
    )
    initial_low_pass_angst: float = param(
        15.0, gt=0, help="Resolution at which both halves start from the map."
    )
    max_resolution_angst: float = param(
        0.0, ge=0, advanced=True, help="Never use data beyond this; 0 for no limit."
    )
    shift_prior_angst: float = param(
        8.0, gt=0, advanced=True, help="Standard deviation of shifts about the box centre."
    )


class Inputs(Ports):
    """Particles with CTF and poses, the map they were aligned to, and where density is kept."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf", "pose3d"))
    reference: DataSet = port(VOLUMES)
    mask: DataSet | None = port(MASKS, optional=True)


class Outputs(Ports):
    """The particles with better poses; after iterations the map with half maps, and the FSC."""

    particles: DataSet = port(PARTICLES)
    volumes: DataSet | None = port(VOLUMES, optional=True)
    curves: DataSet | None = port(CURVES, optional=True)


def _config(params: RefineLocalParams, inputs: Inputs, stack: ParticleStack, seed: int) -> Any:
    from verglas.algorithms.em.refine_config import RefineConfig

    extent = stack.box_px * stack.pixel_size_angst
    diameter = diameter_of(params.diameter_angst, inputs.particles, extent)
    check_diameter(diameter, extent)
    return RefineConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter,
        symmetry=parsed_symmetry(params.symmetry),
        initial_low_pass_angst=params.initial_low_pass_angst,
        max_resolution_angst=params.max_resolution_angst,
        max_iterations=max(params.n_iterations, 1),
        seed=seed,
    )


def _mask(
    ctx: Context, masks: DataSet | None, config: "RefineConfig", volume: "NDArray[np.float32]"
) -> "Tensor | None":
    if masks is None:
        return None
    import torch

    return mask_map(ctx, masks, config, torch.from_numpy(volume))


@dataclass(frozen=True)
class _Model:
    """The map, with the amplitude of its shells and the noise of the images."""

    volume: "NDArray[np.float32]"
    factors: "NDArray[np.float64]"
    noise: "NDArray[np.float32]"

    def put(self, ctx: Context) -> ArrayRef:
        return ctx.put({"volume": self.volume, "factors": self.factors, "noise_power": self.noise})

    def fitted(self, found: "Amplitudes") -> "_Model":
        """Take amplitudes that were measured with this model."""
        return _Model(self.volume, self.factors * found.factors(), self.noise)


def _given_poses(particles: DataSet, rows: pl.DataFrame) -> "NDArray[np.float64]":
    import numpy as np

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


def _climbed(
    ctx: Context,
    rows: pl.DataFrame,
    config: "RefineConfig",
    model: _Model,
    prior_angst: float,
) -> "tuple[pl.DataFrame, _Model]":
    """Fit amplitudes and climb, twice; return poses, and the model with the noise that is left."""
    import dataclasses

    from verglas.algorithms.em.local_pass import Amplitudes

    sample = rows.sample(min(rows.height, _SAMPLE), seed=ctx.seed).sort("item_id")
    sums = ctx.accumulate(
        measure_chunk, sample, chunk=_SAMPLE, config=config, model=model.put(ctx)
    ).sums[None]
    found = Amplitudes(**sums)
    model = model.fitted(found)
    explained = 1 - float((found.noise_share() * found.total).sum() / found.total.sum())
    if explained < _WEAK:
        ctx.warn(
            f"at the poses given the map explains {100 * explained:.2g} % of the images' power: "
            "is it the map that they belong to?"
        )
    poses = rows
    for turn, radius in enumerate((found.informed_radius(), config.max_radius)):
        ctx.progress(turn, 2, "climbing")
        done = ctx.accumulate(
            climb_chunk,
            poses,
            chunk=_CHUNK,
            config=config,
            model=model.put(ctx),
            radius=radius,
            shift_prior_angst=prior_angst,
        )
        after = Amplitudes(**done.sums[None])
        model = model.fitted(after)
        if turn == 0:
            noise = model.noise * after.noise_share().astype("float32")
            model = dataclasses.replace(model, noise=noise)
            poses = _moved(rows, done.rows)
    return done.rows, model


def _moved(rows: pl.DataFrame, found: pl.DataFrame) -> pl.DataFrame:
    kept = rows.join(found.select("item_id"), on="item_id", how="semi", maintain_order="left")
    poses = kept.select("item_id").join(found, on="item_id", how="left", maintain_order="left")
    return with_poses(kept, poses.select(FOUND_POSE).to_numpy())


def _local_start(
    config: "RefineConfig", model: _Model, mask: "Tensor | None", shift_prior_angst: float
) -> "RefineState":
    """Start both halves from the fitted map, low-passed, and never search."""
    import dataclasses

    import torch

    from verglas.algorithms.em.plan import MOST_SEARCHES
    from verglas.algorithms.em.refine_start import initial_state
    from verglas.kernels.fourier import irfft3, rfft3
    from verglas.kernels.fsc import shell_index

    n = model.volume.shape[-1]
    shell = shell_index((n,) * 3).clamp_max(len(model.factors) - 1)
    volume, factors = torch.tensor(model.volume), torch.tensor(model.factors).float()
    scaled = irfft3(rfft3(volume[None]) * factors[shell], shape=(n,) * 3)[0]
    scaled = scaled if mask is None else scaled * mask
    start = initial_state(config, scaled, torch.tensor(model.noise))
    return dataclasses.replace(
        start,
        n_polished=MOST_SEARCHES,
        step_deg=0.0,
        effective_cells=1.0,
        shift_prior_angst=shift_prior_angst,
        jumped=0.0,
    )


@protocol(
    _ID,
    version=3,
    label="Refine poses locally",
    citations=("10.1016/j.jsb.2006.06.010", "10.1016/j.jsb.2012.09.006"),
)
def run(ctx: Context, params: RefineLocalParams, inputs: Inputs) -> Outputs:
    """Fit the map's amplitudes, climb, fit and climb again; iterate by halves where asked to."""
    import numpy as np

    stack = read_stack(inputs.particles, extra=("half_set",), needed_by=_ID)
    config = _config(params, inputs, stack, ctx.seed)
    volume = reference_array(ctx, inputs.reference, config)
    mask = _mask(ctx, inputs.mask, config, volume)
    stack, noise = first_noise(ctx, stack, radius=config.max_radius)
    rows = stack.rows
    if params.n_iterations:
        rows = with_halves(stack, ctx.seed, needed_by=_ID)
    rows = with_poses(rows, _given_poses(inputs.particles, rows))
    model = _Model(
        volume if mask is None else volume * mask.numpy(), np.ones(config.max_radius + 1), noise
    )
    found, model = _climbed(ctx, rows, config, model, params.shift_prior_angst)
    if not params.n_iterations:
        _tell_spread(ctx, found)
        kept = inputs.particles.select(found.select("item_id"))
        return Outputs(particles=kept.with_columns(found))
    return _iterated(ctx, params, inputs, _moved(rows, found), config, model, mask)


def _tell_spread(ctx: Context, found: pl.DataFrame) -> None:
    for name in ("angle_sd_deg", "shift_sd_angst"):
        spread = found[name].median()
        if spread is not None and math.isfinite(float(str(spread))):
            ctx.metric(name, float(str(spread)))


def _iterated(
    ctx: Context,
    params: RefineLocalParams,
    inputs: Inputs,
    rows: pl.DataFrame,
    config: "RefineConfig",
    model: _Model,
    mask: "Tensor | None",
) -> Outputs:
    """Refine the halves apart, from the poses in the rows."""
    from verglas.algorithms.em.refine import half_maps, update
    from verglas.protocols.refine3d._refine_chunks import POSE_ANGLES, POSE_SHIFTS

    start = _local_start(config, model, mask, params.shift_prior_angst)
    first = rows.select(*POSE_ANGLES, *POSE_SHIFTS).to_numpy()
    state, known = iterate_halves(ctx, rows, config, start, poses=first, solvent=mask)
    found, sums = expect_halves(ctx, with_poses(rows, known), config, state, final=True)
    final = update(config, state, sums, step_deg=0.0, effective_cells=1.0)
    resolution = final.resolution_angst(config)
    ctx.metric("resolution_angst", resolution)
    ctx.metric("iterations", float(state.iteration))
    _tell_spread(ctx, found)
    return Outputs(
        particles=posed_particles(inputs.particles, rows, found),
        volumes=refined_volumes(ctx, inputs.particles, half_maps(config, sums), resolution, config),
        curves=fsc_curve(ctx, final, config),
    )
