"""What a local pass does with a chunk of particles."""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import views_of_rows
from verglas.protocols._poses import pose_rows
from verglas.protocols.refine3d._refine_chunks import POSE_ANGLES, POSE_SHIFTS
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.em.references import References
    from verglas.algorithms.em.refine_state import RefineConfig
    from verglas.algorithms.views import Views

__all__ = ["climb_chunk", "measure_chunk"]

_MEASURED = 400  # views of a chunk, evenly spaced, that tell the map's amplitude


def _prepare(
    rows: pl.DataFrame, task: Task, config: "RefineConfig", model: ArrayRef
) -> "tuple[pl.DataFrame, Views, References, tuple[Tensor, Tensor]]":
    """Return the rows that can be read, their views, the map, and the poses so far."""
    import torch

    from verglas.algorithms.em.local_pass import scaled_shells
    from verglas.algorithms.em.references import References
    from verglas.kernels.disc import half_disc
    from verglas.kernels.slices import volume_to_half_volume
    from verglas.kernels.so3 import euler_to_matrix

    torch.set_num_threads(task.threads)
    arrays = task.load(model)
    power, volume = (torch.as_tensor(arrays[name]).float() for name in ("noise_power", "volume"))
    rows, views = views_of_rows(
        rows,
        task,
        disc=half_disc(config.box, config.max_radius),
        noise_power=power,
        scale=torch.ones(len(power)),
        pixel_size_angst=config.pixel_size_angst,
    )
    half = volume_to_half_volume(volume[None], radius=config.max_radius, padding=config.padding)
    half = scaled_shells(half, torch.as_tensor(arrays["factors"]), config.padding)
    angles, shifts = (torch.tensor(rows.select(x).to_numpy()) for x in (POSE_ANGLES, POSE_SHIFTS))
    reference = References(half, torch.zeros(1), config.padding, planar=False)
    return rows, views, reference, (euler_to_matrix(angles), shifts)


def _sums(
    views: "Views", reference: "References", poses: "tuple[Tensor, Tensor]"
) -> dict[str, Any]:
    from verglas.algorithms.em.local_pass import measure_amplitudes

    some = slice(None, None, max(1, len(views) // _MEASURED))
    found = measure_amplitudes(views.take(some), reference, *(value[some] for value in poses))
    return {name: value.numpy() for name, value in vars(found).items()}


def measure_chunk(
    rows: pl.DataFrame, task: Task, *, config: "RefineConfig", model: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Fit the map's amplitude, shell by shell, at the poses that there are."""
    from verglas.kernels.denormals import denormals_flushed

    rows, views, reference, poses = _prepare(rows, task, config, model)
    with denormals_flushed():
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
    from verglas.algorithms.em.local_pass import climb_from, poses_of_peaks
    from verglas.kernels.denormals import denormals_flushed

    rows, views, reference, start = _prepare(rows, task, config, model)
    with denormals_flushed():
        seen = views.prefix(radius)
        peaks = climb_from(seen, reference, *start, shift_prior_angst=shift_prior_angst)
        poses = poses_of_peaks(peaks, config.pixel_size_angst)
        sums = _sums(views, reference, (poses.rotation_ref_to_img, poses.shift_angst))
    # one peak of one map: no classes, and no share among peaks
    found = pose_rows(rows, poses).drop("class_index", "class_prob")
    return found.with_columns(
        angle_sd_deg=pl.Series(poses.angle_sd_deg.double().numpy()),
        shift_sd_angst=pl.Series(poses.shift_sd_angst.double().numpy()),
    ), sums
