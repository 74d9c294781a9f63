"""Run the jobs that the engine is measured by, each as a command of its own, and judge them.

A stack is a set of particle images with truth: simulated here, or a folder with `particles.star`,
`truth.star`, `ref_true.mrc` and `ref_30A.mrc`. Processor time is that of the whole tree of
processes of `verglas run`, interpreter and imports included, as a peer's program is measured.
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verglas.api.bench_near import import_disturbed
from verglas.api.bench_quality import (
    class_errors,
    class_purity,
    curve_mean,
    fsc_in_place,
    pose_numbers,
)
from verglas.core.errors import UserError
from verglas.io.mrc import read_mrc

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project

__all__ = [
    "CASES",
    "GPU_CASE",
    "Case",
    "Peer",
    "Result",
    "Stack",
    "find_peer",
    "open_stack",
    "run_case",
    "run_cases",
    "run_peer",
    "run_tree",
    "select_cases",
]

_COMMAND = (sys.executable, "-c", "from verglas.cli.main import main; main()")
_LOW_PASS = {"initial_low_pass_angst": 30.0}


@dataclass(frozen=True)
class Simulation:
    """What `particles.simulate` makes a stack of."""

    specimen: str
    n_particles: int
    box_px: int
    pixel_size_angst: float
    snr: float


_STACKS = {
    "oct48": Simulation("apoferritin", 1000, 48, 4.8, 0.5),
    "asym48": Simulation("asymmetric", 1000, 48, 4.8, 0.5),
    "oct64": Simulation("apoferritin", 2000, 64, 3.6, 0.05),
    "asym64": Simulation("asymmetric", 2000, 64, 3.6, 0.05),
    "oct96": Simulation("apoferritin", 5000, 96, 2.4, 0.05),
    "asym96": Simulation("asymmetric", 5000, 96, 2.4, 0.05),
    "big128": Simulation("asymmetric", 100_000, 128, 1.5, 0.1),
    "tiny": Simulation("apoferritin", 60, 24, 8.0, 2.0),
}


@dataclass(frozen=True)
class Case:
    """One job of the table.

    Attributes:
        name: for people and for `--only`.
        stack: name of its images.
        protocol: that is run.
        params: of the protocol.
        symmetry: point group of the specimen, for judging poses.
        peer: what the best peer took and reached (docs/benchmarks.md says where).
        wanted: what must be reached.
        needs_reference: whether the job starts from a map.
        knows_poses: whether it gets the particles with their true poses.
        is_near: whether it gets them with poses 7.5 degrees and 1.8 Å off.
        relion: arguments for RELION's program that does the same, for `--peers`.
    """

    name: str
    stack: str
    protocol: str
    params: Mapping[str, Any] = field(default_factory=dict)
    symmetry: str = "C1"
    peer: str = ""
    wanted: str = ""
    needs_reference: bool = False
    knows_poses: bool = False
    is_near: bool = False
    relion: tuple[str, ...] = ()


def _relion_refine(symmetry: str, diameter: int) -> tuple[str, ...]:
    return (
        *("relion_refine_mpi", "--auto_refine", "--split_random_halves", "--ctf"),
        *("--i", "particles.star", "--ref", "ref_30A.mrc", "--ini_high", "30"),
        *("--firstiter_cc", "--low_resol_join_halves", "40", "--flatten_solvent", "--zero_mask"),
        *("--norm", "--scale", "--oversampling", "1", "--pad", "2", "--healpix_order", "2"),
        *("--auto_local_healpix_order", "4", "--offset_range", "5", "--offset_step", "2"),
        *("--dont_combine_weights_via_disc", "--pool", "20", "--sym", symmetry),
        *("--particle_diameter", str(diameter), "--o", "{out}/run"),
    )


def _relion_classes() -> tuple[str, ...]:
    return (
        *("relion_refine", "--i", "particles.star", "--o", "{out}/run", "--K", "16"),
        *("--iter", "25", "--tau2_fudge", "2", "--particle_diameter", "190", "--ctf"),
        *("--flatten_solvent", "--zero_mask", "--norm", "--scale", "--oversampling", "1"),
        *("--pad", "2", "--center_classes", "--psi_step", "12", "--offset_range", "5"),
        *("--offset_step", "2", "--dont_combine_weights_via_disc", "--pool", "20", "--j", "2"),
    )


def _relion_classes_3d() -> tuple[str, ...]:
    return (
        *("relion_refine", "--i", "particles.star", "--ref", "ref_30A.mrc", "--ini_high", "30"),
        *("--firstiter_cc", "--K", "3", "--iter", "25", "--tau2_fudge", "4", "--sym", "C1"),
        *("--particle_diameter", "190", "--ctf", "--flatten_solvent", "--zero_mask", "--norm"),
        *("--scale", "--oversampling", "1", "--pad", "2", "--healpix_order", "2"),
        *("--offset_range", "5", "--offset_step", "2", "--dont_combine_weights_via_disc"),
        *("--pool", "20", "--j", "2", "--o", "{out}/run"),
    )


def _relion_reconstruct(symmetry: str) -> tuple[str, ...]:
    return (
        *("relion_reconstruct", "--i", "truth.star", "--o", "{out}/map.mrc"),
        *("--ctf", "--sym", symmetry, "--j", "2"),
    )


def _refine(symmetry: str, diameter: float) -> dict[str, Any]:
    return {"symmetry": symmetry, "diameter_angst": diameter} | _LOW_PASS


CASES = (
    Case(
        "refine-O", "oct48", "particles.refine_3d", _refine("O", 160.0), "O",
        "RELION 5: 401 CPU s, 0.74 deg, FSC 0.990", "36 CPU s, 0.74 deg", needs_reference=True,
        relion=_relion_refine("O", 160),
    ),
    Case(
        "refine-C1", "asym48", "particles.refine_3d", _refine("C1", 190.0), "C1",
        "RELION 5: 2,000-3,000 CPU s", "250 CPU s, 2 deg", needs_reference=True,
        relion=_relion_refine("C1", 190),
    ),
    Case(
        "refine-O-noisy", "oct64", "particles.refine_3d", _refine("O", 160.0), "O",
        "RELION 5: 800-1,000 CPU s", "90 CPU s", needs_reference=True,
        relion=_relion_refine("O", 160),
    ),
    Case(
        "initial-C1", "asym48", "particles.initial_volume", {"diameter_angst": 190.0}, "C1",
        "RELION 5: > 2,000 CPU s", "150 CPU s a seed, 15 A",
    ),
    Case(
        "initial-O", "oct64", "particles.initial_volume",
        {"symmetry": "O", "diameter_angst": 160.0}, "O",
        "RELION 5: ~1,200 CPU s", "60 CPU s a seed, 15 A",
    ),
    Case(
        "classes-2D", "asym48", "particles.classify_2d",
        {"n_classes": 16, "diameter_angst": 190.0}, "C1",
        "RELION 5: 269 CPU s, 3.2-3.6 deg in plane", "32 CPU s, 3.6 deg",
        relion=_relion_classes(),
    ),
    Case(
        "classes-2D-noisy", "asym64", "particles.classify_2d",
        {"n_classes": 16, "diameter_angst": 190.0}, "C1",
        "RELION 5: ~700 CPU s, no usable classes", "90 CPU s, 6 deg in plane",
        relion=_relion_classes(),
    ),
    Case(
        "classes-3D", "het48", "particles.classify_3d",
        {"n_classes": 3, "diameter_angst": 190.0} | _LOW_PASS, "C1",
        "RELION 5: ~2,600 CPU s, purity 0.72 after 787", "90 CPU s, purity 0.9",
        needs_reference=True, relion=_relion_classes_3d(),
    ),
    Case(
        "local-C1", "asym48", "particles.refine_local", {"diameter_angst": 190.0}, "C1",
        "cisTEM: 4.5 CPU s, 1.73 deg", "1.5 CPU s, 1.5 deg", needs_reference=True, is_near=True,
    ),
    Case(
        "local-O", "oct48", "particles.refine_local",
        {"symmetry": "O", "diameter_angst": 160.0}, "O",
        "cisTEM: 4.5 CPU s, 1.68 deg", "1.5 CPU s, 1.5 deg", needs_reference=True, is_near=True,
    ),
    Case(
        "reconstruct-C1", "asym96", "particles.reconstruct", {"symmetry": "C1"}, "C1",
        "cisTEM 3.3 CPU s, FSC 0.902; RELION 5: 5.9, 0.923", "1.5 CPU s, FSC 0.923",
        knows_poses=True, relion=_relion_reconstruct("C1"),
    ),
    Case(
        "reconstruct-O", "oct96", "particles.reconstruct", {"symmetry": "O"}, "O",
        "cisTEM 39 CPU s, FSC 0.968; RELION 5: 6.1, 0.990", "1.8 CPU s, FSC 0.990",
        knows_poses=True, relion=_relion_reconstruct("O"),
    ),
)  # fmt: skip
"""The table of jobs, with peers measured on 2 cores of an AMD EPYC (Zen 4)."""

GPU_CASE = Case(
    "refine-C1-GPU", "big128", "particles.refine_3d",
    {"diameter_angst": 130.0, "initial_low_pass_angst": 60.0}, "C1",
    "", "5 minutes on one H200", needs_reference=True,
)  # fmt: skip


@dataclass(frozen=True)
class Stack:
    """Images of a case in a project: numbers of data sets.

    Attributes:
        particles: without poses.
        truth: the same with poses.
        volume: the map behind them.
        reference: the map that refinements start from.
        folder: with STAR files for peers; None for simulated ones.
    """

    particles: str
    truth: str
    volume: str
    reference: str
    folder: Path | None = None


@dataclass(frozen=True)
class Cost:
    """What a tree of processes used.

    Attributes:
        cpu_s: user and system time of all of them.
        wall_s: from start to end.
        peak_mb: largest resident size of one of them.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float


