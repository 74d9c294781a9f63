"""The context that protocols get, but for how chunks are run and who is told.

A `ChunkRunner` sees that chunks get done (in this process, on a cluster); a `Recorder`
takes warnings, numbers and progress and knows how to ask a person. Everything else, and so
everything that decides about results, is here once.
"""

import logging
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import polars as pl

from verglas.core.files import atomic_path, relative_path
from verglas.model import DataSet, Kind, make_dataset, write_dataset
from verglas.model.dataset import Rows
from verglas.sdk.arrays import ArrayRef, Arrays, load_arrays, put_arrays, tree_sum
from verglas.sdk.chunks import Chunk, Plan, chunk_rng, plan_chunks, read_result, result_path
from verglas.sdk.context import Accumulated
from verglas.sdk.ports import Ports
from verglas.sdk.states import State, checkpoint_folder, load_last_state, save_state
from verglas.sdk.task import Progress, Task
from verglas.sdk.tool import Command, Completed, Tool, run_command

__all__ = ["ChunkRunner", "JobContext", "Recorder", "Work", "add_results", "store_outputs"]


@dataclass(frozen=True)
class Work:
    """One call of `map` or `accumulate`: a plan and what its chunks need.

    Attributes:
        plan: table and chunks.
        fn: runs on each chunk.
        kwargs: its further arguments.
        root: the project's folder.
        folder: of the job.
        seed: of the job.
        cpus: threads for each chunk.
        gpus: 1 for chunks that use a GPU if there is one.
    """

    plan: Plan
    fn: Callable[..., Any]
    kwargs: Mapping[str, Any]
    root: Path
    folder: Path
    seed: int = 0
    cpus: int = 1
    gpus: int = 0

    def result_path(self, chunk: Chunk) -> Path:
        """Name the file of a chunk's result."""
        return result_path(self.folder, self.plan.step, chunk.key)

    def task(self, chunk: Chunk, *, device: str, threads: int, progress: Progress) -> Task:
        """Make the surroundings of a chunk, where it is about to run.

        Args:
            chunk: of the plan.
            device: `cpu` or `cuda:<number>`.
            threads: how many may be used.
            progress: takes reports; may raise to cancel.
        """
        return Task(
            key=chunk.key,
            root=self.root,
            folder=self.folder / "files" / self.plan.step / chunk.key[:16],
            rng=chunk_rng(chunk.key, self.seed),
            device=device,
            threads=threads,
            progress=progress,
        )


class ChunkRunner(Protocol):
    """See to it that chunks are done."""

    def run(self, work: Work) -> None:
        """Return when every chunk of the plan has its result in place, or raise."""

    def add(self, work: Work) -> dict[Any, Arrays]:
        """Add the arrays of the finished chunks by group; `add_results` does it here."""


class Recorder(Protocol):
    """Take what a job tells, and ask on its behalf."""

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Take a report of progress."""

    def metric(self, name: str, value: float | str) -> None:
        """Take a key number."""

    def warn(self, text: str) -> None:
        """Take a warning."""

    def ask(self, kind: Kind, draft: DataSet) -> DataSet:
        """Wait for a person's edits."""


def add_results(work: Work) -> dict[Any, Arrays]:
    """Add the arrays of finished chunks by group, in a tree that depends on their number."""
    groups: dict[Any, list[Path]] = {}
    for chunk in work.plan.chunks:
        groups.setdefault(chunk.group, []).append(work.result_path(chunk))
    return {
        group: tree_sum([lambda path=path: read_result(path).sums for path in paths])  # type: ignore[misc]
        for group, paths in groups.items()
    }


def store_outputs(outputs: Ports, folder: Path) -> dict[str, list[DataSet]]:
    """Write the outputs of a finished protocol.

    Args:
        outputs: what `run` returned.
        folder: of the job; a port's data set goes to `outputs/<port>`, or to
            `outputs/<port>-<i>`, i from 1, where the port takes many.

    Returns:
        The data sets of each port as opened from there.
    """
    stored = {}
    for name, sets in outputs.items().items():
        is_many = isinstance(getattr(outputs, name), list)
        names = [f"{name}-{i}" for i in range(1, len(sets) + 1)] if is_many else [name]
        stored[name] = [
            write_dataset(data, folder / "outputs" / part)
            for data, part in zip(sets, names, strict=False)
        ]
    return stored


