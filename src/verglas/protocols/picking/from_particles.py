"""Turn aligned particles back into positions in their micrographs.

The shift that 2D classification or refinement found says how far each particle lies from the
centre of its box; taken off, it gives the position of the particle itself. Cut out again, boxes
are centred, and at any size or pixel size. `min_distance_angst` drops the worse of two particles
that were aligned onto the same place.

A point of the reference other than its centre (`centre_x_angst`, ..) gives the positions of that
part of each particle, from its orientation. Orientations stay with the positions.
"""

from typing import TYPE_CHECKING

import polars as pl

from verglas.model import COORDINATES, MICROGRAPHS, PARTICLES, DataSet
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["FromParticlesParams", "Inputs", "Outputs", "run"]

_ANGLES = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
_SHIFTS = ("shift_x_angst", "shift_y_angst")
_OF_IMAGE = (
    *("image_path", "image_slice", "image_height_px", "image_width_px", "thumbnail_path"),
    *("background_mean", "background_std", "box_fill_fraction"),
)


class FromParticlesParams(Params):
    """Which point of the particle is wanted, and how close two may be."""

    min_distance_angst: float = param(
        0.0, ge=0, help="Of particles nearer than this the one of better score is kept; 0 for all."
    )
    centre_x_angst: float = param(
        0.0, help="Point of the reference that becomes the centre, from its centre, along x."
    )
    centre_y_angst: float = param(0.0, help="The same along y.")
    centre_z_angst: float = param(0.0, help="The same along z.")


class Inputs(Ports):
    """Aligned particles, and their micrographs if positions beyond their borders are to go."""

    particles: DataSet = port(PARTICLES, needs=("coord2d",))
    micrographs: DataSet | None = port(
        MICROGRAPHS, optional=True, help="Positions outside of these images are left out."
    )


class Outputs(Ports):
    """Positions of the particles' centres."""

    coordinates: DataSet = port(COORDINATES)


def _box_centres(rows: pl.DataFrame) -> "NDArray[np.float64]":
    """Centres of the boxes in Å, `[n, 2]`: whole pixels of the micrograph."""
    import numpy as np

    places = rows.select("coord_x_angst", "coord_y_angst").to_numpy().astype(np.float64)
    if "micrograph_pixel_size_angst" not in rows.columns:
        return places
    pixel = rows["micrograph_pixel_size_angst"].to_numpy()[:, None]
    whole: NDArray[np.float64] = np.where(
        np.isfinite(pixel), np.rint(places / pixel) * pixel, places
    )
    return whole


def _centres(rows: pl.DataFrame, point_angst: tuple[float, float, float]) -> "NDArray[np.float64]":
    """Positions in the micrograph of a point of the reference, `[n, 2]`.

    Convention: the stored shift moves the image onto the reference, so the particle lies at
    minus the shift from the centre of its box.
    """
    import numpy as np

    places = _box_centres(rows)
    if set(_SHIFTS) <= set(rows.columns):
        places = places - rows.select(pl.col(_SHIFTS).fill_null(0.0)).to_numpy()
    if any(point_angst):
        import torch

        from verglas.kernels.so3 import euler_to_matrix

        angles = torch.from_numpy(rows.select(_ANGLES).to_numpy().astype(np.float64))
        turned = euler_to_matrix(angles) @ torch.tensor(point_angst, dtype=torch.float64)
        places = places + turned[:, :2].numpy()
    return places


def _drop_neighbours(rows: pl.DataFrame, min_distance_angst: float) -> pl.DataFrame:
    """Keep the particle of better score of each pair that is too close."""
    import numpy as np

    from verglas.kernels.peaks import exclude_neighbours

    kept: list[pl.DataFrame] = []
    for part in rows.partition_by("micrograph_id", maintain_order=True):
        places = part.select("coord_x_angst", "coord_y_angst").to_numpy()
        score = part["score"].fill_null(0.0) if "score" in part.columns else None
        values = np.zeros(part.height) if score is None else score.to_numpy()
        chosen = exclude_neighbours(places, values, min_distance_px=min_distance_angst)
        kept.append(part[np.sort(chosen).tolist()])
    return pl.concat(kept)


