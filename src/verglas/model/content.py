"""Hash the content of tables, so that equal rows are known to be equal anywhere.

Chunk keys and content ids rest on these digests, so they must not change with the version
of polars, the order of columns or how a table was cut into files. Bytes of whole columns
are hashed per block of rows; no Python loop runs over rows.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import polars as pl

from verglas.core.ids import content_digest

__all__ = ["frame_digest", "frame_digests"]

_Cutter = Callable[[int, int], Iterator[memoryview]]


def frame_digest(frame: pl.DataFrame) -> str:
    """Hash a table: names, types and values of the columns, and the order of the rows."""
    return frame_digests(frame, np.array([0, frame.height]))[0]


def frame_digests(frame: pl.DataFrame, borders: Sequence[int] | npt.NDArray[np.int64]) -> list[str]:
    """Hash consecutive blocks of rows of a table.

    Args:
        frame: columns of numbers, booleans, strings or lists of these.
        borders: `[n+1]`, ascending row numbers; block i is `borders[i]` to `borders[i+1]`.

    Returns:
        `[n]` digests; a block's digest depends on its own rows only.
    """
    names = sorted(frame.columns)
    heads = [f"{name}:{frame.schema[name]}".encode() for name in names]
    cutters = [_cutter(frame[name]) for name in names]
    digests = []
    for start, stop in pairwise(borders):
        parts: list[bytes | memoryview] = []
        for head, cut in zip(heads, cutters, strict=True):
            parts.append(head)
            parts.extend(cut(int(start), int(stop)))
        digests.append(content_digest(parts))
    return digests


def _cutter(series: pl.Series) -> _Cutter:
    """Prepare a column so that any block of its rows can be given as bytes."""
    mask = _view(series.is_null().to_numpy()) if series.null_count() else None
    values = _values_cutter(series)

    def cut(start: int, stop: int) -> Iterator[memoryview]:
        if mask is not None and any(mask[start:stop]):
            yield mask[start:stop]
        yield from values(start, stop)

    return cut


def _values_cutter(series: pl.Series) -> _Cutter:
    if isinstance(series.dtype, pl.List):
        return _list_cutter(series)
    if series.dtype in (pl.String, pl.Categorical, pl.Enum):
        return _text_cutter(series.cast(pl.String))
    if series.dtype == pl.Null:
        return _nothing
    if series.dtype.is_numeric() or series.dtype in (pl.Boolean, pl.Date, pl.Datetime):
        return _number_cutter(series)
    raise TypeError(
        f"column {series.name!r} cannot be hashed: got {series.dtype}, "
        "expected numbers, booleans, strings or lists of these"
    )


def _nothing(start: int, stop: int) -> Iterator[memoryview]:
    yield from ()


def _number_cutter(series: pl.Series) -> _Cutter:
    if series.dtype == pl.Boolean:
        series = series.cast(pl.UInt8)
    values = series.to_physical().fill_null(0).to_numpy()
    data, width = _view(values), values.dtype.itemsize

    def cut(start: int, stop: int) -> Iterator[memoryview]:
        yield data[start * width : stop * width]

    return cut


def _text_cutter(series: pl.Series) -> _Cutter:
    data = memoryview("".join(series.fill_null("").to_list()).encode())
    return _ragged_cutter(series.str.len_bytes(), lambda start, stop: iter((data[start:stop],)))


def _list_cutter(series: pl.Series) -> _Cutter:
    lengths = series.list.len()
    inner = series.filter((lengths > 0).fill_null(False)).explode()
    return _ragged_cutter(lengths, _cutter(inner))


def _ragged_cutter(lengths: pl.Series, inner: _Cutter) -> _Cutter:
    counts = lengths.fill_null(0).cast(pl.Int64).to_numpy()
    offsets = np.concatenate([[0], np.cumsum(counts)])
    sizes = _view(counts)

    def cut(start: int, stop: int) -> Iterator[memoryview]:
        yield sizes[8 * start : 8 * stop]
        yield from inner(int(offsets[start]), int(offsets[stop]))

    return cut


def _view(values: npt.NDArray[np.generic]) -> memoryview:
    return np.ascontiguousarray(values).view(np.uint8).data
