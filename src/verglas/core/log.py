"""Write the log of a job: one file for people, one line of JSON per record for programs.

`log.txt` is what `verglas log` shows. `log.jsonl` has the same records with their fields,
so that the page can filter by level without parsing text.
"""

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from verglas.core.files import DISK_FULL, full_disk_ignored

__all__ = ["JsonLinesFormatter", "TextFormatter", "job_log", "read_json_log"]

_PACKAGE = "verglas"


def _time_text(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, tz=UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


class TextFormatter(logging.Formatter):
    """Format a record as `time  LEVEL  message`, with the traceback below it."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as text."""
        text = f"{_time_text(record)}  {record.levelname:<7}  {record.getMessage()}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class JsonLinesFormatter(logging.Formatter):
    """Format a record as one line of JSON: time, level, logger, message, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record as a line of JSON."""
        fields = {
            "time": _time_text(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class _LogFile(logging.FileHandler):
    """A log that goes on without lines for which the disk has no room."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Keep silent about a full disk, of which the job itself tells."""
        error = sys.exc_info()[1]
        if not (isinstance(error, OSError) and error.errno in DISK_FULL):
            super().handleError(record)

    def close(self) -> None:
        """Close the file; lines that still find no room are lost."""
        with full_disk_ignored():
            super().close()


@contextmanager
def job_log(folder: Path, *, level: int = logging.INFO) -> Iterator[None]:
    """Append what the package logs to `log.txt` and `log.jsonl` of a folder.

    Args:
        folder: of the job; made if absent.
        level: lowest level that is kept.
    """
    folder.mkdir(parents=True, exist_ok=True)
    logger = logging.getLogger(_PACKAGE)
    handlers = [
        _file_handler(folder / "log.txt", TextFormatter(), level),
        _file_handler(folder / "log.jsonl", JsonLinesFormatter(), level),
    ]
    former_level = logger.level
    logger.setLevel(min(level, logger.getEffectiveLevel()))
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(former_level)


def read_json_log(path: Path) -> list[dict[str, str]]:
    """Read `log.jsonl`; a last line cut by a crash is left out."""
    records = []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def _file_handler(path: Path, formatter: logging.Formatter, level: int) -> logging.Handler:
    handler = _LogFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(formatter)
    handler.setLevel(level)
    return handler
