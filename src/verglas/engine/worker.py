"""Run one chunk: read its rows, call the function, leave result and log beside them.

This is all that happens on a worker. It never opens the project's index, and it needs nothing
but the unit and the project's folder.
"""

import importlib
import json
import logging
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import polars as pl

from verglas.core.errors import UserError
from verglas.core.files import DISK_FULL, full_disk_ignored, write_text
from verglas.core.log import job_log
from verglas.engine.executor import Outcome, Unit
from verglas.sdk.chunks import Chunk, Plan, execute_chunk, has_result, result_path
from verglas.sdk.context import JobCancelled
from verglas.sdk.job_context import Work

__all__ = [
    "LiveProgress",
    "explain",
    "import_function",
    "read_outcome",
    "run_and_tell",
    "run_unit",
]

log = logging.getLogger(__name__)

_PROGRESS_EVERY_S = 0.5
_KEPT_TABLE_BYTES = 2**24


def run_unit(unit: Unit, *, own_log: bool = True) -> Outcome:
    """Carry out a unit; errors of the function come back as text, never as exceptions.

    Args:
        unit: what to run.
        own_log: keep a log in the chunk's live folder, for the driver to collect; without
            it the records go to whatever log the process has.
    """
    start = time.monotonic()
    error, is_user_error = "", False
    try:
        unit.live.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        return Outcome(unit.step, unit.key, *explain(problem))
    with _log_into(unit.live if own_log else None):
        try:
            _execute(unit)
        except JobCancelled:
            raise
        except Exception as problem:  # the task's border: the function may raise anything
            error, is_user_error = explain(problem)
            if not is_user_error:
                log.error("chunk %s of %s failed\n%s", unit.key, unit.step, traceback.format_exc())
    return Outcome(unit.step, unit.key, error, is_user_error, time.monotonic() - start)


def run_and_tell(unit: Unit) -> None:
    """Carry out a unit on a worker and leave a note if it failed."""
    outcome = run_unit(unit)
    if outcome.error:
        write_text(unit.live / "failed.json", json.dumps(asdict(outcome)))


def read_outcome(unit: Unit) -> Outcome | None:
    """Find out from the files how a unit ended; None if they do not tell."""
    note = unit.live / "failed.json"
    if note.exists():
        return Outcome(**json.loads(note.read_text("utf-8")))
    if has_result(result_path(unit.folder, unit.step, unit.key)):
        return Outcome(unit.step, unit.key)
    return None


def import_function(path: str) -> Callable[..., Any]:
    """Import a function from `package.module:name`."""
    module, _, name = path.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


def explain(problem: Exception) -> tuple[str, bool]:
    """Put an error into words, and say whether a person can put it right."""
    if isinstance(problem, UserError):
        return str(problem), True
    if isinstance(problem, OSError) and problem.errno in DISK_FULL:
        where = f" {problem.filename!r}" if problem.filename else ""
        why = os.strerror(problem.errno).lower()
        return f"cannot write{where}: {why}; free some space and run again", True
    return f"{type(problem).__name__}: {problem}", False


@dataclass
class LiveProgress:
    """Leave the progress of a chunk in a small file, now and then."""

    path: Path
    last_s: float = float("-inf")

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Report `done` of `total` steps."""
        now_s = time.monotonic()
        if now_s - self.last_s < _PROGRESS_EVERY_S and done < total:
            return
        self.last_s = now_s
        with full_disk_ignored():
            self.path.write_text(json.dumps([done, total, text]), "utf-8")


def _execute(unit: Unit) -> None:
    chunk = Chunk(unit.key, 0, unit.n_rows)
    if has_result(result_path(unit.folder, unit.step, unit.key)):
        return  # another attempt was faster
    _set_threads(unit.threads)
    rows = _rows_of(unit)
    function = import_function(unit.function)
    plan = Plan(rows, [chunk], unit.step, "")
    work = Work(
        plan, function, unit.kwargs, unit.root, unit.folder, unit.seed, unit.cpus, unit.gpus
    )
    progress = LiveProgress(unit.live / "progress.json")
    task = work.task(chunk, device=unit.device, threads=unit.threads, progress=progress)
    execute_chunk(function, rows, task, unit.kwargs, work.result_path(chunk))


def _rows_of(unit: Unit) -> pl.DataFrame:
    """Read the rows of a chunk; a small table is read once for all its chunks."""
    stat = unit.table.stat()
    if stat.st_size > _KEPT_TABLE_BYTES:
        return pl.scan_parquet(unit.table).slice(unit.offset, unit.n_rows).collect()
    table = _whole_table(unit.table, stat.st_mtime_ns, stat.st_size)
    return table.slice(unit.offset, unit.n_rows)


@lru_cache(maxsize=1)
def _whole_table(path: Path, time_ns: int, size: int) -> pl.DataFrame:
    """Keep the last table; time and size tell one version of the file from another."""
    return pl.read_parquet(path)


@contextmanager
def _log_into(folder: Path | None) -> Iterator[None]:
    if folder is None:
        yield
        return
    with job_log(folder):
        yield


def _set_threads(n_threads: int) -> None:
    """Tell the numerical libraries how many threads they may use.

    Those that are not loaded yet read the environment when they are. Numba cannot go beyond
    what it was loaded with, so a chunk that asks for more may get less, never the reverse.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(n_threads)
    torch, numba = sys.modules.get("torch"), sys.modules.get("numba")
    if torch is not None and torch.get_num_threads() != n_threads:
        torch.set_num_threads(n_threads)
    if numba is None:
        os.environ["NUMBA_NUM_THREADS"] = str(n_threads)
    else:
        numba.set_num_threads(min(n_threads, numba.config.NUMBA_NUM_THREADS))