class _Loop:
    """What belongs to the iteration that is under way: its loops and the sums it made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.n_loops = 0
        self.sums: list[Path] = []

    def discard(self) -> None:
        """Remove what the checkpoint of the iteration has made useless."""
        for path in self.sums:
            path.unlink(missing_ok=True)
        shutil.rmtree(self.folder, ignore_errors=True)


class JobContext:
    """The context of a job; see `Context` for what its methods mean."""

    def __init__(
        self,
        root: Path,
        folder: Path,
        *,
        protocol: tuple[str, int],
        runner: ChunkRunner,
        recorder: Recorder,
        seed: int = 0,
        identity: str = "",
    ) -> None:
        """Set up a job.

        Args:
            root: the project's folder.
            folder: of the job, below the root.
            protocol: id and version.
            runner: gets chunks done.
            recorder: takes what the job tells.
            seed: of everything random in the job.
            identity: digest of parameters and inputs, so that a job which was changed and
                run again in the same folder does not take up the old checkpoints.
        """
        self.root = root.resolve()
        self.folder = folder.resolve()
        self.files = self.folder / "files"
        self.files.mkdir(parents=True, exist_ok=True)
        self.protocol = protocol
        self.seed = seed
        self.incomplete: list[Path] = []  # results that leave items out
        self.log = logging.getLogger(f"verglas.job.{protocol[0]}")
        self._runner = runner
        self._recorder = recorder
        self._identity = f"{protocol[0]} {protocol[1]} {seed} {identity}"
        self._loop = _Loop(self.folder / "checkpoints")

    def map(
        self,
        fn: Callable[..., pl.DataFrame],
        data: DataSet | pl.DataFrame,
        *,
        chunk: int,
        cpus: int = 1,
        gpus: int = 0,
        columns: tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> pl.DataFrame:
        """Run a function on each chunk of rows and put the results together in order."""
        plan = self._plan(fn, data, chunk, kwargs, None, columns)
        work = self._work(plan, fn, kwargs, cpus, gpus)
        self._runner.run(work)
        return self._gather(work)

    def accumulate(
        self,
        fn: Callable[..., tuple[pl.DataFrame, Mapping[str, npt.NDArray[Any]]]],
        data: DataSet | pl.DataFrame,
        *,
        chunk: int,
        by: str | None = None,
        cpus: int = 1,
        gpus: int = 0,
        columns: tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> Accumulated:
        """Run a function on each chunk, and add up the arrays that it returns beside rows."""
        plan = self._plan(fn, data, chunk, kwargs, by, columns)
        work = self._work(plan, fn, kwargs, cpus, gpus)
        self._runner.run(work)
        self._loop.sums.extend(work.result_path(chunk) for chunk in plan.chunks)
        return Accumulated(self._gather(work), self._runner.add(work))

    def iterate(
        self,
        step: Callable[[State, int], State],
        state: State,
        *,
        until: Callable[[State], bool],
    ) -> State:
        """Repeat a step until its state says so, with a checkpoint after each."""
        outer = self._loop
        outer.n_loops += 1
        folder = checkpoint_folder(
            outer.folder,
            name=f"{outer.n_loops:02d}-{step.__name__}",
            identity=self._identity,
            state=state,
        )
        done, state = load_last_state(folder) or (0, state)
        try:
            while not until(state):
                self._loop = _Loop(folder / f"inside-{done:06d}")
                state = step(state, done)
                done += 1
                save_state(folder, done, state)
                self._loop.discard()
        finally:
            self._loop = outer
        return state

    def put(self, arrays: Mapping[str, npt.NDArray[Any]]) -> ArrayRef:
        """Put arrays aside for chunks."""
        return put_arrays(arrays, self.folder / "arrays", self.root)

    def load(self, ref: ArrayRef) -> Arrays:
        """Load arrays that were put aside."""
        return load_arrays(ref, self.root)

    def call(self, tool: Tool, command: Command) -> Completed:
        """Run an outside program; what it prints goes to the job's log."""
        completed = run_command(tool, command)
        for line in completed.output.splitlines():
            self.log.info("%s: %s", tool.id, line)
        return completed

    def ask(self, kind: Kind, draft: DataSet) -> DataSet:
        """Park the job until a person has edited a data set."""
        return self._recorder.ask(kind, draft)

    def dataset(
        self,
        kind: Kind,
        rows: pl.DataFrame | pl.LazyFrame,
        *,
        optics: pl.DataFrame | None = None,
        source: DataSet | None = None,
    ) -> DataSet:
        """Make an output from a table."""
        if optics is None and source is not None:
            optics = source.optics
        names = (source.id,) if source is not None and source.id else ()
        return make_dataset(kind, rows, root=self.root, optics=optics, source=names)

    def select(self, data: DataSet, rows: Rows) -> DataSet:
        """Make an output of some rows of a data set."""
        return data.select(rows)

    def write_file(self, name: str, write: Callable[[Path], None]) -> str:
        """Write a file of the job in one step and give its path as stored in tables."""
        path = self.files / name
        with atomic_path(path) as temporary:
            write(temporary)
        return self.relative(path)

    def path(self, text: str) -> Path:
        """Resolve a path as stored in a table."""
        return self.root / text

    def relative(self, path: Path) -> str:
        """Write a path as it is stored in a table."""
        return relative_path(path, self.root)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Report how far the job is."""
        self._recorder.progress(done, total, text)

    def metric(self, name: str, value: float | str) -> None:
        """Record a key number of the job."""
        self.log.info("%s = %s", name, value)
        self._recorder.metric(name, value)

    def warn(self, text: str) -> None:
        """Record a warning."""
        self.log.warning("%s", text)
        self._recorder.warn(text)

    def _plan(
        self,
        fn: Callable[..., Any],
        data: DataSet | pl.DataFrame,
        chunk: int,
        kwargs: Mapping[str, Any],
        by: str | None,
        columns: tuple[str, ...] | None,
    ) -> Plan:
        return plan_chunks(
            fn,
            data,
            chunk=chunk,
            protocol=self.protocol,
            kwargs=kwargs,
            seed=self.seed,
            by=by,
            columns=columns,
        )

    def _work(
        self, plan: Plan, fn: Callable[..., Any], kwargs: Mapping[str, Any], cpus: int, gpus: int
    ) -> Work:
        return Work(plan, fn, kwargs, self.root, self.folder, self.seed, cpus, gpus)

    def _gather(self, work: Work) -> pl.DataFrame:
        frames = []
        for chunk in work.plan.chunks:
            path = work.result_path(chunk)
            result = read_result(path, with_sums=False)
            frames.append(result.rows)
            if result.skipped:
                self.incomplete.append(path)
            for item in result.skipped:
                self.warn(f"item {item.item_id} left out: {item.reason}")
        return _concatenate(frames)


def _concatenate(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Put results together; empty ones, whose column types may be unknown, do not matter."""
    filled = [frame for frame in frames if frame.height]
    if not filled:
        return max(frames, key=lambda frame: frame.width, default=pl.DataFrame())
    return pl.concat(filled, how="vertical_relaxed")
