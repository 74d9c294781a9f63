"""`verglas bench preprocess`: motion, CTF, picking and extraction on movies with known truth.

The folder is that of `verglas.api.bench_preprocess`; `truth_mov1.npz` also holds `du`, `dv` and
`ang` of the CTF and `pos`, the particles' places in pixels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from verglas.api.bench_preprocess import MOTION_PEER, bench_motion
from verglas.api.bench_preprocess_ctf import measure_ctf
from verglas.api.bench_preprocess_picks import KnownField, measure_picks
from verglas.io.mrc import read_mrc

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.model import DataSet

__all__ = ["Row", "bench_preprocess"]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        job: what was done.
        cpu_s: processor time for one movie or micrograph; of one particle for extraction.
        reached: how well.
        wanted: what is asked for.
        peer: the best published figure on these data.
    """

    job: str
    cpu_s: float
    reached: str
    wanted: str
    peer: str


def bench_preprocess(
    project: "Project", folder: Path, *, diameter_angst: float, limit_s: float = 3600.0
) -> Iterator[Row]:
    """Measure one step after another, each on what the one before made.

    Args:
        project: that takes the jobs.
        folder: of movies with truth.
        diameter_angst: of their particles.
        limit_s: each run is ended after so long.
    """
    motion = bench_motion(project, folder, limit_s=limit_s)
    yield Row(
        "motion",
        motion.cpu_s,
        motion.error or f"{motion.error_px:.2f} px, FRC {' '.join(f'{x:.2f}' for x in motion.frc)}",
        "1.0 CPU s, 0.30 px, FRC .49 .35 .32 .32",
        MOTION_PEER,
    )
    if motion.error:
        return
    made = project.jobs()[-1].output("micrographs")
    rows, fields = _with_truth(made, folder)
    for fit in measure_ctf(rows, made.root):
        yield Row(
            f"CTF {fit.method}",
            fit.cpu_s,
            f"defocus {fit.defocus_error_angst:.0f} Å (worst {fit.worst_defocus_error_angst:.0f})"
            f", astigmatism {fit.astigmatism_error_angst:.0f} Å",
            "0.35 CPU s, 20 Å",
            "ctffind: 0.44 CPU s, 22 Å, 65 Å",
        )
    pixel = float(rows["pixel_size_angst"][0])
    picks = measure_picks(fields, pixel_size_angst=pixel, diameter_angst=diameter_angst)
    yield Row(
        "picking by size",
        picks.cpu_s,
        f"recall {picks.recall:.3f}, precision {picks.precision:.3f}",
        "0.2 CPU s, 1.00, 0.98",
        "RELION 5: 0.24 CPU s, 1.00, 0.97",
    )
    yield Row(
        "extraction",
        1 / picks.particles_per_cpu_s,
        f"{picks.particles_per_cpu_s:.0f} particles a CPU s",
        "2,000 a CPU s",
        "RELION 5: 1,100 a CPU s",
    )


def _with_truth(made: "DataSet", folder: Path) -> tuple[pl.DataFrame, list[KnownField]]:
    """Aligned micrographs with their true CTF, and their images with true positions."""
    optics = ("pixel_size_angst", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
    rows = made.rows(("item_id", "label", "unweighted_image_path", "image_slice", *optics))
    truths, fields = [], []
    for row in rows.iter_rows(named=True):
        with np.load(folder / f"truth_{row['label']}.npz") as truth:
            found = {name: float(truth[key]) for name, key in _TRUTH.items()}
            position_px = np.asarray(truth["pos"], np.float64)
        (image,), _ = read_mrc(made.path(row["unweighted_image_path"]))
        truths.append({"item_id": row["item_id"], **found})
        fields.append(KnownField(np.asarray(image, np.float32), position_px))
    rows = rows.join(pl.DataFrame(truths), on="item_id", maintain_order="left")
    return rows.rename({"unweighted_image_path": "image_path"}), fields


_TRUTH = {"defocus_u_angst": "du", "defocus_v_angst": "dv", "defocus_angle_deg": "ang"}
