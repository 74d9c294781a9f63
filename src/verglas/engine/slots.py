"""Worker processes on this machine: start, watch, stop, and what they may use.

A worker is started with `subprocess` in a session of its own, so that Ctrl-C in the terminal
reaches the driver alone. Its standard input is a pipe from the driver: closed, whatever the
reason, it ends the worker and every program that the worker called.
"""

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

__all__ = ["Slot", "available_cores", "end_with_driver", "usable_gpus", "visible_gpus"]

_COMMAND = "from verglas.engine.cluster import serve_worker; serve_worker()"
_THREAD_LIMITS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "POLARS_MAX_THREADS",
)


@dataclass(slots=True)
class Slot:
    """A place for one worker process; `busy` is what it works on."""

    name: str
    gpu: int | None = None
    process: "subprocess.Popen[bytes] | None" = None
    address: str = ""
    busy: Any = None

    @property
    def has_died(self) -> bool:
        """Whether the process ended by itself."""
        return self.process is not None and self.process.poll() is not None

    @property
    def worker_name(self) -> str:
        """The name under which the process reports to the scheduler."""
        return f"{self.name}-{self.process.pid}" if self.process is not None else ""

    def start(self, threads: int) -> None:
        """Start a process, which waits for the scheduler's address."""
        environment = {
            **os.environ,
            **dict.fromkeys(_THREAD_LIMITS, str(threads)),
            "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-c", _COMMAND, self.name],
            stdin=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )

    def introduce(self, scheduler: str) -> None:
        """Tell the process where its scheduler is."""
        if self.process is None or self.process.stdin is None:
            return
        try:
            self.process.stdin.write(f"{scheduler}\n".encode())
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # it died at once, which the next look will show

    def clear(self) -> str:
        """Forget a process that ended and say how it did."""
        code = 0 if self.process is None else self.process.wait(timeout=10)
        if self.process is not None and self.process.stdin is not None:
            self.process.stdin.close()
        self.process, self.address, self.busy = None, "", None
        if code < 0:
            cause = " (out of memory?)" if code == -signal.SIGKILL else ""
            return f"its worker was ended by {signal.Signals(-code).name}{cause}"
        return f"its worker ended with code {code}"

    def kill(self) -> None:
        """End the process and whatever programs it called."""
        if self.process is None:
            return
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self.process.kill()
        self.clear()


def end_with_driver() -> None:
    """Wait until the driver is gone, then end this worker and all that it started."""
    while sys.stdin.buffer.read(1):
        pass
    os.killpg(os.getpgrp(), signal.SIGKILL)


def available_cores() -> int:
    """Count the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[int]:
    """List the numbers of the GPUs that this process may use, without loading torch."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        names = [name for name in chosen.split(",") if name.strip() not in ("", "-1")]
        return list(range(len(names)))
    folder = Path("/proc/driver/nvidia/gpus")
    return list(range(len(list(folder.iterdir())))) if folder.is_dir() else []


def usable_gpus() -> list[int]:
    """List the visible GPUs if the torch that is installed can use them."""
    return visible_gpus() if _torch_has_cuda() else []


def _torch_has_cuda() -> bool:
    """Look for the library that only torch for CUDA, or ROCm, brings; torch is not loaded."""
    found = find_spec("torch")
    if found is None or found.origin is None:
        return False
    folder = Path(found.origin).parent / "lib"
    return any(True for name in ("*torch_cuda*", "*torch_hip*") for _ in folder.glob(name))
