"""The history of a job, one line of JSON per event, only ever appended to."""

import json
from io import TextIOWrapper
from pathlib import Path
from types import TracebackType
from typing import Any

from verglas.engine.events import Event, event_to_json
from verglas.project.record import now

__all__ = ["Journal", "read_journal"]


class Journal:
    """Appends events to `events.jsonl` of a job's folder."""

    def __init__(self, folder: Path) -> None:
        self._file: TextIOWrapper = (folder / "events.jsonl").open("a", encoding="utf-8")

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    def write(self, event: Event) -> None:
        """Append an event; it is handed to the system before this returns."""
        line = {"time": now(), **event_to_json(event)}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._file.flush()


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
