"""Write docs/commands.md from the command line: `python tools/make_command_page.py [--check]`."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from verglas.cli.main import app

PAGE = Path(__file__).resolve().parent.parent / "docs" / "commands.md"
FROM_SCHEMA = ("run", "simulate")


def plain(text: str) -> str:
    return re.sub(r"\s+", " ", text.replace("\\[", "[")).strip().replace("|", "\\|")


def names_of(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    value = "" if getattr(option, "is_flag", False) else f" {option.metavar or ''}".rstrip()
    return " ".join(f"`{name}`" for name in names) + value.replace("|", "\\|")


def lines() -> Iterator[str]:
    root: Any = typer.main.get_command(app)
    yield "# Commands"
    yield ""
    yield "Made by `tools/make_command_page.py` from `verglas.cli`; do not edit."
    yield ""
    yield "Exit codes: 0 done, 1 a job failed, 2 the command or its input was wrong, 130 cancelled."
    yield "Results go to stdout, progress and warnings to stderr. `--debug`, anywhere on the line,"
    yield "shows the traceback of an error. A project is named by `--project`, by the variable"
    yield "`VERGLAS_PROJECT`, or is the one that the current folder lies in."
    for name in root.list_commands(None):
        command = root.get_command(None, name)
        yield ""
        yield f"## verglas {name}"
        yield ""
        for paragraph in (command.help or "").split("\n\n"):
            first, *rest = [line.strip() for line in paragraph.replace("\\[", "[").split("\n")]
            is_list = first.endswith(":")
            yield "\n".join([first, *(f"- {line}" if is_list else line for line in rest)])
            yield ""
        options = [
            p for p in command.params if p.name != "help" and not getattr(p, "hidden", False)
        ]
        if options:
            yield "| option | meaning |"
            yield "|---|---|"
        for option in options:
            given = (
                names_of(option) if option.param_type_name == "option" else f"`{option.metavar}`"
            )
            default = option.default if isinstance(option.default, int | float | str) else None
            shown = default not in (None, "", False) and option.show_default
            note = f" Default: {default}." if shown else ""
            yield f"| {given} | {plain(option.help or '')}{note} |"
        if name in FROM_SCHEMA:
            yield ""
            yield "Parameters of the protocol are options too, listed by `--help` after its name."


def main() -> int:
    text = "\n".join(lines()) + "\n"
    if "--check" in sys.argv:
        if not PAGE.is_file() or PAGE.read_text(encoding="utf-8") != text:
            print(f"{PAGE.name} is out of date: run python tools/make_command_page.py")
            return 1
        return 0
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
