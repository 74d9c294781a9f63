"""How far a job is: counted in items, with the rate and the time left."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

__all__ = ["OnProgress", "ProgressUpdate", "StepProgress", "silent"]

UPDATE_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """What is shown of a running job.

    Attributes:
        job: id, as `j12`.
        step: name of what is going on.
        done: items finished, parts of running chunks included.
        total: items in all.
        rate_per_s: items per second of this run; None before there is one.
        left_s: seconds left; None while unknown.
        n_running: chunks that run now.
        text: what the protocol says besides.
    """

    job: str
    step: str
    done: float
    total: int
    rate_per_s: float | None = None
    left_s: float | None = None
    n_running: int = 0
    text: str = ""


OnProgress: TypeAlias = Callable[[ProgressUpdate], None]


@dataclass
class StepProgress:
    """Counts one step; results found from earlier runs do not enter the rate."""

    job: str
    step: str
    total: int
    reused: int
    show: OnProgress
    done: int = 0
    running: dict[str, tuple[Path, int]] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    shown_s: float = float("-inf")

    def start(self, key: str, live: Path, n_rows: int) -> None:
        """Note that a chunk runs."""
        self.running[key] = (live / "progress.json", n_rows)

    def end(self, key: str, n_rows: int) -> None:
        """Note that a chunk ended; `n_rows` is 0 if it is to be run again."""
        self.running.pop(key, None)
        self.done += n_rows

    def update(self, *, is_last: bool = False) -> None:
        """Show where the step is, unless that was done a moment ago."""
        now_s = time.monotonic()
        if now_s - self.shown_s < UPDATE_EVERY_S and not is_last:
            return
        self.shown_s = now_s
        part = sum(_fraction(path) * n_rows for path, n_rows in self.running.values())
        fresh = self.done + part
        rate = fresh / (now_s - self.started_s) if fresh and now_s > self.started_s else None
        left = self.total - self.reused - fresh
        self.show(
            ProgressUpdate(
                self.job,
                self.step,
                self.reused + fresh,
                self.total,
                rate,
                left / rate if rate else None,
                len(self.running),
            )
        )


def _fraction(path: Path) -> float:
    """Read how far a chunk says it is; 0 while it says nothing."""
    try:
        done, total, _ = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return 0.0
    return min(1.0, done / total) if total else 0.0


def silent(update: ProgressUpdate) -> None:
    """Show nothing."""
