"""What a chunk function gets beside its rows.

A chunk function is module-level: `fn(rows, task, **kwargs) -> rows`. It may write files
below `task.files`, draw random numbers from `task.rng` and name items it could not process.
"""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from verglas.core.files import relative_path
from verglas.sdk.arrays import ArrayRef, Arrays, load_arrays

__all__ = ["Progress", "Skipped", "Task"]


class Progress(Protocol):
    """Take a report of how far something is."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """Report `done` of `total` steps."""


@dataclass(frozen=True)
class Skipped:
    """An item that could not be processed, and why."""

    item_id: int
    reason: str


def _silent(done: int, total: int, text: str = "") -> None:
    pass


@dataclass
class Task:
    """The surroundings of one chunk.

    Attributes:
        key: chunk key; equal work has equal keys.
        root: the project's folder.
        folder: for output files of this chunk; ask for `files`, which makes it.
        rng: seeded from the chunk key and the job's seed.
        device: `cpu` or `cuda:<number>`.
        threads: how many may be used.
        progress: call it with steps done and in total; may raise to cancel.
        log: goes to the job's log.
        skipped: filled by `skip`.
    """

    key: str
    root: Path
    folder: Path
    rng: np.random.Generator
    device: str = "cpu"
    threads: int = 1
    progress: Progress = _silent
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("verglas.task"))
    skipped: list[Skipped] = field(default_factory=list)

    @property
    def files(self) -> Path:
        """Folder for output files of this chunk: there, empty or with what an earlier attempt left.

        What lies there may be overwritten.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        return self.folder

    def path(self, text: str) -> Path:
        """Resolve a path as stored in a table."""
        return self.root / text

    def relative(self, path: Path) -> str:
        """Write a path as it is stored in a table: relative to the project."""
        return relative_path(path, self.root)

    def load(self, ref: ArrayRef) -> Arrays:
        """Load arrays that the protocol put aside; shared in the process, do not change."""
        return load_arrays(ref, self.root)

    def skip(self, item_id: int, reason: str) -> None:
        """Name an item that could not be processed; the job goes on with a warning.

        Args:
            item_id: of the row; leave it out of the rows that are returned.
            reason: what, got, expected.
        """
        self.skipped.append(Skipped(int(item_id), reason))
        self.log.warning("item %d left out: %s", item_id, reason)
