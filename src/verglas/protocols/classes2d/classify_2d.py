"""Sort particles into 2D class averages.

Particles that show the same view are turned, shifted and averaged, which shows whether they are
good, and which are not particles at all. First all particles are centred on their common radial
average. How they differ from it when turned gives the first class averages. Then all classes,
in-plane rotations and shifts are compared with every particle, each of which counts for each class
by its probability, while the resolution grows from coarse to fine, as far as the classes are
resolved. While classes form, probabilities are softer than the noise asks for, so that early
chance does not decide. Three sets of classes form side by side, each of which sorts all particles
by itself. Then they are put together, and classes are left out, each time the one whose loss costs
the least evidence, until those that are wanted remain: empty ones go, all but one of several that
are alike, and those that mix views which others tell apart. Classes that know little stay close
to the radial average, and one that holds more than twice its share is held back.

Large sets are sampled: each early iteration uses a random part, the last ones all particles.
Particles are parted into four sets, and each set meets averages of the other three, so that no
particle finds its own noise in an average. The sets take turns: averages are renewed after each,
not after all, which halves the number of passes. As no particle meets itself, `score`, the
log-likelihood of a particle against an empty box in nats, is honest: it is below zero on average
for noise. The resolution of an average is where those of two halves stop to agree (correlation
0.5); an average whose particles are no more probable than noise has none, and gets the size of
the box.
"""

from typing import TYPE_CHECKING

import polars as pl

from verglas.core.errors import PortError
from verglas.model import CLASSES2D, PARTICLES, DataSet
from verglas.protocols._particles import ParticleStack, initial_noise, read_stack
from verglas.protocols._poses import diameter_of
from verglas.protocols.classes2d._iterate import expected, iterate, with_halves, with_shifts
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.em.mstep import Sums
    from verglas.algorithms.em.planar import PlanarConfig

__all__ = ["Classify2dParams", "Inputs", "Outputs", "run"]

_ID = "particles.classify_2d"
_STEPS_OF_START = 12  # the first resolution is this part of the diameter
_LEAST_SCORE = 1.0  # nats: below, a class shows nothing that an empty box would not
_POSE_3D = ("angle_rot_deg", "angle_tilt_deg")


class Classify2dParams(Params):
    """Number of classes, size, and how long to iterate."""

    n_classes: int = param(50, ge=1, le=1000, help="Number of class averages.")
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself that of the particles."
    )
    max_resolution_angst: float = param(
        9.0, gt=0, help="Finest detail that is compared; finer is slower and rarely better."
    )
    start_resolution_angst: float | None = param(
        None,
        gt=0,
        advanced=True,
        help="Finest detail that is compared at the start; by itself 1/12 of the diameter.",
    )
    iterations: int = param(16, ge=2, le=500, help="Passes over the particles, after centring.")
    ramp_iterations: int = param(
        8, ge=1, le=200, advanced=True, help="Iterations over which the resolution grows."
    )
    tau: float = param(
        2.0, gt=0, advanced=True, help="Trust in the data against the prior of round averages."
    )
    shift_range_angst: float = param(15.0, gt=0, help="Largest shift that is searched.")


