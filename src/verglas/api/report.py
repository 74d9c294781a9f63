"""Write a project as one page with all its pictures, in any state of the work."""

import logging
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verglas.api.inputs import JobRef, find_job
from verglas.core.errors import UserError
from verglas.core.files import write_text
from verglas.engine.environment import describe_environment
from verglas.project.record import JobRecord
from verglas.sdk.params import json_schema
from verglas.viewers.graph import Node, draw_graph
from verglas.viewers.page import Fact, Page, Param, StepView, render_page
from verglas.viewers.words import count_text, quantity_text, seconds_text, title_of

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.project.provenance import Graph
    from verglas.sdk.protocol import ProtocolSpec

__all__ = ["write_report"]

log = logging.getLogger(__name__)

_NARROW_GRAPH_PX = 460


def write_report(project: "Project", path: Path, *, jobs: Sequence[JobRef] | None = None) -> Path:
    """Write a page about a project that holds all its pictures and needs no other file.

    The pictures are also written as files to `<name>_pictures` beside the page. Jobs may be in
    any state; what is not there is named on the page.

    Args:
        project: open; it is only read.
        path: of the page; a folder gets `report.html`.
        jobs: the ones to show, as `j12` or numbers; all that were not deleted by default.

    Returns:
        The path of the page.
    """
    path = path.absolute()
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / "report.html"
    graph = project.graph()
    records = _chosen(project, graph, jobs)
    steps = [_step(project, graph, record) for record in records]
    svg, is_narrow = _draw_workflow(project, graph, records)
    page = Page(
        title=project.name or project.root.name,
        subtitle=_subtitle(project, records),
        date=datetime.now().astimezone().strftime("%d %B %Y, %H:%M"),
        graph_svg=svg,
        is_graph_narrow=is_narrow,
        steps=steps,
        environment=_environment(records),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_pictures(path.with_name(f"{path.stem}_pictures"), steps)
    write_text(path, render_page(page))
    return path


def _chosen(project: "Project", graph: "Graph", jobs: Sequence[JobRef] | None) -> list[JobRecord]:
    if jobs is None:
        return [record for record in graph.jobs if not record.deleted]
    wanted = {find_job(project.store, job).number for job in jobs}
    return [record for record in graph.jobs if record.number in wanted]


def _spec(project: "Project", protocol_id: str) -> "ProtocolSpec | None":
    """Look up a protocol, which may be one of a plugin that is no longer there."""
    try:
        return project.protocol(protocol_id)
    except UserError:
        return None


def _step(project: "Project", graph: "Graph", record: JobRecord) -> StepView:
    spec = _spec(project, record.protocol)
    counts = {info.number: (info.kind, info.n_items) for info in project.datasets()}
    numbers = [Fact(title_of(n), quantity_text(n, value)) for n, value in record.metrics.items()]
    return StepView(
        id=record.id,
        label=_label(project, record),
        protocol=record.protocol,
        summary=spec.summary if spec else "This protocol is not installed.",
        status=str(record.status),
        seconds=record.seconds,
        items_in=tuple((i.port, *counts.get(i.dataset, ("data", 0))) for i in record.inputs),
        items_out=tuple((o.port, o.kind, o.n_items) for o in record.outputs),
        params=tuple(_params(record, spec)),
        numbers=tuple(numbers),
        warnings=record.warnings,
        notes=tuple(note.text for note in record.notes),
        error=record.error,
        stale=tuple(reason.text for reason in graph.stale.get(record.number, ())),
    )


def _label(project: "Project", record: JobRecord) -> str:
    spec = _spec(project, record.protocol)
    return record.label or (spec.label if spec else record.protocol)


def _params(record: JobRecord, spec: "ProtocolSpec | None") -> list[Param]:
    """List parameters, changed ones first, in the order of the form."""
    properties: dict[str, Any] = json_schema(spec.params)["properties"] if spec else {}
    names = [*(n for n in properties if n in record.parameters)]
    names += [n for n in record.parameters if n not in names]
    shown = [
        Param(
            name=name,
            title=title_of(name),
            value=quantity_text(name, record.parameters[name]),
            help=properties.get(name, {}).get("description", ""),
            is_changed=name in record.changed,
        )
        for name in names
    ]
    return sorted(shown, key=lambda param: not param.is_changed)


def _draw_workflow(
    project: "Project", graph: "Graph", records: Sequence[JobRecord]
) -> tuple[str, bool]:
    shown = {record.number: record for record in records}
    nodes = []
    for record in records:
        parts = [count_text(o.n_items, o.kind) for o in record.outputs[:1]]
        parts += [seconds_text(record.seconds)] if record.seconds else []
        parts = parts if str(record.status) == "done" else [str(record.status)]
        nodes.append(
            Node(
                record.id,
                _label(project, record),
                " · ".join(parts),
                str(record.status),
                record.number in graph.stale,
            )
        )
    links: dict[tuple[str, str], str] = {}
    for edge in graph.edges:
        if edge.source in shown and edge.target in shown and edge.source != edge.target:
            key = (shown[edge.source].id, shown[edge.target].id)
            links[key] = f"{links[key]}, {edge.port}" if key in links else edge.port
    if not nodes:
        return "", True
    svg, layout = draw_graph(nodes, links)
    return svg, layout.width <= _NARROW_GRAPH_PX


def _subtitle(project: "Project", records: Sequence[JobRecord]) -> str:
    total = sum(record.seconds for record in records)
    return f"{count_text(len(records), 'jobs')} in {seconds_text(total)}, {project.root}"


def _environment(records: Sequence[JobRecord]) -> list[Fact]:
    """Give versions and machines of the jobs shown; of this one where no job says."""
    found: dict[str, list[str]] = {}
    for environment in [r.environment for r in records if r.environment] or [
        describe_environment()
    ]:
        for name, value in environment.items():
            if value and name != "user" and value not in found.setdefault(name, []):
                found[name].append(value)
    return [Fact(name, "; ".join(values)) for name, values in found.items() if values]


def _write_pictures(folder: Path, steps: Sequence[StepView]) -> None:
    """Write the pictures beside the page; those of an earlier page go."""
    for old in [*folder.glob("j*.png"), *folder.glob("j*.jpg")]:
        old.unlink()
    pictures = [picture for step in steps for picture in step.pictures]
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        (folder / picture.file_name).write_bytes(picture.png)
