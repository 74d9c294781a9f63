"""The job for machines with a GPU, and whether its maps are those of the processor.

The same refinement of a few thousand particles is run twice, once with the GPU hidden; the two
maps must agree in every shell to the resolution. Then the large job is timed. Nothing asks a
question or needs a display, so that it runs unattended.
"""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from verglas.api.bench import Result, run_case
from verglas.api.bench_cases import GPU_AGREEMENT_CASE, GPU_CASE, Case
from verglas.api.bench_quality import fsc_in_place
from verglas.api.bench_stack import open_stack
from verglas.io.mrc import read_mrc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verglas.api.job import Job
    from verglas.api.project import Project

__all__ = ["agreement_of", "run_gpu"]

_HIDDEN = {"CUDA_VISIBLE_DEVICES": ""}


def run_gpu(
    project: "Project",
    *,
    large: Case = GPU_CASE,
    small: Case = GPU_AGREEMENT_CASE,
    workers: int | None = None,
    limit_s: float = 3600.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Compare GPU and processor on a small job, then time the large one.

    Args:
        project: for images and jobs.
        large: the job that is timed.
        small: the job that is run on both.
        workers: of `verglas run`.
        limit_s: of each job.
        tell: hears what is done now.
    """
    tell(f"making {small.stack}")
    stack = open_stack(project, small.stack, None)
    tell(f"running {small.name} with the GPU hidden")
    hidden = run_case(
        project,
        replace(small, name=f"{small.name}-hidden"),
        stack,
        workers=workers,
        limit_s=limit_s,
        environment={**os.environ, **_HIDDEN},
    )
    yield hidden
    tell(f"running {small.name}")
    shown = run_case(project, small, stack, workers=workers, limit_s=limit_s)
    if not hidden.error and not shown.error:
        alike = agreement_of(project.job(hidden.job), project.job(shown.job))
        shown = replace(shown, numbers=shown.numbers | alike)
    yield shown
    tell(f"making {large.stack}")
    stack = open_stack(project, large.stack, None)
    tell(f"running {large.name}")
    yield run_case(project, large, stack, workers=workers, limit_s=limit_s)


def agreement_of(first: "Job", second: "Job") -> dict[str, float]:
    """Correlate the maps of two refinements of the same particles, shell by shell.

    Args:
        first, second: finished jobs with `volumes`.

    Returns:
        The lowest FSC to the resolution of the first, and the largest difference of resolutions.
    """
    maps: list[NDArray[np.float32]] = []
    resolutions = []
    for job in (first, second):
        data = job.output("volumes")
        row = data.rows().row(0, named=True)
        volume, pixel = read_mrc(Path(data.path(row["image_path"])))
        maps.append(volume)
        resolutions.append(float(row["resolution_angst"]))
    fsc = fsc_in_place(maps[1], maps[0], pixel or 1.0)
    last = int(len(maps[0]) * (pixel or 1.0) / resolutions[0])
    return {
        "fsc_with_hidden_gpu": float(fsc[1 : max(last, 1) + 1].min()),
        "resolution_apart_angst": abs(resolutions[0] - resolutions[1]),
    }
