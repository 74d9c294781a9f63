"""The command that runs a workflow template on other data."""

from pathlib import Path
from typing import Annotated

import typer

from verglas.cli._options import (
    ProjectFolder,
    Scheduler,
    Workers,
    open_project,
    placement_of,
)
from verglas.cli.process import Overrides, ResultFile, finish, read_overrides, run_workflow
from verglas.core.errors import ParamsError

__all__ = ["replay_template"]


def replay_template(
    template: Annotated[
        Path,
        typer.Argument(metavar="TEMPLATE", help="As written by graph or process --write-template."),
    ],
    project_path: ProjectFolder = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="NAME=DATA",
            help="Data set for a free input of the template, as micrographs_d1=d7.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    result_file: ResultFile = None,
    workers: Workers = None,
    scheduler: Scheduler = "",
) -> None:
    """Run a workflow template on other data; what is done already is not run again."""
    from verglas.project.layout import read_json

    workflow = read_json(template)
    data = {}
    for text in inputs or []:
        name, equals, ref = text.partition("=")
        if not equals:
            raise ParamsError(f"got {text!r}, expected NAME=DATA")
        data[name] = ref
    with open_project(project_path) as project:
        result = run_workflow(
            project,
            workflow,
            read_overrides(project, workflow, overrides or []),
            inputs=data,
            placement=placement_of(workers, scheduler),
        )
    finish(result, result_file)
