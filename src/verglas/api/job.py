"""A job as scripts, command line and server see it."""

import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verglas.api.inputs import open_numbered
from verglas.core.errors import UserError, VerglasError
from verglas.project.record import JobRecord, JobStatus

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.model import DataSet
    from verglas.project.provenance import StaleReason

__all__ = ["Job", "RunningJob"]


@dataclass
class RunningJob:
    """A job that runs in a thread of this process."""

    cancel: threading.Event
    thread: threading.Thread | None = None
    error: VerglasError | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """A handle on a job; everything is looked up when asked for."""

    project: "Project" = field(repr=False)
    number: int

    @property
    def record(self) -> JobRecord:
        """What is written down about the job."""
        return self.project.store.job(self.number)

    @property
    def id(self) -> str:
        """As `j12`."""
        return f"j{self.number}"

    @property
    def status(self) -> JobStatus:
        """Where the job stands."""
        return self.record.status

    @property
    def protocol(self) -> str:
        """Id of the protocol."""
        return self.record.protocol

    @property
    def params(self) -> dict[str, Any]:
        """All parameters, as JSON values."""
        return self.record.parameters

    @property
    def metrics(self) -> dict[str, float | str]:
        """Key numbers that the protocol recorded."""
        return self.record.metrics

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a person should know although the job went on."""
        return self.record.warnings

    @property
    def error(self) -> str:
        """Why the job failed; empty otherwise."""
        return self.record.error

    @property
    def folder(self) -> Path:
        """The job's folder."""
        return self.project.store.folder(self.record)

    @property
    def outputs(self) -> "dict[str, DataSet | list[DataSet]]":
        """The data sets that the job made, by port; a list where a port has several."""
        found: dict[str, list[DataSet]] = {}
        for output in self.record.outputs:
            found.setdefault(output.port, []).append(
                open_numbered(self.project.store, output.dataset)
            )
        return {port: sets[0] if len(sets) == 1 else sets for port, sets in found.items()}

    @property
    def inputs(self) -> "dict[str, DataSet | list[DataSet]]":
        """The data sets that the job reads, by port."""
        found: dict[str, list[DataSet]] = {}
        for link in self.record.inputs:
            found.setdefault(link.port, []).append(open_numbered(self.project.store, link.dataset))
        return {port: sets[0] if len(sets) == 1 else sets for port, sets in found.items()}

    @property
    def stale(self) -> "tuple[StaleReason, ...]":
        """Why the job is out of date; empty if it is not."""
        return self.project.stale().get(self.number, ())

    @property
    def is_running_here(self) -> bool:
        """Whether this process runs the job."""
        return self.number in self.project.running

    def output(self, port: str = "") -> "DataSet":
        """Open one output; without a name the only one.

        Args:
            port: name of the output.
        """
        outputs = self.outputs
        if not port and len(outputs) == 1:
            port = next(iter(outputs))
        found = outputs.get(port)
        if found is None or isinstance(found, list):
            names = ", ".join(outputs) or "none"
            raise UserError(
                f"{self.id} ({self.protocol}, {self.status}) has no single output {port!r}",
                f"its outputs are {names}",
            )
        return found

    def log(self) -> str:
        """Read the job's log."""
        path = self.folder / "log.txt"
        return path.read_text("utf-8") if path.exists() else ""

    def wait(self, timeout_s: float | None = None) -> "Job":
        """Wait for a job that this process runs; its error is raised here.

        Args:
            timeout_s: raise `TimeoutError` after so long.
        """
        running = self.project.threads.get(self.number)
        if running is not None and running.thread is not None:
            running.thread.join(timeout_s)
            if running.thread.is_alive():
                raise TimeoutError(f"{self.id} still runs after {timeout_s} s")
            if running.error is not None:
                raise running.error
        return self

    def cancel(self) -> None:
        """Ask a job that this process runs to stop; finished chunks are kept."""
        running = self.project.running.get(self.number)
        if running is None:
            raise UserError(f"{self.id} ({self.status}) does not run in this process")
        running.cancel.set()
