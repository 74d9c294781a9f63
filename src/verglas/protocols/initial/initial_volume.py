"""Find a first map from particles alone.

Many short searches start from particles at random orientations, at low resolution and on a coarse
grid. The ones that explain the particles best, and that differ, go on to full resolution; the
likeliest of those gives the map. How well the others agree with it tells how sure it is: the metric
`agreement` is the mean shell correlation with the map most like it, in the better hand. Above 0.8
two starts found the same particle; much below, run again with more searches or better particles.

With a point group the map is symmetric about the standard axes from the start. The hand is
open: the mirrored map explains the particles equally well. More than one class sorts the
particles by what they show.
"""

from typing import TYPE_CHECKING

import polars as pl

from verglas.core.errors import ParamsError
from verglas.model import PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack
from verglas.protocols._poses import diameter_of, write_map
from verglas.protocols.initial._chunks import START, pack, place, run_final, run_heat, unpack
from verglas.sdk import ArrayRef, Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.em.first_map import Candidate
    from verglas.algorithms.em.first_map_plan import FirstMapConfig

__all__ = ["InitialVolumeParams", "Inputs", "Outputs", "run"]

_HEAT = 3  # searches that share the reading of the particles
_CHUNK = 1000
_MIN_PARTICLES = 20
_SURE = 0.8


class InitialVolumeParams(Params):
    """Size, symmetry and how long to search."""

    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    symmetry: str = param("C1", help="Point group: C1, Cn, Dn, T, O or I.")
    n_classes: int = param(1, ge=1, le=20, help="Number of maps that share the particles.")
    n_searches: int | None = param(
        None,
        ge=1,
        le=500,
        help="Independent starts at low resolution; by itself 6, with a point group 12.",
    )
    n_finalists: int | None = param(
        None,
        ge=1,
        le=50,
        help="Starts that go on to full resolution; by itself 2, with a point group 4.",
    )
    max_particles: int = param(
        2000, ge=50, help="Particles used for the search, drawn at random from all."
    )
    start_resolution_angst: float = param(30.0, gt=0, help="Resolution used at the start.")
    max_resolution_angst: float = param(10.0, gt=0, help="Resolution used at the end.")
    coarse_iterations: int = param(
        14, ge=2, le=500, help="Iterations of every start at low resolution."
    )
    fine_iterations: int = param(
        16, ge=4, le=500, help="Iterations of the finalists at full resolution."
    )
    particles_per_iteration: int = param(
        300, ge=20, help="Particles drawn for an iteration, and for each class."
    )
    tau: float = param(
        2.0, gt=0, advanced=True, help="Trust in the data where maps are filtered; 1 is neutral."
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


def _make_config(
    params: InitialVolumeParams, inputs: Inputs, stack: ParticleStack
) -> "FirstMapConfig":
    from verglas.algorithms.em.first_map_plan import FirstMapConfig
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
    return FirstMapConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter_of(params.diameter_angst, inputs.particles, extent),
        n_classes=params.n_classes,
        symmetry=symmetry,
        tau=params.tau,
        start_resolution_angst=params.start_resolution_angst,
        max_resolution_angst=max(params.max_resolution_angst, 2.2 * stack.pixel_size_angst),
        coarse_iterations=params.coarse_iterations,
        fine_iterations=params.fine_iterations,
        views_per_iteration=params.particles_per_iteration,
        shift_range_angst=params.shift_range_angst,
    )


def _for_each(starts: list[int], rows: pl.DataFrame) -> pl.DataFrame:
    """Repeat the particles for every start, heat or final."""
    return pl.DataFrame({START: starts}).join(rows, how="cross")


