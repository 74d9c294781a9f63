"""Read and write the records of a project: folders first, index second.

Reading needs no lock. Writing happens inside `with store.writing():`, which takes the project's
lock for that long and first brings the index in line with the folders, so that whatever a
killed process left behind is taken up before anything is added.

A full disk does not keep a record from being written, see `project.reserve`; where even that
has not helped, and on a disk that may only be read, the index is in memory and says what the
files could not be brought to say.
"""

import errno
import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from verglas.core.errors import DiskFull, FormatError, ProjectLocked, UserError
from verglas.core.files import write_text
from verglas.core.ids import dataset_id, job_folder_name, job_id
from verglas.project.db import (
    connect,
    copy_to_memory,
    is_usable,
    last_numbers,
    put_records,
    transaction,
)
from verglas.project.layout import ProjectLayout, json_text
from verglas.project.lock import ProjectLock, is_alive, read_owner
from verglas.project.record import JobRecord, JobStatus
from verglas.project.reserve import Reserve

__all__ = ["DataSetInfo", "Store", "read_record"]

log = logging.getLogger(__name__)

INTERRUPTED = "interrupted: the process that ran this job ended before the job did"
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


@dataclass(frozen=True, slots=True)
class DataSetInfo:
    """What the index knows of a data set."""

    number: int
    job: int
    port: str
    revision: int
    is_current: bool
    kind: str
    n_items: int
    fingerprint: str
    folder: str
    traits: tuple[str, ...]

    @property
    def id(self) -> str:
        """The id that a person types, such as `d41`."""
        return dataset_id(self.number)


