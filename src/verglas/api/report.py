"""Write a project as one page with all its pictures, in any state of the work."""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verglas.api._report_pictures import draw_job, draw_portrait
from verglas.api.inputs import JobRef, find_job
from verglas.core.errors import UserError
from verglas.core.files import atomic_path, write_text
from verglas.engine.environment import describe_environment
from verglas.engine.progress import OnProgress, ProgressUpdate, silent
from verglas.project.record import JobRecord, JobStatus
from verglas.sdk.params import json_schema
from verglas.viewers.graph import Node, draw_graph
from verglas.viewers.methods import MethodStep, write_methods
from verglas.viewers.page import Fact, Page, Param, StepView, render_page
from verglas.viewers.picture import Picture
from verglas.viewers.words import count_text, quantity_text, seconds_text, title_of

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.project.provenance import Graph
    from verglas.sdk.protocol import ProtocolSpec

__all__ = ["write_report"]

log = logging.getLogger(__name__)

_NARROW_GRAPH_PX = 460
_MODEL_NUMBERS = ("fsc_05_angst", "model_resolution_angst")


@dataclass(frozen=True)
class _Content:
    """What the page is made from, looked up once."""

    project: "Project"
    graph: "Graph"
    records: list[JobRecord]
    counts: Mapping[int, tuple[str, int]]
    specs: "dict[str, ProtocolSpec | None]" = field(default_factory=dict)

    def spec(self, protocol_id: str) -> "ProtocolSpec | None":
        """Look up a protocol, which may be one of a plugin that is no longer there."""
        if protocol_id not in self.specs:
            try:
                self.specs[protocol_id] = self.project.protocol(protocol_id)
            except UserError:
                self.specs[protocol_id] = None
        return self.specs[protocol_id]

    def label(self, record: JobRecord) -> str:
        """Name a job for people."""
        spec = self.spec(record.protocol)
        return record.label or (spec.label if spec else record.protocol)

    def done(self) -> list[JobRecord]:
        """Jobs that have ended well, the last one first."""
        return [r for r in reversed(self.records) if r.status is JobStatus.DONE]


def write_report(
    project: "Project",
    path: Path,
    *,
    jobs: Sequence[JobRef] | None = None,
    show: OnProgress = silent,
) -> Path:
    """Write a page about a project that holds all its pictures and needs no other file.

    The pictures are also written as files to `<name>_pictures` beside the page. Jobs may be in
    any state; what is not there is named on the page.

    Args:
        project: open; it is only read.
        path: of the page; a folder gets `report.html`.
        jobs: the ones to show, as `j12` or numbers; all that were not deleted by default.
        show: takes progress updates, one for each job.

    Returns:
        The path of the page.
    """
    start = time.perf_counter()
    path = path.absolute()
    if path.suffix.lower() not in (".html", ".htm"):
        path = path / "report.html"
    content = _collect(project, jobs)
    steps = []
    for done, record in enumerate(content.records):
        show(ProgressUpdate(record.id, "report", done, len(content.records)))
        steps.append(_step(content, record))
    page = _page(content, steps)
    path.parent.mkdir(parents=True, exist_ok=True)
    pictures = [picture for step in steps for picture in step.pictures]
    pictures += [page.hero] if page.hero else []
    _write_pictures(path.with_name(f"{path.stem}_pictures"), pictures)
    write_text(path, render_page(page))
    log.info("wrote %s, %d pictures, %.1f s", path, len(pictures), time.perf_counter() - start)
    return path


def _page(content: _Content, steps: Sequence[StepView]) -> Page:
    """Put together what stands around the steps."""
    project = content.project
    svg, is_narrow = _draw_workflow(content)
    methods = [_method(content, record) for record in reversed(content.done())]
    paragraphs, references = write_methods(methods, version=version("verglas"))
    return Page(
        title=project.name or project.root.name,
        subtitle=_subtitle(content),
        date=f"{_today()}, {datetime.now():%H:%M}",
        highlights=_highlights(content),
        graph_svg=svg,
        is_graph_narrow=is_narrow,
        steps=steps,
        methods=paragraphs,
        references=references,
        environment=_environment(content.records),
        hero=draw_portrait(project, content.done()),
        notices=_notices(content),
    )


