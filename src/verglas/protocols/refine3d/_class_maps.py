"""Write the maps of classes, and name the ones without particles."""

from typing import TYPE_CHECKING

import polars as pl

from verglas.core.errors import PortError
from verglas.model import VOLUMES, DataSet
from verglas.protocols._poses import write_map
from verglas.sdk import Context

if TYPE_CHECKING:
    from verglas.algorithms.em.classify import ClassifyConfig
    from verglas.protocols.refine3d._class_loop import Found

__all__ = ["class_volumes"]


def class_volumes(
    ctx: Context, particles: DataSet, config: "ClassifyConfig", found: "Found"
) -> DataSet:
    """Write a map for each class that has particles, the fullest first.

    Args:
        ctx: of the job.
        particles: that were classified.
        config: of the run.
        found: where the classes ended.
    """
    from verglas.kernels.fourier import fourier_resize3

    refine, state = config.refine, found.state
    counts = found.rows.group_by("class_index").len().sort("len", descending=True)
    order, sizes = counts["class_index"].to_list(), counts["len"].to_list()
    empty = sorted(set(range(config.n_classes)) - set(order))
    if empty:
        named = ", ".join(str(index) for index in empty)
        what = f"class {named} is" if len(empty) == 1 else f"classes {named} are"
        ctx.warn(f"{what} empty: no particle is likeliest there; look for fewer classes")
    if not order:
        raise PortError("no particle could be classified", "look at the images")
    n = state.maps.shape[-1]
    paths = []
    for index in order:
        full = fourier_resize3(state.maps[index : index + 1], shape=(refine.box,) * 3)[0]
        full = full * (n / refine.box) ** 3
        paths.append(write_map(ctx, f"class_{index}.mrc", full, refine.pixel_size_angst))
    optics = particles.optics.head(1)
    total = sum(sizes)
    rows = pl.DataFrame(
        {
            "image_path": paths,
            "image_slice": [0] * len(paths),
            "class_index": order,
            "n_particles": sizes,
            "class_fraction": [size / total for size in sizes],
            "resolution_angst": [
                refine.extent_angst / max(int(state.class_shell[index]), 1) for index in order
            ],
            "symmetry": [refine.symmetry] * len(paths),
            "optics_group": [int(optics["optics_group"][0])] * len(paths),
        }
    )
    return ctx.dataset(VOLUMES, rows, optics=optics, source=particles)
