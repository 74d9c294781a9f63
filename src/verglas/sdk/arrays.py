"""Store arrays beside tables: content-addressed files, sums over chunks.

A bundle is one uncompressed zip file with arrays as `.npy`, an optional table as an Arrow
stream (50 times faster than parquet for the few rows of a chunk) and an optional JSON note.
Being one file, it appears in one rename, and every read checks the checksums that zip keeps
per member. No pickle is ever read.
"""

import io
import json
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import polars as pl

from verglas.core.errors import FormatError
from verglas.core.files import atomic_path
from verglas.core.ids import content_digest

__all__ = [
    "FAN_IN",
    "ArrayRef",
    "Arrays",
    "Bundle",
    "add_arrays",
    "arrays_digest",
    "is_bundle",
    "load_arrays",
    "put_arrays",
    "read_bundle",
    "tree_sum",
    "write_bundle",
]

Arrays = dict[str, npt.NDArray[Any]]
"""Arrays by name."""

FAN_IN = 16
"""Partial sums are added in groups of this many, level by level."""

_CACHED_FILES = 2  # the current references and one thing beside them
_ROWS = "rows.arrow"
_NOTE = "note.json"
_ROWS_ONCE = "rows.parquet"  # as written before 20 November 2026


@dataclass(frozen=True)
class ArrayRef:
    """Arrays that were put aside: where they are and what they contain.

    Attributes:
        path: file, relative to the project's folder.
        digest: of names, types, shapes and values; enters chunk keys.
    """

    path: str
    digest: str


@dataclass
class Bundle:
    """What a bundle file holds."""

    arrays: Arrays = field(default_factory=dict)
    rows: pl.DataFrame | None = None
    note: dict[str, Any] = field(default_factory=dict)


def write_bundle(path: Path, bundle: Bundle) -> None:
    """Write a bundle in one step: all of it or nothing.

    Args:
        path: final name, `.zip`.
        bundle: arrays of any dtype but object.
    """
    with (
        atomic_path(path, may_vanish=True) as temporary,
        zipfile.ZipFile(temporary, "w") as archive,
    ):
        if bundle.rows is not None:
            buffer = io.BytesIO()
            bundle.rows.write_ipc_stream(buffer, compression="zstd")
            archive.writestr(_member(_ROWS), buffer.getvalue())
        for name, array in bundle.arrays.items():
            with archive.open(_member(f"{name}.npy"), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
        archive.writestr(_member(_NOTE), json.dumps(bundle.note, sort_keys=True))


def read_bundle(path: Path, *, with_arrays: bool = True) -> Bundle:
    """Read a bundle and check its checksums; a damaged one raises a `FormatError`.

    Args:
        path: of the file.
        with_arrays: leave the arrays, which may be large, in the file when false.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            note = json.loads(archive.read(_NOTE))
            rows = _read_rows(archive, names)
            wanted = [name for name in names if with_arrays and name.endswith(".npy")]
            arrays = {name.removesuffix(".npy"): _read_array(archive, name) for name in wanted}
    except (
        OSError,
        EOFError,
        ValueError,
        KeyError,
        zipfile.BadZipFile,
        pl.exceptions.PolarsError,
    ) as error:
        raise FormatError(f"damaged or missing file {str(path)!r}: {error}") from error
    return Bundle(arrays, rows, note)


def is_bundle(path: Path) -> bool:
    """Say whether a file is there and complete, without reading its content."""
    try:
        with zipfile.ZipFile(path) as archive:
            return _NOTE in archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return False


def arrays_digest(arrays: Mapping[str, npt.NDArray[Any]]) -> str:
    """Hash names, types, shapes and values of arrays."""
    parts: list[bytes | memoryview] = []
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        parts.append(f"{name} {array.dtype.str} {arrays[name].shape}".encode())
        parts.append(array.reshape(-1).view(np.uint8).data if array.size else b"")
    return content_digest(parts)


def put_arrays(arrays: Mapping[str, npt.NDArray[Any]], folder: Path, root: Path) -> ArrayRef:
    """Store arrays under their content, once.

    Args:
        arrays: by name.
        folder: where the file goes.
        root: folder that the reference is relative to.
    """
    digest = arrays_digest(arrays)
    path = folder / f"{digest}.zip"
    if not is_bundle(path):
        write_bundle(path, Bundle(dict(arrays)))
    return ArrayRef(path.resolve().relative_to(root.resolve()).as_posix(), digest)


def load_arrays(ref: ArrayRef, root: Path) -> Arrays:
    """Load arrays that were put aside; the last few files stay in memory.

    The arrays are shared between callers in one process: do not write to them.
    """
    return dict(_load_cached(str(root / ref.path), ref.digest))


def add_arrays(parts: Iterable[Mapping[str, npt.NDArray[Any]]]) -> Arrays:
    """Add dictionaries of arrays in order, in double precision.

    Args:
        parts: with equal names and shapes; float32 is widened to float64, complex64 to
            complex128, integers and booleans to int64.
    """
    total: Arrays = {}
    for i, part in enumerate(parts):
        if i and set(part) != set(total):
            raise ValueError(f"sums must have equal names: got {sorted(part)}, {sorted(total)}")
        for name, array in part.items():
            if i == 0:
                total[name] = np.array(array, dtype=_wide(np.asarray(array).dtype))
            elif total[name].shape != np.shape(array):
                raise ValueError(
                    f"sums must have equal shapes: {name!r} has {np.shape(array)}, "
                    f"expected {total[name].shape}"
                )
            else:
                total[name] += array
    return total


def tree_sum(load: Sequence[Callable[[], Mapping[str, npt.NDArray[Any]]]]) -> Arrays:
    """Add many dictionaries of arrays in a tree of fan-in 16.

    The order of additions depends on the number of parts only, so that a distributed
    reduction over the same tree gives the same bits. At most one partial sum per level is
    in memory.

    Args:
        load: functions that each give one part, called once and in order.
    """
    if len(load) <= FAN_IN:
        return add_arrays(part() for part in load)
    span = FAN_IN
    while span * FAN_IN < len(load):
        span *= FAN_IN
    return add_arrays(tree_sum(load[i : i + span]) for i in range(0, len(load), span))


def _wide(dtype: np.dtype[Any]) -> npt.DTypeLike:
    if dtype.kind == "c":
        return np.complex128
    if dtype.kind == "f":
        return np.float64
    if dtype.kind in "iub":
        return np.int64
    raise TypeError(f"arrays of {dtype} cannot be added")


def _member(name: str) -> zipfile.ZipInfo:
    return zipfile.ZipInfo(name)  # with a fixed date: equal content gives equal bytes


def _read_rows(archive: zipfile.ZipFile, names: list[str]) -> pl.DataFrame | None:
    if _ROWS in names:
        return pl.read_ipc_stream(io.BytesIO(archive.read(_ROWS)))
    if _ROWS_ONCE in names:
        return pl.read_parquet(io.BytesIO(archive.read(_ROWS_ONCE)))
    return None


def _read_array(archive: zipfile.ZipFile, name: str) -> npt.NDArray[Any]:
    with archive.open(name) as member:
        array = np.lib.format.read_array(cast(Any, member), allow_pickle=False)
        member.read()  # to the end, where the checksum is compared
    return array


@lru_cache(maxsize=_CACHED_FILES)
def _load_cached(path: str, digest: str) -> Arrays:
    arrays = read_bundle(Path(path)).arrays
    if arrays_digest(arrays) != digest:
        raise FormatError(f"file {path!r} has changed since it was written")
    return arrays