def _collect(project: "Project", jobs: Sequence[JobRef] | None) -> _Content:
    graph = project.graph()
    records = [record for record in graph.jobs if not record.deleted]
    if jobs is not None:
        wanted = {find_job(project.store, job).number for job in jobs}
        records = [record for record in graph.jobs if record.number in wanted]
    counts = {info.number: (info.kind, info.n_items) for info in project.datasets()}
    return _Content(project, graph, records, counts)


def _step(content: _Content, record: JobRecord) -> StepView:
    spec = content.spec(record.protocol)
    numbers = [Fact(_number_title(n), quantity_text(n, v)) for n, v in record.metrics.items()]
    return StepView(
        id=record.id,
        label=content.label(record),
        protocol=record.protocol,
        summary=spec.summary if spec else "This protocol is not installed.",
        status=str(record.status),
        seconds=record.seconds,
        items_in=tuple(
            (i.port, *content.counts.get(i.dataset, ("data", 0))) for i in record.inputs
        ),
        items_out=tuple((o.port, o.kind, o.n_items) for o in record.outputs),
        params=tuple(_params(record, spec)),
        numbers=tuple(numbers),
        warnings=record.warnings,
        notes=tuple(note.text for note in record.notes),
        error=record.error,
        stale=tuple(reason.text for reason in content.graph.stale.get(record.number, ())),
        shown=tuple(draw_job(content.project, record)),
    )


def _number_title(name: str) -> str:
    """Name a key number; that it is a number need not be said."""
    return title_of(name.removeprefix("n_"))


def _params(record: JobRecord, spec: "ProtocolSpec | None") -> list[Param]:
    """List parameters, changed ones first, in the order of the form."""
    properties: dict[str, Any] = json_schema(spec.params)["properties"] if spec else {}
    names = [name for name in properties if name in record.parameters]
    names += [name for name in record.parameters if name not in names]
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


def _method(content: _Content, record: JobRecord) -> MethodStep:
    spec = content.spec(record.protocol)
    return MethodStep(
        protocol=record.protocol,
        label=spec.label if spec else record.protocol,
        params=record.parameters,
        changed=record.changed,
        numbers=record.metrics,
        items_in={i.port: content.counts.get(i.dataset, ("items", 0)) for i in record.inputs},
        items_out={o.port: (o.kind, o.n_items) for o in record.outputs},
        citations=spec.citations if spec else (),
    )


def _draw_workflow(content: _Content) -> tuple[str, bool]:
    shown = {record.number: record.id for record in content.records}
    nodes = []
    for record in content.records:
        parts = [count_text(output.n_items, output.kind) for output in record.outputs[:1]]
        parts += [seconds_text(record.seconds)] if record.seconds else []
        is_done = record.status is JobStatus.DONE
        nodes.append(
            Node(
                record.id,
                content.label(record),
                " · ".join(parts) if is_done else str(record.status),
                str(record.status),
                record.number in content.graph.stale,
            )
        )
    links: dict[tuple[str, str], str] = {}
    for edge in content.graph.edges:
        if edge.source in shown and edge.target in shown and edge.source != edge.target:
            key = (shown[edge.source], shown[edge.target])
            links[key] = f"{links[key]}, {edge.port}" if key in links else edge.port
    if not nodes:
        return "", True
    svg, layout = draw_graph(nodes, links)
    return svg, layout.width <= _NARROW_GRAPH_PX


