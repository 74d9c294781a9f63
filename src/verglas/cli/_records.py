"""A job as a line, a page and JSON."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from verglas.cli._console import print_line, warn
from verglas.cli._failures import CANCELLED, FAILED, JobEnded
from verglas.cli._words import duration_text, metric_text, value_text
from verglas.core.errors import VerglasError
from verglas.viewers.words import count_text

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project
    from verglas.project.record import JobRecord

__all__ = [
    "STATUS_STYLE",
    "outputs_text",
    "print_job",
    "record_json",
    "run_explained",
    "summary_text",
]

Result = TypeVar("Result")

_MOST_WARNINGS = 5

STATUS_STYLE = {
    "done": "green",
    "failed": "red",
    "cancelled": "yellow",
    "running": "cyan",
    "queued": "cyan",
    "asking": "magenta",
    "draft": "dim",
}


def run_explained(project: "Project", call: Callable[[], Result]) -> Result:
    """Run jobs; if it is a job that fails and not the command, say which and how to go on.

    Args:
        project: in which they run.
        call: runs them and waits.
    """
    from verglas.project.record import JobStatus, now

    started = now()
    try:
        return call()
    except VerglasError as error:
        ended = [
            record
            for record in project.records()
            if record.ended >= started and record.status in (JobStatus.FAILED, JobStatus.CANCELLED)
        ]
        if not ended:
            raise
        record = ended[-1]
        is_cancelled = record.status is JobStatus.CANCELLED
        word = "was cancelled" if is_cancelled else "failed"
        for text in record.warnings[:_MOST_WARNINGS]:
            warn(text)
        if len(record.warnings) > _MOST_WARNINGS:
            warn(f"and {len(record.warnings) - _MOST_WARNINGS} more, see verglas show {record.id}")
        hint = f"go on with: verglas run {record.id}"
        if not is_cancelled:
            hint = f"see verglas log {record.id}; {hint}"
        raise JobEnded(
            f"{record.id} ({record.protocol}) {word}: {error.message}",
            "; ".join(text for text in (error.hint, hint) if text),
            CANCELLED if is_cancelled else FAILED,
        ) from error


def record_json(record: "JobRecord", *, stale: bool = False) -> dict[str, Any]:
    """Give what a script wants to know of a job."""
    content = record.model_dump(
        mode="json",
        include={
            "protocol",
            "version",
            "label",
            "status",
            "parameters",
            "changed",
            "seed",
            "metrics",
            "warnings",
            "error",
            "started",
            "ended",
            "seconds",
        },
    )
    inputs = [{"port": link.port, "dataset": f"d{link.dataset}"} for link in record.inputs]
    outputs = [
        {
            "port": output.port,
            "dataset": output.id,
            "kind": output.kind,
            "n_items": output.n_items,
            "folder": output.folder,
        }
        for output in record.outputs
    ]
    return {
        "id": record.id,
        **content,
        "folder": f"jobs/{record.folder}",
        "inputs": inputs,
        "outputs": outputs,
        "is_stale": stale,
    }


def outputs_text(record: "JobRecord") -> str:
    """List what a job made: `13 micrographs, 1 rejected`."""
    return ", ".join(
        count_text(output.n_items, output.kind)
        if output.port == output.kind
        else f"{output.n_items} {output.port}"
        for output in record.outputs
    )


def summary_text(record: "JobRecord") -> str:
    """Say in one line what a job did and took."""
    words = [f"{record.id} {record.protocol} {record.status}", outputs_text(record)]
    words += [metric_text(name, value) for name, value in record.metrics.items()]
    if record.seconds:
        words.append(duration_text(record.seconds))
    return ", ".join(word for word in words if word)


def print_job(job: "Job") -> None:
    """Show what a job that has just ended made."""
    record = job.record
    for text in record.warnings:
        warn(text)
    style = STATUS_STYLE.get(record.status, "")
    print_line(f"{record.id} {record.protocol} {record.status}", style=style)
    for output in record.outputs:
        text = f"  {output.port:<16} {output.id:<6} {count_text(output.n_items, output.kind)}"
        print_line(text)
    for name, value in record.metrics.items():
        print_line(f"  {metric_text(name, value_text(value))}")
    if record.question is not None:
        question = record.question
        asked = count_text(question.n_items, question.kind)
        print_line(f"  waits for a person: {asked}")
