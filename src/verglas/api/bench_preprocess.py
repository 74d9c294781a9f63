"""Measure how fast and how well movies are aligned, against a folder of movies with truth.

The folder holds `mov1.mrc`, ..; `truth_mov1.npz` with `grid` (`[f, 2, a, b]`, x and y
displacement in pixels at the places `gx`, `gy`), `apix` and `dose` (e/A^2 a frame); and
`mov1_clean.mrc`, the sum of frames without motion and noise. Processor time is that of
`verglas run movies.align` with all movies less that with one, so that start-up does not count.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from verglas.api.bench_cost import Cost, run_tree
from verglas.core.errors import UserError
from verglas.io.mrc import read_mrc

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from verglas.api.project import Project
    from verglas.model import DataSet

__all__ = [
    "FRC_BANDS",
    "MOTION_PEER",
    "MotionResult",
    "bench_motion",
    "frc_bands",
    "motion_error_px",
]

FRC_BANDS = ((20.0, 10.0), (10.0, 6.0), (6.0, 4.0), (4.0, 3.0))
"""Bands of resolution in Å, as the published figures of peers have them."""

MOTION_PEER = "RELION 5: 1.1-1.3 CPU s, 0.35 px, FRC .49 .34 .30 .29 (perfect .50 .37 .37 .42)"
"""The best peer on the movies of the published comparison."""

_COMMAND = (sys.executable, "-c", "from verglas.cli.main import main; main()")
_MARGIN_PX = 64
_REGISTER_PX = 4.0


@dataclass(frozen=True)
class MotionResult:
    """What alignment cost and reached.

    Attributes:
        cpu_s: processor time of one movie.
        wall_s: of one movie.
        peak_mb: largest resident size of a process.
        error_px: RMS length of the error of places and frames, free of a constant at each place.
        frc: mean correlation with the ideal sums, in the bands of `FRC_BANDS`.
        by_movie: name, error and bands of each.
        error: why it was not measured.
    """

    cpu_s: float = 0.0
    wall_s: float = 0.0
    peak_mb: float = 0.0
    error_px: float = 0.0
    frc: tuple[float, ...] = ()
    by_movie: list[tuple[str, float, tuple[float, ...]]] = field(default_factory=list)
    error: str = ""


def bench_motion(
    project: "Project", folder: Path, *, threads: int = 1, limit_s: float = 3600.0
) -> MotionResult:
    """Align the movies of a folder in processes of their own, and judge the sums and paths.

    Args:
        project: that takes the jobs.
        folder: of movies with truth.
        threads: that work on a movie.
        limit_s: each run is ended after so long.
    """
    files = sorted(file for file in folder.glob("mov*.mrc") if not file.stem.endswith("_clean"))
    if len(files) < 2:
        raise UserError(
            f"{str(folder)!r} holds {len(files)} movies, expected two or more",
            "give the folder of mov1.mrc, truth_mov1.npz, mov1_clean.mrc, ...",
        )
    first = _import(project, files[:1])
    every = _import(project, files)
    costs = []
    # the first run compiles what was not compiled on this machine yet
    for name, movies in (("warm", first), ("first", first), ("every", every)):
        command = [*_COMMAND, "run", "movies.align", "--project", str(project.root)]
        command += ["--force", "--input", f"movies={movies}", "--threads", str(threads)]
        log = project.root / f"bench-motion-{name}.log"
        code, cost = run_tree([*command, "--workers", "0"], project.root, log, limit_s)
        if code:
            lines = log.read_text("utf-8", "replace").strip().splitlines()
            return MotionResult(error=f"exit code {code}: {' | '.join(lines[-2:])}")
        costs.append(cost)
    return _judged(project.jobs()[-1].output("micrographs"), files, costs[1:])


def _import(project: "Project", files: list[Path]) -> str:
    with np.load(_truth_path(files[0])) as truth:
        pixel, dose = float(truth["apix"]), float(truth["dose"])
    job = project.run(
        "movies.import",
        files=[str(file.resolve()) for file in files],
        pixel_size_angst=pixel,
        frame_dose_e_per_angst2=dose,
    )
    return str(job.output("movies").id)


def _truth_path(movie: Path) -> Path:
    return movie.with_name(f"truth_{movie.stem}.npz")


def _judged(made: "DataSet", files: list[Path], costs: list[Cost]) -> MotionResult:
    rows = {row["label"]: row for row in made.rows().iter_rows(named=True)}
    by_movie = []
    for file in files:
        row = rows[file.stem]
        with (
            np.load(_truth_path(file)) as truth,
            np.load(made.path(row["local_motion_path"])) as found,
        ):
            error = motion_error_px(dict(found), dict(truth))
            pixel = float(truth["apix"])
        (image,), _ = read_mrc(made.path(row["unweighted_image_path"]))
        (ideal,), _ = read_mrc(file.with_name(f"{file.stem}_clean.mrc"))
        by_movie.append((file.stem, error, frc_bands(image, ideal, pixel)))
    n = len(files) - 1
    return MotionResult(
        cpu_s=(costs[1].cpu_s - costs[0].cpu_s) / n,
        wall_s=(costs[1].wall_s - costs[0].wall_s) / n,
        peak_mb=max(cost.peak_mb for cost in costs),
        error_px=float(np.mean([error for _, error, _ in by_movie])),
        frc=tuple(float(x) for x in np.mean([bands for _, _, bands in by_movie], axis=0)),
        by_movie=by_movie,
    )


def motion_error_px(found: dict[str, Any], truth: dict[str, Any]) -> float:
    """RMS length of the error of a motion, free of what is constant at each place.

    Args:
        found: arrays of a motion as `movies.align` writes them.
        truth: `grid`, `gx`, `gy` and `apix`, as the module says.
    """
    from verglas.algorithms.motion.field import MotionField

    pixel = float(truth["apix"])
    x, y = (np.asarray(truth[name], dtype=np.float64) * pixel for name in ("gx", "gy"))
    at = MotionField.from_arrays(found).at(x.ravel(), y.ravel()) / pixel
    error = np.moveaxis(at, 2, 1).reshape(np.shape(truth["grid"])) - truth["grid"]
    error = error - error.mean(axis=0)
    return float(np.sqrt((error**2).sum(axis=1).mean()))


def frc_bands(
    image: "NDArray[np.float32]", ideal: "NDArray[np.float32]", pixel_size_angst: float
) -> tuple[float, ...]:
    """Correlate a sum with the ideal one in rings, after the best shift of the whole image.

    Args:
        image, ideal: `[n, n]`.
        pixel_size_angst: of both.
    """
    n = len(image)
    ky, kx = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]
    one, other = (np.fft.rfft2(im - im.mean()) for im in (image, ideal))
    smooth = np.exp(-(np.hypot(ky, kx) ** 2) * _REGISTER_PX**2)
    product = other * one.conj() * smooth
    peak = np.fft.irfft2(product, s=image.shape)
    shift = np.array(np.unravel_index(peak.argmax(), peak.shape), dtype=np.float64)
    for step in (0.5, 0.25, 0.1, 0.05, 0.02):
        shift = _climb(product, shift, step)
    phase = np.exp(-2j * np.pi * (ky * shift[0] + kx * shift[1]))
    inner = (slice(_MARGIN_PX, -_MARGIN_PX),) * 2
    moved = np.fft.irfft2(one * phase, s=image.shape)[inner]
    still = np.asarray(ideal, dtype=np.float64)[inner]
    fa, fb = (np.fft.fft2(im - im.mean()) for im in (moved, still))
    size = len(moved)
    axis = np.fft.fftfreq(size, 1.0 / size)
    ring = np.rint(np.hypot(axis[:, None], axis[None])).astype(int).ravel()
    sums = [
        np.bincount(ring, values.ravel())
        for values in ((fa * fb.conj()).real, np.abs(fa) ** 2, np.abs(fb) ** 2)
    ]
    curve = sums[0] / np.sqrt(sums[1] * sums[2] + 1e-30)
    frequency = np.arange(len(curve)) / (size * pixel_size_angst)
    return tuple(
        float(curve[(frequency >= 1 / low) & (frequency < 1 / high)].mean())
        for low, high in FRC_BANDS
    )


def _climb(
    product: "NDArray[np.complexfloating]", shift: "NDArray[np.float64]", step: float
) -> "NDArray[np.float64]":
    """Move a shift to the best of its neighbours until it is the best itself, six times at most."""
    n = product.shape[0]
    ky, kx = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None]
    for _ in range(6):
        tried = [shift + np.array([i, j]) for i in (-step, 0, step) for j in (-step, 0, step)]
        scores = [
            float((product * np.exp(2j * np.pi * (ky * y + kx * x))).real.sum()) for y, x in tried
        ]
        best = tried[int(np.argmax(scores))]
        if (best == shift).all():
            break
        shift = best
    return shift
