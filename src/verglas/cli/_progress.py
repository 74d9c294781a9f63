"""Show how far a job is: bars on a terminal, lines elsewhere, nothing for what is quick."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from verglas.cli._console import err, is_terminal
from verglas.cli._words import duration_text, rate_text
from verglas.engine.progress import OnProgress, ProgressUpdate

__all__ = ["BarView", "LineView", "progress_shown"]

QUICK_S = 2.0
LINE_EVERY_S = 5.0
LINE_EVERY_PART = 0.1
LINE_AT_LATEST_S = 30.0
RESTART_PART = 0.2

Clock: TypeAlias = Callable[[], float]


@contextmanager
def progress_shown(*, is_quiet: bool = False) -> Iterator[OnProgress]:
    """Give what takes progress updates; a bar is taken away when the block ends.

    Args:
        is_quiet: show nothing.
    """
    if is_quiet:
        yield lambda update: None
        return
    view = BarView() if is_terminal(sys.stderr) else LineView()
    try:
        yield view.show
    finally:
        view.close()


@dataclass
class _Step:
    """What is known of the step that is going on."""

    key: tuple[str, str]
    started_s: float
    first_done: float
    last_done: float = 0.0
    shown_s: float = float("-inf")
    shown_part: float = 0.0

    def has_restarted(self, update: ProgressUpdate) -> bool:
        """Tell the next iteration from a chunk that was lost and counts again."""
        return update.done < self.last_done - RESTART_PART * update.total

    def details(self, update: ProgressUpdate, now_s: float) -> str:
        """Write rate and time left, worked out here where the update does not say."""
        rate, left = update.rate_per_s, update.left_s
        elapsed_s, fresh = now_s - self.started_s, update.done - self.first_done
        if rate is None and fresh > 0 and elapsed_s > 0.5:
            rate = fresh / elapsed_s
            left = (update.total - update.done) / rate
        words = [] if not rate else [rate_text(rate)]
        if left is not None and update.done < update.total:
            words.append(f"{duration_text(left)} left")
        return ", ".join(words)


@dataclass
class _Steps:
    """Follows which step a job is at; shared by both ways of showing."""

    current: dict[str, _Step] = field(default_factory=dict)

    def step(self, update: ProgressUpdate, now_s: float) -> _Step:
        """Return the step of an update; one that starts over is a new one."""
        layer = _layer(update)
        step = self.current.get(layer)
        key = (update.job, update.step)
        if step is None or step.key != key or step.has_restarted(update):
            step = _Step(key, now_s, update.done)
            self.current[layer] = step
        step.last_done = update.done
        return step


class LineView:
    """Writes a line now and then, for logs and pipes."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._steps = _Steps()

    def show(self, update: ProgressUpdate) -> None:
        """Write where the step is, unless that was done a short while ago."""
        now_s = self._clock()
        step = self._steps.step(update, now_s)
        if now_s - step.started_s < QUICK_S:
            return
        part = update.done / update.total if update.total else 0.0
        since_s = now_s - step.shown_s
        has_moved = part - step.shown_part >= LINE_EVERY_PART
        if since_s < LINE_EVERY_S or not (has_moved or since_s >= LINE_AT_LATEST_S):
            return
        step.shown_s, step.shown_part = now_s, part
        words = [f"{update.done:.0f} of {update.total} ({100 * part:.0f} %)"]
        words += [text for text in (step.details(update, now_s), update.text) if text]
        line = f"{update.job} {_step_name(update)}: {', '.join(words)}"
        err().print(line, markup=False, soft_wrap=True)

    def close(self) -> None:
        """Nothing to take away."""


class BarView:
    """Draws a bar for what the protocol reports and one for the step that is going on."""

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self._clock = clock
        self._opened_s = clock()
        self._steps = _Steps()
        self._progress: Any = None
        self._bars: dict[str, tuple[_Step, Any]] = {}

    def show(self, update: ProgressUpdate) -> None:
        """Draw where the step is; nothing appears in the first two seconds."""
        now_s = self._clock()
        step = self._steps.step(update, now_s)
        if self._progress is None:
            if now_s - self._opened_s < QUICK_S:
                return
            self._progress = _make_bars()
            self._progress.start()
        layer = _layer(update)
        former, bar = self._bars.get(layer, (None, None))
        if former is not step:
            if bar is not None:
                self._progress.remove_task(bar)
            bar = self._progress.add_task("", total=max(1, update.total), details="")
            self._bars[layer] = (step, bar)
        words = [text for text in (step.details(update, now_s), update.text) if text]
        self._progress.update(
            bar,
            description=_step_name(update),
            completed=update.done,
            total=max(1, update.total),
            details=", ".join(words),
        )

    def close(self) -> None:
        """Take the bars away."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


def _layer(update: ProgressUpdate) -> str:
    """Tell what a protocol says of itself, under its id, from what is said of its chunks."""
    return "job" if "." in update.step else "step"


def _step_name(update: ProgressUpdate) -> str:
    return update.step.rpartition(".")[2].replace("_", " ").strip()


def _make_bars() -> Any:
    from rich.progress import BarColumn, Progress, TextColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TextColumn("{task.completed:.0f}/{task.total:.0f}", markup=False),
        TextColumn("{task.percentage:3.0f} %", markup=False),
        TextColumn("{task.fields[details]}", markup=False),
        console=err(),
        transient=True,
    )
