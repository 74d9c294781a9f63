"""The images of benchmark jobs: simulated, or from a folder with truth.

A folder holds `particles.star`, `truth.star`, `ref_true.mrc` and `ref_30A.mrc`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from verglas.api.bench_cases import STACKS
from verglas.core.errors import UserError

if TYPE_CHECKING:
    from verglas.api.project import Project

__all__ = ["Stack", "open_stack"]

_PARTS = ("particles.star", "truth.star", "ref_true.mrc", "ref_30A.mrc")


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


def open_stack(project: "Project", name: str, data: Path | None) -> Stack:
    """Simulate a stack, or import it from a folder; once for each project.

    Args:
        project: that takes it.
        name: of the stack.
        data: folder with a folder of that name; None simulates.
    """
    if data is None and name not in STACKS:
        raise UserError(f"{name} is not simulated here", "name a folder that has it with --data")
    if data is None:
        made = project.run("particles.simulate", **vars(STACKS[name]))
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