class Inputs(Ports):
    """Particles with their CTF."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))


class Outputs(Ports):
    """Class averages, largest first, and the particles with class and in-plane pose."""

    classes: DataSet = port(CLASSES2D)
    particles: DataSet = port(PARTICLES)


def _make_config(
    params: Classify2dParams, inputs: Inputs, stack: ParticleStack, seed: int
) -> "PlanarConfig":
    from verglas.algorithms.em.planar import PlanarConfig

    extent = stack.box_px * stack.pixel_size_angst
    diameter = diameter_of(params.diameter_angst, inputs.particles, extent)
    finest = max(params.max_resolution_angst, 2.2 * stack.pixel_size_angst)
    start = params.start_resolution_angst or diameter / _STEPS_OF_START
    return PlanarConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        diameter_angst=diameter,
        n_classes=params.n_classes,
        start_resolution_angst=max(start, finest),
        max_resolution_angst=finest,
        ramp_iterations=params.ramp_iterations,
        iterations=params.iterations,
        tau=params.tau,
        shift_range_angst=params.shift_range_angst,
        seed=seed,
    )


def _classes(
    ctx: Context,
    inputs: Inputs,
    poses: pl.DataFrame,
    config: "PlanarConfig",
    sums: "dict[int, Sums]",
) -> tuple[DataSet, dict[int, int]]:
    """Write the averages, largest class first; also give the new number of each class."""
    from verglas.algorithms.em.planar_final import final_averages
    from verglas.io.mrc import write_mrc

    final = final_averages(config, sums)
    table = poses.group_by("class_index").agg(
        n_particles=pl.len().cast(pl.Int64), score=pl.col("score").mean()
    )
    table = table.sort(["n_particles", "class_index"], descending=[True, False])
    filled = table["class_index"].to_list()
    array = final.images[filled].float().numpy()
    path = ctx.write_file(
        "averages.mrcs",
        lambda target: write_mrc(target, array, config.pixel_size_angst, is_stack=True),
    )
    # halves that were aligned to one average agree, be there a particle in it or not
    measured = pl.Series(final.resolution_angst[filled].numpy())
    rows = table.with_columns(
        image_path=pl.lit(path),
        image_slice=pl.int_range(pl.len(), dtype=pl.Int64),
        class_index=pl.int_range(pl.len(), dtype=pl.Int64),
        class_fraction=pl.col("n_particles") / poses.height,
        resolution_angst=pl.when(pl.col("score") > _LEAST_SCORE)
        .then(measured)
        .otherwise(config.extent_angst),
        optics_group=pl.lit(int(inputs.particles.optics["optics_group"][0]), pl.Int64),
    )
    classes = ctx.dataset(
        CLASSES2D, rows, optics=inputs.particles.optics.head(1), source=inputs.particles
    )
    return classes, {old: new for new, old in enumerate(filled)}


def _particles(ctx: Context, inputs: Inputs, poses: pl.DataFrame) -> DataSet:
    """Give the particles their poses; angles to a map, if any, no longer hold."""
    kept = inputs.particles.select(poses.select("item_id"))
    if not set(_POSE_3D) & set(inputs.particles.columns):
        return kept.with_columns(poses)
    rows = kept.rows().drop(_POSE_3D, strict=False).drop(poses.columns[1:], strict=False)
    rows = rows.join(poses, on="item_id", how="left", maintain_order="left")
    return ctx.dataset(PARTICLES, rows, source=inputs.particles)


@protocol(
    _ID,
    version=8,
    label="Classify in 2D",
    citations=(
        "Scheres 2012, doi:10.1016/j.jmb.2011.11.010",
        "Zhao & Singer 2014, doi:10.1016/j.jsb.2014.03.001",
        "Neal & Hinton 1998, doi:10.1007/978-94-011-5014-9_12",
    ),
)
def run(ctx: Context, params: Classify2dParams, inputs: Inputs) -> Outputs:
    """Iterate, then let each half of the particles meet the averages of the other."""
    from verglas.algorithms.em.planar import PlanarState

    names = ("shift_x_angst", "shift_y_angst")
    stack = read_stack(inputs.particles, extra=names, needed_by=_ID)
    if stack.rows.height < 2 * params.n_classes:
        raise PortError(
            f"{_ID}: {stack.rows.height} particles are too few for {params.n_classes} classes",
            f"ask for at most {max(1, stack.rows.height // 20)} classes",
        )
    config = _make_config(params, inputs, stack, ctx.seed)
    stack, noise = initial_noise(ctx, stack, radius=config.radius_at(config.n_iterations))
    rows = with_halves(stack.rows, config.seed)
    arrays = iterate(ctx, rows, config, noise)
    state = PlanarState.from_arrays(arrays)
    table = with_shifts(rows, arrays["particle_shift_angst"], slice(None))
    poses, sums = expected(ctx, table, config, state)
    classes, rank = _classes(ctx, inputs, poses, config, sums)
    ctx.metric("n_classes", classes.n_items)
    ctx.metric("best_resolution_angst", _number(classes, pl.col("resolution_angst").min()))
    ctx.metric("mean_score", float(str(poses["score"].mean())))
    poses = poses.with_columns(pl.col("class_index").replace_strict(rank, return_dtype=pl.Int64))
    return Outputs(classes=classes, particles=_particles(ctx, inputs, poses))


def _number(data: DataSet, expression: pl.Expr) -> float:
    return round(float(data.table.select(expression).collect().item()), 2)
