"""Time data sets of a million particles: `python benchmarks/datasets.py [n_particles]`.

Prints one line per step: what, seconds, and the limit where docs/conventions or an issue
sets one.
"""

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import polars as pl

from verglas.model import PARTICLES, DataSet, make_dataset, open_dataset, write_dataset
from verglas.sdk.chunks import plan_chunks


@contextmanager
def timed(what: str, limit_s: float | None = None) -> Iterator[None]:
    """Print how long a block took."""
    start = time.perf_counter()
    yield
    limit = "" if limit_s is None else f"   (limit {limit_s} s)"
    print(f"{what:<52} {time.perf_counter() - start:8.3f} s{limit}", flush=True)


def particles(n: int, root: Path) -> DataSet:
    """Make a table of 30 columns as refinement leaves it."""
    rng = np.random.default_rng(0)
    micrograph = np.arange(n) // 300
    rows = pl.DataFrame(
        {
            "item_id": np.arange(n),
            "source_id": np.arange(n),
            "optics_group": micrograph % 9,
            "image_path": pl.Series(micrograph).cast(pl.String) + "_particles.mrcs",
            "image_slice": np.arange(n) % 300,
            "micrograph_path": "jobs/0001-import/files/" + pl.Series(micrograph).cast(pl.String),
            "micrograph_id": micrograph,
            "half_set": 1 + np.arange(n) % 2,
            "class_index": rng.integers(0, 50, n),
            "class_prob": rng.random(n),
            "n_significant": rng.integers(1, 99, n),
            **{name: 100 * rng.random(n) for name in FLOATS},
            **{f"x_other_{i}": rng.normal(size=n) for i in range(6)},
        }
    )
    optics = pl.DataFrame({"optics_group": np.arange(9), "pixel_size_angst": 1.1, "box_px": 256})
    return make_dataset(PARTICLES, rows, root=root, optics=optics)


FLOATS = [
    "defocus_u_angst",
    "defocus_v_angst",
    "defocus_angle_deg",
    "phase_shift_deg",
    "coord_x_angst",
    "coord_y_angst",
    "angle_rot_deg",
    "angle_tilt_deg",
    "angle_psi_deg",
    "shift_x_angst",
    "shift_y_angst",
    "score",
    "intensity_scale",
]


def estimate(rows: pl.DataFrame, task: object) -> pl.DataFrame:
    """Stand for a chunk function; it is planned and not run."""
    return rows


def main() -> None:
    """Run all measurements."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        made = particles(n, root)
        print(f"{n} particles, {len(made.columns)} columns")
        with timed("write (with content id)"):
            write_dataset(made, root / "jobs/1/outputs/particles")
        with timed("open and list columns", 0.1):
            data = open_dataset(root / "jobs/1/outputs/particles")
            _ = data.traits
        with timed("filter by a column and make a stored subset", 1.0):
            subset = data.select(data.table.filter(pl.col("score") > 50))
            stored = write_dataset(subset, root / "jobs/2/outputs/particles")
        with timed("open the subset and read two columns", 1.0):
            opened = open_dataset(stored.folder or root)
            opened.rows(["angle_rot_deg", "score"])
        poses = opened.rows(["item_id", "angle_rot_deg", "angle_tilt_deg", "shift_x_angst"])
        with timed("replace three columns of the subset and store"):
            write_dataset(opened.with_columns(poses), root / "jobs/3/outputs/particles")
        with timed("read all columns with optics"):
            data.rows(with_optics=True)
        with timed("plan chunks of 500 with keys"):
            plan = plan_chunks(estimate, data, chunk=500, protocol=("a.b", 1), kwargs={})
        with timed("plan chunks of 500 by half set, 8 columns"):
            columns = ("item_id", "image_path", "image_slice", "half_set", *FLOATS[:4])
            plan_chunks(
                estimate,
                data,
                chunk=500,
                protocol=("a.b", 1),
                kwargs={},
                by="half_set",
                columns=columns,
            )
        print(f"{len(plan.chunks)} chunks")


if __name__ == "__main__":
    main()
