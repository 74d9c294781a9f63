"""How the cost of a refinement grows with the number of particles and with the box.

One octahedral particle in a field of 192 Å is refined from its map at 30 Å, in one process on
one thread; a larger box only samples it finer. What must follow: comparing, reading and
inserting images is linear in their number and, once poses are known, in the coefficients of
one, the square of the box; maps are its cube, and the grids of a search are those of the
particle at the resolution at which they end. Processor seconds go to the function of the chunks
that used them, the rest (maps, FSC, tables) to maximisation. Memory is the peak of the process.
"""

import json
import math
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import polars as pl

from verglas.core.errors import UserError
from verglas.model import DataSet
from verglas.sdk.context import Accumulated
from verglas.sdk.testing import LocalContext

__all__ = [
    "BY_BOX",
    "BY_NUMBER",
    "Growth",
    "Measured",
    "Size",
    "as_plain",
    "growth",
    "measure",
    "run_sizes",
    "simulate",
]

_FIELD_ANGST = 192.0
_STAGES = {
    "add_shell_power": "reading",
    "calibrate": "scale",
    "expect_half": "expectation",
    "audit_half": "audit",
}
_REST = "maximisation"


@dataclass(frozen=True)
class Size:
    """How large a refinement is."""

    n_particles: int
    box_px: int

    @property
    def name(self) -> str:
        """For folders."""
        return f"n{self.n_particles}-box{self.box_px}"


BY_NUMBER = (Size(1000, 64), Size(2000, 64), Size(5000, 64), Size(10_000, 64))
BY_BOX = (Size(1000, 64), Size(1000, 96), Size(1000, 128))


@dataclass(frozen=True)
class Measured:
    """What one refinement took.

    Attributes:
        size: of it.
        iterations: until it converged.
        resolution_angst: where it ended.
        stages: processor seconds by stage.
        start_mb: resident memory before it began, interpreter and libraries included.
        peak_mb: largest resident memory.
    """

    size: Size
    iterations: int
    resolution_angst: float
    stages: Mapping[str, float]
    start_mb: float
    peak_mb: float

    @property
    def cpu_s(self) -> float:
        """Processor seconds of all stages."""
        return sum(self.stages.values())


@dataclass(frozen=True)
class Growth:
    """Exponent `p` of `time ~ x^p`, fitted to the logarithms.

    Attributes:
        of: number of particles, or box.
        stage: name of it, or total.
        exponent: the slope.
        expected: what the analysis says, at most.
    """

    of: str
    stage: str
    exponent: float
    expected: float


class _TimedContext(LocalContext):
    """A context that adds up the processor time of chunks by their function."""

    def __init__(self, root: Path, job: str) -> None:
        super().__init__(root, job=job)
        self.cpu_s: dict[str, float] = defaultdict(float)

    def map(
        self, fn: Callable[..., pl.DataFrame], data: DataSet | pl.DataFrame, **options: Any
    ) -> pl.DataFrame:
        start = time.process_time()
        found = super().map(fn, data, **options)
        self._count(fn, start)
        return found

    def accumulate(
        self, fn: Callable[..., Any], data: DataSet | pl.DataFrame, **options: Any
    ) -> Accumulated:
        start = time.process_time()
        found = super().accumulate(fn, data, **options)
        self._count(fn, start)
        return found

    def _count(self, fn: Callable[..., Any], start: float) -> None:
        stage = _STAGES.get(getattr(fn, "__name__", ""), _REST)
        self.cpu_s[stage] += time.process_time() - start


def simulate(folder: Path, size: Size, *, snr: float = 0.5) -> Any:
    """Make the images, or find them made; return the outputs of the protocol.

    Args:
        folder: takes them.
        size: how many, and how large.
        snr: of the images.
    """
    from verglas.protocols.simulate import particles_simulate

    params = particles_simulate.SimulateParams(
        n_particles=size.n_particles,
        box_px=size.box_px,
        pixel_size_angst=_FIELD_ANGST / size.box_px,
        snr=snr,
    )
    context = LocalContext(folder, job=f"{size.name}-images")
    return particles_simulate.run(context, params, particles_simulate.Inputs())


