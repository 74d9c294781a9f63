"""Find a first map from particles alone.

Many short searches start from particles at random orientations, at low resolution and on a coarse
grid. The ones that explain the particles best, and that differ, go on to full resolution. When the
likeliest of them agrees with another, these two are finished and the likelier gives the map;
otherwise more searches start. The metric `agreement` is the mean shell correlation of the two, in
the better hand. Above 0.8 two starts found the same particle; much below, the map may be wrong: run
again with more searches or better particles.

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
from verglas.protocols.initial._chunks import pack, place
from verglas.protocols.initial._race import SURE, Race, find_map
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.em.candidate import Candidate
    from verglas.algorithms.em.first_map_plan import FirstMapConfig

__all__ = ["InitialVolumeParams", "Inputs", "Outputs", "run"]

_CHUNK = 1000
_MIN_PARTICLES = 20


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
        help="Independent starts of a round; by itself 6, with a point group 12.",
    )
    n_finalists: int | None = param(
        None,
        ge=1,
        le=50,
        help="Starts of a round that go on to full resolution; by itself 2, with a point group 4.",
    )
    max_rounds: int = param(
        3, ge=1, le=20, help="Rounds of starts at most, until another agrees with the likeliest."
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
    from verglas.kernels.point_groups import parse_symmetry

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


def _field(params: InitialVolumeParams, config: "FirstMapConfig") -> tuple[int, int]:
    """Return how many start in a round, and how many of them are opened.

    Symmetric maps meet more dead ends, and cost a fraction: one of n orientations is searched.
    """
    free = config.symmetry == "C1"
    return params.n_searches or (6 if free else 12), params.n_finalists or (2 if free else 4)


@protocol(
    "particles.initial_volume",
    version=3,
    label="Find a first map",
    citations=(
        "10.1016/j.jmb.2011.11.010",
        "10.1111/j.1467-9868.2009.00698.x",
    ),
)
def run(ctx: Context, params: InitialVolumeParams, inputs: Inputs) -> Outputs:
    """Search from many random starts, take the best few to full resolution, and choose."""
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
    n_searches, n_finalists = _field(params, config)
    found = find_map(
        ctx,
        Race(
            rows=stack.rows,
            config=config,
            noise=noise,
            n_searches=n_searches,
            n_finalists=n_finalists,
            # classes share the particles in more ways than one
            max_rounds=params.max_rounds if config.n_classes == 1 else 1,
        ),
    )
    best, agreement = found.best, found.agreement
    ctx.metric("agreement", agreement)
    ctx.metric("evidence_loglik", best.loglik)
    ctx.metric("n_starts", found.n_starts)
    if agreement < SURE and config.n_classes == 1:
        ctx.warn(
            f"no second start found the same map (agreement {agreement:.2f}): the map may be "
            "wrong; raise n_searches, or look at the classes in 2D"
        )
    poses = ctx.map(
        place,
        stack.rows,
        chunk=_CHUNK,
        gpus=1,
        config=config,
        noise=noise,
        chosen=ctx.put(pack(best)),
    )
    kept = inputs.particles.select(poses.select("item_id"))
    return Outputs(
        volumes=_volumes(ctx, inputs, config, best, agreement),
        particles=kept.with_columns(poses),
    )


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