def _race(
    ctx: Context, rows: pl.DataFrame, config: "FirstMapConfig", noise: ArrayRef, seeds: list[int]
) -> "dict[int, Candidate]":
    """Run all starts at low resolution; return them judged, by seed."""
    heats = {i: seeds[i :: -(-len(seeds) // _HEAT)] for i in range(-(-len(seeds) // _HEAT))}
    found = ctx.accumulate(
        run_heat,
        _for_each(list(heats), rows),
        chunk=rows.height,
        by=START,
        config=config,
        noise=noise,
        seeds=heats,
    )
    arrays = {name: value for sums in found.sums.values() for name, value in sums.items()}
    return {seed: unpack(arrays, f"{seed}_") for seed in seeds}


def _finals(
    ctx: Context,
    rows: pl.DataFrame,
    config: "FirstMapConfig",
    noise: ArrayRef,
    starts: "dict[int, Candidate]",
) -> "dict[int, Candidate]":
    """Take starts to full resolution; return them judged, the likeliest first."""
    found = ctx.accumulate(
        run_final,
        _for_each(list(starts), rows),
        chunk=rows.height,
        by=START,
        config=config,
        noise=noise,
        starts={seed: ctx.put(pack(start)) for seed, start in starts.items()},
    )
    done = {seed: unpack(arrays) for seed, arrays in found.sums.items()}
    return dict(sorted(done.items(), key=lambda item: -item[1].loglik))


@protocol(
    "particles.initial_volume",
    version=2,
    label="Find a first map",
    citations=(
        "10.1016/j.jmb.2011.11.010",
        "10.1111/j.1467-9868.2009.00698.x",
    ),
)
def run(ctx: Context, params: InitialVolumeParams, inputs: Inputs) -> Outputs:
    """Search from many random starts, take the best few to full resolution, and choose."""
    from verglas.algorithms.em.first_map import finalists

    stack = read_stack(inputs.particles, needed_by="particles.initial_volume")
    if stack.rows.height < _MIN_PARTICLES:
        raise ParamsError(
            f"particles.initial_volume needs at least {_MIN_PARTICLES} particles: got "
            f"{stack.rows.height}",
            "pick more, or loosen the selection",
        )
    config = _make_config(params, inputs, stack)
    n = min(params.max_particles, stack.rows.height)
    # the order is random: the first views of all stand for the whole where maps are judged
    chosen = stack.rows.sample(n, seed=ctx.seed, shuffle=True)
    stack, power = initial_noise(
        ctx,
        ParticleStack(chosen, stack.n_groups, stack.box_px, stack.pixel_size_angst),
        radius=config.max_radius,
    )
    noise = ctx.put({"noise_power": power.numpy()})
    # symmetric maps meet more dead ends, and cost a fraction: one of n orientations is searched
    free = config.symmetry == "C1"
    n_searches = params.n_searches or (6 if free else 12)
    n_finalists = params.n_finalists or (2 if free else 4)
    seeds = [1000 * ctx.seed + i for i in range(n_searches)]
    ctx.progress(0, 3, f"{len(seeds)} starts")
    race = _race(ctx, stack.rows, config, noise, seeds)
    ranked = sorted(seeds, key=lambda seed: -race[seed].loglik)
    ctx.log.info("evidence of starts: %s", ", ".join(f"{race[s].loglik:.2f}" for s in ranked))
    passed = [seeds[i] for i in finalists([race[s] for s in seeds], n_finalists)]
    ctx.progress(1, 3, f"{len(passed)} finals")
    finals = _finals(ctx, stack.rows, config, noise, {seed: race[seed] for seed in passed})
    ctx.progress(2, 3, "poses")
    best = next(iter(finals.values()))
    agreements = _agreements(config, finals)
    for (seed, final), agreement in zip(finals.items(), agreements, strict=True):
        ctx.log.info(
            "start %d: evidence %.2f, agreement with the best %.2f", seed, final.loglik, agreement
        )
    agreement = max(agreements[1:], default=0.0)
    ctx.metric("agreement", agreement)
    ctx.metric("evidence_loglik", best.loglik)
    if agreement < _SURE and config.n_classes == 1:
        ctx.warn(
            f"no second start found the same map (agreement {agreement:.2f}): the map may be "
            "wrong; raise n_searches, or look at the classes in 2D"
        )
    poses = ctx.map(
        place, stack.rows, chunk=_CHUNK, config=config, noise=noise, chosen=ctx.put(pack(best))
    )
    kept = inputs.particles.select(poses.select("item_id"))
    return Outputs(
        volumes=_volumes(ctx, inputs, config, best, agreement),
        particles=kept.with_columns(poses),
    )


def _agreements(config: "FirstMapConfig", finals: "dict[int, Candidate]") -> list[float]:
    """Return the agreement of each final's fullest map with that of the first."""
    from verglas.algorithms.em.agreement import map_agreement

    fullest = [final.maps[int(final.class_weight.argmax())] for final in finals.values()]
    return [1.0] + [
        map_agreement(
            fullest[0],
            other,
            pixel_size_angst=config.extent_angst / fullest[0].shape[-1],
            diameter_angst=config.diameter_angst,
            resolution_angst=config.max_resolution_angst,
            symmetry=config.symmetry,
        )
        for other in fullest[1:]
    ]


def _volumes(
    ctx: Context,
    inputs: Inputs,
    config: "FirstMapConfig",
    best: "Candidate",
    agreement: float,
) -> DataSet:
    from verglas.kernels.fourier import fourier_resize3

    order = best.class_weight.argsort(descending=True).tolist()
    n = best.maps.shape[-1]
    paths = []
    for rank, c in enumerate(order):
        full = fourier_resize3(best.maps[c : c + 1], shape=(config.box,) * 3)[0]
        full = full * (n / config.box) ** 3
        paths.append(write_map(ctx, f"map_{rank + 1}.mrc", full, config.pixel_size_angst))
    optics = inputs.particles.optics.head(1)
    rows = pl.DataFrame(
        {
            "image_path": paths,
            "image_slice": [0] * len(paths),
            "class_index": order,
            "class_prob": [min(1.0, float(best.class_weight[c])) for c in order],
            "resolution_angst": [config.max_resolution_angst] * len(paths),
            "symmetry": [config.symmetry] * len(paths),
            "agreement": [agreement] * len(paths),
            "optics_group": [int(optics["optics_group"][0])] * len(paths),
        }
    )
    return ctx.dataset(VOLUMES, rows, optics=optics, source=inputs.particles)