@dataclass(frozen=True)
class Result:
    """A case that was run.

    Attributes:
        case: what.
        cost: of our job, None if it did not end well.
        numbers: what it reached.
        error: why it did not end well.
        peer_cost: of a peer on this machine.
    """

    case: Case
    cost: Cost | None
    numbers: dict[str, float] = field(default_factory=dict)
    error: str = ""
    peer_cost: Cost | None = None


@dataclass(frozen=True)
class Peer:
    """A peer's programs on this machine."""

    folder: Path
    version: str


def select_cases(only: Sequence[str]) -> list[Case]:
    """Choose cases by name or by the beginning of it; all for none.

    Args:
        only: names.
    """
    names = [case.name for case in CASES]
    unknown = [name for name in only if not any(known.startswith(name) for known in names)]
    if unknown:
        raise UserError(f"no benchmark is called {unknown[0]!r}", "there are " + ", ".join(names))
    whole = {name for name in only if name in names}
    beginnings = tuple(name for name in only if name not in whole)
    return [
        case
        for case in CASES
        if not only or case.name in whole or (beginnings and case.name.startswith(beginnings))
    ]


def find_peer() -> Peer | None:
    """Look for RELION on the search path, and ask it for its version."""
    found = shutil.which("relion_refine")
    if found is None:
        return None
    done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return Peer(Path(found).parent, lines[0].strip() if lines else "version not told")


