"""What refinements by halves hand on: maps, particles and the FSC."""

from typing import TYPE_CHECKING

import polars as pl

from verglas.model import CURVES, VOLUMES, DataSet
from verglas.protocols._poses import write_map
from verglas.sdk import Context

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.refine_state import RefineConfig, RefineState

__all__ = ["fsc_curve", "posed_particles", "refined_volumes"]


def refined_volumes(
    ctx: Context,
    particles: DataSet,
    halves: "Tensor",
    resolution_angst: float,
    config: "RefineConfig",
) -> DataSet:
    """Write half maps `[2, n, n, n]` and their mean.

    Args:
        ctx: of the job.
        particles: that they were made of.
        halves: neither masked nor sharpened.
        resolution_angst: of the mean.
        config: of the run.
    """
    names = ("half_map_1.mrc", "half_map_2.mrc", "map.mrc")
    paths = [
        write_map(ctx, name, volume, config.pixel_size_angst)
        for name, volume in zip(names, (*halves, halves.mean(0)), strict=True)
    ]
    optics = particles.optics.head(1)
    rows = pl.DataFrame(
        {
            "image_path": [paths[2]],
            "image_slice": [0],
            "half_map_1_path": [paths[0]],
            "half_map_2_path": [paths[1]],
            "resolution_angst": [resolution_angst],
            "symmetry": [config.symmetry],
            "optics_group": [int(optics["optics_group"][0])],
        }
    )
    return ctx.dataset(VOLUMES, rows, optics=optics, source=particles)


def posed_particles(particles: DataSet, rows: pl.DataFrame, poses: pl.DataFrame) -> DataSet:
    """Give particles their poses and halves; those that could not be read are left out."""
    changed = poses.join(rows.select("item_id", "half_set"), on="item_id")
    return particles.select(changed.select("item_id")).with_columns(changed)


def fsc_curve(ctx: Context, state: "RefineState", config: "RefineConfig") -> DataSet:
    """Return the FSC of the half maps inside the soft sphere as a curve."""
    fsc = state.fsc.tolist()
    rows = pl.DataFrame(
        {
            "label": ["half maps, soft sphere"],
            "x_per_angst": [[s / config.extent_angst for s in range(len(fsc))]],
            "y": [fsc],
        }
    )
    return ctx.dataset(CURVES, rows)
