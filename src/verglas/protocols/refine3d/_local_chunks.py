"""What a local pass does with a chunk of particles."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.core.errors import FormatError
from verglas.protocols._particles import aberrations_of, image_source, images_of, read_images
from verglas.protocols.refine3d._refine_chunks import POSE_ANGLES, POSE_SHIFTS
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from verglas.algorithms.em.local_pass import HalfMap, LocalViews, PosePeaks
    from verglas.algorithms.em.refine_config import RefineConfig

__all__ = ["climb_chunk", "measure_chunk"]

_BLOCK = 256  # images in memory at a time
_MEASURED = 400  # views of a chunk, evenly spaced, that tell the map's amplitude


def _prepare(
    rows: pl.DataFrame, task: Task, config: "RefineConfig", model: ArrayRef
) -> "tuple[pl.DataFrame, LocalViews, HalfMap, tuple[Any, Any]]":
    """Return the rows that can be read, their views, the map, and the poses so far."""
    from verglas.algorithms.em.local_pass import HalfMap, LocalViews, scaled_shells
    from verglas.kernels.half_volumes import half_volume_of
    from verglas.kernels.rotations import rotations_of_angles

    arrays = task.load(model)
    source = image_source(rows, task)
    kept, parts = [], []
    for start in range(0, rows.height, _BLOCK):
        block, pictures = read_images(rows.slice(start, _BLOCK), source, task, start)
        if block.height:
            kept.append(block)
            parts.append(_views(block, pictures, config, arrays["noise_power"]))
    if not parts:
        raise FormatError(f"none of {rows.height} images from {rows['image_path'][0]!r} is usable")
    half = half_volume_of(arrays["volume"], radius=config.max_radius, padding=config.padding)
    half = scaled_shells(half, arrays["factors"], config.padding)
    rows = pl.concat(kept)
    angles, shifts = (rows.select(x).to_numpy() for x in (POSE_ANGLES, POSE_SHIFTS))
    poses = rotations_of_angles(angles), shifts
    return rows, LocalViews.join(parts), HalfMap(half, config.padding), poses


def _views(
    rows: pl.DataFrame, pictures: Any, config: "RefineConfig", noise_power: Any
) -> "LocalViews":
    """Make the views of a block of images."""
    import dataclasses

    import numpy as np

    from verglas.algorithms.aberrations import Aberrations
    from verglas.algorithms.em.local_pass import local_views
    from verglas.algorithms.image_tables import aberration_tables
    from verglas.kernels.disc_list import list_disc

    groups, group = aberrations_of(rows)
    # magnification is not taken into account here, of which the job warns
    plain = [dataclasses.replace(g, magnification=Aberrations.magnification) for g in groups]
    nowhere = np.zeros((rows.height, 2))
    return local_views(
        pictures,
        images_of(rows, np.zeros((rows.height, 3, 3)), nowhere, group),
        aberration_tables(plain, config.box, config.extent_angst),
        noise_power=noise_power[rows["noise_group"].to_numpy()],
        disc=list_disc(config.box, config.max_radius),
        pixel_size_angst=config.pixel_size_angst,
    )


def _sums(views: "LocalViews", reference: "HalfMap", poses: tuple[Any, Any]) -> dict[str, Any]:
    from verglas.algorithms.em.local_pass import measure_amplitudes

    every = max(1, len(views) // _MEASURED)
    return vars(measure_amplitudes(views, reference, *poses, every=every))


def measure_chunk(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", model: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Fit the map's amplitude, shell by shell, at the poses that there are."""
    rows, views, reference, poses = _prepare(rows, task, config, model)
    return rows.select("item_id"), _sums(views, reference, poses)


def climb_chunk(
    rows: pl.DataFrame,
    task: Task,
    *,
    config: "RefineConfig",
    model: ArrayRef,
    radius: int,
    shift_prior_angst: float,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Climb on shells up to a radius; fit the amplitudes of all shells where that ends."""
    from verglas.algorithms.em.local_pass import climb_from

    rows, views, reference, start = _prepare(rows, task, config, model)
    peaks = climb_from(views, reference, *start, radius=radius, shift_prior_angst=shift_prior_angst)
    sums = _sums(views, reference, (peaks.rotation_ref_to_img, peaks.shift_angst))
    return _pose_rows(rows, peaks), sums


def _pose_rows(rows: pl.DataFrame, peaks: "PosePeaks") -> pl.DataFrame:
    """Write poses as columns; one peak of one map has no class and no share among peaks."""
    from verglas.kernels.rotations import angles_of_rotations

    rot, tilt, psi = angles_of_rotations(peaks.rotation_ref_to_img).T
    return rows.select("item_id").with_columns(
        angle_rot_deg=pl.Series(rot),
        angle_tilt_deg=pl.Series(tilt),
        angle_psi_deg=pl.Series(psi),
        shift_x_angst=pl.Series(peaks.shift_angst[:, 0]),
        shift_y_angst=pl.Series(peaks.shift_angst[:, 1]),
        score=pl.Series(peaks.loglik),
        angle_sd_deg=pl.Series(peaks.angle_sd_deg),
        shift_sd_angst=pl.Series(peaks.shift_sd_angst),
    )
