"""The command `verglas`: its commands, and what holds for all of them.

This module and those of the commands import nothing heavy, so that help is shown at once.
"""

import os
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from verglas.cli import (
    answer,
    bench,
    demo,
    doctor,
    exchange,
    graph,
    jobs,
    process,
    protocols,
    replay,
    report,
    run,
    show,
    simulate,
)
from verglas.cli._console import set_up_logging, warn
from verglas.cli._failures import errors_explained

__all__ = ["app", "main"]

_DEBUG = "--debug"


class _RootGroup(TyperGroup):
    """Shows errors of every command in one way, and takes `--debug` in any place."""

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


START, WORK, LOOK, DATA, CARE = (
    "Start",
    "Run",
    "Look",
    "Exchange",
    "Maintain",
)
app.command("demo", rich_help_panel=START)(demo.run_demo)
app.command("new", rich_help_panel=START)(jobs.make_project)
app.command("process", rich_help_panel=START)(process.run_process)
app.add_typer(run.app, name="run", rich_help_panel=WORK)
app.command("answer", rich_help_panel=WORK)(answer.answer_job)
app.command("replay", rich_help_panel=WORK)(replay.replay_template)
app.command("protocols", rich_help_panel=WORK)(protocols.list_protocols)
app.command("schema", rich_help_panel=WORK)(protocols.show_schema)
app.command("jobs", rich_help_panel=LOOK)(jobs.list_jobs)
app.command("show", rich_help_panel=LOOK)(show.show_thing)
app.command("log", rich_help_panel=LOOK)(jobs.show_log)
app.command("graph", rich_help_panel=LOOK)(graph.show_graph)
app.command("report", rich_help_panel=LOOK)(report.write_page)
app.command("import", rich_help_panel=DATA)(exchange.import_file)
app.command("export", rich_help_panel=DATA)(exchange.export_data)
app.add_typer(simulate.app, name="simulate", rich_help_panel=DATA)
app.command("reindex", rich_help_panel=CARE)(jobs.rebuild_index)
app.command("delete", rich_help_panel=CARE)(jobs.delete_job)
app.command("doctor", rich_help_panel=CARE)(doctor.run_doctor)
app.add_typer(bench.app, name="bench", rich_help_panel=CARE)


def _warn_plainly(message: Any, *_: Any, **__: Any) -> None:
    warn(str(message))


def main() -> None:
    """Run the command line; the entry point of the command `verglas`."""
    warnings.showwarning = _warn_plainly
    app(prog_name="verglas")
    sys.exit(0)