class Store:
    """The records of one project."""

    def __init__(self, layout: ProjectLayout) -> None:
        self.layout = layout
        self._lock = ProjectLock(layout.lock)
        self._mutex = threading.RLock()
        self._writers = 0
        self._last_job = 0
        self._last_dataset = 0
        self._connection: sqlite3.Connection | None = None
        self._reserve = Reserve(layout.reserve)
        self._unsaved: dict[int, JobRecord] = {}
        self._is_in_memory = False
        self._has_warned = False
        if self._is_behind():
            self._catch_up()

    @property
    def connection(self) -> sqlite3.Connection:
        """The index, for queries."""
        if self._connection is None:
            self._connection = connect(self.layout.database)
        return self._connection

    def close(self) -> None:
        """Close the index and give the lock back."""
        with self._mutex:
            self._writers = 0
            self._close_index()
            self._lock.release()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the project's lock for the length of a block; blocks may be nested.

        Raises:
            ProjectLocked: another process writes to the project.
            DiskFull: there is no room for the lock, or for how an interrupted job ended.
        """
        with self._mutex:
            if self._writers == 0:
                self._begin()
            self._writers += 1
        try:
            yield
        finally:
            with self._mutex:
                self._writers = max(0, self._writers - 1)
                if self._writers == 0:
                    self._lock.release()

    def folder(self, record: JobRecord) -> Path:
        """Return the path of a job's folder."""
        return self.layout.jobs / record.folder

    def save(self, record: JobRecord) -> JobRecord:
        """Write a record to its folder and then to the index, and return it.

        Raises:
            DiskFull: there is no room for it; the end of a job is kept in memory until there is.
        """
        with self._mutex:
            self._require_lock()
            path = self.folder(record) / "job.json"
            is_begun = record.status.is_active or record.status is JobStatus.DRAFT
            text = json_text(record.model_dump(mode="json"))
            try:
                write_text(path, text)
            except DiskFull as problem:
                # what is kept back is for the ends of jobs; one that only begins had better not
                if is_begun:
                    raise
                if not self._reserve.become(path, text):
                    self._unsaved[record.number] = record
                    self._show_from_memory(problem)
                    raise
            self._unsaved.pop(record.number, None)
            try:
                with transaction(self.connection) as connection:
                    put_records(connection, [(record, file_stamp(path))])
            except DiskFull as problem:
                self._keep_in_memory(problem)
        return record

    def new_job_number(self) -> int:
        """Take the next job number; numbers are never used twice."""
        with self._mutex:
            self._require_lock()
            self._last_job += 1
            return self._last_job

    def new_dataset_number(self) -> int:
        """Take the next data set number; numbers are never used twice."""
        with self._mutex:
            self._require_lock()
            self._last_dataset += 1
            return self._last_dataset

    def job(self, number: int) -> JobRecord:
        """Look up a job, or raise `UserError`."""
        row = self._one("SELECT record FROM job WHERE number = ?", number)
        if row is None:
            raise UserError(
                f"project {str(self.layout.root)!r} has no job {job_id(number)!r}",
                "see verglas jobs",
            )
        return JobRecord.model_validate_json(row["record"])

    def jobs(self) -> list[JobRecord]:
        """List all jobs in order of their numbers."""
        with self._mutex:
            rows = self.connection.execute("SELECT record FROM job ORDER BY number").fetchall()
        return [JobRecord.model_validate_json(row["record"]) for row in rows]

    def dataset(self, number: int) -> DataSetInfo:
        """Look up a data set, or raise `UserError`."""
        row = self._one("SELECT * FROM dataset WHERE number = ?", number)
        if row is None:
            raise UserError(
                f"project {str(self.layout.root)!r} has no data set {dataset_id(number)!r}",
                "see verglas show",
            )
        return _dataset_info(row)

    def datasets(self) -> list[DataSetInfo]:
        """List all data sets in order of their numbers, replaced ones included."""
        with self._mutex:
            rows = self.connection.execute("SELECT * FROM dataset ORDER BY number").fetchall()
        return [_dataset_info(row) for row in rows]

    def reindex(self) -> int:
        """Make the index anew from the job folders and return the number of jobs."""
        with self.writing(), self._mutex:
            self._close_index()
            for suffix in ("", "-journal"):
                self.layout.database.with_name(f"project.db{suffix}").unlink(missing_ok=True)
            return self._reconcile()

    def _one(self, query: str, *values: object) -> sqlite3.Row | None:
        with self._mutex:
            row: sqlite3.Row | None = self.connection.execute(query, values).fetchone()
        return row

    def _begin(self) -> None:
        """Take the lock and bring the index in line."""
        try:
            self._lock.acquire()
        except DiskFull:
            if not self._reserve.shrink():
                raise
            self._lock.acquire()
        self._close_index()
        try:
            self._reserve.fill()
            self._reconcile()
        except BaseException as problem:
            self._lock.release()
            if isinstance(problem, DiskFull):
                self._show_from_memory(problem)
            raise

    def _close_index(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._is_in_memory = False

    def _require_lock(self) -> None:
        if self._writers == 0:
            raise ProjectLocked("the project is open for reading only", "use Store.writing()")

    def _is_behind(self) -> bool:
        """Whether the index must be brought in line before it can be believed."""
        if not is_usable(self.layout.database):
            return True
        query = "SELECT count(*) FROM job WHERE status IN ('queued', 'running')"
        (n_active,) = self.connection.execute(query).fetchone()
        if n_active:
            owner = read_owner(self.layout.lock)
            return owner is None or not is_alive(owner, self.layout.lock)
        return _stamps(self.layout) != self._known_stamps()

    def _catch_up(self) -> None:
        """Bring the index in line, unless somebody else writes and keeps it so."""
        try:
            with self.writing():
                pass
        except ProjectLocked:
            if not is_usable(self.layout.database):
                raise
        except DiskFull as problem:
            if not self._is_in_memory:
                self._show_from_memory(problem)
        except OSError as problem:
            if problem.errno not in _READ_ONLY:
                raise
            self._show_from_memory(problem)

    def _show_from_memory(self, problem: Exception) -> None:
        """Let the index in memory say how the project stands, since the files cannot."""
        if not self._has_warned:
            log.warning("what is shown could not be written down: %s", problem)
        self._has_warned = True
        self._keep_in_memory(problem)
        unsaved = self._unsaved if self._writers else self._ended_jobs()
        with transaction(self.connection) as connection:
            put_records(connection, [(record, 0) for record in unsaved.values()])

    def _keep_in_memory(self, problem: Exception) -> dict[str, int]:
        """Go on with an index in memory; returns the stamps of all folders, which are the truth."""
        log.info("the index is kept in memory: %s", problem)
        self._close_index()
        self._connection = copy_to_memory(self.layout.database)
        self._is_in_memory = True
        return self._take_up_folders()

    def _known_stamps(self) -> dict[str, int]:
        rows = self.connection.execute("SELECT number, protocol, stamp FROM job")
        return {job_folder_name(r["number"], r["protocol"]): int(r["stamp"]) for r in rows}

    def _reconcile(self) -> int:
        """Bring the index in line with the folders; needs the lock."""
        try:
            self._connection = connect(self.layout.database, write=True)
            found = self._take_up_folders()
            self._has_warned = False
        except DiskFull as problem:
            found = self._keep_in_memory(problem)
        last_job, self._last_dataset = last_numbers(self.connection)
        self._last_job = max([last_job, *map(_folder_number, found)])
        if self._writers == 0:
            self._end_interrupted()
        return len(found)

    def _take_up_folders(self) -> dict[str, int]:
        """Take up every `job.json` that the index does not know; returns the stamps of all."""
        found, known = _stamps(self.layout), self._known_stamps()
        changed = {name: stamp for name, stamp in found.items() if known.get(name) != stamp}
        records = list(_readable(self.layout.jobs, changed))
        gone = [_folder_number(name) for name in known.keys() - found.keys()]
        if records or gone:
            with transaction(self.connection) as connection:
                connection.executemany("DELETE FROM job WHERE number = ?", [(n,) for n in gone])
                put_records(connection, records)
        return found

    def _end_interrupted(self) -> None:
        """Write down the end of jobs whose process has ended; needs the lock."""
        self._writers += 1
        try:
            for record in self._ended_jobs().values():
                self.save(record)
            self._unsaved.clear()
        finally:
            self._writers -= 1

    def _ended_jobs(self) -> dict[int, JobRecord]:
        """Jobs that seem to run cannot, unless a process has the lock: say how they ended."""
        ended = {}
        for row in self.connection.execute(
            "SELECT record FROM job WHERE status IN ('queued', 'running')"
        ):
            record = JobRecord.model_validate_json(row["record"])
            interrupted = record.replace(status=JobStatus.FAILED, error=INTERRUPTED)
            interrupted = interrupted.with_moment("interrupted")
            ended[record.number] = self._unsaved.get(record.number, interrupted)
        return ended


def read_record(folder: Path) -> JobRecord:
    """Read `job.json` of a folder, or raise `FormatError` when it is damaged."""
    path = folder / "job.json"
    try:
        return JobRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(
            f"{str(path)!r} is damaged: {where or 'content'}: {first['msg'].lower()}",
            "restore the file from a copy, or move the job's folder out of the project",
        ) from error


def file_stamp(path: Path) -> int:
    """Tell one version of a file from another by time and size."""
    stat = path.stat()
    return stat.st_mtime_ns + stat.st_size


def _stamps(layout: ProjectLayout) -> dict[str, int]:
    return {folder.name: file_stamp(folder / "job.json") for folder in layout.job_folders()}


def _readable(jobs: Path, stamps: Mapping[str, int]) -> Iterator[tuple[JobRecord, int]]:
    """Read records; a damaged one is left out, so that the other jobs stay in reach."""
    for name, stamp in stamps.items():
        try:
            yield read_record(jobs / name), stamp
        except FormatError as error:
            log.warning("%s", error)


def _folder_number(name: str) -> int:
    digits = name.partition("-")[0]
    return int(digits) if digits.isdecimal() else 0


def _dataset_info(row: sqlite3.Row) -> DataSetInfo:
    values = dict(row)
    values["is_current"] = bool(values["is_current"])
    values["traits"] = tuple(json.loads(values["traits"]))
    return DataSetInfo(**values)
