"""Write a large project quickly, for measurements: many jobs, many particles.

    python -m tests.project.big_project FOLDER [N_JOBS] [N_PARTICLES]

makes one where FOLDER does not exist yet, and prints how long opening, looking up, filtering and
rebuilding the index take.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl

from verglas.model import PARTICLES, make_dataset, write_dataset
from verglas.project.layout import create_project
from verglas.project.record import Input, JobRecord, Output, StepCount

WIDTH = 5


def particle_table(n_particles: int) -> pl.DataFrame:
    """Make a particle table with the columns that a refined set has."""
    rng = np.random.default_rng(1)
    number = np.arange(n_particles)
    angles = rng.uniform(0, 180, (3, n_particles))
    shifts = rng.normal(0, 3, (2, n_particles))
    return pl.DataFrame(
        {
            "item_id": number,
            "source_id": number // 250,
            "optics_group": np.ones(n_particles, dtype=np.int64),
            "image_path": np.char.add("jobs/0003-extract/files/cut/", (number // 250).astype("U")),
            "image_slice": number % 250,
            "micrograph_id": number // 250,
            "coord_x_angst": rng.uniform(0, 6000, n_particles),
            "coord_y_angst": rng.uniform(0, 6000, n_particles),
            "defocus_u_angst": rng.uniform(8e3, 3e4, n_particles),
            "defocus_v_angst": rng.uniform(8e3, 3e4, n_particles),
            "defocus_angle_deg": angles[0],
            "phase_shift_deg": np.zeros(n_particles),
            "angle_rot_deg": angles[1],
            "angle_tilt_deg": angles[2],
            "angle_psi_deg": angles[0],
            "shift_x_angst": shifts[0],
            "shift_y_angst": shifts[1],
            "class_index": number % 50,
            "half_set": number % 2 + 1,
            "score": rng.random(n_particles),
        }
    )


def write_big_project(root: Path, n_jobs: int = 500, n_particles: int = 1_000_000) -> None:
    """Write a project whose first job holds the particles; every job reads the one before."""
    layout = create_project(root)
    optics = pl.DataFrame(
        {
            "optics_group": [1],
            "pixel_size_angst": [1.5],
            "box_px": [128],
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.7],
            "amplitude_contrast": [0.1],
        }
    )
    folder = layout.jobs / "0001-extract" / "outputs" / "particles"
    particles = make_dataset(PARTICLES, particle_table(n_particles), root=root, optics=optics)
    content = write_dataset(particles, folder).content
    for number in range(1, n_jobs + 1):
        record = _record(number, n_particles, content if number == 1 else f"c{number}")
        path = layout.jobs / record.folder / "job.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record.model_dump(mode="json"), indent=1))


def _record(number: int, n_particles: int, content: str) -> JobRecord:
    record = JobRecord(number=number, protocol="particles.extract", version=1, status="done")
    inputs = [Input(port="particles", dataset=n) for n in range(max(1, number - WIDTH), number)]
    output = Output(
        port="particles",
        dataset=number,
        kind="particles",
        n_items=n_particles,
        fingerprint=content,
        folder=f"jobs/{record.folder}/outputs/particles",
        traits=("ctf", "image", "pose3d"),
    )
    return record.replace(
        label=f"Step {number}",
        parameters={f"parameter_{i}": i / 7 for i in range(20)},
        inputs=tuple(inputs),
        outputs=(output,),
        environment={"python": "3.11", "torch": "2.13", "host": "bench"},
        steps=tuple(StepCount(step=f"step_{i}", total=40, seconds=60.0) for i in range(3)),
    ).with_moment("done")


def timed(label: str, action: Callable[[], object]) -> object:
    """Print how long something takes and return its result."""
    started_s = time.perf_counter()
    result = action()
    print(f"{label:44s} {time.perf_counter() - started_s:6.3f} s")
    return result


def main() -> None:
    """Make the project if needed and measure."""
    from verglas.api.project import Project
    from verglas.api.query import query_page, select_where

    root = Path(sys.argv[1])
    counts = [int(text) for text in sys.argv[2:]]
    if not root.exists():
        timed("write", lambda: write_big_project(root, *counts))
        timed("first opening (builds the index)", lambda: Project.open(root))
    project = timed("open", lambda: Project.open(root))
    assert isinstance(project, Project)
    timed("list jobs", project.records)
    timed("graph and what is out of date", project.graph)
    timed("descendants of the first job", lambda: project.descendants("j1"))
    data = timed("open the particles", lambda: project.dataset("d1"))
    timed(
        "page of 50, filtered and sorted",
        lambda: query_page(data, where=["score<0.1"], sort="score"),
    )
    subset = timed(
        "filter by a column and make a subset", lambda: select_where(data, ["score<0.5"])
    )
    timed("store the subset", lambda: write_dataset(subset, root / "subset"))
    timed("rebuild the index", project.reindex)


if __name__ == "__main__":
    main()
