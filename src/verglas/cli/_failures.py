"""Turn errors into a message and an exit code.

0 done, 1 a job failed, 2 the command or its input was wrong, 130 cancelled.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import typer

from verglas.core.errors import UserError, VerglasError

__all__ = ["CANCELLED", "FAILED", "WRONG_USE", "JobEnded", "errors_explained"]

FAILED = 1
WRONG_USE = 2
CANCELLED = 130


class JobEnded(VerglasError):
    """A job failed or was cancelled: what the engine said, and the exit code."""

    def __init__(self, message: str, hint: str | None, exit_code: int) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


@contextmanager
def errors_explained(*, is_debugging: bool) -> Iterator[None]:
    """Show errors that are meant for people without traceback, and exit with their code.

    Args:
        is_debugging: show the traceback as well.
    """
    try:
        yield
    except VerglasError as error:
        _show(error, is_debugging=is_debugging)
        raise typer.Exit(_exit_code(error)) from error
    except KeyboardInterrupt as error:
        _show(VerglasError("stopped; finished chunks are kept"), is_debugging=False)
        raise typer.Exit(CANCELLED) from error
    except BrokenPipeError as error:
        # the reader of a pipe, as `head`, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        raise typer.Exit(0) from error


def _exit_code(error: VerglasError) -> int:
    if isinstance(error, JobEnded):
        return error.exit_code
    return WRONG_USE if isinstance(error, UserError) else FAILED


def _show(error: VerglasError, *, is_debugging: bool) -> None:
    from rich.text import Text
    from rich.traceback import Traceback

    from verglas.cli._console import err

    if is_debugging:
        err().print(Traceback.from_exception(type(error), error, error.__traceback__))
    err().print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    if error.hint:
        err().print(Text.assemble(("  hint: ", "bold"), error.hint), soft_wrap=True)
