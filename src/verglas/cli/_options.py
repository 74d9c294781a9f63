"""Options that several commands share."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from verglas.core.errors import UserError

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.engine.placement import Placement

__all__ = [
    "AsJson",
    "ProjectFolder",
    "Scheduler",
    "Workers",
    "open_project",
    "placement_of",
    "project_folder",
]

_MANIFEST = "project.toml"

ProjectFolder = Annotated[
    Path | None,
    typer.Option(
        "--project",
        "-p",
        metavar="FOLDER",
        envvar="VERGLAS_PROJECT",
        help="Project folder; by default the one that the current folder lies in.",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=0,
        metavar="N",
        help="Worker processes; by default one per core. 0 does everything in this process.",
        show_default=False,
    ),
]
Scheduler = Annotated[
    str,
    typer.Option(
        "--scheduler",
        metavar="ADDRESS",
        help="Dask scheduler that takes the work, as tcp://127.0.0.1:8786.",
        show_default=False,
    ),
]


def project_folder(given: Path | None) -> Path:
    """Return the project that was named, or the one that the current folder lies in."""
    if given is not None:
        return given
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / _MANIFEST).is_file():
            return folder
    raise UserError(
        f"no project at {str(here)!r} or above it",
        "name one with --project, or make one with: verglas new FOLDER",
    )


def open_project(given: Path | None) -> "Project":
    """Open the project that was named, or the one that the current folder lies in."""
    from verglas.api.project import Project

    return Project.open(project_folder(given))


def placement_of(workers: int | None, scheduler: str) -> "Placement | None":
    """Say where chunks run; None leaves it to the project."""
    from verglas.engine.placement import Placement

    if workers is None and not scheduler:
        return None
    if workers == 0:
        return Placement(where="in_process")
    return Placement(workers=workers, scheduler=scheduler)