def _highlights(content: _Content) -> list[Fact]:
    """Choose the numbers that people look for first, from the last jobs that have them."""
    facts = []
    done = content.done()
    maps = [r for r in done if r.protocol != "volumes.fsc" and "resolution_angst" in r.metrics]
    final = sorted(maps, key=lambda r: r.protocol != "volumes.postprocess")[:1]
    for record in final:
        value = _resolution_text(record.metrics["resolution_angst"])
        facts.append(Fact("Resolution", value, "half maps, FSC 0.143"))
    against = [(r, n) for r in done for n in _MODEL_NUMBERS if n in r.metrics]
    for record, name in against[:1]:
        atoms = str(record.parameters.get("atoms") or "the reference").rpartition("/")[2]
        value = _resolution_text(record.metrics[name])
        facts.append(Fact("Against the model", value, f"FSC 0.5, {atoms}"))
    for kind, title in (("particles", "Particles"), ("micrographs", "Micrographs")):
        fact = _count_fact(content, kind, title)
        facts += [fact] if fact else []
    group = next((str(r.parameters["symmetry"]) for r in done if r.parameters.get("symmetry")), "")
    facts += [Fact("Symmetry", group)] if group else []
    return facts


def _resolution_text(value: float | str) -> str:
    return f"{value:.2f} Å" if isinstance(value, int | float) else value


def _count_fact(content: _Content, kind: str, title: str) -> Fact | None:
    """Count what the last job of a kind works on, and how many there were at first."""
    counts = [
        (record.number, count)
        for record in content.records
        if record.status is JobStatus.DONE
        for found, count in [
            *(content.counts.get(i.dataset, ("", 0)) for i in record.inputs),
            *((o.kind, o.n_items) for o in record.outputs if o.port != "rejected"),
        ]
        if found == kind
    ]
    if not counts:
        return None
    first, last = counts[0][1], counts[-1][1]
    number = count_text(last, kind).rpartition(" ")[0]
    return Fact(title, number, f"of {first}" if first > last else "")


def _notices(content: _Content) -> list[str]:
    """Say in what state the project is, where that is not simply done."""
    notices = []
    for status, words in (
        (JobStatus.FAILED, "failed"),
        (JobStatus.RUNNING, "running when this was written"),
        (JobStatus.CANCELLED, "cancelled"),
        (JobStatus.ASKING, "waiting for a person"),
    ):
        ids = [record.id for record in content.records if record.status is status]
        if ids:
            verb = "is" if len(ids) == 1 else "are"
            verb = "" if status is JobStatus.FAILED else f"{verb} "
            notices.append(f"{', '.join(ids)} {verb}{words}.")
    stale = [record.id for record in content.records if record.number in content.graph.stale]
    if stale:
        notices.append(f"{', '.join(stale)} out of date: something above was run again.")
    return notices


def _subtitle(content: _Content) -> str:
    total = sum(record.seconds for record in content.records)
    steps = count_text(len(content.records), "steps")
    machines = {r.environment["device"] for r in content.records if "device" in r.environment}
    where = f" on {', '.join(sorted(machines))}" if machines else ""
    return f"{_today()} · {steps} in {seconds_text(total)}{where} · {content.project.root}"


def _today() -> str:
    now = datetime.now()
    return f"{now.day} {now:%B %Y}"


def _environment(records: Sequence[JobRecord]) -> list[Fact]:
    """Give versions and machines of the jobs shown; of this one where no job says."""
    found: dict[str, list[str]] = {}
    told = [record.environment for record in records if record.environment]
    for environment in told or [describe_environment()]:
        for name, value in environment.items():
            if value and name != "user" and value not in found.setdefault(name, []):
                found[name].append(value)
    return [Fact(name, "; ".join(values)) for name, values in found.items() if values]


def _write_pictures(folder: Path, pictures: Sequence[Picture]) -> None:
    """Write the pictures beside the page; those of an earlier page go."""
    for old in folder.glob("j*-*.png"):
        old.unlink()
    if pictures:
        folder.mkdir(parents=True, exist_ok=True)
    for picture in pictures:
        with atomic_path(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
