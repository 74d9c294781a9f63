"""The command that answers a job which waits for a person."""

from pathlib import Path
from typing import Annotated

import typer

from verglas.cli._console import out
from verglas.cli._options import ProjectFolder, open_project
from verglas.cli._records import print_job
from verglas.core.errors import UserError

__all__ = ["answer_job"]


def answer_job(
    job: Annotated[str, typer.Argument(metavar="JOB", help="That asks, as j12.")],
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="CSV or STAR file of coordinates.")
    ] = None,
    project_path: ProjectFolder = None,
    is_accepted: Annotated[
        bool, typer.Option("--accept", help="Take what the job suggests as it is.")
    ] = False,
    draft: Annotated[
        Path | None,
        typer.Option("--write-draft", help="Write what it suggests, and go on waiting."),
    ] = None,
    is_angstrom: Annotated[
        bool, typer.Option("--angstrom", help="Positions in a CSV file are in Å, not in pixels.")
    ] = False,
) -> None:
    """Answer a job that waits for a person: with a file, or by accepting what it suggests."""
    from verglas.api.answer import accept_draft, answer_with_file
    from verglas.api.exchange import export, export_format

    if sum((file is not None, is_accepted, draft is not None)) != 1:
        raise UserError("give a FILE, --accept or --write-draft", "verglas answer --help")
    with open_project(project_path) as project:
        if draft is not None:
            for path in export(project.draft(job), draft, form=export_format(draft)):
                out().print(str(path), markup=False, soft_wrap=True)
            return
        if file is not None:
            unit = "angstrom" if is_angstrom else "pixel"
            done = answer_with_file(project, job, file, unit=unit)  # type: ignore[arg-type]
        else:
            done = accept_draft(project, job)
        print_job(done)
