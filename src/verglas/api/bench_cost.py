"""Run a command and count what its whole tree of processes uses."""

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Cost", "run_tree"]


@dataclass(frozen=True)
class Cost:
    """What a tree of processes used.

    Attributes:
        cpu_s: user and system time of all of them.
        wall_s: from start to end.
        peak_mb: largest resident size of one of them.
    """

    cpu_s: float
    wall_s: float
    peak_mb: float


def run_tree(
    command: Sequence[str],
    folder: Path,
    log: Path,
    limit_s: float,
    environment: Mapping[str, str] | None = None,
) -> tuple[int, Cost]:
    """Run a command and count the time of all its processes.

    Args:
        command: program and arguments.
        folder: where it runs.
        log: takes what it prints.
        limit_s: it is ended after so long.
        environment: its variables; those of this process by default.

    Returns:
        Its exit code (negative for a signal), and the cost.
    """
    start = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env=environment,
        )
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - start > limit_s:
                process.terminate()
                limit_s += 10.0
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    cost = Cost(
        cpu_s=usage.ru_utime + usage.ru_stime,
        wall_s=time.monotonic() - start,
        peak_mb=usage.ru_maxrss / 1024,
    )
    return process.returncode, cost
