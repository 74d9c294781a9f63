"""`verglas run`: every protocol is a command whose options come from its JSON schema."""

import inspect
import re
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from verglas.cli._console import out, print_json
from verglas.cli._options import (
    AsJson,
    ProjectFolder,
    Scheduler,
    Workers,
    open_project,
    placement_of,
)
from verglas.cli._progress import progress_shown
from verglas.cli._records import print_job, record_json, run_explained
from verglas.cli._schema import option_name, parameter_options, schema_command, schema_values
from verglas.core.errors import ParamsError, PortError, UserError

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project
    from verglas.sdk.protocol import ProtocolSpec

__all__ = ["app"]

_JOB = re.compile(r"j?\d+")
_COMMON_PANEL = "How it is run"


def _in_panel(annotation: Any, *names: str) -> Any:
    """Put a shared option among those that say how a job is run; give it other names if any."""
    base, option = annotation.__origin__, copy(annotation.__metadata__[0])
    option.rich_help_panel = _COMMON_PANEL
    if names:
        option.default, option.param_decls = names[0], names[1:]  # so typer keeps them here
    return Annotated[base, option]


_COMMON = {
    "project": _in_panel(ProjectFolder),
    "input": Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="PORT=DATA",
            help="What goes into a port: d41, j12, j12.particles, or a file to import. "
            "Repeat it for several.",
            rich_help_panel=_COMMON_PANEL,
            show_default=False,
        ),
    ],
    "label": Annotated[
        str, typer.Option(help="Name of the job for people.", rich_help_panel=_COMMON_PANEL)
    ],
    "seed": Annotated[
        int, typer.Option(min=0, help="Of everything random.", rich_help_panel=_COMMON_PANEL)
    ],
    "resume": Annotated[
        bool,
        typer.Option(
            help="Go on with an equal job that did not finish.", rich_help_panel=_COMMON_PANEL
        ),
    ],
    "force": Annotated[
        bool,
        typer.Option(
            "--force",
            help="Run everything again even if an equal job is done.",
            rich_help_panel=_COMMON_PANEL,
        ),
    ],
    "workers": _in_panel(Workers),
    "scheduler": _in_panel(Scheduler),
    "json": _in_panel(AsJson),
}
_DEFAULTS: dict[str, Any] = {
    "project": None,
    "input": None,
    "label": "",
    "seed": 0,
    "resume": True,
    "force": False,
    "workers": None,
    "scheduler": "",
    "json": False,
}


@dataclass(frozen=True)
class _Request:
    """What a person typed after `verglas run PROTOCOL`."""

    spec: "ProtocolSpec"
    schema: Mapping[str, Any]
    options: Mapping[str, Any]
    values: Mapping[str, Any]


