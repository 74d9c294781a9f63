"""The command that shows how jobs follow from each other."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verglas.cli._console import out, print_json
from verglas.cli._options import AsJson, ProjectFolder, open_project
from verglas.cli._records import STATUS_STYLE, outputs_text, record_json
from verglas.cli._words import duration_text

if TYPE_CHECKING:
    from rich.text import Text

    from verglas.project.provenance import Graph
    from verglas.project.record import JobRecord

__all__ = ["show_graph"]


def show_graph(
    project_path: ProjectFolder = None,
    template_file: Annotated[
        Path | None,
        typer.Option(
            "--write-template",
            metavar="FILE",
            help="Write the finished jobs as a template for verglas replay.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show jobs as a tree: below each the jobs that used what it made.

    A job with several parents stands below the last of them, which names the others.
    """
    with open_project(project_path) as project:
        graph, name = project.graph(), project.name
        if template_file is not None:
            template = project.export_template(template_file)
            out().print(f"{len(template['nodes'])} steps in {template_file}", markup=False)
            return
    if as_json:
        print_json(_as_json(graph))
        return
    from rich.text import Text
    from rich.tree import Tree

    tree = Tree(Text(name, style="bold"))
    branches: dict[int, Any] = {}
    for record in _in_order(graph):
        parents = sorted({edge.source for edge in graph.edges if edge.target == record.number})
        below = branches[parents[-1]] if parents else tree
        line = _line(record, parents[:-1], is_stale=record.number in graph.stale)
        branches[record.number] = below.add(line)
    out().print(tree)


def _in_order(graph: "Graph") -> "list[JobRecord]":
    """Put every job after its last parent; a parent may have a higher number after a rerun."""
    parents: dict[int, set[int]] = {record.number: set() for record in graph.jobs}
    for edge in graph.edges:
        if edge.source != edge.target:
            parents[edge.target].add(edge.source)
    ordered: list[JobRecord] = []
    waiting = list(graph.jobs)
    while waiting:
        placed = {record.number for record in ordered}
        ready = [r for r in waiting if parents[r.number] <= placed] or waiting[:1]
        ordered += ready
        waiting = [record for record in waiting if record not in ready]
    return ordered


def _line(record: "JobRecord", other_parents: list[int], *, is_stale: bool) -> "Text":
    from rich.text import Text

    words = Text.assemble(
        (record.id, "bold"), f" {record.label or record.protocol} ",
        (str(record.status), STATUS_STYLE.get(record.status, "")),
    )  # fmt: skip
    details = [outputs_text(record), duration_text(record.seconds) if record.seconds else ""]
    if other_parents:
        details.append("also from " + ", ".join(f"j{number}" for number in other_parents))
    text = ", ".join(detail for detail in details if detail)
    if text:
        words.append(f"  {text}", "dim")
    if is_stale:
        words.append("  out of date", "yellow")
    if record.deleted:
        words.append("  deleted", "red")
    return words


def _as_json(graph: "Graph") -> dict[str, Any]:
    return {
        "jobs": [record_json(job, stale=job.number in graph.stale) for job in graph.jobs],
        "edges": [
            {
                "source": f"j{edge.source}",
                "target": f"j{edge.target}",
                "dataset": f"d{edge.dataset}",
                "port": edge.port,
            }
            for edge in graph.edges
        ],
        "stale": {
            f"j{number}": [reason.text for reason in reasons]
            for number, reasons in graph.stale.items()
        },
    }
