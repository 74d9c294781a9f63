"""Workflow templates: a project's graph without its data, and its replay on other data.

    {"format": 1, "free_inputs": {"micrographs": "micrographs"},
     "nodes": [{"name": "extract", "protocol": "particles.extract", "version": 1,
                "params": {"box_px": 128}, "inputs": {"coordinates": ["pick.coordinates"]}}]}

An input names an output of an earlier node, or a free input as `$micrographs`.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from verglas.api.inputs import DataSetRef, JobRef, find_job
from verglas.core.errors import FormatError, ParamsError, PortError
from verglas.core.ids import dataset_id
from verglas.project.layout import read_json, write_json
from verglas.project.record import Input, JobRecord, JobStatus

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project

__all__ = ["Node", "Template", "export_template", "load_template", "replay"]


class Node(BaseModel):
    """One job of a template; `advice` says what to do when it gives nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    protocol: str
    version: int
    params: dict[str, Any] = {}
    inputs: dict[str, list[str]] = {}
    label: str = ""
    seed: int = 0
    advice: str = ""


class Template(BaseModel):
    """A workflow without data; `free_inputs` maps names to kinds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    name: str = ""
    free_inputs: dict[str, str] = {}
    nodes: tuple[Node, ...] = ()


def export_template(
    project: "Project", path: Path, jobs: Sequence[JobRef] | None = None
) -> dict[str, Any]:
    """Write the workflow of a project, or of some of its jobs, as JSON and return it.

    Args:
        project: open.
        path: of the file.
        jobs: the ones to take; inputs from outside of them become free. All that are done by
            default.
    """
    if jobs is None:
        records = [r for r in project.records() if r.status is JobStatus.DONE and not r.deleted]
    else:
        records = sorted((find_job(project.store, job) for job in jobs), key=lambda r: r.number)
    names = _node_names(records)
    free: dict[str, str] = {}
    nodes = tuple(_node(project, record, names, free) for record in records)
    template = Template(name=project.name, free_inputs=free, nodes=nodes).model_dump(mode="json")
    write_json(path, template)
    return template


def load_template(source: Path | str | Mapping[str, Any]) -> Template:
    """Read a template and check that its links lead to earlier nodes."""
    content = source if isinstance(source, Mapping) else read_json(Path(source))
    try:
        template = Template.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise FormatError(f"not a workflow template: {where}: {first['msg'].lower()}") from error
    if template.format != 1:
        raise FormatError(f"template has format {template.format}, this program reads 1")
    known: set[str] = set()
    for node in template.nodes:
        for link in (link for links in node.inputs.values() for link in links):
            source_name = link.partition(".")[0]
            if link.startswith("$") and link[1:] in template.free_inputs:
                continue
            if source_name not in known:
                raise FormatError(f"template node {node.name!r} reads {link!r}, which is not there")
        if node.name in known:
            raise FormatError(f"template has two nodes {node.name!r}")
        known.add(node.name)
    return template


def replay(
    project: "Project",
    source: Path | str | Mapping[str, Any],
    inputs: Mapping[str, DataSetRef],
    overrides: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
) -> dict[str, "Job"]:
    """Run the nodes of a template in order and return the jobs by name of the node.

    Args:
        project: where they run.
        source: of the template.
        inputs: data sets for the free inputs.
        overrides: parameters by name of the node.
        options: for `Project.run`.
    """
    template = load_template(source)
    _check_names(template, inputs, overrides)
    jobs: dict[str, Job] = {}
    for node in template.nodes:
        linked: dict[str, Any] = {
            port: [_resolve(link, inputs, jobs) for link in links]
            for port, links in node.inputs.items()
        }
        values = {**node.params, **linked, **overrides.get(node.name, {})}
        jobs[node.name] = project.run(
            node.protocol, params=values, **{"label": node.label, "seed": node.seed, **options}
        )
    return jobs


def _check_names(
    template: Template,
    inputs: Mapping[str, DataSetRef],
    overrides: Mapping[str, Mapping[str, Any]],
) -> None:
    """Refuse names that the template does not have, before anything runs."""
    missing = [name for name in template.free_inputs if name not in inputs]
    if missing:
        kind = template.free_inputs[missing[0]]
        raise PortError(f"template needs a data set for {missing[0]!r} ({kind}): got nothing")
    names = [node.name for node in template.nodes]
    for given, known, what in (
        (inputs, list(template.free_inputs), "free input"),
        (overrides, names, "node"),
    ):
        for name in given:
            if name not in known:
                raise ParamsError(
                    f"template has no {what} {name!r}", f"it has {', '.join(known) or 'none'}"
                )


def _resolve(link: str, inputs: Mapping[str, DataSetRef], jobs: Mapping[str, "Job"]) -> DataSetRef:
    if link.startswith("$"):
        return inputs[link[1:]]
    name, _, rest = link.partition(".")
    return f"{jobs[name].id}.{rest}"


def _node_names(records: Sequence[JobRecord]) -> dict[int, str]:
    """Name nodes by label or by what the protocol does; a second one gets a number."""
    names: dict[int, str] = {}
    for record in records:
        words = record.label or record.protocol.rpartition(".")[2]
        base = re.sub(r"[^a-z0-9_]+", "_", words.lower()).strip("_") or "job"
        name, count = base, 1
        while name in names.values():
            count += 1
            name = f"{base}_{count}"
        names[record.number] = name
    return names


def _node(
    project: "Project", record: JobRecord, names: Mapping[int, str], free: dict[str, str]
) -> Node:
    inputs: dict[str, list[str]] = {}
    for link in record.inputs:
        inputs.setdefault(link.port, []).append(_link(project, link, names, free))
    return Node(
        name=names[record.number],
        protocol=record.protocol,
        version=record.version,
        params=record.changed,
        inputs=inputs,
        label=record.label,
        seed=record.seed,
    )


def _link(project: "Project", link: Input, names: Mapping[int, str], free: dict[str, str]) -> str:
    info = project.store.dataset(link.dataset)
    if info.job in names:
        record = project.store.job(info.job)
        numbers = [output.dataset for output in record.outputs if output.port == info.port]
        index = f"[{numbers.index(info.number) + 1}]" if len(numbers) > 1 else ""
        return f"{names[info.job]}.{info.port}{index}"
    name = f"{link.port}_{dataset_id(link.dataset)}"
    free[name] = info.kind
    return f"${name}"
