"""Where the command line writes: results to stdout, everything else to stderr.

Rich is imported when something is laid out, so that `verglas --help`, scripts that ask for
JSON and short jobs in a pipe do not wait for it.
"""

import json
import logging
import os
import sys
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = [
    "err",
    "is_terminal",
    "out",
    "print_json",
    "print_line",
    "print_table",
    "set_up_logging",
    "warn",
]

_OF_JOBS = ("verglas.job.", "verglas.task")
_PIPE_WIDTH = 200  # a table in a file or pipe is not folded at 80 columns


@cache
def _console(*, is_error: bool) -> "Console":
    from rich.console import Console

    return Console(stderr=is_error, highlight=False, soft_wrap=False)


def _sized(console: "Console") -> "Console":
    if not console.is_terminal and "COLUMNS" not in console._environ:
        console.width = _PIPE_WIDTH
    return console


def out() -> "Console":
    """Return the console for results."""
    return _sized(_console(is_error=False))


def err() -> "Console":
    """Return the console for progress, warnings and errors."""
    return _sized(_console(is_error=True))


def is_terminal(stream: TextIO) -> bool:
    """Say whether a person reads a stream, as rich does, without loading it."""
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def print_line(text: str, *, style: str = "") -> None:
    """Write a line to stdout, as it is; in a style where a person reads it."""
    if is_terminal(sys.stdout):
        out().print(text, style=style, markup=False)
    else:
        sys.stdout.write(text + "\n")


def print_json(value: Any) -> None:
    """Write a value to stdout as JSON."""
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, right: Sequence[str] = ()
) -> None:
    """Write a table to stdout.

    Args:
        title: above the table; none where empty.
        columns: headings.
        rows: cells, of any type; None is shown as nothing.
        right: headings of the columns that are aligned at the right.
    """
    from rich.table import Table
    from rich.text import Text

    if title:
        out().print(title, style="bold", markup=False)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(cell) for cell in row))
    out().print(table if rows else Text("none"))


def warn(text: str) -> None:
    """Write a warning to stderr."""
    from rich.text import Text

    err().print(Text.assemble(("warning: ", "yellow"), text), soft_wrap=True)


class _WarningHandler(logging.Handler):
    """Shows what the package logs as a warning, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one warning; those of a protocol, and errors, are shown when the job ends."""
        if record.levelno == logging.WARNING and not record.name.startswith(_OF_JOBS):
            warn(record.getMessage())


def set_up_logging() -> None:
    """Show warnings of the package on stderr; calling it again changes nothing."""
    logger = logging.getLogger("verglas")
    if not any(isinstance(handler, _WarningHandler) for handler in logger.handlers):
        logger.addHandler(_WarningHandler(logging.WARNING))


def _cell(value: Any) -> "RenderableType":
    from rich.text import Text

    if value is None:
        return ""
    return value if not isinstance(value, str | int | float) else Text(str(value))
