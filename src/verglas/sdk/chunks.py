"""Cut a data set into chunks, give each a key, run one and store its result.

Every context, in this process or on a cluster, uses these functions, so that a chunk means
the same everywhere. The key is a hash of the function's path, the protocol's id and
version, the seed, the arguments and the content of the rows: resume, restart after a crash
and an equal rerun are all the rule "run the keys whose result is absent".
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import BaseModel

from verglas.core.ids import content_digest
from verglas.model import DataSet
from verglas.model.content import frame_digest, frame_digests
from verglas.sdk.arrays import ArrayRef, Arrays, Bundle, is_bundle, read_bundle, write_bundle
from verglas.sdk.task import Skipped, Task

__all__ = [
    "Chunk",
    "ChunkResult",
    "Plan",
    "chunk_rng",
    "execute_chunk",
    "function_path",
    "has_result",
    "plan_chunks",
    "read_result",
    "result_path",
]


@dataclass(frozen=True)
class Chunk:
    """A block of rows of a plan.

    Attributes:
        key: 32 hexadecimal digits.
        offset: first row in the plan's table.
        n_rows: number of rows.
        group: value of the column that chunks were separated by; None without one.
    """

    key: str
    offset: int
    n_rows: int
    group: Any = None


@dataclass(frozen=True)
class Plan:
    """The chunks of one call of `map` or `accumulate`.

    Attributes:
        table: rows in the order in which they are cut, with the optics joined on.
        chunks: in order; their results are put together in this order.
        step: name of the folder of their results.
        identity: digest of function, protocol, seed and arguments, without the rows; two
            plans that differ in it recompute everything.
    """

    table: pl.DataFrame
    chunks: list[Chunk]
    step: str
    identity: str

    def rows(self, chunk: Chunk) -> pl.DataFrame:
        """Give the rows of a chunk."""
        return self.table.slice(chunk.offset, chunk.n_rows)


@dataclass
class ChunkResult:
    """What a chunk left: rows, arrays to be added, and the items that were left out."""

    rows: pl.DataFrame
    sums: Arrays
    skipped: list[Skipped]


def plan_chunks(
    fn: Callable[..., Any],
    data: DataSet | pl.DataFrame,
    *,
    chunk: int,
    protocol: tuple[str, int],
    kwargs: Mapping[str, Any],
    seed: int = 0,
    by: str | None = None,
    columns: tuple[str, ...] | None = None,
) -> Plan:
    """Cut rows into chunks and give each its key.

    Args:
        fn: module-level function that will run on each chunk.
        data: rows of a data set get the columns of their optics group joined on.
        chunk: largest number of rows in a chunk.
        protocol: id and version.
        kwargs: further arguments of the function.
        seed: of the job.
        by: column whose values a chunk never mixes; groups come in ascending order.
        columns: the ones the function uses; changes in others then leave keys alone.
    """
    if chunk < 1:
        raise ValueError(f"chunk must be >= 1: got {chunk!r}")
    table = _table(data, columns)
    if by is not None:
        table = table.sort(by, maintain_order=True)
    starts, groups = _starts(table, chunk, by)
    borders = np.append(starts, table.height)
    identity = _identity(fn, protocol, kwargs, seed)
    digests = frame_digests(table, borders)
    chunks = [
        Chunk(content_digest((identity.encode(), digest.encode())), int(start), int(n), group)
        for digest, start, n, group in zip(digests, starts, np.diff(borders), groups, strict=True)
    ]
    return Plan(table, chunks, fn.__name__, identity)


def result_path(folder: Path, step: str, key: str) -> Path:
    """Name the file of a chunk's result.

    Args:
        folder: of the job.
        step: of the plan.
        key: of the chunk.
    """
    return folder / "chunks" / step / f"{key}.zip"


def has_result(path: Path) -> bool:
    """Say whether a chunk is done: its result is in place and complete."""
    return is_bundle(path)


def execute_chunk(
    fn: Callable[..., Any],
    rows: pl.DataFrame,
    task: Task,
    kwargs: Mapping[str, Any],
    path: Path,
) -> ChunkResult:
    """Run a function on a chunk and put its result in place.

    Args:
        fn: returns rows, or rows and a dictionary of arrays.
        rows: of the chunk.
        task: its surroundings.
        kwargs: further arguments.
        path: where the result goes, in one rename.
    """
    result = _as_result(fn(rows, task, **kwargs), fn, task)
    if task.folder.is_dir() and not any(task.folder.iterdir()):
        task.folder.rmdir()
    note = {"key": task.key, "skipped": [asdict(item) for item in result.skipped]}
    write_bundle(path, Bundle(result.sums, result.rows, note))
    return result


def read_result(path: Path, *, with_sums: bool = True) -> ChunkResult:
    """Read the result of a chunk; a damaged one raises a `FormatError`.

    Args:
        path: of the result.
        with_sums: leave the arrays in the file when false.
    """
    bundle = read_bundle(path, with_arrays=with_sums)
    rows = pl.DataFrame() if bundle.rows is None else bundle.rows
    skipped = [Skipped(**item) for item in bundle.note["skipped"]]
    return ChunkResult(rows, bundle.arrays, skipped)


def chunk_rng(key: str, seed: int) -> np.random.Generator:
    """Make the random numbers of a chunk: equal key and seed give equal numbers."""
    return np.random.default_rng([int(key, 16), seed])


def function_path(fn: Callable[..., Any]) -> str:
    """Write where a function is, as `package.module:name`; a worker imports it from there."""
    name = getattr(fn, "__qualname__", "")
    if not name or "<" in name or "." in name:
        raise TypeError(f"a chunk function must be at module level: got {fn!r}")
    return f"{fn.__module__}:{name}"


def _identity(
    fn: Callable[..., Any], protocol: tuple[str, int], kwargs: Mapping[str, Any], seed: int
) -> str:
    parts = [function_path(fn), list(protocol), seed, _canonical(dict(kwargs))]
    return content_digest((json.dumps(parts, sort_keys=True).encode(),))


def _canonical(value: Any) -> Any:
    """Turn an argument into JSON that is equal for equal arguments."""
    if value is None or isinstance(value, bool | int | float | str):
        return value.value if isinstance(value, Enum) else value
    if isinstance(value, Mapping):
        items = [[_canonical(key), _canonical(item)] for key, item in value.items()]
        return {"map": sorted(items, key=lambda item: json.dumps(item[0], sort_keys=True))}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, Path):
        return {"path": str(value)}
    if isinstance(value, ArrayRef):
        return {"arrays": value.digest}
    if isinstance(value, DataSet):
        return {"dataset": value.content}
    if isinstance(value, pl.DataFrame):
        return {"table": frame_digest(value)}
    if isinstance(value, BaseModel):
        return {"model": type(value).__qualname__, "values": _canonical(value.model_dump())}
    if isinstance(value, np.generic):
        return _canonical(value.item())
    if isinstance(value, Enum):
        return {"enum": type(value).__qualname__, "name": value.name}
    if is_dataclass(value) and not isinstance(value, type):
        values = {item.name: getattr(value, item.name) for item in fields(value)}
        return {"dataclass": type(value).__qualname__, "values": _canonical(values)}
    raise TypeError(
        f"a chunk argument cannot be {type(value).__name__}: pass plain values, frozen "
        "dataclasses, data sets, or arrays through ctx.put"
    )


def _table(data: DataSet | pl.DataFrame, columns: tuple[str, ...] | None) -> pl.DataFrame:
    if isinstance(data, DataSet):
        return data.rows(columns, with_optics=True)
    return data if columns is None else data.select(columns)


def _starts(
    table: pl.DataFrame, chunk: int, by: str | None
) -> tuple[npt.NDArray[np.int64], list[Any]]:
    """Find the first row of each chunk, and its group."""
    if by is None:
        starts = np.arange(0, table.height, chunk, dtype=np.int64)
        return starts, [None] * len(starts)
    runs = table[by].rle().struct.unnest()
    lengths = runs["len"].cast(pl.Int64).to_numpy()
    firsts = np.cumsum(lengths) - lengths
    n_chunks = -(-lengths // chunk)
    within = np.arange(n_chunks.sum()) - np.repeat(np.cumsum(n_chunks) - n_chunks, n_chunks)
    starts = np.repeat(firsts, n_chunks) + within * chunk
    values = runs["value"].to_list()
    return starts, [values[i] for i in np.repeat(np.arange(len(values)), n_chunks)]


def _as_result(returned: Any, fn: Callable[..., Any], task: Task) -> ChunkResult:
    rows, sums = returned if isinstance(returned, tuple) else (returned, {})
    if not isinstance(rows, pl.DataFrame) or not isinstance(sums, Mapping):
        raise TypeError(
            f"{function_path(fn)} must return a polars DataFrame, or one and a dictionary of "
            f"arrays: got {type(returned).__name__}"
        )
    return ChunkResult(
        rows, {name: np.asarray(array) for name, array in sums.items()}, task.skipped
    )
