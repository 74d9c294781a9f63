"""Find a first map from particles alone.

Several searches start from maps of particles at random orientations. Each compares the
particles with projections of its map, at every orientation of a grid, and makes a new map from
the answer, while the resolution grows from coarse to fine. The search that explains the
particles best gives the map; how well the others agree with it tells how sure it is.

With a point group the map is symmetric about the standard axes from the start. The hand is
open: the mirrored map explains the particles equally well. More than one class sorts the
particles by what they show.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import ParamsError
from verglas.model import PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack, views_of_rows
from verglas.protocols._poses import diameter_of, pose_rows, write_map
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.classify import ClassifyConfig, ClassifyState
    from verglas.algorithms.em.mstep import Sums

__all__ = ["InitialVolumeParams", "Inputs", "Outputs", "expect_seed", "run"]

_SEED = "x_search"
_CHUNK = 2000
_MIN_PARTICLES = 20


class InitialVolumeParams(Params):
    """Size, symmetry and how long to search."""

    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    symmetry: str = param("C1", help="Point group: C1, Cn, Dn, T, O or I.")
    n_classes: int = param(1, ge=1, le=20, help="Number of maps that share the particles.")
    n_searches: int = param(4, ge=1, le=50, help="Independent searches; the best one counts.")
    max_particles: int = param(
        800, ge=50, help="Particles used for the search, drawn at random from all."
    )
    start_resolution_angst: float = param(30.0, gt=0, help="Resolution used at the start.")
    max_resolution_angst: float = param(10.0, gt=0, help="Resolution used at the end.")
    ramp_iterations: int = param(
        12, ge=1, le=200, help="Iterations over which the resolution grows."
    )
    iterations: int = param(24, ge=2, le=500, help="Iterations of each search.")
    tau: float = param(
        4.0, gt=0, advanced=True, help="Trust in the data against the prior of smooth maps."
    )
    shift_range_angst: float = param(
        15.0, gt=0, advanced=True, help="Largest shift that is searched."
    )


class Inputs(Ports):
    """Particles with their CTF."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))


class Outputs(Ports):
    """The maps, best-filled class first, and the particles of the search with their poses."""

    volumes: DataSet = port(VOLUMES)
    particles: DataSet = port(PARTICLES)


