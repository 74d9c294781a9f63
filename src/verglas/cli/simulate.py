"""`verglas simulate`: images with known truth, as MRC and STAR files."""

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from verglas.cli._console import out, print_json
from verglas.cli._options import AsJson, Workers, placement_of
from verglas.cli._progress import progress_shown
from verglas.cli._records import run_explained
from verglas.cli._schema import parameter_options, schema_command, schema_values
from verglas.core.errors import UserError

__all__ = ["app"]

_PROTOCOLS = {
    "particles": "particles.simulate",
    "micrographs": "micrographs.simulate",
    "movies": "movies.simulate",
}
_Folder = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Project for the images; made if not there.")
]


class _SimulateGroup(TyperGroup):
    """Makes a command of each simulating protocol."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List what can be simulated."""
        return list(_PROTOCOLS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Make the command from the protocol's parameters."""
        return _make_command(cmd_name) if cmd_name in _PROTOCOLS else None


app = typer.Typer(
    cls=_SimulateGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def simulate() -> None:
    """Simulate particles, micrographs or movies with known truth, as MRC and STAR files."""


def _make_command(name: str) -> Any:
    from verglas.core.registry import find_protocol
    from verglas.sdk.params import json_schema

    spec = find_protocol(_PROTOCOLS[name])
    schema = json_schema(spec.params)
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = [
        inspect.Parameter("folder", keyword, annotation=_Folder),
        *parameter_options(schema),
        inspect.Parameter("workers", keyword, default=None, annotation=Workers),
        inspect.Parameter("as_json", keyword, default=False, annotation=AsJson),
    ]

    def execute(
        ctx: typer.Context, folder: Path, workers: Any, as_json: bool, **typed: Any
    ) -> None:
        if ctx.args:
            raise UserError(f"no option {ctx.args[0]!r}", f"see verglas simulate {name} --help")
        _run(name, folder, schema_values(schema, typed), placement_of(workers, ""), as_json=as_json)

    stars = "The truth is written beside it as STAR files and an MRC map."
    return schema_command(execute, options, name=name, schema=schema, doc=f"{spec.doc}\n\n{stars}")


def _run(name: str, folder: Path, values: dict[str, Any], placement: Any, *, as_json: bool) -> None:
    from verglas.api.exchange import export
    from verglas.api.project import Project

    is_there = (folder / "project.toml").exists()
    with Project.open(folder) if is_there else Project.create(folder) as project:
        with progress_shown() as show:
            options: Any = {"params": values, "placement": placement, "show": show}
            job = run_explained(project, lambda: project.run(_PROTOCOLS[name], **options))
        written = {}
        for port, data in job.outputs.items():
            sets = data if isinstance(data, list) else [data]
            is_map = sets[0].kind.id == "volumes"
            target = project.root / f"{port}.{'mrc' if is_map else 'star'}"
            written[port] = export(sets[0], target, form="mrc" if is_map else "relion")[0]
        counts = {output.port: output.n_items for output in job.record.outputs}
    if as_json:
        files = {port: str(path) for port, path in written.items()}
        print_json({"job": job.id, "files": files, "n_items": counts})
        return
    for port, path in written.items():
        out().print(f"{counts[port]} {port} in {path}", markup=False, soft_wrap=True)