def measure(folder: Path, size: Size, *, snr: float = 0.5, max_iterations: int = 20) -> Measured:
    """Simulate particles, refine them in this process and count.

    Args:
        folder: takes images and results; what is simulated there already is used.
        size: how many, and how large.
        snr: of the images.
        max_iterations: of the refinement.
    """
    from verglas.protocols.refine3d import refine_3d

    made = simulate(folder, size, snr=snr)
    context = _TimedContext(folder, f"{size.name}-refined")
    params = refine_3d.Refine3dParams(
        symmetry="O", diameter_angst=130.0, initial_low_pass_angst=30.0,
        max_iterations=max_iterations,
    )  # fmt: skip
    start_mb, start = _resident_mb(), time.process_time()
    refine_3d.run(
        context, params, refine_3d.Inputs(particles=made.particles, reference=made.volume)
    )
    total = time.process_time() - start
    if context.n_reused:
        raise UserError(
            f"{str(folder)!r} holds results of {size.name}, which would not be measured again",
            "name an empty folder",
        )
    stages = {stage: context.cpu_s[stage] for stage in _STAGES.values()}
    stages[_REST] = max(total - sum(stages.values()), 0.0)
    metrics = context.metrics
    return Measured(
        size=size,
        iterations=int(float(metrics["iterations"])),
        resolution_angst=float(metrics["resolution_angst"]),
        stages=stages,
        start_mb=start_mb,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def _resident_mb() -> float:
    status = Path("/proc/self/statm")
    if not status.is_file():
        return math.nan
    return int(status.read_text().split()[1]) * resource.getpagesize() / 2**20


_SIMULATE = (
    "import sys; from pathlib import Path; from verglas.api.bench_scaling import Size, simulate; "
    "simulate(Path(sys.argv[1]), Size(int(sys.argv[2]), int(sys.argv[3])))"
)
_MEASURE = (
    "import json, sys; from pathlib import Path; from dataclasses import asdict; "
    "from verglas.api.bench_scaling import Size, measure; "
    "found = measure(Path(sys.argv[1]), Size(int(sys.argv[2]), int(sys.argv[3]))); "
    "print(json.dumps(asdict(found)))"
)


def _child(code: str, folder: Path, size: Size, limit_s: float) -> str:
    """Run code in a process of its own, so that its memory is that of nothing else."""
    command = [sys.executable, "-c", code, str(folder), str(size.n_particles), str(size.box_px)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=limit_s)
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise UserError(f"refining {size} failed: {' | '.join(lines[-2:])}")
    return done.stdout


def run_sizes(
    folder: Path, sizes: Sequence[Size], *, limit_s: float = 3600.0
) -> Iterator[Measured]:
    """Measure sizes, each in a process of its own.

    Args:
        folder: for images and results; an empty one.
        sizes: which.
        limit_s: of each.
    """
    for size in sizes:
        _child(_SIMULATE, folder, size, limit_s)
        found = json.loads(_child(_MEASURE, folder, size, limit_s).strip().splitlines()[-1])
        yield Measured(**{**found, "size": Size(**found["size"])})


def growth(of: str, results: Sequence[Measured]) -> list[Growth]:
    """Fit exponents of the stages and of the total.

    Args:
        of: `n_particles` or `box_px`, in which the results differ.
        results: two or more.
    """
    limits = {"n_particles": 1.0, "box_px": 2.0}
    xs = [math.log(getattr(result.size, of)) for result in results]
    found = []
    for stage in (*_STAGES.values(), _REST, "total"):
        seconds = [r.cpu_s if stage == "total" else r.stages[stage] for r in results]
        ys = [math.log(max(value, 1e-3)) for value in seconds]
        mean_x, mean_y = sum(xs) / len(xs), sum(ys) / len(ys)
        slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
        slope /= sum((x - mean_x) ** 2 for x in xs)
        expected = 3.0 if stage == _REST and of == "box_px" else limits[of]
        found.append(Growth(of, stage, slope, expected))
    return found


def as_plain(results: Sequence[Measured]) -> list[dict[str, Any]]:
    """Give results as plain values."""
    return [asdict(result) | {"cpu_s": result.cpu_s} for result in results]
