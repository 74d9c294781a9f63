"""Check whether this machine can do the work: versions, torch, threads, GPU, memory, disk.

Torch and numba are tried in a process of their own, so that a broken installation is
reported instead of ending the program.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any, Literal

from verglas.core.registry import load_registry
from verglas.core.units import BYTES_PER_GB
from verglas.engine.environment import free_space_warning
from verglas.engine.slots import available_cores, visible_gpus

__all__ = ["Finding", "State", "examine"]

State = Literal["good", "doubtful", "bad"]

LOW_MEMORY_GB = 4.0
_OLDEST_PYTHON = (3, 11)
_TRIAL_TIMEOUT_S = 180

_TORCH = """
import json, time
start = time.perf_counter()
import torch
loaded = time.perf_counter() - start
a = torch.rand(512, 512)
torch.fft.rfft2(a @ a)
gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
print(json.dumps([torch.__version__, loaded, torch.get_num_threads(), gpus]))
"""
_NUMBA = """
import json, os, tempfile, time
import numba
start = time.perf_counter()
numba.njit(lambda x: x + 1.0)(1.0)
print(json.dumps([numba.__version__, time.perf_counter() - start,
                  numba.config.CACHE_DIR, numba.config.NUMBA_NUM_THREADS]))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: in a word or two.
        state: `bad` stops work, `doubtful` makes it slow or narrow.
        text: what was found.
        hint: what to do about it; empty when all is well.
    """

    what: str
    state: State
    text: str
    hint: str = ""


def examine(folder: Path | None = None, *, is_quick: bool = False) -> list[Finding]:
    """Look at everything that work depends on.

    Args:
        folder: where projects will be; the current one by default.
        is_quick: load neither torch nor numba.
    """
    where = (folder or Path.cwd()).resolve()
    checks: list[Callable[[], Finding]] = [_python, _packages, _cores, _memory]
    if not is_quick:
        checks += [_torch, _numba]
    checks += [_gpus, lambda: _disk(where), lambda: _writing(where), lambda: _speed(where)]
    checks.append(_protocols)
    return [check() for check in checks]


def _python() -> Finding:
    text = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Finding("python", "bad", text, "install Python 3.11 or newer")
    return Finding("python", "good", f"{text}, {platform.system()} {platform.machine()}")


def _packages() -> Finding:
    wanted = [name.split(";")[0] for name in requires("verglas") or () if "extra ==" not in name]
    missing = []
    for requirement in wanted:
        name = requirement.partition(">")[0].partition("=")[0].strip()
        try:
            version(name)
        except PackageNotFoundError:
            missing.append(requirement.strip())
    if missing:
        text = f"missing {', '.join(missing)}"
        return Finding("packages", "bad", text, "install them: pip install verglas")
    return Finding("packages", "good", f"verglas {version('verglas')}, {len(wanted)} packages")


def _cores() -> Finding:
    n_cores = available_cores()
    limits = {
        name: os.environ[name]
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        if name in os.environ
    }
    told = ", ".join(f"{name}={value}" for name, value in limits.items())
    text = f"{n_cores} usable" + (f" of {os.cpu_count()}" if os.cpu_count() != n_cores else "")
    return Finding("cores", "good", f"{text}; {told}" if told else text)


def _memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    free_gb = memory.available / BYTES_PER_GB
    text = f"{free_gb:.1f} of {memory.total / BYTES_PER_GB:.1f} GB free"
    if free_gb < LOW_MEMORY_GB:
        return Finding("memory", "doubtful", text, "close programs, or give fewer --workers")
    return Finding("memory", "good", text)


def _torch() -> Finding:
    found, problem = _try(_TORCH)
    if found is None:
        return Finding("torch", "bad", problem, "reinstall it: pip install --force-reinstall torch")
    number, seconds, threads, gpus = found
    text = f"{number}, loaded in {seconds:.1f} s, {threads} threads"
    if gpus:
        return Finding("torch", "good", f"{text}, sees {', '.join(gpus)}")
    if visible_gpus():
        hint = "install the torch that matches the driver, see pytorch.org"
        return Finding("torch", "doubtful", f"{text}, does not see the GPU of this machine", hint)
    return Finding("torch", "good", f"{text}, works on the CPU")


def _numba() -> Finding:
    found, problem = _try(_NUMBA)
    if found is None:
        return Finding("numba", "bad", problem, "reinstall it: pip install --force-reinstall numba")
    number, seconds, cache, threads = found
    text = f"{number}, compiled in {seconds:.1f} s, {threads} threads"
    package = Path(__file__).parents[1]
    if not cache and not os.access(package, os.W_OK) and not os.access(Path.home(), os.W_OK):
        hint = "set NUMBA_CACHE_DIR to a folder that can be written"
        return Finding("numba", "doubtful", f"{text}, cannot keep what it compiles", hint)
    return Finding("numba", "good", f"{text}, keeps code {'in ' + cache if cache else 'by file'}")


def _gpus() -> Finding:
    numbers = visible_gpus()
    if not numbers:
        return Finding("gpu", "good", "none: everything runs on the CPU")
    return Finding("gpu", "good", f"{len(numbers)}: one worker each")


def _disk(folder: Path) -> Finding:
    usage = shutil.disk_usage(folder)
    text = f"{usage.free / BYTES_PER_GB:.0f} of {usage.total / BYTES_PER_GB:.0f} GB free here"
    if free_space_warning(folder):
        return Finding("disk", "doubtful", text, "make room, or keep projects on another disk")
    return Finding("disk", "good", text)


def _writing(folder: Path) -> Finding:
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x")
    except OSError as error:
        text = f"cannot write in {str(folder)!r}: {(error.strerror or str(error)).lower()}"
        return Finding("write access", "bad", text, "change to a folder of your own")
    return Finding("write access", "good", str(folder))


def _speed(folder: Path) -> Finding:
    """Time a file that is written and flushed, as every finished chunk is."""
    try:
        start = time.perf_counter()
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(2**24))
            file.flush()
            os.fsync(file.fileno())
        seconds = time.perf_counter() - start
    except OSError as error:
        return Finding("disk speed", "bad", (error.strerror or str(error)).lower())
    text = f"{16 / seconds:.0f} MB/s for a flushed file"
    if seconds > 2:
        return Finding("disk speed", "doubtful", text, "keep projects on a faster disk")
    return Finding("disk speed", "good", text)


def _protocols() -> Finding:
    registry = load_registry()
    text = f"{len(registry.protocols)} installed"
    if registry.broken:
        broken = "; ".join(f"{item.name}: {item.error}" for item in registry.broken)
        return Finding("protocols", "doubtful", f"{text}, broken: {broken}", "reinstall the plugin")
    return Finding("protocols", "good", text)


def _try(code: str) -> tuple[list[Any] | None, str]:
    """Run a few lines in another process and read the JSON that they print."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=_TRIAL_TIMEOUT_S,
            check=False,
        )
        if done.returncode == 0:
            return json.loads(done.stdout.splitlines()[-1]), ""
        lines = done.stderr.strip().splitlines()
        return None, lines[-1] if lines else f"ended with code {done.returncode}"
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        return None, f"{type(error).__name__}: {error}"
