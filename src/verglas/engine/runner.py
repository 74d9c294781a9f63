"""Get the chunks of a job done: carry out what the state machine says, tell it what happened.

This is the engine's side of a job's context (`sdk.job_context`): it runs chunks on an executor
and takes warnings, numbers, progress and questions.
"""

import logging
import queue
import shutil
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from verglas.core.errors import EngineError, TaskFailed, UserError
from verglas.core.files import atomic_path, full_disk_ignored
from verglas.engine import events as ev
from verglas.engine.executor import Executor, Unit
from verglas.engine.journal import Journal
from verglas.engine.ledger import StepIdentity, describe_arguments, done_keys, explain_missing
from verglas.engine.progress import OnProgress, ProgressUpdate, StepProgress
from verglas.engine.state import JobState
from verglas.model import DataSet, Kind, open_dataset, write_dataset
from verglas.model.dataset_files import is_dataset
from verglas.model.tables import write_parquet
from verglas.project.record import Question, StepCount
from verglas.sdk.arrays import Arrays
from verglas.sdk.chunks import Chunk, function_path
from verglas.sdk.context import JobCancelled
from verglas.sdk.job_context import Work, add_results

__all__ = ["JobRunner", "Parked"]

log = logging.getLogger(__name__)

TURN_S = 0.1


class Parked(EngineError):
    """The job waits for a person's answer."""

    def __init__(self, question: Question) -> None:
        super().__init__(f"the job waits for {question.kind}: {question.name}")
        self.question = question


class JobRunner:
    """Runs the chunks of one job, in the thread of its protocol."""

    def __init__(
        self,
        job: str,
        folder: Path,
        protocol: tuple[str, int],
        executor: Executor,
        journal: Journal,
        *,
        cancel: threading.Event,
        show: OnProgress,
    ) -> None:
        self.job = job
        self.folder = folder
        self.protocol = protocol
        self.state = JobState()
        self.metrics: dict[str, float | str] = {}
        self.warnings: list[str] = []
        self.steps: dict[str, StepCount] = {}
        self._executor = executor
        self._journal = journal
        self._cancel = cancel
        self._show = show
        self._events: queue.SimpleQueue[ev.ChunkEvent] = queue.SimpleQueue()
        self._n_questions = 0

    # what the driver says

    def tell(self, event: ev.Event) -> list[ev.Instruction]:
        """Write an event down and give it to the state machine."""
        instructions = self.state.handle(event)
        self._journal.write(event)
        return instructions

    # the side of the context

    def run(self, work: Work) -> None:
        """Return when every chunk of the plan has its result in place, or raise."""
        self.check_cancelled()
        started_s = time.monotonic()
        done = done_keys(work)
        step = _OpenStep(self, work, done)
        try:
            failed = step.carry_out()
        finally:
            step.close()
        total = len(work.plan.chunks)
        self._count(work.plan.step, total, len(done), len(failed), time.monotonic() - started_s)
        if failed:
            first = next(iter(failed.values()))
            text = f"{len(failed)} of {total} chunks of {work.plan.step} failed: {first.error}"
            raise (UserError if all(f.is_user_error for f in failed.values()) else TaskFailed)(text)

    def add(self, work: Work) -> dict[Any, Arrays]:
        """Add the arrays of the finished chunks by group."""
        return add_results(work)

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Take a report of progress."""
        self.check_cancelled()
        self._show(ProgressUpdate(self.job, self.protocol[0], done, total, text=text))

    def metric(self, name: str, value: float | str) -> None:
        """Take a key number."""
        self.metrics[name] = value if isinstance(value, str) else float(value)

    def warn(self, text: str) -> None:
        """Take a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)

    def ask(self, kind: Kind, draft: DataSet) -> DataSet:
        """Give the answer if there is one to this draft, or park the job."""
        self._n_questions += 1
        name = f"{self._n_questions:02d}-{kind.id}-{draft.content[:8]}"
        folder = self.folder / "questions" / name
        if is_dataset(folder / "answer"):
            return open_dataset(folder / "answer", draft.root)
        write_dataset(draft, folder / "draft")
        raise Parked(Question(name=name, kind=kind.id, n_items=draft.n_items))

    def check_cancelled(self) -> None:
        """Raise `JobCancelled` once somebody asked for it."""
        if self._cancel.is_set():
            raise JobCancelled("cancelled; finished chunks are kept")

    def _count(self, step: str, total: int, reused: int, failed: int, seconds: float) -> None:
        """Add up what a step, or all iterations of it, took."""
        old = self.steps.get(step, StepCount(step=step, total=0))
        self.steps[step] = StepCount(
            step=step,
            total=old.total + total,
            reused=old.reused + reused,
            failed=failed,
            seconds=round(old.seconds + seconds, 3),
        )


