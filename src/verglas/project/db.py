"""The index of a project in SQLite: open, fill from records, look up.

Rollback journal and not WAL, because project folders live on network file systems. One process
writes (it holds the project's lock); any number read. A damaged index is moved aside: it holds
nothing that the job folders do not.
"""

import errno
import hashlib
import json
import logging
import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from verglas.core.errors import UserError
from verglas.core.files import disk_full_explained
from verglas.project.migrations import MIGRATIONS, migrate, n_applied
from verglas.project.record import JobRecord, Output

__all__ = [
    "connect",
    "copy_to_memory",
    "is_usable",
    "last_numbers",
    "put_records",
    "transaction",
]

log = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 20.0


def connect(path: Path, *, write: bool = False) -> sqlite3.Connection:
    """Open the index; with `write` it is made or brought up to date where needed.

    Raises:
        UserError: the file cannot be opened; `DiskFull` for lack of space.
    """
    try:
        connection = _open(path)
        if write:
            migrate(connection)
    except sqlite3.DatabaseError as error:
        with disk_full_explained(path):
            _raise_if_full(error)
        if not write or isinstance(error, sqlite3.OperationalError):
            raise UserError(
                f"the index {str(path)!r} cannot be opened: {error}",
                "run verglas reindex; check that the disk is not full and the folder writable",
            ) from error
        aside = path.with_name(f"{path.name}.damaged")
        log.warning("the index was damaged and is made anew; the old one is %s", aside)
        path.replace(aside)
        connection = _open(path)
        migrate(connection)
    return connection


def copy_to_memory(path: Path) -> sqlite3.Connection:
    """Open an index in memory, with what the file holds as far as it can be read.

    It stands in for the file where that cannot be written, and is lost with the process.
    """
    copy = _prepare(sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False))
    if is_usable(path):
        with closing(_open(path)) as connection:
            connection.backup(copy)
    else:
        migrate(copy)
    return copy


def is_usable(path: Path) -> bool:
    """Whether the index is there, whole and of the present form."""
    if not path.is_file():
        return False
    try:
        connection = _open(path)
        try:
            return n_applied(connection) == len(MIGRATIONS)
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return False


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """Group writes: all of them or none; `DiskFull` is raised when there is no room."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield connection
        connection.execute("COMMIT")
    except BaseException as error:
        if connection.in_transaction:  # a full disk rolls back by itself
            connection.execute("ROLLBACK")
        with disk_full_explained(_path_of(connection)):
            _raise_if_full(error)
        raise


def put_records(connection: sqlite3.Connection, records: Iterable[tuple[JobRecord, int]]) -> None:
    """Write records into the index, inside the caller's transaction.

    Args:
        connection: opened for writing.
        records: each with the stamp of its `job.json`, see `store.file_stamp`.
    """
    rows: dict[str, list[tuple[object, ...]]] = {table: [] for table in _INSERT}
    for record, stamp in records:
        connection.execute("DELETE FROM job WHERE number = ?", (record.number,))
        environment = json.dumps(record.environment, sort_keys=True)
        digest = hashlib.blake2b(environment.encode(), digest_size=8).hexdigest()
        rows["environment"].append((digest, environment))
        rows["job"].append(_job_row(record, digest, stamp))
        rows["dataset"] += _dataset_rows(record)
        rows["link"] += _link_rows(record)
        rows["chunk"] += [
            (record.number, s.step, s.total, s.reused, s.failed, s.seconds) for s in record.steps
        ]
        rows["event"] += [(record.number, m.time, m.what, m.text) for m in record.history]
        rows["note"] += [(record.number, m.time, m.text) for m in record.notes]
    for table, statement in _INSERT.items():
        connection.executemany(statement, rows[table])


def last_numbers(connection: sqlite3.Connection) -> tuple[int, int]:
    """Return the highest job and data set numbers in use."""
    (job,) = connection.execute("SELECT coalesce(max(number), 0) FROM job").fetchone()
    (dataset,) = connection.execute("SELECT coalesce(max(number), 0) FROM dataset").fetchone()
    return int(job), int(dataset)


_INSERT = {
    "environment": "INSERT OR IGNORE INTO environment VALUES (?, ?)",
    "job": "INSERT INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "dataset": "INSERT OR REPLACE INTO dataset VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    "link": "INSERT INTO link VALUES (?, ?, ?, ?, ?)",
    "chunk": "INSERT OR REPLACE INTO chunk VALUES (?, ?, ?, ?, ?, ?)",
    "event": "INSERT INTO event VALUES (?, ?, ?, ?)",
    "note": "INSERT INTO note VALUES (?, ?, ?)",
}


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    return _prepare(connection)


def _prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA journal_mode = DELETE").fetchone()
    connection.execute("PRAGMA synchronous = NORMAL")
    return connection


def _raise_if_full(error: BaseException) -> None:
    """Raise the system's error where SQLite met a full disk or quota."""
    code = getattr(error, "sqlite_errorcode", None)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_WRITE):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error


def _path_of(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()["file"] or ":memory:")


def _job_row(record: JobRecord, environment: str, stamp: int) -> tuple[object, ...]:
    return (
        record.number,
        record.protocol,
        record.label,
        record.status,
        record.revision,
        record.deleted,
        environment,
        record.created,
        record.ended,
        record.seconds,
        stamp,
        record.model_dump_json(),
    )


def _dataset_rows(record: JobRecord) -> list[tuple[object, ...]]:
    """Rows of all data sets a job ever made; one that came back unchanged is current."""
    former = [output for revision in record.former for output in revision.outputs]
    outputs: dict[int, tuple[Output, bool]] = {o.dataset: (o, False) for o in former}
    outputs |= {o.dataset: (o, True) for o in record.outputs}
    return [
        (
            o.dataset,
            record.number,
            o.port,
            o.revision,
            current,
            o.kind,
            o.n_items,
            o.fingerprint,
            o.folder,
            json.dumps(o.traits),
        )
        for o, current in outputs.values()
    ]


def _link_rows(record: JobRecord) -> list[tuple[object, ...]]:
    ins = [(record.number, i.dataset, i.port, "in", n) for n, i in enumerate(record.inputs)]
    outs = [(record.number, o.dataset, o.port, "out", n) for n, o in enumerate(record.outputs)]
    return [*ins, *outs]
