"""What is written down about a job: the content of `job.json`.

The record is the truth; the database only indexes it. A record is a value: changing a job
means writing another record.
"""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from pydantic import BaseModel, ConfigDict

from verglas.core.ids import dataset_id, job_folder_name, job_id

__all__ = [
    "Input",
    "JobRecord",
    "JobStatus",
    "Moment",
    "Output",
    "Question",
    "Revision",
    "StepCount",
    "now",
]


class JobStatus(StrEnum):
    """Where a job stands."""

    DRAFT = "draft"
    QUEUED = "queued"
    RUNNING = "running"
    ASKING = "asking"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_final(self) -> bool:
        """Whether nothing more happens unless somebody asks."""
        return self in (JobStatus.DONE, JobStatus.FAILED, JobStatus.CANCELLED)

    @property
    def is_active(self) -> bool:
        """Whether a live process must be behind it."""
        return self in (JobStatus.QUEUED, JobStatus.RUNNING)


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Input(_Value):
    """One data set that a job reads; a port that takes many has one entry for each."""

    port: str
    dataset: int


class Output(_Value):
    """One data set that a job made; `folder` is relative to the project."""

    port: str
    dataset: int
    kind: str
    n_items: int
    fingerprint: str
    folder: str
    traits: tuple[str, ...] = ()
    revision: int = 1

    @property
    def id(self) -> str:
        """The id that a person types, such as `d41`."""
        return dataset_id(self.dataset)


class StepCount(_Value):
    """How many chunks a step had and how many were there already."""

    step: str
    total: int
    reused: int = 0
    failed: int = 0
    seconds: float = 0.0


class Moment(_Value):
    """One line of a job's history."""

    time: str
    what: str
    text: str = ""


class Question(_Value):
    """What a parked job waits for: a data set of a kind, edited from the draft.

    The draft lies in `questions/<name>/draft` of the job's folder, the answer beside it.
    """

    name: str
    kind: str
    n_items: int


class Revision(_Value):
    """What a job was before it was run again with other parameters or inputs."""

    number: int
    parameters: dict[str, Any] = {}
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()


class JobRecord(_Value):
    """Everything about a job but its data."""

    number: int
    protocol: str
    version: int
    label: str = ""
    status: JobStatus = JobStatus.DRAFT
    revision: int = 1
    parameters: dict[str, Any] = {}
    changed: dict[str, Any] = {}
    inputs: tuple[Input, ...] = ()
    outputs: tuple[Output, ...] = ()
    former: tuple[Revision, ...] = ()
    seed: int = 0
    error: str = ""
    warnings: tuple[str, ...] = ()
    metrics: dict[str, float | str] = {}
    question: Question | None = None
    steps: tuple[StepCount, ...] = ()
    environment: dict[str, str] = {}
    created: str = ""
    started: str = ""
    ended: str = ""
    seconds: float = 0.0
    history: tuple[Moment, ...] = ()
    notes: tuple[Moment, ...] = ()
    deleted: bool = False

    @property
    def id(self) -> str:
        """The id that a person types, such as `j12`."""
        return job_id(self.number)

    @property
    def folder(self) -> str:
        """The name of the job's folder below `jobs/`."""
        return job_folder_name(self.number, self.protocol)

    def output(self, port: str) -> Output | None:
        """The data set of a port, if it was made."""
        return next((output for output in self.outputs if output.port == port), None)

    def replace(self, **values: Any) -> "JobRecord":
        """Copy the record with some fields changed."""
        return self.model_copy(update=values)

    def with_moment(self, what: str, text: str = "") -> "JobRecord":
        """Copy the record with a line added to its history."""
        return self.replace(history=(*self.history, Moment(time=now(), what=what, text=text)))


def now() -> str:
    """Write the time of day in UTC, to the millisecond."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