class _OpenStep:
    """One call of `map` or `accumulate` while it runs."""

    def __init__(self, runner: JobRunner, work: Work, done: tuple[str, ...]) -> None:
        self.runner = runner
        self.work = work
        self.name = work.plan.step
        self.done = done
        self.chunks = {chunk.key: chunk for chunk in work.plan.chunks}
        self.failed: dict[str, ev.ChunkFailed] = {}
        self.table = work.folder / "chunks" / self.name / f".rows-{work.plan.identity}.parquet"
        self.function = function_path(work.fn)
        # counted over all chunks and not the missing ones: a resumed job must give equal bits
        spare = runner._executor.n_cores // max(1, len(self.chunks))
        self.cpus = max(work.cpus, spare)
        reused = sum(self.chunks[key].n_rows for key in done)
        self.progress = StepProgress(
            runner.job, self.name, work.plan.table.height, reused, runner._show
        )

    def carry_out(self) -> dict[str, ev.ChunkFailed]:
        """Run what is missing and return the failures by key."""
        n_missing = len(self.chunks) - len(self.done)
        reason = explain_missing(self.work, self._identity(), n_missing)
        window = 1
        if n_missing:
            log.info("%s", reason)
            self._write_table()
            window = 2 * self.runner._executor.capacity(cpus=self.cpus, gpus=self.work.gpus)
        opened = ev.StepOpened(self.name, tuple(self.chunks), self.done, window)
        self._follow(self.runner.tell(opened))
        while self.name in self.runner.state.steps:
            self.runner.check_cancelled()
            self.runner._executor.turn(TURN_S)
            self._take_events()
            self.progress.update()
        if n_missing:
            self.progress.update(is_last=True)
        return self.failed

    def close(self) -> None:
        """Take back what is still out, and remove the rows that travelled."""
        step = self.runner.state.steps.get(self.name)
        if step is not None:
            out = [(self.name, key) for key, chunk in step.chunks.items() if chunk.status.is_out]
            self.runner._executor.withdraw(self.work.folder, out)
        for live in (self.work.folder / "live").glob(f"{self.name}-*"):
            shutil.rmtree(live, ignore_errors=True)
        self.table.unlink(missing_ok=True)

    def _take_events(self) -> None:
        while True:
            try:
                event = self.runner._events.get_nowait()
            except queue.Empty:
                return
            self._note(event)
            self._follow(self.runner.tell(event))

    def _follow(self, instructions: Iterable[ev.Instruction]) -> None:
        for instruction in instructions:
            if isinstance(instruction, ev.Submit):
                unit = self._unit(self.chunks[instruction.key], instruction.attempt)
                self.runner._executor.submit(unit, self.runner._events.put)
            elif isinstance(instruction, ev.CloseStep):
                for key, error in instruction.failed:
                    self.failed.setdefault(key, ev.ChunkFailed(self.name, key, error))

    def _note(self, event: ev.ChunkEvent) -> None:
        """Keep progress, log and failures in step with an event."""
        chunk = self.chunks.get(event.key)
        if event.step != self.name or chunk is None:
            return
        live = self._unit(chunk, 1).live
        match event:
            case ev.ChunkStarted():
                self.progress.start(event.key, live, chunk.n_rows)
            case ev.ChunkDone():
                self.progress.end(event.key, chunk.n_rows)
                _collect_log(live, self.work.folder)
            case ev.ChunkFailed():
                self.progress.end(event.key, chunk.n_rows)
                _collect_log(live, self.work.folder)
                self.failed[event.key] = event
                log.error("chunk %s of %s failed: %s", event.key, self.name, event.error)
            case ev.ChunkLost():
                self.progress.end(event.key, 0)
                _collect_log(live, self.work.folder)
                shutil.rmtree(live, ignore_errors=True)  # the next attempt's start must be seen
                log.warning("chunk %s of %s was lost: %s", event.key, self.name, event.reason)

    def _unit(self, chunk: Chunk, attempt: int) -> Unit:
        work = self.work
        return Unit(
            root=work.root,
            folder=work.folder,
            step=self.name,
            key=chunk.key,
            function=self.function,
            table=self.table,
            offset=chunk.offset,
            n_rows=chunk.n_rows,
            kwargs=work.kwargs,
            seed=work.seed,
            cpus=self.cpus,
            gpus=work.gpus,
            attempt=attempt,
        )

    def _identity(self) -> StepIdentity:
        protocol, version = self.runner.protocol
        arguments = describe_arguments(self.work.kwargs)
        return StepIdentity(self.function, protocol, version, self.work.seed, arguments)

    def _write_table(self) -> None:
        rows_per_group = max(chunk.n_rows for chunk in self.chunks.values())
        with atomic_path(self.table) as temporary:
            write_parquet(
                self.work.plan.table,
                temporary,
                compression="lz4",
                rows_per_group=max(rows_per_group, 1000),
            )


def _collect_log(live: Path, folder: Path) -> None:
    """Append a chunk's log to the job's and remove the files that the chunk left behind.

    The folder stays until the step ends: removing one beside workers that flush their results
    takes milliseconds.
    """
    for path in live.glob("*"):
        if path.name in ("log.txt", "log.jsonl"):
            with full_disk_ignored(), (folder / path.name).open("ab") as target:
                target.write(path.read_bytes())
        path.unlink(missing_ok=True)
