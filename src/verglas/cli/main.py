"""The command `verglas`: its commands, and what holds for all of them.

Only the module of the command that is asked for is imported, and those of all commands import
nothing heavy, so that help is shown at once.
"""

import gc
import os
import sys
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from verglas.cli._console import set_up_logging, warn
from verglas.cli._failures import errors_explained

__all__ = ["app", "main"]

_DEBUG = "--debug"

_COMMANDS = {
    "Start": {
        "demo": "demo:run_demo",
        "new": "jobs:make_project",
        "process": "process:run_process",
    },
    "Run": {
        "run": "run:app",
        "answer": "answer:answer_job",
        "replay": "replay:replay_template",
        "protocols": "protocols:list_protocols",
        "schema": "protocols:show_schema",
    },
    "Look": {
        "jobs": "jobs:list_jobs",
        "show": "show:show_thing",
        "log": "jobs:show_log",
        "graph": "graph:show_graph",
        "report": "report:write_page",
    },
    "Exchange": {
        "import": "exchange:import_file",
        "export": "exchange:export_data",
        "simulate": "simulate:app",
    },
    "Maintain": {
        "reindex": "jobs:rebuild_index",
        "delete": "jobs:delete_job",
        "doctor": "doctor:run_doctor",
        "bench": "bench:app",
    },
}
"""Where each command is, by the panel of the help page that shows it."""


def _load_command(panel: str, name: str) -> Any:
    """Import a function, or a group of commands, and make a command of it."""
    module, _, attribute = _COMMANDS[panel][name].partition(":")
    found = getattr(import_module(f"verglas.cli.{module}"), attribute)
    holder = typer.Typer()
    if isinstance(found, typer.Typer):
        holder.add_typer(found, name=name, rich_help_panel=panel)
    else:
        holder.command(name, rich_help_panel=panel)(found)
    return typer.main.get_group(holder).commands[name]


class _RootGroup(TyperGroup):
    """Shows errors of every command in one way, and takes `--debug` in any place."""

    def list_commands(self, ctx: Any) -> list[str]:
        """List the names in the order of the help page."""
        return [name for names in _COMMANDS.values() for name in names]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command; all, from which the nearest is told, for a name that is none."""
        for panel, names in _COMMANDS.items():
            for name in names:
                is_wanted = name == cmd_name or cmd_name not in self.list_commands(ctx)
                if is_wanted and name not in self.commands:
                    self.commands[name] = _load_command(panel, name)
        return self.commands.get(cmd_name)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Move `--debug` to the front."""
        own = [_DEBUG] if _DEBUG in args else []
        rest: list[str] = super().parse_args(ctx, [*own, *(arg for arg in args if arg != _DEBUG)])
        return rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command; errors become messages and exit codes."""
        is_debugging = ctx.params.get("debug") or bool(os.environ.get("VERGLAS_DEBUG"))
        with errors_explained(is_debugging=is_debugging):
            return super().invoke(ctx)


app = typer.Typer(
    name="verglas",
    cls=_RootGroup,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Cryo-EM from micrographs to maps. Every step is recorded in a project folder.",
)


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        from importlib.metadata import version

        typer.echo(f"verglas {version('verglas')}")
        raise typer.Exit


@app.callback()
def _root(
    debug: Annotated[bool, typer.Option(_DEBUG, help="Show the traceback of an error.")] = False,
    is_version_wanted: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    set_up_logging()


def _warn_plainly(message: Any, *_: Any, **__: Any) -> None:
    warn(str(message))


def main() -> None:
    """Run the command line; the entry point of the command `verglas`."""
    # numpy's library would start threads that wait busily for work that never comes; workers,
    # and chunks in this process, have what they may use from the engine
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # what is imported lives on: looking for cycles in it takes a tenth of a second
    gc.set_threshold(100_000, 50, 100)
    warnings.showwarning = _warn_plainly
    app(prog_name="verglas")
    sys.exit(0)
