"""Reconstruct a map and its half maps from particles of known pose.

Nothing is searched: poses, shifts and defocus are those of the particles. Each image is moved
to its centre, weighted by its CTF and added to its half's transform at the plane that it is a
projection along; the sums are made symmetric and divided by the weights. Half maps are never
filtered. The map of all particles is not filtered either, unless `regularise` is `fsc`: then
each frequency is shrunk by what the half maps' correlation says of its noise.

Particles without a half set are dealt out at random; if their poses come from one map, their
half maps then agree too well.
"""

from typing import TYPE_CHECKING, Any, Literal

import polars as pl
from pydantic import model_validator

from verglas.core.errors import ParamsError, PortError
from verglas.model import CURVES, PARTICLES, VOLUMES, DataSet
from verglas.protocols._particles import (
    ParticleStack,
    aberrations_of,
    image_source,
    images_of,
    read_images,
    read_stack,
)
from verglas.protocols._poses import diameter_of
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.image_tables import Images
    from verglas.algorithms.reconstruct import Maps, ReconstructConfig

__all__ = ["Inputs", "Outputs", "ReconstructParams", "add_half", "run"]

_ID = "particles.reconstruct"
_CHUNK = 10_000
_MOST_CHUNKS = 32  # of a half; each leaves sums of the size of a map
_BLOCK_BYTES = 2_500_000  # images at a time, so that they stay in the cache
_POSE = (
    "angle_rot_deg",
    "angle_tilt_deg",
    "angle_psi_deg",
    "shift_x_angst",
    "shift_y_angst",
)


class ReconstructParams(Params):
    """Symmetry, limits and weights."""

    symmetry: str = param("C1", help="Point group: C1, Cn, Dn, T, O or I.")
    max_resolution_angst: float = param(
        0.0, ge=0, help="Use no data beyond this resolution; 0 for all."
    )
    class_index: int | None = param(
        None, ge=0, help="Use the particles of this class only; by itself all."
    )
    ctf: Literal["full", "flipped", "none"] = param(
        "full",
        help="Correct for the CTF; `flipped` for images whose phases were flipped before, "
        "`none` for images that need no correction.",
    )
    regularise: Literal["none", "fsc"] = param(
        "none", help="Shrink the full map by the half maps' correlation (Wiener filter)."
    )
    ewald: Literal["flat", "positive", "negative"] = param(
        "flat",
        help="Take the curvature of the Ewald sphere into account, for large particles at high "
        "resolution. With `positive`, parts at larger z of the image's frame are less "
        "underfocused; which sign is right depends on the map's hand: the better half-map "
        "resolution tells.",
    )
    diameter_angst: float | None = param(
        None,
        gt=0,
        help="Of the soft sphere in which half maps are compared; by itself that of the particles.",
    )
    padding: float = param(
        1.5,
        ge=1,
        le=4,
        advanced=True,
        help="Oversampling of the map's transform; 2 for the last percent at high signal.",
    )

    @model_validator(mode="after")
    def _sphere_needs_the_ctf(self) -> "ReconstructParams":
        if self.ewald != "flat" and self.ctf != "full":
            raise ValueError(f"ewald = {self.ewald!r} needs ctf = 'full': got {self.ctf!r}")
        return self


