"""Run outside programs: where they are, how they are called, what they said.

An adaptor is two pure functions, `prepare(...) -> Command` and `parse(folder) -> rows`;
`ctx.call(tool, command)` does what lies between.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from verglas.core.errors import ToolError

__all__ = ["Command", "Completed", "Tool", "run_command"]

_TAIL_LINES = 5


@dataclass(frozen=True)
class Tool:
    """An outside program.

    Attributes:
        id: short name, as `ctffind`.
        executable: name on the search path, or a path.
        probe: arguments that make it print its version.
        min_version: oldest that works, for the message.
        advice: how a person gets it.
    """

    registry_category: ClassVar[str] = "tool"

    id: str
    executable: str
    probe: tuple[str, ...] = ("--version",)
    min_version: str = ""
    advice: str = ""

    def find(self) -> Path:
        """Locate the program, or raise a `ToolError` with advice."""
        found = shutil.which(self.executable)
        if found is None:
            raise ToolError(
                f"{self.id} is not installed: no {self.executable!r} on the search path",
                self.advice or None,
            )
        return Path(found)


@dataclass(frozen=True)
class Command:
    """One call of a program.

    Attributes:
        arguments: without the program itself.
        folder: where it runs.
        environment: added to that of this process.
        stdin: text for programs that ask questions.
        timeout_s: None waits for ever.
    """

    arguments: tuple[str, ...]
    folder: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    stdin: str = ""
    timeout_s: float | None = None


@dataclass(frozen=True)
class Completed:
    """What a program left: its output (both streams together) and how long it took."""

    output: str
    time_s: float


def run_command(tool: Tool, command: Command) -> Completed:
    """Run a program to its end, or raise a `ToolError` with its last lines.

    Args:
        tool: the program.
        command: how it is called.
    """
    arguments = [str(tool.find()), *command.arguments]
    command.folder.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    try:
        done = subprocess.run(
            arguments,
            cwd=command.folder,
            env={**os.environ, **command.environment},
            input=command.stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=command.timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"{tool.id} did not end within {command.timeout_s} s") from error
    time_s = time.monotonic() - start
    if done.returncode != 0:
        tail = " | ".join(done.stdout.strip().splitlines()[-_TAIL_LINES:]) or "nothing"
        raise ToolError(
            f"{tool.id} exited with {_exit_text(done.returncode)} after {time_s:.0f} s; "
            f"last lines: {tail}"
        )
    return Completed(done.stdout, time_s)


def _exit_text(code: int) -> str:
    if code in (-9, 137):
        return f"{code} (killed: out of memory?)"
    return str(code)