def open_stack(project: "Project", name: str, data: Path | None) -> Stack:
    """Simulate a stack, or import it from a folder; once for each project.

    Args:
        project: that takes it.
        name: of the stack.
        data: folder with a folder of that name; None simulates.
    """
    if data is None and name not in _STACKS:
        raise UserError(f"{name} is not simulated here", "name a folder that has it with --data")
    if data is None:
        made = project.run("particles.simulate", **vars(_STACKS[name]))
        volume = made.output("volume").id
        truth = made.output("true_particles").id
        return Stack(made.output("particles").id, truth, volume, volume)
    folder = data.resolve() / name
    missing = [part for part in _PARTS if not (folder / part).is_file()]
    if missing:
        raise UserError(
            f"{str(folder)!r} has no {missing[0]}", f"expected {', '.join(_PARTS)} in it"
        )
    particles, truth = (
        project.run("particles.import", file=str(folder / part)).output().id for part in _PARTS[:2]
    )
    volume, reference = (
        project.run("volumes.import", files=[str(folder / part)]).output().id for part in _PARTS[2:]
    )
    return Stack(particles, truth, volume, reference, folder)


_PARTS = ("particles.star", "truth.star", "ref_true.mrc", "ref_30A.mrc")


def run_tree(command: Sequence[str], folder: Path, log: Path, limit_s: float) -> tuple[int, Cost]:
    """Run a command and count the time of all its processes.

    Args:
        command: program and arguments.
        folder: where it runs.
        log: takes what it prints.
        limit_s: it is ended after so long.

    Returns:
        Its exit code (negative for a signal), and the cost.
    """
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=folder, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > limit_s:
                process.terminate()
                limit_s += 10.0
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    cost = Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.monotonic() - start,
        peak_mb=usage.ru_maxrss / 1024,
    )
    return process.returncode, cost


