"""What a first map computes in chunks: heats of coarse searches, finals, poses."""

from enum import IntEnum
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import views_of_rows
from verglas.protocols._poses import pose_rows
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from verglas.algorithms.em.candidate import Candidate
    from verglas.algorithms.em.first_map_plan import FirstMapConfig
    from verglas.algorithms.views import Views

__all__ = ["START", "Leg", "pack", "place", "run_final", "run_heat", "unpack"]

START = "x_start"


class Leg(IntEnum):
    """What a start goes through at the last resolution; it settles after one or two openings."""

    OPEN = 0
    REOPEN = 1
    SETTLE = 2


def pack(candidate: "Candidate", prefix: str = "") -> dict[str, Any]:
    """Return a candidate as arrays."""
    import numpy as np

    return {f"{prefix}{name}": np.asarray(v) for name, v in candidate.to_arrays().items()}


def unpack(arrays: dict[str, Any], prefix: str = "") -> "Candidate":
    """Rebuild a candidate from `pack`."""
    from verglas.algorithms.em.candidate import Candidate

    found = {n.removeprefix(prefix): v for n, v in arrays.items() if n.startswith(prefix)}
    return Candidate.from_arrays(found)


def _views(
    rows: pl.DataFrame, task: Task, config: "FirstMapConfig", noise: ArrayRef
) -> "tuple[pl.DataFrame, Views]":
    import torch

    from verglas.algorithms.em.first_map import with_noise_of_disc
    from verglas.kernels.disc import half_disc

    torch.set_num_threads(task.threads)
    power = torch.as_tensor(task.load(noise)["noise_power"])
    rows, views = views_of_rows(
        rows,
        task,
        disc=half_disc(config.box, config.max_radius),
        noise_power=power,
        scale=torch.ones(len(power)),
        pixel_size_angst=config.pixel_size_angst,
    )
    return rows, with_noise_of_disc(views, config)


def run_heat(
    rows: pl.DataFrame,
    task: Task,
    *,
    config: "FirstMapConfig",
    noise: ArrayRef,
    seeds: dict[int, list[int]],
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Run the coarse searches of one heat."""
    from verglas.algorithms.em.first_map import coarse_search, judge
    from verglas.kernels.denormals import denormals_flushed

    mine = seeds[int(rows[START][0])]
    rows, views = _views(rows, task, config, noise)
    arrays: dict[str, Any] = {}
    for done, seed in enumerate(mine):
        task.progress(done, len(mine))
        with denormals_flushed():
            found = judge(views, config, coarse_search(views, config, seed=seed), fine=False)
        arrays |= pack(found, f"{seed}_")
    return rows.select("item_id", START), arrays


def run_final(
    rows: pl.DataFrame,
    task: Task,
    *,
    config: "FirstMapConfig",
    noise: ArrayRef,
    starts: dict[int, ArrayRef],
    leg: Leg,
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Open one start at the last resolution, or let an opened one settle."""
    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.first_map import fine_search, judge
    from verglas.algorithms.em.first_map_plan import opening_stages, settling_stages
    from verglas.kernels.denormals import denormals_flushed

    seed = int(rows[START][0])
    found = to_device(unpack(task.load(starts[seed])), task.device)
    rows, views = _views(rows, task, config, noise)
    stages = (settling_stages if leg is Leg.SETTLE else opening_stages)(config)
    n = sum(stage.iterations for stage in stages)
    with denormals_flushed():
        search = fine_search(views, config, found, stages=stages, seed=len(Leg) * seed + leg)
        for done, better in enumerate(search):
            task.progress(done, n)
            found = better
        found = judge(views, config, found, fine=True)
    return rows.select("item_id", START), pack(found)


def place(
    rows: pl.DataFrame,
    task: Task,
    *,
    config: "FirstMapConfig",
    noise: ArrayRef,
    chosen: ArrayRef,
) -> pl.DataFrame:
    """Give particles their poses in the chosen map."""
    import dataclasses

    from verglas.algorithms.devices import to_device
    from verglas.algorithms.em.expectation import expect
    from verglas.algorithms.em.placing import placing
    from verglas.kernels.denormals import denormals_flushed

    candidate = to_device(unpack(task.load(chosen)), task.device)
    rows, views = _views(rows, task, config, noise)
    views = dataclasses.replace(views, noise_power=views.noise_power * candidate.noise_factor)
    search, references = to_device(placing(config, candidate), task.device)
    n_groups = int(views.group.max()) + 1
    with denormals_flushed():
        poses, _ = expect(views, references, search, n_groups=n_groups)
    return pose_rows(rows, to_device(poses, "cpu"))
