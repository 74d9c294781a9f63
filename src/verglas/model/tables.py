"""Write parquet files so that a full disk is told apart from a bug.

Polars reports a failed write as its own error, with the number of the system's error in
the text; here it becomes the `OSError` that it is.
"""

import os
import re
from pathlib import Path
from typing import Literal

import polars as pl

__all__ = ["write_parquet"]

_SYSTEM_ERROR = re.compile(r"\(os error (\d+)\)")


def write_parquet(
    frame: pl.DataFrame,
    path: Path,
    *,
    compression: Literal["zstd", "lz4"] = "zstd",
    rows_per_group: int | None = None,
) -> None:
    """Write a table, compressed; raise `OSError` where the system refuses.

    Args:
        frame: any table.
        path: temporary name; the caller flushes and renames.
        compression: `lz4` for what is read again at once.
        rows_per_group: how many rows can be read on their own.
    """
    try:
        frame.write_parquet(path, compression=compression, row_group_size=rows_per_group)
    except pl.exceptions.ComputeError as error:
        found = _SYSTEM_ERROR.search(str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error