def run_case(
    project: "Project",
    case: Case,
    stack: Stack,
    *,
    workers: int | None = None,
    limit_s: float = 3600.0,
) -> Result:
    """Run the command of a case, then judge what it made.

    Args:
        project: that has the stack.
        case: what to run.
        stack: its images.
        workers: of `verglas run`.
        limit_s: the job is ended after so long.
    """
    command = [*_COMMAND, "run", case.protocol, "--project", str(project.root), "--force"]
    particles = stack.truth if case.knows_poses else stack.particles
    if case.is_near:
        particles = import_disturbed(project, stack.truth)
    command += ["--input", f"particles={particles}"]
    if case.needs_reference:
        command += ["--input", f"reference={stack.reference}"]
    for name, value in case.params.items():
        command += [f"--{name.replace('_', '-')}", str(value)]
    if workers is not None:
        command += ["--workers", str(workers)]
    log = project.root / f"bench-{case.name}.log"
    code, cost = run_tree(command, project.root, log, limit_s)
    if code:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        return Result(case, None, error=f"exit code {code}: {' | '.join(lines[-2:])}")
    return Result(case, cost, _judge(project, project.jobs()[-1], case, stack))


def _judge(project: "Project", job: "Job", case: Case, stack: Stack) -> dict[str, float]:
    """Measure pose errors, FSC to the truth and the spread of classes."""
    truth = project.dataset(stack.truth).rows()
    if case.protocol == "particles.classify_2d":
        return class_errors(job.output("particles").rows(), truth)
    if case.protocol == "particles.classify_3d":
        return class_purity(job.output("particles").rows(), truth)
    if case.is_near:
        return pose_numbers(job.output("particles").rows(), truth, case.symmetry)
    if case.knows_poses:
        maps = (job.output("volumes"), project.dataset(stack.volume))
        volume, reference = (read_mrc(data.path(data.rows()["image_path"][0])) for data in maps)
        fsc = fsc_in_place(volume[0], reference[0], volume[1] or 1.0)
        return {"mean_fsc": float(fsc[1:].mean())}
    numbers = pose_numbers(job.output("particles").rows(), truth, case.symmetry)
    aligned = project.run("volumes.fsc", volumes=job.output("volumes"), reference=stack.volume)
    numbers["fsc_05_angst"] = float(aligned.metrics["fsc_05_angst"])
    numbers["mean_fsc"] = curve_mean(aligned.output("curves").rows(), "masked")
    return numbers


def run_peer(peer: Peer, case: Case, stack: Stack, folder: Path, limit_s: float) -> Cost | None:
    """Run RELION's program for a case; None where it cannot be, or does not end well.

    Args:
        peer: where it is.
        case: what.
        stack: with STAR files.
        folder: for what it writes.
        limit_s: it is ended after so long.
    """
    if not case.relion or stack.folder is None:
        return None
    out = folder / f"relion-{case.name}"
    out.mkdir(parents=True, exist_ok=True)
    program, *arguments = (word.format(out=out) for word in case.relion)
    command = [str(peer.folder / program), *arguments]
    if program.endswith("_mpi"):
        command = ["mpirun", "-n", "3", "--oversubscribe", *command, "--j", "1"]
    code, cost = run_tree(command, stack.folder, out / "log.txt", limit_s)
    return cost if code == 0 else None


def run_cases(
    project: "Project",
    cases: Sequence[Case],
    *,
    data: Path | None = None,
    peer: Peer | None = None,
    workers: int | None = None,
    limit_s: float = 3600.0,
    tell: Callable[[str], None] = lambda text: None,
) -> Iterator[Result]:
    """Run cases one after the other; stacks are made when first needed.

    Args:
        project: for images and jobs.
        cases: which.
        data: folder of stacks; None simulates.
        peer: run it as well.
        workers: of `verglas run`.
        limit_s: of each job, ours or a peer's.
        tell: hears what is done now.
    """
    stacks: dict[str, Stack] = {}
    for case in cases:
        if case.stack not in stacks:
            tell(f"making {case.stack}")
            try:
                stacks[case.stack] = open_stack(project, case.stack, data)
            except UserError as error:
                # the other jobs have their images
                yield Result(case, None, error=str(error))
                continue
        tell(f"running {case.name}")
        stack = stacks[case.stack]
        result = run_case(project, case, stack, workers=workers, limit_s=limit_s)
        if peer is not None:
            tell(f"running {case.name} with RELION")
            cost = run_peer(peer, case, stack, project.root, limit_s)
            result = Result(case, result.cost, result.numbers, result.error, cost)
        yield result
