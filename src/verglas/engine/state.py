"""The state machine of a job: events in, instructions out.

Nothing here reads a clock, a file or a process, so every order of events can be tried in a
test. A late or repeated event about a chunk is ignored: two attempts at one chunk are harmless,
and the result that lies under its final name counts, whoever wrote it.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from verglas.core.errors import EngineError
from verglas.engine import events as ev
from verglas.project.record import JobStatus

__all__ = ["MAX_ATTEMPTS", "Chunk", "ChunkStatus", "JobState", "Step"]

MAX_ATTEMPTS = 3
MAX_LOSSES = 20


class ChunkStatus(StrEnum):
    """Where a chunk stands."""

    WAITING = "waiting"
    READY = "ready"
    SUBMITTED = "submitted"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    LOST = "lost"

    @property
    def is_out(self) -> bool:
        """Whether the executor has it, or is about to."""
        return self in (ChunkStatus.READY, ChunkStatus.SUBMITTED, ChunkStatus.RUNNING)

    @property
    def is_final(self) -> bool:
        """Whether the step need not wait for it."""
        return self in (ChunkStatus.DONE, ChunkStatus.FAILED)


@dataclass(slots=True)
class Chunk:
    """One chunk: `attempts` counts the times it was begun and not brought to an end."""

    status: ChunkStatus = ChunkStatus.WAITING
    attempts: int = 0
    losses: int = 0
    error: str = ""


@dataclass(slots=True)
class Step:
    """One open step; at most `window` of its chunks are with the executor at once.

    The counters are kept beside the states, because counting ten thousand chunks at each event
    would cost more than running them.
    """

    window: int
    chunks: dict[str, Chunk] = field(default_factory=dict)
    queue: deque[str] = field(default_factory=deque)
    n_out: int = 0
    n_open: int = 0

    def add(self, key: str, *, done: bool) -> None:
        """Take up a chunk, which has a result already or waits."""
        if key in self.chunks:
            return
        self.chunks[key] = Chunk(ChunkStatus.DONE if done else ChunkStatus.WAITING)
        if not done:
            self.queue.append(key)
            self.n_open += 1

    def set(self, key: str, status: ChunkStatus) -> None:
        """Move a chunk to another state and keep the counters true."""
        chunk = self.chunks[key]
        self.n_out += status.is_out - chunk.status.is_out
        self.n_open -= status.is_final - chunk.status.is_final
        if status is ChunkStatus.LOST:
            self.queue.append(key)
        chunk.status = status

    def release(self) -> Iterator[str]:
        """Make chunks ready while the window has room."""
        while self.n_out < self.window and self.queue:
            key = self.queue.popleft()
            if not self.chunks[key].status.is_final:
                self.set(key, ChunkStatus.READY)
                yield key


@dataclass(slots=True)
class JobState:
    """The state of one job and of its open steps."""

    status: JobStatus = JobStatus.DRAFT
    steps: dict[str, Step] = field(default_factory=dict)

    def handle(self, event: ev.Event) -> list[ev.Instruction]:
        """Move on by one event and say what is to be done.

        Raises:
            EngineError: the event cannot happen in this state; nothing has changed.
        """
        match event:
            case ev.Queued():
                return self._queue()
            case ev.Started():
                return self._move("started", JobStatus.QUEUED, JobStatus.RUNNING)
            case ev.StepOpened():
                return self._open_step(event)
            case ev.CancelRequested():
                return self._cancel()
            case ev.Asked():
                return self._end(event, JobStatus.ASKING, "")
            case ev.Returned():
                return self._end(event, JobStatus.DONE, "")
            case ev.Raised():
                return self._end(event, JobStatus.FAILED, event.error)
            case _:
                return self._chunk_event(event)

    def _move(self, what: str, source: JobStatus, target: JobStatus) -> list[ev.Instruction]:
        if self.status is not source:
            raise _refused(what, self.status)
        self.status = target
        return []

    def _queue(self) -> list[ev.Instruction]:
        if self.status in (JobStatus.QUEUED, JobStatus.RUNNING):
            raise _refused("queued", self.status)
        self.status = JobStatus.QUEUED
        return []

    def _open_step(self, event: ev.StepOpened) -> list[ev.Instruction]:
        if self.status is not JobStatus.RUNNING:
            raise _refused("step_opened", self.status)
        if event.step in self.steps:
            raise EngineError(f"step {event.step!r} is open already")
        if event.window < 1:
            raise EngineError(f"window of step {event.step!r} must be >= 1: got {event.window}")
        done = set(event.done)
        step = Step(event.window)
        for key in event.chunks:
            step.add(key, done=key in done)
        self.steps[event.step] = step
        return self._advance(event.step)

    def _cancel(self) -> list[ev.Instruction]:
        if self.status.is_final:
            return []
        out = tuple(self._out())
        self.steps.clear()
        self.status = JobStatus.CANCELLED
        withdrawn: list[ev.Instruction] = [ev.Withdraw(out)] if out else []
        return [*withdrawn, ev.Finish(self.status)]

    def _end(self, event: ev.Event, status: JobStatus, error: str) -> list[ev.Instruction]:
        if self.status is not JobStatus.RUNNING:
            raise _refused(ev.event_name(event), self.status)
        if self.steps and status is not JobStatus.FAILED:
            raise EngineError(f"the protocol ended inside step {next(iter(self.steps))!r}")
        out = tuple(self._out())
        self.steps.clear()
        self.status = status
        withdrawn: list[ev.Instruction] = [ev.Withdraw(out)] if out else []
        return [*withdrawn, ev.Finish(status, error)]

    def _chunk_event(
        self,
        event: ev.ChunkSubmitted | ev.ChunkStarted | ev.ChunkDone | ev.ChunkFailed | ev.ChunkLost,
    ) -> list[ev.Instruction]:
        step = self.steps.get(event.step)
        chunk = step.chunks.get(event.key) if step else None
        if step is None or chunk is None or chunk.status.is_final:
            return []
        match event:
            case ev.ChunkSubmitted():
                if chunk.status is ChunkStatus.READY:
                    step.set(event.key, ChunkStatus.SUBMITTED)
            case ev.ChunkStarted():
                if chunk.status.is_out:
                    step.set(event.key, ChunkStatus.RUNNING)
            case ev.ChunkDone():
                step.set(event.key, ChunkStatus.DONE)
            case ev.ChunkFailed():
                chunk.error = event.error or "failed without a message"
                step.set(event.key, ChunkStatus.FAILED)
            case ev.ChunkLost():
                if chunk.status.is_out:
                    step.set(event.key, _lose(chunk, event))
        return self._advance(event.step)

    def _advance(self, name: str) -> list[ev.Instruction]:
        """Fill the window of a step, or close it when nothing is left."""
        step = self.steps[name]
        instructions: list[ev.Instruction] = [
            ev.Submit(name, key, step.chunks[key].losses + 1) for key in step.release()
        ]
        if step.n_open == 0:
            failed = tuple((k, c.error) for k, c in step.chunks.items() if c.error)
            del self.steps[name]
            instructions.append(ev.CloseStep(name, failed))
        return instructions

    def _out(self) -> Iterator[tuple[str, str]]:
        for name, step in self.steps.items():
            for key, chunk in step.chunks.items():
                if chunk.status.is_out:
                    yield name, key


def _lose(chunk: Chunk, event: ev.ChunkLost) -> ChunkStatus:
    """Count a loss and say whether the chunk is tried again."""
    chunk.losses += 1
    chunk.attempts += event.started
    if chunk.attempts < MAX_ATTEMPTS and chunk.losses < MAX_LOSSES:
        return ChunkStatus.LOST
    chunk.error = f"lost {chunk.losses} times, last: {event.reason}"
    return ChunkStatus.FAILED


def _refused(what: str, status: JobStatus) -> EngineError:
    return EngineError(f"event {what!r} cannot happen to a job that is {status}")