def _drop_outside(ctx: Context, rows: pl.DataFrame, micrographs: DataSet) -> pl.DataFrame:
    """Leave out what is not in one of the micrographs or not inside of it."""
    sizes = ["image_width_px", "image_height_px"]
    known = [name for name in sizes if name in micrographs.columns]
    table = micrographs.rows(["item_id", "pixel_size_angst", *known])
    table = table.rename({"item_id": "micrograph_id", "pixel_size_angst": "mic_pixel"})
    joined: pl.DataFrame = rows.drop(known, strict=False).join(
        table, on="micrograph_id", how="inner", maintain_order="left"
    )
    inside: pl.Expr = pl.lit(value=True)
    for axis, size in zip("xy", sizes, strict=True):
        if size in known:
            place = pl.col(f"coord_{axis}_angst") / pl.col("mic_pixel")
            inside &= place.is_between(-0.5, pl.col(size) - 0.5)
    joined = joined.filter(inside)
    n_lost = rows.height - joined.height
    if n_lost:
        ctx.warn(f"{n_lost} of {rows.height} positions lie outside of the micrographs: left out")
    return joined.drop("mic_pixel", *known)


@protocol("coordinates.from_particles", version=1, label="Positions from aligned particles")
def run(ctx: Context, params: FromParticlesParams, inputs: Inputs) -> Outputs:
    """Move each position by its shift, and drop what is double or outside."""
    point = (params.centre_x_angst, params.centre_y_angst, params.centre_z_angst)
    data = inputs.particles
    if any(point):
        data.require(("pose3d",), needed_by="coordinates.from_particles with a point")
    names = [name for name in data.columns if name not in _OF_IMAGE]
    extra = [n for n in ("micrograph_pixel_size_angst",) if n in data.optics.columns]
    rows = data.rows([*names, *extra])
    places = _centres(rows, point)
    moved = ((places - rows.select("coord_x_angst", "coord_y_angst").to_numpy()) ** 2).sum(axis=1)
    rows = rows.with_columns(
        coord_x_angst=pl.Series(places[:, 0]),
        coord_y_angst=pl.Series(places[:, 1]),
        source_id=pl.col("item_id"),
    ).drop(*_SHIFTS, *extra, strict=False)
    n_given = rows.height
    if inputs.micrographs is not None:
        rows = _drop_outside(ctx, rows, inputs.micrographs)
    if params.min_distance_angst > 0 and rows.height:
        n_before = rows.height
        rows = _drop_neighbours(rows, params.min_distance_angst)
        ctx.metric("n_duplicates", n_before - rows.height)
    ctx.metric("n_coordinates", rows.height)
    ctx.metric("median_move_angst", round(float(_median(moved)) ** 0.5, 2))
    ctx.log.info("%d positions from %d particles", rows.height, n_given)
    return Outputs(coordinates=ctx.dataset(COORDINATES, rows, optics=_optics(inputs), source=data))


def _median(values: "NDArray[np.float64]") -> float:
    import numpy as np

    return float(np.median(values)) if len(values) else 0.0


def _optics(inputs: Inputs) -> pl.DataFrame:
    """Constants of the micrographs: their pixel size, and no box."""
    if inputs.micrographs is not None:
        groups = set(inputs.particles.optics["optics_group"])
        if groups <= set(inputs.micrographs.optics["optics_group"]):
            return inputs.micrographs.optics
    optics = inputs.particles.optics
    if "micrograph_pixel_size_angst" in optics.columns:
        optics = optics.with_columns(
            pixel_size_angst=pl.coalesce("micrograph_pixel_size_angst", "pixel_size_angst")
        )
    return optics.drop("micrograph_pixel_size_angst", "box_px", strict=False)
