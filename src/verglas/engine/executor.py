"""Where chunks run: the five calls that an executor must answer, and the one in this process.

An executor gets units (ids and paths, no arrays), and reports events about them to the job that
submitted them. What is done is not its business: the ledger looks for result files.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from verglas.engine import events as ev

__all__ = ["Executor", "InProcessExecutor", "Outcome", "Report", "Unit", "outcome_event"]


@dataclass(frozen=True, slots=True)
class Unit:
    """One chunk, as it travels to a worker.

    Attributes:
        root: the project's folder.
        folder: of the job.
        step: name of the folder of the results.
        key: of the chunk.
        function: `package.module:name`.
        table: parquet file with the rows of all chunks of the step.
        offset, n_rows: the chunk's rows in it.
        kwargs: further arguments of the function.
        seed: of the job.
        cpus: threads that the chunk asks for.
        gpus: 1 if it uses a GPU where there is one.
        attempt: from 1; only for the log.
        device, threads: what the executor gives it.
    """

    root: Path
    folder: Path
    step: str
    key: str
    function: str
    table: Path
    offset: int
    n_rows: int
    kwargs: Mapping[str, Any] = field(repr=False)
    seed: int
    cpus: int = 1
    gpus: int = 0
    attempt: int = 1
    device: str = "cpu"
    threads: int = 1

    @property
    def live(self) -> Path:
        """Where the chunk's progress and log lie while it runs; absent before it began."""
        return self.folder / "live" / f"{self.step}-{self.key}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a worker says of a chunk that ended; without `error` its result is in place."""

    step: str
    key: str
    error: str = ""
    is_user_error: bool = False
    seconds: float = 0.0


Report: TypeAlias = Callable[[ev.ChunkEvent], None]
"""Takes events about the chunks of one job; called from any thread."""


class Executor(Protocol):
    """Runs units somewhere; `n_cores` are there for a step that has few chunks."""

    n_cores: int

    def capacity(self, *, cpus: int, gpus: int) -> int:
        """Say how many such chunks can run at once; at least 1."""
        ...

    def submit(self, unit: Unit, report: Report) -> None:
        """Take a unit; its events go to `report`."""
        ...

    def withdraw(self, folder: Path, chunks: Collection[tuple[str, str]]) -> None:
        """Forget chunks (step and key) of the job in `folder`; those that run are stopped."""
        ...

    def turn(self, timeout_s: float) -> None:
        """Do what is to be done, or wait a moment for it; called by every job that waits."""
        ...

    def close(self) -> None:
        """Stop everything."""
        ...


class InProcessExecutor:
    """Runs one chunk after the other in the thread that waits for them: tests, tiny jobs."""

    n_cores = 1

    def __init__(self) -> None:
        self._queue: deque[tuple[Unit, Report]] = deque()

    def capacity(self, *, cpus: int, gpus: int) -> int:
        """One at a time."""
        return 1

    def submit(self, unit: Unit, report: Report) -> None:
        """Put the unit into the queue."""
        self._queue.append((replace(unit, threads=unit.cpus), report))
        report(ev.ChunkSubmitted(unit.step, unit.key))

    def withdraw(self, folder: Path, chunks: Collection[tuple[str, str]]) -> None:
        """Take units out of the queue."""
        kept = [
            (unit, report)
            for unit, report in self._queue
            if unit.folder != folder or (unit.step, unit.key) not in chunks
        ]
        self._queue = deque(kept)

    def turn(self, timeout_s: float) -> None:
        """Run one chunk."""
        from verglas.engine.worker import run_unit

        if not self._queue:
            return
        unit, report = self._queue.popleft()
        report(ev.ChunkStarted(unit.step, unit.key))
        report(outcome_event(run_unit(unit, own_log=False)))

    def close(self) -> None:
        """Forget what waits."""
        self._queue.clear()


def outcome_event(outcome: Outcome) -> ev.ChunkEvent:
    """Turn what a worker said into an event."""
    if outcome.error:
        return ev.ChunkFailed(outcome.step, outcome.key, outcome.error, outcome.is_user_error)
    return ev.ChunkDone(outcome.step, outcome.key)
