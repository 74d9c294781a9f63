"""What came from what: ancestors, descendants, what is out of date and why.

Only jobs and data sets are nodes. A job is out of date when a data set that it read has been
replaced, or when a job above it is out of date. Nothing is marked in the files: the answer
follows from the links, so it is right again as soon as the job is run again, and after the
index was rebuilt.
"""

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from verglas.core.ids import dataset_id, job_id
from verglas.project.record import Input, JobRecord

__all__ = [
    "RULES",
    "Edge",
    "Graph",
    "StaleReason",
    "ancestors",
    "descendants",
    "describe_change",
    "graph",
    "stale_jobs",
]

_WORK = frozenset({"files", "chunks", "checkpoints", "arrays", "questions"})

RULES: dict[str, frozenset[str]] = {
    # the record stays: job.json, events.jsonl and the logs
    "delete": _WORK | {"outputs", "revisions"},
    # tables of other jobs may be written as a difference to the tables of this one
    "delete_used": _WORK,
    # a run that must not find anything of the one before
    "forget": _WORK,
}
"""Which entries of a job's folder an action removes; all others stay."""


@dataclass(frozen=True, slots=True)
class Edge:
    """A data set that one job made and another read."""

    source: int
    target: int
    dataset: int
    port: str


@dataclass(frozen=True, slots=True)
class StaleReason:
    """Why a job is out of date; `cause` is the job that was run again."""

    cause: int
    text: str


@dataclass(frozen=True, slots=True)
class Graph:
    """All jobs and how data sets join them."""

    jobs: tuple[JobRecord, ...]
    edges: tuple[Edge, ...]
    stale: dict[int, tuple[StaleReason, ...]]


_UPSTREAM = """
WITH RECURSIVE reached (job) AS (
    VALUES (?)
    UNION
    SELECT dataset.job FROM reached
    JOIN link ON link.job = reached.job AND link.direction = 'in'
    JOIN dataset ON dataset.number = link.dataset
) SELECT job FROM reached WHERE job != ? ORDER BY job
"""

_DOWNSTREAM = """
WITH RECURSIVE reached (job) AS (
    VALUES (?)
    UNION
    SELECT link.job FROM reached
    JOIN dataset ON dataset.job = reached.job
    JOIN link ON link.dataset = dataset.number AND link.direction = 'in'
) SELECT job FROM reached WHERE job != ? ORDER BY job
"""

_EDGES = """
SELECT dataset.job AS source, link.job AS target, link.dataset, link.port
FROM link JOIN dataset ON dataset.number = link.dataset
WHERE link.direction = 'in' ORDER BY target, position
"""

_REPLACED = """
SELECT link.job AS job, link.port AS port, dataset.number AS dataset, dataset.job AS cause,
       dataset.revision AS revision
FROM link JOIN dataset ON dataset.number = link.dataset
JOIN job ON job.number = link.job
WHERE link.direction = 'in' AND NOT dataset.is_current AND NOT job.deleted
ORDER BY job, position
"""


def ancestors(connection: sqlite3.Connection, job: int) -> list[int]:
    """List the jobs whose data a job used, directly or not."""
    return [int(row[0]) for row in connection.execute(_UPSTREAM, (job, job))]


def descendants(connection: sqlite3.Connection, job: int) -> list[int]:
    """List the jobs that used a job's data, directly or not, also of earlier runs."""
    return [int(row[0]) for row in connection.execute(_DOWNSTREAM, (job, job))]


def stale_jobs(connection: sqlite3.Connection) -> dict[int, tuple[StaleReason, ...]]:
    """Map every job that is out of date to the reasons."""
    reasons: dict[int, list[StaleReason]] = {}
    for row in connection.execute(_REPLACED).fetchall():
        change = _change_since(connection, row["cause"], row["revision"])
        text = (
            f"input {row['port']} is {dataset_id(row['dataset'])} of {job_id(row['cause'])}, "
            f"which was run again: {change}"
        )
        reasons.setdefault(row["job"], []).append(StaleReason(row["cause"], text))
    for job in list(reasons):
        for below in descendants(connection, job):
            reason = StaleReason(job, f"{job_id(job)} above it is out of date")
            reasons.setdefault(below, []).append(reason)
    return {job: tuple(found) for job, found in sorted(reasons.items())}


def graph(connection: sqlite3.Connection) -> Graph:
    """Collect the whole graph."""
    rows = connection.execute("SELECT record FROM job ORDER BY number").fetchall()
    return Graph(
        jobs=tuple(JobRecord.model_validate_json(row["record"]) for row in rows),
        edges=tuple(Edge(**row) for row in connection.execute(_EDGES)),
        stale=stale_jobs(connection),
    )


def describe_change(
    old: tuple[dict[str, Any], Iterable[Input]], new: tuple[dict[str, Any], Iterable[Input]]
) -> str:
    """Say how parameters and inputs of two runs differ: `box_px 128 -> 160`."""
    (old_parameters, old_inputs), (new_parameters, new_inputs) = old, new
    names = [*old_parameters, *(name for name in new_parameters if name not in old_parameters)]
    changes = [
        f"{name} {old_parameters.get(name)!r} -> {new_parameters.get(name)!r}"
        for name in names
        if old_parameters.get(name) != new_parameters.get(name)
    ]
    before, after = _by_port(old_inputs), _by_port(new_inputs)
    changes += [
        f"{port} {before.get(port, 'none')} -> {after.get(port, 'none')}"
        for port in sorted(before.keys() | after.keys())
        if before.get(port) != after.get(port)
    ]
    return ", ".join(changes) or "same parameters and inputs, other results"


def _by_port(inputs: Iterable[Input]) -> dict[str, str]:
    ports: dict[str, list[str]] = {}
    for link in inputs:
        ports.setdefault(link.port, []).append(dataset_id(link.dataset))
    return {port: "+".join(ids) for port, ids in ports.items()}


def _change_since(connection: sqlite3.Connection, job: int, revision: int) -> str:
    """Say how a job changed since one of its earlier revisions."""
    row = connection.execute("SELECT record FROM job WHERE number = ?", (job,)).fetchone()
    record = JobRecord.model_validate_json(row["record"])
    old = next((former for former in record.former if former.number == revision), None)
    if old is None:
        return "an output is no longer made"
    return describe_change((old.parameters, old.inputs), (record.parameters, record.inputs))
