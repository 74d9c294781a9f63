"""What a protocol sees of the world: the context of its job.

The engine gives one that spreads chunks over a cluster; `verglas.sdk.testing` gives one
that does everything in this process. A protocol must not be able to tell them apart.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import polars as pl

from verglas.core.errors import EngineError
from verglas.model import DataSet, Kind
from verglas.model.dataset import Rows
from verglas.sdk.arrays import ArrayRef, Arrays
from verglas.sdk.states import State
from verglas.sdk.tool import Command, Completed, Tool

__all__ = ["Accumulated", "Context", "JobCancelled"]


class JobCancelled(EngineError):
    """A person, or a test, stopped the job; what is finished is kept."""


@dataclass(frozen=True)
class Accumulated:
    """What `ctx.accumulate` gives.

    Attributes:
        rows: of all chunks, in order.
        sums: for each value of `by` (None without it) the arrays, added over its chunks
            in double precision.
    """

    rows: pl.DataFrame
    sums: dict[Any, Arrays]


class Context(Protocol):
    """The job that a protocol runs in.

    Attributes:
        root: the project's folder; paths in tables start from it.
        files: folder for the job's own files, made.
        log: goes to the job's log.
        seed: of the job; chunks get theirs from it.
    """

    root: Path
    files: Path
    log: logging.Logger
    seed: int

    def map(
        self,
        fn: Callable[..., pl.DataFrame],
        data: DataSet | pl.DataFrame,
        *,
        chunk: int,
        cpus: int = 1,
        gpus: int = 0,
        columns: tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> pl.DataFrame:
        """Run a function on each chunk of rows and put the results together in order.

        Chunks are distributed, kept, and not run again when the job is resumed.

        Args:
            fn: module-level `fn(rows, task, **kwargs) -> rows`.
            data: rows of a data set come with the columns of their optics group.
            chunk: largest number of rows at a time.
            cpus: threads for each chunk.
            gpus: 1 for a chunk that uses a GPU if there is one.
            columns: the ones that `fn` uses; changes in others leave results valid.
            kwargs: plain values, frozen dataclasses, data sets and `ArrayRef`.
        """
        ...

    def accumulate(
        self,
        fn: Callable[..., tuple[pl.DataFrame, Mapping[str, npt.NDArray[Any]]]],
        data: DataSet | pl.DataFrame,
        *,
        chunk: int,
        by: str | None = None,
        cpus: int = 1,
        gpus: int = 0,
        columns: tuple[str, ...] | None = None,
        **kwargs: Any,
    ) -> Accumulated:
        """Run a function on each chunk, and add up the arrays that it returns beside rows.

        Args:
            fn: module-level `fn(rows, task, **kwargs) -> (rows, arrays)`.
            data: as for `map`.
            chunk: largest number of rows at a time.
            by: column whose values (half sets, classes) are summed apart and never mixed.
            cpus: threads for each chunk.
            gpus: 1 for a chunk that uses a GPU if there is one.
            columns: the ones that `fn` uses.
            kwargs: as for `map`.
        """
        ...

    def iterate(
        self,
        step: Callable[[State, int], State],
        state: State,
        *,
        until: Callable[[State], bool],
    ) -> State:
        """Repeat a step until its state says so, with a checkpoint after each.

        A resumed job goes on from the last checkpoint. Sums that were accumulated during
        an iteration are removed once its state is safe.

        Args:
            step: `step(state, iteration) -> state`, iteration from 0; may map and accumulate.
            state: first state, arrays and plain values.
            until: asked before each step.
        """
        ...

    def put(self, arrays: Mapping[str, npt.NDArray[Any]]) -> ArrayRef:
        """Put arrays aside for chunks, which get them with `task.load(ref)`."""
        ...

    def load(self, ref: ArrayRef) -> Arrays:
        """Load arrays that were put aside."""
        ...

    def call(self, tool: Tool, command: Command) -> Completed:
        """Run an outside program; what it prints goes to the job's log."""
        ...

    def ask(self, kind: Kind, draft: DataSet) -> DataSet:
        """Park the job until a person has edited a data set."""
        ...

    def dataset(
        self,
        kind: Kind,
        rows: pl.DataFrame | pl.LazyFrame,
        *,
        optics: pl.DataFrame | None = None,
        source: DataSet | None = None,
    ) -> DataSet:
        """Make an output from a table.

        Args:
            kind: what a row is.
            rows: without `item_id` they are numbered from 0.
            optics: one row per optics group; that of `source` by default.
            source: the data set that it was made from.
        """
        ...

    def select(self, data: DataSet, rows: Rows) -> DataSet:
        """Make an output of some rows of a data set; only their ids are stored."""
        ...

    def write_file(self, name: str, write: Callable[[Path], None]) -> str:
        """Write a file of the job in one step.

        Args:
            name: below `files`; folders in it are made.
            write: called with a temporary path of the same suffix.

        Returns:
            Its path as stored in tables, relative to the project.
        """
        ...

    def path(self, text: str) -> Path:
        """Resolve a path as stored in a table."""
        ...

    def relative(self, path: Path) -> str:
        """Write a path as it is stored in a table."""
        ...

    def progress(self, done: int, total: int, text: str = "") -> None:
        """Report how far the job is, beyond what its chunks report."""
        ...

    def metric(self, name: str, value: float | str) -> None:
        """Record a key number of the job, as `resolution_angst`, for tables and reports."""
        ...

    def warn(self, text: str) -> None:
        """Record a warning: the result is valid, but a person should know."""
        ...