class _ProtocolGroup(TyperGroup):
    """Makes a command of each protocol, and of each job of the project."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the ids of the protocols."""
        from verglas.core.registry import load_registry

        return sorted(load_registry().protocols)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Make the command of a protocol, or the one that goes on with a job."""
        if _JOB.fullmatch(cmd_name):
            return _resume_command(cmd_name)
        from verglas.core.registry import find_protocol

        return _protocol_command(find_protocol(cmd_name))


app = typer.Typer(
    cls=_ProtocolGroup,
    invoke_without_command=True,
    no_args_is_help=True,
    subcommand_metavar="PROTOCOL|JOB [OPTIONS]",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def run_protocol(
    ctx: typer.Context,
    project_path: ProjectFolder = None,
    is_resuming: Annotated[
        bool, typer.Option("--resume", help="Go on with the last job that did not finish.")
    ] = False,
    workers: Workers = None,
    scheduler: Scheduler = "",
    as_json: AsJson = False,
) -> None:
    """Run a protocol, or go on with a job that did not finish.

    `verglas run PROTOCOL --help` lists the parameters; `verglas run j12` goes on with job j12.
    """
    if ctx.invoked_subcommand is not None:
        ctx.obj = {"project": project_path, "workers": workers, "json": as_json}
        return
    if not is_resuming:
        raise UserError("nothing to run", "name a protocol, a job, or give --resume")
    with open_project(project_path) as project:
        unfinished = [r for r in project.records() if r.status in ("failed", "cancelled")]
        if not unfinished:
            out().print("every job is finished", markup=False)
            return
        _resume(project, unfinished[-1].id, placement_of(workers, scheduler), as_json=as_json)


def _resume_command(job: str) -> Any:
    """Make the command that goes on with a job."""
    single = typer.Typer(add_completion=False)

    @single.command(name=job)
    def resume(
        ctx: typer.Context,
        project_path: ProjectFolder = None,
        is_resuming: Annotated[bool, typer.Option("--resume", hidden=True)] = False,
        workers: Workers = None,
        scheduler: Scheduler = "",
        as_json: AsJson = False,
    ) -> None:
        """Go on with a job that did not finish, with the parameters that it has."""
        before = ctx.obj or {}
        placement = placement_of(before.get("workers") if workers is None else workers, scheduler)
        with open_project(project_path or before.get("project")) as project:
            _resume(project, job, placement, as_json=as_json or before.get("json", False))

    return typer.main.get_command(single)


def _resume(project: "Project", job: str, placement: Any, *, as_json: bool) -> None:
    with progress_shown() as show:
        done = run_explained(project, lambda: project.resume(job, placement=placement, show=show))
    _report(done, as_json=as_json)


def _protocol_command(spec: "ProtocolSpec") -> Any:
    """Make the command of a protocol."""
    from verglas.sdk.params import json_schema

    schema = json_schema(spec.params)
    options = parameter_options(schema)
    taken = {option.name for option in options}
    names = {name: f"job_{name}" if name in taken else name for name in _COMMON}
    for name, annotation in _COMMON.items():
        options.append(
            inspect.Parameter(
                names[name],
                inspect.Parameter.KEYWORD_ONLY,
                default=_DEFAULTS[name],
                annotation=_in_panel(annotation, option_name(names[name]))
                if name in taken
                else annotation,
            )
        )

    def execute(ctx: typer.Context, **typed: Any) -> None:
        _refuse_strangers(spec, ctx.args)
        common = {name: typed.pop(key) for name, key in names.items()}
        for name, value in (ctx.obj or {}).items():
            if common[name] in (None, "") or common[name] is False:  # 0 workers is a choice
                common[name] = value
        _run(_Request(spec, schema, common, schema_values(schema, typed)))

    return schema_command(execute, options, name=spec.id, schema=schema, doc=_help_page(spec))


def _run(request: _Request) -> None:
    from verglas.api.exchange import resolve_input

    options, spec = request.options, request.spec
    placement = placement_of(options["workers"], options["scheduler"])
    spec.params(**request.values)  # nothing is imported for a command that cannot work
    with open_project(options["project"]) as project, progress_shown() as show:
        inputs: dict[str, list[Any]] = {}
        for port, text in _named_inputs(spec, options["input"] or []):
            data = resolve_input(project, spec, port, text, placement=placement, show=show)
            inputs.setdefault(port, []).append(data)
        job = run_explained(
            project,
            lambda: project.run(
                spec.id,
                params={**request.values, **inputs},
                seed=options["seed"],
                label=options["label"],
                resume=options["resume"],
                force=options["force"],
                placement=placement,
                show=show,
            ),
        )
    _report(job, as_json=options["json"])


def _report(job: "Job", *, as_json: bool) -> None:
    if as_json:
        print_json(record_json(job.record))
    else:
        print_job(job)


def _named_inputs(spec: "ProtocolSpec", typed: Sequence[str]) -> list[tuple[str, str]]:
    """Split `port=data`; without a port it is the only one that must be given."""
    ports = spec.input_ports()
    named = []
    for text in typed:
        port, equals, data = text.partition("=")
        if not equals:
            needed = [name for name, declared in ports.items() if not declared.optional]
            if len(needed) != 1:
                names = ", ".join(ports) or "none"
                raise PortError(f"input {text!r} names no port of {spec.id}", f"it has {names}")
            port, data = needed[0], text
        if port not in ports:
            names = ", ".join(ports) or "none"
            raise PortError(f"{spec.id} has no port {port!r}", f"its ports are {names}")
        named.append((port, data))
    return named


def _refuse_strangers(spec: "ProtocolSpec", rest: Sequence[str]) -> None:
    """Name the parameter that is nearest to what nobody knows."""
    for text in rest:
        if text.startswith("-"):
            name = text.partition("=")[0].lstrip("-").replace("-", "_")
            if name in spec.input_ports():
                raise ParamsError(
                    f"{spec.id} takes {name!r} as an input, not as an option",
                    f"give it as -i {name}=DATA",
                )
            try:
                spec.params(**{name: None})
            except ParamsError as error:
                hint = error.hint or ""
                for known in spec.params.model_fields:
                    hint = hint.replace(f"{known!r}", option_name(known))
                message = f"{spec.id} has no parameter {name!r}"
                raise ParamsError(message, hint or f"see verglas run {spec.id} --help") from None
        raise ParamsError(
            f"{spec.id}: {text!r} belongs to no option", f"see verglas run {spec.id} --help"
        )


def _help_page(spec: "ProtocolSpec") -> str:
    """Put the help page of a protocol together: what it does, what it takes and gives."""
    ports = [("takes", spec.input_ports()), ("gives", spec.output_ports())]
    lines = []
    for word, declared in ports:
        for name, port in declared.items():
            needs = f" with {', '.join(port.needs)}" if port.needs else ""
            optional = ", may be left out" if port.optional and word == "takes" else ""
            lines.append(f"{word} `{name}`: {port.kind}{needs}{optional}.")
    return f"{spec.doc}\n\n" + "\n\n".join(lines)
