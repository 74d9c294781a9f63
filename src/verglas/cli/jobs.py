"""Commands on projects and jobs: new, jobs, log, reindex, delete."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verglas.cli._console import err, out, print_json, print_table
from verglas.cli._options import AsJson, ProjectFolder, open_project
from verglas.cli._records import outputs_text, record_json
from verglas.cli._words import duration_text, metric_text
from verglas.core.errors import UserError

if TYPE_CHECKING:
    from verglas.project.record import JobRecord

__all__ = ["delete_job", "list_jobs", "make_project", "rebuild_index", "show_log"]

JobArgument = Annotated[str, typer.Argument(metavar="JOB", help="As j12.")]


def make_project(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="New or empty folder.")],
    name: Annotated[str, typer.Option(help="Name for people; the folder's by default.")] = "",
) -> None:
    """Make a project in a new folder."""
    from verglas.api.project import Project

    with Project.create(folder, name=name) as project:
        out().print(f"made project {project.name!r} in {project.root}", markup=False)


def list_jobs(
    project_path: ProjectFolder = None,
    status: Annotated[
        str, typer.Option(help="Only jobs that are done, failed, cancelled, running or asking.")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the jobs of a project."""
    with open_project(project_path) as project:
        stale = project.stale()
        records = [r for r in project.records() if status in ("", r.status)]
    if as_json:
        print_json([record_json(record, stale=record.number in stale) for record in records])
        return
    rows = [_row(record, is_stale=record.number in stale) for record in records]
    columns = ("job", "protocol", "label", "status", "made", "key number", "time")
    print_table("", columns, rows, right=("time",))


def _row(record: "JobRecord", *, is_stale: bool) -> list[str]:
    status = str(record.status)
    if record.deleted:
        status += ", deleted"
    if is_stale:
        status += ", out of date"
    key = next((metric_text(name, value) for name, value in record.metrics.items()), "")
    seconds = duration_text(record.seconds) if record.seconds else ""
    made = outputs_text(record)
    return [record.id, record.protocol, record.label, status, made, key, seconds]


def show_log(
    job: JobArgument,
    project_path: ProjectFolder = None,
    n_lines: Annotated[
        int | None, typer.Option("--lines", "-n", min=1, help="Only the last lines.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """Print the log of a job."""
    with open_project(project_path) as project:
        found = project.job(job)
        path = found.folder / "log.jsonl"
        text = found.log()
        if as_json:
            text = path.read_text("utf-8") if path.exists() else ""
        lines = text.splitlines()
        if not lines:
            err().print(f"{found.id} ({found.status}) has not written a log", markup=False)
    for line in lines if n_lines is None else lines[-n_lines:]:
        typer.echo(line)


def rebuild_index(project_path: ProjectFolder = None) -> None:
    """Make the index of a project anew from its folders."""
    with open_project(project_path) as project:
        out().print(f"{project.reindex()} jobs", markup=False)


def delete_job(
    job: JobArgument,
    project_path: ProjectFolder = None,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove the data of a job; its record stays, and it can be run again."""
    with open_project(project_path) as project:
        record = project.job(job).record
        users = [n for n in project.descendants(job) if not project.store.job(n).deleted]
        used = f", which {len(users)} other jobs used" if users else ""
        question = f"remove the data of {record.id} {record.protocol}{used}?"
        if not is_sure and not typer.confirm(question):
            raise UserError("nothing was removed")
        project.delete(job)
        out().print(f"removed the data of {record.id}", markup=False)
