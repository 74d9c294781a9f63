"""What can happen to a job, and what is to be done about it.

Events go into the state machine of `state.py`, instructions come out. Both are plain values:
they name steps and chunks by text, so that they can be written to `events.jsonl` and compared
in tests.
"""

import dataclasses
import re
from dataclasses import dataclass
from typing import Any, TypeAlias

__all__ = [
    "Asked",
    "CancelRequested",
    "ChunkDone",
    "ChunkEvent",
    "ChunkFailed",
    "ChunkLost",
    "ChunkStarted",
    "ChunkSubmitted",
    "CloseStep",
    "Event",
    "Finish",
    "Instruction",
    "Queued",
    "Raised",
    "Returned",
    "Started",
    "StepOpened",
    "Submit",
    "Withdraw",
    "event_name",
    "event_to_json",
]


@dataclass(frozen=True, slots=True)
class Queued:
    """The job was handed to the engine, for the first time or to be resumed."""


@dataclass(frozen=True, slots=True)
class Started:
    """The protocol began to run."""


@dataclass(frozen=True, slots=True)
class StepOpened:
    """A step was cut into chunks; those in `done` have a result already."""

    step: str
    chunks: tuple[str, ...]
    done: tuple[str, ...]
    window: int


@dataclass(frozen=True, slots=True)
class ChunkSubmitted:
    """The executor took a chunk."""

    step: str
    key: str


@dataclass(frozen=True, slots=True)
class ChunkStarted:
    """A worker began a chunk."""

    step: str
    key: str


@dataclass(frozen=True, slots=True)
class ChunkDone:
    """The result of a chunk lies under its final name."""

    step: str
    key: str


@dataclass(frozen=True, slots=True)
class ChunkFailed:
    """The function of a chunk raised an error; trying again would raise it again."""

    step: str
    key: str
    error: str
    is_user_error: bool = False


@dataclass(frozen=True, slots=True)
class ChunkLost:
    """The worker went away; `started` says whether it had begun the chunk."""

    step: str
    key: str
    reason: str
    started: bool = True


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """A person or a signal asked for the end."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The protocol waits for a person; `question` names the draft."""

    question: str


@dataclass(frozen=True, slots=True)
class Returned:
    """The protocol's function came back with outputs."""


@dataclass(frozen=True, slots=True)
class Raised:
    """The protocol's function ended with an error."""

    error: str


ChunkEvent: TypeAlias = ChunkSubmitted | ChunkStarted | ChunkDone | ChunkFailed | ChunkLost
Event: TypeAlias = (
    Queued | Started | StepOpened | ChunkEvent | CancelRequested | Asked | Returned | Raised
)


@dataclass(frozen=True, slots=True)
class Submit:
    """Hand a chunk to the executor."""

    step: str
    key: str
    attempt: int


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Take chunks back from the executor; those that run may be stopped."""

    chunks: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class CloseStep:
    """Every chunk of the step is done or failed; `failed` maps keys to reasons."""

    step: str
    failed: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Finish:
    """Record the end of the job, or that it waits for a person."""

    status: str
    error: str = ""


Instruction: TypeAlias = Submit | Withdraw | CloseStep | Finish


def event_name(event: Event) -> str:
    """Name an event as it appears in `events.jsonl`, such as `chunk_done`."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", type(event).__name__).lower()


def event_to_json(event: Event) -> dict[str, Any]:
    """Turn an event into plain values; a step's chunk list becomes its counts."""
    values = dataclasses.asdict(event)
    if isinstance(event, StepOpened):
        values["chunks"], values["done"] = len(event.chunks), len(event.done)
    return {"event": event_name(event), **values}
