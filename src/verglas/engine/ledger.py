"""Which chunks are done: those whose whole result lies under its final name.

Nothing else counts, neither what an executor says nor what the index holds. A result from an
earlier run is read through once before it is believed; a damaged one is removed and made again.
"""

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from verglas.core.errors import FormatError
from verglas.project.layout import read_json, write_json
from verglas.sdk.chunks import has_result
from verglas.sdk.job_context import Work

__all__ = ["StepIdentity", "describe_arguments", "done_keys", "explain_missing"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StepIdentity:
    """What a step was made of, to say later why its chunks must run again."""

    function: str
    protocol: str
    version: int
    seed: int
    arguments: dict[str, str]


def done_keys(work: Work) -> tuple[str, ...]:
    """List the chunks whose results are there and whole."""
    paths = {chunk.key: work.result_path(chunk) for chunk in work.plan.chunks}
    return tuple(key for key, path in paths.items() if path.exists() and _is_whole(path))


def explain_missing(work: Work, identity: StepIdentity, n_missing: int) -> str:
    """Say why chunks must run, and note the step for the next time.

    Args:
        work: the step.
        identity: what the step is made of now.
        n_missing: chunks without a result.

    Returns:
        A line for the log; empty when nothing must run.
    """
    step = work.plan.step
    path = work.folder / "chunks" / step / "step.json"
    reason = ""
    if n_missing:
        counted = f"{n_missing} of {len(work.plan.chunks)} chunks of {step} must run"
        reason = f"{counted}: {_difference(path, identity)}"
    write_json(path, asdict(identity))
    return reason


def describe_arguments(kwargs: Mapping[str, Any]) -> dict[str, str]:
    """Write arguments short enough to be compared and shown."""
    return {name: repr(value)[:200] for name, value in kwargs.items()}


def _difference(path: Path, new: StepIdentity) -> str:
    if not path.exists():
        return "first run"
    try:
        old = read_json(path)
    except FormatError:
        return "first run"
    for name in ("function", "protocol", "version", "seed"):
        if old.get(name) != getattr(new, name):
            return f"{name} changed, {old.get(name)!r} -> {getattr(new, name)!r}"
    before: dict[str, str] = old.get("arguments", {})
    names = sorted(before.keys() | new.arguments.keys())
    changed = [name for name in names if before.get(name) != new.arguments.get(name)]
    if changed:
        return f"argument {', '.join(changed)} changed"
    return "new or changed rows, or not finished before"


def _is_whole(path: Path) -> bool:
    """Check a result's checksums, and remove it when they do not hold."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip() is not None
    except (OSError, EOFError, zipfile.BadZipFile, ValueError):
        damaged = True
    if damaged or not has_result(path):
        log.warning("result %s is damaged and is made again", path.name)
        path.unlink(missing_ok=True)
        return False
    return True