def expect_seed(
    rows: pl.DataFrame, task: Task, *, config: "ClassifyConfig", states: dict[str, ArrayRef]
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Compare particles with the maps of one search and add up what they say."""
    import dataclasses

    import torch

    from verglas.algorithms.em.classify import ClassifyState, classify_plan, classify_references
    from verglas.algorithms.em.expectation import expect, scatter
    from verglas.kernels.disc import half_disc

    torch.set_num_threads(task.threads)
    seed = int(rows[_SEED][0])
    config = dataclasses.replace(config, seed=config.seed + seed)
    state = ClassifyState.from_arrays(task.load(states[str(seed)]))
    search = classify_plan(config, state)
    radius = search.levels[-1].radius
    rows, views = views_of_rows(
        rows,
        task,
        disc=half_disc(config.box, radius),
        noise_power=state.noise_power,
        scale=state.scale,
        pixel_size_angst=config.pixel_size_angst,
    )
    n_groups = len(state.noise_power)
    if state.iteration == 0:
        generator = torch.Generator().manual_seed(int(task.rng.integers(2**62)))
        sums = scatter(
            views,
            search,
            n_references=config.n_classes,
            n_groups=n_groups,
            padding=config.padding,
            planar=False,
            generator=generator,
        )
        return rows.select("item_id", _SEED), sums.to_arrays()
    references = classify_references(config, state, radius)
    poses, sums = expect(views, references, search, n_groups=n_groups)
    found = pose_rows(rows, poses).with_columns(rows[_SEED])
    return found, sums.to_arrays()


def _make_config(
    params: InitialVolumeParams, inputs: Inputs, stack: ParticleStack, seed: int
) -> "ClassifyConfig":
    from verglas.algorithms.em.classify import ClassifyConfig
    from verglas.kernels.symmetry import parse_symmetry

    if params.max_resolution_angst > params.start_resolution_angst:
        raise ParamsError(
            "max_resolution_angst must be finer than start_resolution_angst: got "
            f"{params.max_resolution_angst:g} and {params.start_resolution_angst:g}"
        )
    try:
        symmetry = parse_symmetry(params.symmetry)
    except ValueError as error:
        raise ParamsError(str(error), "give a point group, as C1, D7 or O") from error
    extent = stack.box_px * stack.pixel_size_angst
    return ClassifyConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter_of(params.diameter_angst, inputs.particles, extent),
        n_classes=params.n_classes,
        symmetry=symmetry,
        tau=params.tau,
        start_resolution_angst=params.start_resolution_angst,
        max_resolution_angst=max(params.max_resolution_angst, 2.2 * stack.pixel_size_angst),
        ramp_iterations=params.ramp_iterations,
        max_iterations=params.iterations,
        shift_range_angst=params.shift_range_angst,
        finest_step_deg=3.75,
        seed=seed * 1000,
    )


def _expect(
    ctx: Context, rows: pl.DataFrame, config: "ClassifyConfig", states: "list[ClassifyState]"
) -> "tuple[pl.DataFrame, list[Sums]]":
    import numpy as np

    from verglas.algorithms.em.mstep import Sums

    refs = {
        str(i): ctx.put({name: np.asarray(value) for name, value in state.to_arrays().items()})
        for i, state in enumerate(states)
    }
    found = ctx.accumulate(expect_seed, rows, chunk=_CHUNK, by=_SEED, config=config, states=refs)
    return found.rows, [Sums.from_arrays(found.sums[i]) for i in sorted(found.sums)]


def _search(
    ctx: Context, rows: pl.DataFrame, config: "ClassifyConfig", noise: "Tensor", n_searches: int
) -> "list[ClassifyState]":
    """Run all searches side by side."""
    from verglas.algorithms.em.classify import ClassifyState, classify_update, first_state

    def unpack(arrays: dict[str, Any]) -> list[ClassifyState]:
        return [
            ClassifyState.from_arrays(
                {
                    name.removeprefix(f"{i}_"): value
                    for name, value in arrays.items()
                    if name.startswith(f"{i}_")
                }
            )
            for i in range(n_searches)
        ]

    def pack(states: list[ClassifyState]) -> dict[str, Any]:
        return {
            f"{i}_{name}": value
            for i, state in enumerate(states)
            for name, value in state.to_arrays().items()
        }

    def step(arrays: dict[str, Any], iteration: int) -> dict[str, Any]:
        states = unpack(arrays)
        _, sums = _expect(ctx, rows, config, states)
        states = [classify_update(config, state, s) for state, s in zip(states, sums, strict=True)]
        fits = ", ".join(f"{state.fit_loglik:.2f}" for state in states)
        ctx.log.info("iteration %d: fits %s", iteration + 1, fits)
        resolution = config.extent_angst / config.radius_at(iteration)
        ctx.progress(iteration + 1, config.max_iterations, f"{resolution:.0f} Å")
        return pack(states)

    first = pack([first_state(config, noise)] * n_searches)
    until = _after(config.max_iterations)
    return unpack(ctx.iterate(step, first, until=until))


def _after(iterations: int) -> Any:
    def until(arrays: dict[str, Any]) -> bool:
        return int(arrays["0_iteration"]) >= iterations

    return until


@protocol(
    "particles.initial_volume",
    version=1,
    label="Find a first map",
    citations=("10.1016/j.jmb.2011.11.010",),
)
def run(ctx: Context, params: InitialVolumeParams, inputs: Inputs) -> Outputs:
    """Search from several random starts side by side, and keep the best."""
    stack = read_stack(inputs.particles, needed_by="particles.initial_volume")
    if stack.rows.height < _MIN_PARTICLES:
        raise ParamsError(
            f"particles.initial_volume needs at least {_MIN_PARTICLES} particles: got "
            f"{stack.rows.height}",
            "pick more, or loosen the selection",
        )
    config = _make_config(params, inputs, stack, ctx.seed)
    radius = config.radius_at(config.max_iterations)
    n = min(params.max_particles, stack.rows.height)
    chosen = stack.rows.sample(n, seed=ctx.seed).sort("item_id")
    stack, noise = initial_noise(
        ctx,
        ParticleStack(chosen, stack.n_groups, stack.box_px, stack.pixel_size_angst),
        radius=radius,
    )
    searches = pl.DataFrame({_SEED: range(params.n_searches)})
    rows = searches.join(stack.rows, how="cross")
    states = _search(ctx, rows, config, noise, params.n_searches)
    best = max(range(len(states)), key=lambda i: states[i].fit_loglik)
    found, _ = _expect(ctx, rows.filter(pl.col(_SEED) == best), config, _only(states, best))
    ctx.metric("agreement", _agreement(states, best))
    ctx.metric("evidence_loglik", states[best].evidence_loglik)
    ctx.log.info("search %d of %d explains the particles best", best + 1, len(states))
    poses = found.drop(_SEED)
    kept = inputs.particles.select(poses.select("item_id"))
    return Outputs(
        volumes=_volumes(ctx, inputs, config, states[best]),
        particles=kept.with_columns(poses),
    )


def _only(states: "list[ClassifyState]", best: int) -> "list[ClassifyState]":
    return states[: best + 1]


def _agreement(states: "list[ClassifyState]", best: int) -> float:
    """Mean correlation of the other searches' first maps with the best, in the better hand."""
    import torch

    reference = states[best].maps[0]
    values = []
    for i, state in enumerate(states):
        if i == best:
            continue
        other = state.maps[0]
        pair = [
            float(torch.nn.functional.cosine_similarity(reference.flatten(), m.flatten(), dim=0))
            for m in (other, other.flip(0))
        ]
        values.append(max(pair))
    return sum(values) / len(values) if values else 1.0


def _volumes(
    ctx: Context, inputs: Inputs, config: "ClassifyConfig", state: "ClassifyState"
) -> DataSet:
    from verglas.kernels.fourier import fourier_resize3

    order = state.class_weight.argsort(descending=True).tolist()
    n = state.maps.shape[-1]
    paths = []
    for rank, c in enumerate(order):
        full = fourier_resize3(state.maps[c : c + 1], shape=(config.box,) * 3)[0]
        full = full * (n / config.box) ** 3
        paths.append(write_map(ctx, f"map_{rank + 1}.mrc", full, config.pixel_size_angst))
    optics = inputs.particles.optics.head(1)
    rows = pl.DataFrame(
        {
            "image_path": paths,
            "image_slice": [0] * len(paths),
            "class_index": order,
            "class_prob": [min(1.0, float(state.class_weight[c])) for c in order],
            "resolution_angst": [config.max_resolution_angst] * len(paths),
            "symmetry": [config.symmetry] * len(paths),
            "optics_group": [int(optics["optics_group"][0])] * len(paths),
        }
    )
    return ctx.dataset(VOLUMES, rows, optics=optics, source=inputs.particles)
