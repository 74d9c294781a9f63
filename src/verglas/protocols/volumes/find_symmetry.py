"""Find the point group of a map made without one, and turn the map onto its axes.

Every group of the menu is placed about the map in all ways; the score is the mean correlation of
slices that the group makes equal, beyond what chance gives. The largest group whose score holds
up against the best is chosen, C1 if none does. The turned map is not symmetrised: give it to
`particles.refine_3d` with the group that was found. The curves show the correlation of symmetry
mates by resolution, one for each group, so that a second opinion can be formed; a false
symmetry makes a map look better than it is.
"""

from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from verglas.core.errors import ParamsError
from verglas.model import CURVES, VOLUMES, DataSet
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.symmetry_axes import SymmetryAxes

__all__ = ["FindSymmetryParams", "Inputs", "Outputs", "run", "search_groups"]

_MIN_RADIUS = 6


class FindSymmetryParams(Params):
    """What to look for, and to which resolution."""

    groups: str = param(
        "", help="Point groups to try, with commas; by itself C2 to C12, D2 to D8, T, O and I."
    )
    resolution_angst: float = param(
        15.0, gt=0, help="Finest detail compared; where the map is still reliable."
    )
    allow_c1: Literal["yes", "no"] = param(
        "yes", help="Answer C1 where no group stands out; else take the best of the groups."
    )


class Inputs(Ports):
    """Maps without imposed symmetry, as of `particles.initial_volume` in C1."""

    volumes: DataSet = port(VOLUMES)


class Outputs(Ports):
    """Maps on the standard axes with their group, and the correlation of mates by group."""

    volumes: DataSet = port(VOLUMES)
    scores: DataSet = port(CURVES)


def search_groups(
    rows: pl.DataFrame,
    task: Task,
    *,
    groups: tuple[str, ...],
    resolution_angst: float,
    allow_c1: bool,
) -> pl.DataFrame:
    """Score all groups on each map; write the map on the axes of the chosen one."""
    import torch

    from verglas.algorithms.symmetry_axes import (
        centred,
        choose_group,
        find_axes,
        place_on_axes,
    )
    from verglas.protocols.volumes._maps import load_map, seeded, write_map

    torch.set_num_threads(task.threads)
    results = []
    for row in rows.iter_rows(named=True):
        pixel = float(row["pixel_size_angst"])
        whole = load_map(task, row["image_path"]).cpu()
        volume = centred(whole, pixel_size_angst=pixel)
        radius = _radius(volume, pixel, resolution_angst)
        found = []
        for done, group in enumerate(groups):
            task.progress(done, len(groups))
            found.append(find_axes(volume, symmetry=group, radius=radius, generator=seeded(task)))
        chosen = choose_group(found)
        if chosen is None and not allow_c1:
            chosen = max(found, key=lambda axes: axes.contrast)
        placed = whole if chosen is None else place_on_axes(volume, chosen, pixel_size_angst=pixel)
        name = f"placed_{row['item_id']:04d}.mrc"
        results.append(
            {
                "item_id": row["item_id"],
                "image_path": write_map(task, name, placed, pixel),
                "symmetry": chosen.symmetry if chosen else "C1",
                "score": chosen.contrast if chosen else 0.0,
                "curves": [_curve(row["item_id"], axes, len(volume) * pixel) for axes in found],
            }
        )
    return pl.DataFrame(results)


def _radius(volume: "Tensor", pixel_size_angst: float, resolution_angst: float) -> int:
    n = volume.shape[0]
    wanted = round(n * pixel_size_angst / resolution_angst)
    return max(_MIN_RADIUS, min(wanted, (n - 1) // 2))


def _curve(item: int, axes: "SymmetryAxes", extent_angst: float) -> dict[str, Any]:
    from verglas.algorithms.symmetry_axes import FIRST_SHELL
    from verglas.protocols.volumes._maps import curve_row

    shells = range(FIRST_SHELL, len(axes.by_shell))
    return curve_row(
        item,
        f"{axes.symmetry}: {axes.contrast:.2f}",
        [s / extent_angst for s in shells],
        axes.by_shell[FIRST_SHELL:],
        y_label="Correlation of symmetry mates",
    )


def _groups(text: str) -> tuple[str, ...]:
    from verglas.algorithms.symmetry_axes import GROUPS
    from verglas.kernels.point_groups import parse_symmetry

    names = [name for name in text.replace(",", " ").split() if name]
    try:
        groups = tuple(dict.fromkeys(parse_symmetry(name) for name in names)) or GROUPS
    except ValueError as error:
        raise ParamsError(str(error), "give point groups, as C3, D2, O") from error
    if "C1" in groups:
        raise ParamsError("groups must not hold C1: it is what remains when none stands out")
    return groups


@protocol(
    "volumes.find_symmetry",
    version=1,
    label="Find the point group",
    citations=("10.1107/S0365110X62000067",),
)
def run(ctx: Context, params: FindSymmetryParams, inputs: Inputs) -> Outputs:
    """Search the groups on every map."""
    found = ctx.map(
        search_groups,
        inputs.volumes,
        chunk=1,
        groups=_groups(params.groups),
        resolution_angst=params.resolution_angst,
        allow_c1=params.allow_c1 == "yes",
    )
    for row in found.iter_rows(named=True):
        scores = ", ".join(curve["label"] for curve in row["curves"])
        ctx.log.info("map %d: %s; scores %s", row["item_id"], row["symmetry"], scores)
    ctx.metric("score", float(found["score"][0]))
    placed = found.select("item_id", "image_path", "symmetry")
    names = ("half_map_1_path", "half_map_2_path", "mask_path")
    table = inputs.volumes.rows().drop("image_path", "symmetry", *names, strict=False)
    rows = table.join(placed, on="item_id", how="inner")
    curves = found.select("curves").explode("curves").unnest("curves")
    return Outputs(
        volumes=ctx.dataset(
            VOLUMES,
            rows.drop("item_id", "source_id", strict=False),
            optics=inputs.volumes.optics,
            source=inputs.volumes,
        ),
        scores=ctx.dataset(CURVES, curves),
    )
