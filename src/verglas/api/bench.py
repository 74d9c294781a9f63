"""Run the jobs that the engine is measured by, each as a command of its own, and judge them.

Processor time is that of the whole tree of processes of `verglas run`, interpreter and imports
included, as a peer's program is measured.
"""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from verglas.api.bench_cases import Case
from verglas.api.bench_cost import Cost, run_tree
from verglas.api.bench_near import import_disturbed
from verglas.api.bench_peer import Peer, run_peer
from verglas.api.bench_quality import (
    class_errors,
    class_purity,
    curve_mean,
    fsc_in_place,
    pose_numbers,
)
from verglas.api.bench_stack import Stack, open_stack
from verglas.core.errors import UserError
from verglas.io.mrc import read_mrc

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project

__all__ = ["Result", "run_case", "run_cases"]

_COMMAND = (sys.executable, "-c", "from verglas.cli.main import main; main()")


@dataclass(frozen=True)
class Result:
    """A case that was run.

    Attributes:
        case: what.
        cost: of our job, None if it did not end well.
        numbers: what it reached.
        error: why it did not end well.
        peer_cost: of a peer on this machine.
        job: number of ours in the project.
    """

    case: Case
    cost: Cost | None
    numbers: dict[str, float] = field(default_factory=dict)
    error: str = ""
    peer_cost: Cost | None = None
    job: str = ""


def run_case(
    project: "Project",
    case: Case,
    stack: Stack,
    *,
    workers: int | None = None,
    limit_s: float = 3600.0,
    environment: Mapping[str, str] | None = None,
) -> Result:
    """Run the command of a case, then judge what it made.

    Args:
        project: that has the stack.
        case: what to run.
        stack: its images.
        workers: of `verglas run`.
        limit_s: the job is ended after so long.
        environment: of the command; that of this process by default.
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
    code, cost = run_tree(command, project.root, log, limit_s, environment)
    if code:
        lines = log.read_text("utf-8", "replace").strip().splitlines()
        return Result(case, None, error=f"exit code {code}: {' | '.join(lines[-2:])}")
    job = project.jobs()[-1]
    return Result(case, cost, _judge(project, job, case, stack), job=job.id)


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
            result = replace(result, peer_cost=cost)
        yield result