class Inputs(Ports):
    """Particles with their poses."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf", "pose3d"))


class Outputs(Ports):
    """The map with its half maps, and their correlation."""

    volumes: DataSet = port(VOLUMES)
    curves: DataSet = port(CURVES)


def _images_of(rows: pl.DataFrame, group: Any) -> "Images":
    from verglas.kernels.rotations import rotations_of_angles

    poses = rows.select(pl.col(_POSE).cast(pl.Float64)).to_numpy()
    return images_of(rows, rotations_of_angles(poses[:, :3]), poses[:, 3:], group)


def add_half(
    rows: pl.DataFrame, task: Task, *, config: "ReconstructConfig"
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Add up the images of a chunk."""
    from verglas.algorithms.image_tables import aberration_tables
    from verglas.algorithms.reconstruct import (
        add_images,
        direction_order,
        empty_sums,
        stored_sums,
    )

    groups, group = aberrations_of(rows)
    tables = aberration_tables(groups, config.box, config.extent_angst)
    images = _images_of(rows, group)
    order = direction_order(images.rotation_ref_to_img)
    rows = rows[order].with_columns(place=pl.Series(order))
    source = image_source(rows, task)
    sums = empty_sums(config)
    block = max(4, _BLOCK_BYTES // (4 * config.box**2))
    kept = []
    for start in range(0, rows.height, block):
        part, pictures = read_images(rows.slice(start, block), source, task, start)
        add_images(sums, pictures, images.take(part["place"].to_numpy()), config, tables)
        kept.append(part.select("item_id"))
        task.progress(start + part.height, rows.height)
    return pl.concat(kept), {"sums": stored_sums(sums)}


def _with_halves(ctx: Context, rows: pl.DataFrame) -> pl.DataFrame:
    """Keep the halves that there are; deal out particles that have none."""
    import numpy as np

    if "half_set" in rows.columns and rows["half_set"].null_count() == 0:
        if rows["half_set"].n_unique() < 2:
            ctx.warn("all particles are in one half set: no half maps, no resolution")
        return rows
    ctx.warn("particles without half sets were dealt out at random: resolution may be too good")
    half = np.random.default_rng(ctx.seed).permutation(np.arange(rows.height) % 2 + 1)
    return rows.with_columns(half_set=pl.Series(half))


def _chosen(stack: ParticleStack, params: ReconstructParams) -> pl.DataFrame:
    rows = stack.rows
    if params.class_index is not None:
        if "class_index" not in rows.columns:
            raise PortError(
                f"{_ID}: the particles have no class_index", "leave the parameter class_index out"
            )
        rows = rows.filter(pl.col("class_index") == params.class_index)
        if not rows.height:
            raise PortError(f"{_ID}: class {params.class_index} has no particles")
    bad = rows.filter(pl.any_horizontal(pl.col(_POSE).is_null() | pl.col(_POSE).is_nan()))
    if bad.height:
        raise PortError(
            f"{_ID}: {bad.height} particles have no pose, as item {bad['item_id'][0]}",
            "select the particles that have one",
        )
    return rows


def _config(
    params: ReconstructParams, particles: DataSet, stack: ParticleStack
) -> "ReconstructConfig":
    from verglas.algorithms.reconstruct import ReconstructConfig
    from verglas.kernels.point_groups import parse_symmetry

    try:
        symmetry = parse_symmetry(params.symmetry)
    except ValueError as error:
        raise ParamsError(str(error), "give a point group, as C1, D7 or O") from error
    extent = stack.box_px * stack.pixel_size_angst
    return ReconstructConfig(
        box=stack.box_px,
        pixel_size_angst=stack.pixel_size_angst,
        symmetry=symmetry,
        max_resolution_angst=params.max_resolution_angst,
        padding=params.padding,
        ctf=params.ctf,
        ewald=params.ewald,
        diameter_angst=diameter_of(params.diameter_angst, particles, extent),
    )


@protocol(_ID, version=1, label="Reconstruct a map", citations=("10.1016/S0076-6879(10)82001-4",))
def run(ctx: Context, params: ReconstructParams, inputs: Inputs) -> Outputs:
    """Add up the images of each half, then make the maps."""
    from verglas.algorithms.reconstruct import make_maps

    names = (*_POSE, "half_set", "class_index")
    stack = read_stack(inputs.particles, extra=names, needed_by=_ID)
    config = _config(params, inputs.particles, stack)
    rows = _with_halves(ctx, _chosen(stack, params))
    chunk = max(_CHUNK, rows.height // _MOST_CHUNKS)
    found = ctx.accumulate(add_half, rows, chunk=chunk, by="half_set", config=config)
    if not found.rows.height:
        raise PortError(f"{_ID}: none of {rows.height} images could be read")
    stored = {int(half): sums["sums"] for half, sums in found.sums.items()}
    maps = make_maps(stored, config, regularise=params.regularise == "fsc")
    ctx.metric("n_particles", float(found.rows.height))
    if len(maps.fsc):
        ctx.metric("resolution_angst", maps.resolution_angst)
    return Outputs(volumes=_volumes(ctx, inputs, maps, config), curves=_curves(ctx, maps, config))


def _volumes(ctx: Context, inputs: Inputs, maps: "Maps", config: "ReconstructConfig") -> DataSet:
    from verglas.io.mrc import write_mrc

    def write(name: str, volume: Any) -> str:
        return ctx.write_file(
            name, lambda path: write_mrc(path, volume, config.pixel_size_angst, is_stack=False)
        )

    optics = inputs.particles.optics.head(1)
    columns: dict[str, list[Any]] = {
        "image_path": [write("map.mrc", maps.full)],
        "image_slice": [0],
        "symmetry": [config.symmetry],
        "optics_group": [int(optics["optics_group"][0])],
    }
    if len(maps.halves) == 2:
        for i, half in enumerate(maps.halves, start=1):
            columns[f"half_map_{i}_path"] = [write(f"half_map_{i}.mrc", half)]
        columns["resolution_angst"] = [maps.resolution_angst]
    return ctx.dataset(VOLUMES, pl.DataFrame(columns), optics=optics, source=inputs.particles)


def _curves(ctx: Context, maps: "Maps", config: "ReconstructConfig") -> DataSet:
    fsc = maps.fsc.tolist()
    frequencies = [shell / config.extent_angst for shell in range(len(fsc))]
    rows = pl.DataFrame(
        {"label": ["half maps, soft sphere"], "x_per_angst": [frequencies], "y": [fsc]},
        schema={"label": pl.String, "x_per_angst": pl.List(pl.Float64), "y": pl.List(pl.Float64)},
    )
    return ctx.dataset(CURVES, rows if fsc else rows.clear())
