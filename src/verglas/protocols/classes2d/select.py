"""Keep the particles of good class averages.

Give the classes to keep, or a rule. The rule keeps classes that are resolved, explain their
particles, and hold more than a trace of them: averages of noise and of junk fail one of these.
A class explains its particles when their mean evidence, the log-likelihood against an empty
box, is at least a part of that of the best class. Of the classes that are kept, the rule drops
particles that are themselves more probably an empty box. A list takes classes as they are.
"""

import polars as pl
from pydantic import model_validator

from verglas.core.errors import ParamsError
from verglas.model import CLASSES2D, PARTICLES, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["Inputs", "Outputs", "SelectParams", "run"]


class SelectParams(Params):
    """A list of classes, or the limits of the rule."""

    keep: tuple[int, ...] = param(
        (), help="Numbers of the classes to keep, from 0; empty applies the rule."
    )
    max_resolution_angst: float = param(
        30.0, gt=0, help="Rule: keep averages resolved to this or finer."
    )
    min_score_fraction: float = param(
        0.25, ge=0, le=1, help="Rule: least mean evidence, as a part of the best class's."
    )
    min_share: float = param(
        0.1, ge=0, le=1, help="Rule: least number of particles, as a part of the mean class."
    )

    min_particle_score: float = param(
        0.0, help="Rule: least evidence of a particle itself, in nats; 0 means even odds."
    )

    @model_validator(mode="after")
    def _classes_count_from_zero(self) -> "SelectParams":
        if any(number < 0 for number in self.keep):
            raise ValueError(f"keep must hold class numbers from 0: got {self.keep}")
        return self


class Inputs(Ports):
    """Class averages, and the particles that were sorted into them."""

    classes: DataSet = port(CLASSES2D)
    particles: DataSet = port(PARTICLES, needs=("class",))


class Outputs(Ports):
    """Particles and classes that were kept, and the classes that were not."""

    particles: DataSet = port(PARTICLES)
    classes: DataSet = port(CLASSES2D)
    rejected: DataSet = port(CLASSES2D)


def _by_rule(classes: pl.DataFrame, params: SelectParams) -> pl.Series:
    """Apply the rule."""
    best = max(0.0, *classes["score"].to_list())
    share = classes["n_particles"] / max(1.0, float(str(classes["n_particles"].mean())))
    resolved = classes["resolution_angst"] <= params.max_resolution_angst
    explained = (classes["score"] > 0) & (classes["score"] >= params.min_score_fraction * best)
    kept: pl.Series = resolved & explained & (share >= params.min_share)
    return kept


@protocol("classes2d.select", version=2, label="Select 2D classes")
def run(ctx: Context, params: SelectParams, inputs: Inputs) -> Outputs:
    """Split the classes and take the particles of those that are kept."""
    classes = inputs.classes.rows()
    if params.keep:
        unknown = sorted(set(params.keep) - set(classes["class_index"].to_list()))
        if unknown:
            raise ParamsError(
                f"classes2d.select: there are no classes {unknown}",
                f"give numbers from 0 to {classes.height - 1}",
            )
        good = classes["class_index"].is_in(list(params.keep))
    else:
        good = _by_rule(classes, params)
    kept, left = classes.filter(good), classes.filter(~good)
    names = [
        name for name in ("item_id", "class_index", "score") if name in inputs.particles.columns
    ]
    particles = inputs.particles.rows(tuple(names))
    chosen = particles.filter(pl.col("class_index").is_in(kept["class_index"].to_list()))
    if not params.keep and "score" in names:
        chosen = chosen.filter(pl.col("score") >= params.min_particle_score)
    ctx.metric("n_classes_kept", float(kept.height))
    ctx.metric("n_particles_kept", float(chosen.height))
    if not chosen.height:
        ctx.warn("no class passed the rule: look at the averages, and loosen it or give a list")
    return Outputs(
        particles=ctx.select(inputs.particles, chosen.select("item_id")),
        classes=ctx.select(inputs.classes, kept.select("item_id")),
        rejected=ctx.select(inputs.classes, left.select("item_id")),
    )
