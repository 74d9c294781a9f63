"""The command that writes a project as one page."""

from pathlib import Path
from typing import Annotated

import typer

from verglas.cli._console import out
from verglas.cli._options import open_project

__all__ = ["write_page"]


def write_page(
    project_path: Annotated[
        Path | None,
        typer.Argument(
            metavar="[PROJECT]",
            envvar="VERGLAS_PROJECT",
            help="Folder; by default the project that the current folder lies in.",
            show_default=False,
        ),
    ] = None,
    path: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="The page; by default report.html in the project.",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        list[str] | None,
        typer.Option("--job", metavar="JOB", help="Only this job; repeat it for several."),
    ] = None,
) -> None:
    """Write a project as one HTML page: graph, parameters, pictures, curves, methods."""
    from verglas.api.report import write_report

    with open_project(project_path) as project:
        target = path if path is not None else project.root / "report.html"
        page = write_report(project, target, jobs=jobs or None)
    out().print(f"wrote {page}", markup=False, soft_wrap=True)
