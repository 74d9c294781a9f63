"""The history of a job, one line of JSON per event, only ever appended to."""

import json
import os
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any

from verglas.core.files import disk_full_explained
from verglas.engine.events import Event, event_to_json
from verglas.project.record import now

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends events to `events.jsonl` of a job's folder; the first one makes the file."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "events.jsonl"
        self._file: FileIO | None = None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()

    def write(self, event: Event) -> None:
        """Append an event, whole or not at all; the system has it when this returns.

        Raises:
            DiskFull: there is no room for it.
        """
        line = json.dumps({"time": now(), **event_to_json(event)}, ensure_ascii=False) + "\n"
        with disk_full_explained(self._path):
            if self._file is None:
                self._file = FileIO(self._path, "a")
            end = self._file.seek(0, os.SEEK_END)
            try:
                _write_all(self._file, line.encode())
            except OSError:
                self._file.truncate(end)
                raise


def _write_all(file: FileIO, data: bytes) -> None:
    """Write until nothing is left: the system may take a part when space runs out."""
    while data:
        data = data[file.write(data) :]


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """Read the events of a job; a last line cut by a crash is left out."""
    path = folder / "events.jsonl"
    if not path.exists():
        return []
    events = []
    for line in path.read_text("utf-8").splitlines():
        try:
            events.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return events
