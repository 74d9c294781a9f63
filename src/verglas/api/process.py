"""Carry out a whole workflow in a project, resumably, and sum up each step.

Every step is a job. A step whose job is done with equal parameters and inputs is not run
again, so that the same call on the same project goes on where it stopped.
"""

import logging
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verglas.api.inputs import DataSetRef
from verglas.api.template import Node, Template, load_template
from verglas.core.errors import ParamsError, PortError, UserError, VerglasError
from verglas.engine.progress import OnProgress, silent
from verglas.project.record import JobStatus

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project
    from verglas.engine.placement import Placement
    from verglas.model import DataSet

__all__ = ["ProcessResult", "StepResult", "Watch", "check_workflow", "process"]

log = logging.getLogger(__name__)

_HALVES = ("half_map_1_path", "half_map_2_path")
_IMAGE_COLUMNS = ("image_path", *_HALVES, "mask_path")
_MOST_PATHS = 10
_MODEL_RESOLUTION = "fsc_05_angst"


@dataclass(frozen=True)
class StepResult:
    """What one step did.

    Attributes:
        name: of the step.
        protocol: id.
        job: id, as `j12`.
        items_in, items_out: of the first input and the first output, by port.
        seconds: that the job took, in all its runs.
        is_reused: the job was done already.
        numbers: key numbers.
        warnings: of the job.
        outputs: by port: data set, kind, items, folder, and the image files where they are few.
    """

    name: str
    protocol: str
    job: str
    items_in: dict[str, int]
    items_out: dict[str, int]
    seconds: float
    is_reused: bool
    numbers: dict[str, float | str]
    warnings: tuple[str, ...]
    outputs: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """Give plain values; paths are absolute."""
        return {
            "name": self.name,
            "protocol": self.protocol,
            "job": self.job,
            "items_in": self.items_in,
            "items_out": self.items_out,
            "seconds": self.seconds,
            "reused": self.is_reused,
            "numbers": self.numbers,
            "warnings": list(self.warnings),
            "outputs": self.outputs,
        }


@dataclass(frozen=True)
class ProcessResult:
    """The map, how good it is, and the steps that led to it.

    Attributes:
        project: its folder.
        steps: in order.
        map: final map, masked and sharpened.
        half_maps: from independent halves, unfiltered.
        resolution_angst: where the half maps' correlation falls below 0.143.
        model_resolution_angst: where the correlation with the atomic model falls below 0.5.
        report: page about the jobs.
        elapsed_s: that this call took, steps that were done before not counted.
        jobs: by name of the step.
    """

    project: Path
    steps: tuple[StepResult, ...]
    map: Path | None = None
    half_maps: tuple[Path, ...] = ()
    resolution_angst: float | None = None
    model_resolution_angst: float | None = None
    report: Path | None = None
    elapsed_s: float = 0.0
    jobs: dict[str, "Job"] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Give plain values; paths are absolute."""
        return {
            "project": str(self.project),
            "map": None if self.map is None else str(self.map),
            "half_maps": [str(path) for path in self.half_maps],
            "resolution_angst": self.resolution_angst,
            "model_resolution_angst": self.model_resolution_angst,
            "report": None if self.report is None else str(self.report),
            "seconds": round(sum(step.seconds for step in self.steps), 3),
            "elapsed_s": round(self.elapsed_s, 3),
            "steps": [step.as_json() for step in self.steps],
        }


def _nothing(step: StepResult) -> None:
    pass


def _silent_start(name: str, number: int, count: int) -> None:
    pass


@dataclass(frozen=True)
class Watch:
    """Who is told what.

    Attributes:
        progress: takes updates of the running job.
        started: takes name, number and count of a step that begins.
        ended: takes a step that is done.
    """

    progress: OnProgress = silent
    started: Callable[[str, int, int], None] = _silent_start
    ended: Callable[[StepResult], None] = _nothing


def check_workflow(
    project: "Project",
    workflow: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: Mapping[str, DataSetRef] | None = None,
) -> Template:
    """Check all steps before the first one runs: protocols, parameters, names.

    Args:
        project: whose protocols are used.
        workflow: template.
        overrides: parameters by name of the step, which replace those of the template.
        inputs: data sets for the template's free inputs, by name.

    Returns:
        The template with the overrides in place.
    """
    template = load_template(workflow)
    _check_names(overrides or {}, [node.name for node in template.nodes], "step")
    _check_names(inputs or {}, list(template.free_inputs), "free input")
    for name, kind in template.free_inputs.items():
        if name not in (inputs or {}):
            raise PortError(f"the workflow needs a data set for {name!r} ({kind}): got nothing")
    nodes = []
    for node in template.nodes:
        changed = {**node.params, **(overrides or {}).get(node.name, {})}
        spec = project.protocol(node.protocol)
        try:
            spec.params(**changed)
        except ParamsError as error:
            raise ParamsError(f"step {node.name}: {error.message}", error.hint) from error
        nodes.append(node.model_copy(update={"params": changed, "version": spec.version}))
    return template.model_copy(update={"nodes": tuple(nodes)})


def _check_names(given: Collection[str], known: list[str], what: str) -> None:
    for name in given:
        if name not in known:
            names = ", ".join(known) or "none"
            raise ParamsError(f"no {what} {name!r} in the workflow", f"it has {names}")


def process(
    project: "Project",
    workflow: Mapping[str, Any],
    *,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    inputs: Mapping[str, DataSetRef] | None = None,
    placement: "Placement | None" = None,
    watch: Watch | None = None,
    report: Path | None = None,
) -> ProcessResult:
    """Run the steps of a workflow one after the other; what is done already is not run again.

    Args:
        project: in which they run.
        workflow: template, as `single_particle_template` or `Project.export_template` make it.
        overrides: parameters by name of the step.
        inputs: data sets for its free inputs, by name.
        placement: where chunks run.
        watch: who is told of progress.
        report: page to write about these jobs at the end; none where left out.
    """
    started_s = time.monotonic()
    template = check_workflow(project, workflow, overrides, inputs)
    watch = watch or Watch()
    jobs: dict[str, Job] = {}
    steps: list[StepResult] = []
    for number, node in enumerate(template.nodes, start=1):
        watch.started(node.name, number, len(template.nodes))
        known = {record.number for record in project.records() if record.status is JobStatus.DONE}
        job = project.run(
            node.protocol,
            params={**node.params, **_links(node, jobs, inputs or {})},
            label=node.label,
            seed=node.seed,
            placement=placement,
            show=watch.progress,
        )
        jobs[node.name] = job
        steps.append(_sum_up(node, job, is_reused=job.number in known))
        watch.ended(steps[-1])
        _check_result(node, job)
    page = None if report is None else _report(project, report, jobs)
    elapsed_s = time.monotonic() - started_s
    return replace(_collect(project, steps, jobs), report=page, elapsed_s=elapsed_s)


def _report(project: "Project", path: Path, jobs: Mapping[str, "Job"]) -> Path | None:
    """Write the page; without it the result is as good, so what is wrong is only told."""
    from verglas.api.report import write_report

    try:
        return write_report(project, path, jobs=[job.number for job in jobs.values()])
    except VerglasError as error:
        log.warning("the report could not be written: %s", error)
        return None


def _links(
    node: Node, jobs: Mapping[str, "Job"], inputs: Mapping[str, DataSetRef]
) -> dict[str, list[DataSetRef]]:
    """Find the data sets that the links of a step mean."""
    found: dict[str, list[DataSetRef]] = {}
    for port, links in node.inputs.items():
        found[port] = []
        for link in links:
            name, _, output = link.partition(".")
            is_free = link.startswith("$")
            found[port].append(inputs[link[1:]] if is_free else f"{jobs[name].id}.{output}")
    return found


def _check_result(node: Node, job: "Job") -> None:
    """Stop where a step gave nothing for the next one, and say what to do about it."""
    if job.status is not JobStatus.DONE:
        raise UserError(f"step {node.name}: {job.id} is {job.status}", "answer it, then go on")
    outputs = job.record.outputs
    if outputs and outputs[0].n_items == 0:
        raise UserError(
            f"step {node.name} ({job.id}, {node.protocol}) gave 0 {outputs[0].port}",
            node.advice or f"see verglas log {job.id}",
        )


def _sum_up(node: Node, job: "Job", *, is_reused: bool) -> StepResult:
    record = job.record
    n_items = {info.number: info.n_items for info in job.project.datasets()}
    items_in: dict[str, int] = {}
    for link in record.inputs:
        items_in[link.port] = items_in.get(link.port, 0) + n_items[link.dataset]
    outputs = {
        output.port: {
            "dataset": output.id,
            "kind": output.kind,
            "items": output.n_items,
            "folder": str(job.project.root / output.folder),
            "files": [str(path) for path in _image_files(job.project.dataset(output.dataset))],
        }
        for output in record.outputs
    }
    return StepResult(
        name=node.name,
        protocol=node.protocol,
        job=job.id,
        items_in=items_in,
        items_out={output.port: output.n_items for output in record.outputs},
        seconds=record.seconds,
        is_reused=is_reused,
        numbers=dict(record.metrics),
        warnings=record.warnings,
        outputs=outputs,
    )


def _image_files(data: "DataSet") -> list[Path]:
    """List the image files of a data set, unless they are many."""
    names = [name for name in _IMAGE_COLUMNS if name in data.columns]
    rows = data.table.select(names).unique(maintain_order=True).head(_MOST_PATHS + 1).collect()
    paths = [text for row in rows.rows() for text in row if text]
    distinct = list(dict.fromkeys(paths))
    return [data.path(text).resolve() for text in distinct] if len(distinct) <= _MOST_PATHS else []


def _collect(
    project: "Project", steps: list[StepResult], jobs: Mapping[str, "Job"]
) -> ProcessResult:
    """Find the map, its halves and its resolutions among what the steps made."""
    final, resolution, model_resolution = None, None, None
    halves: list[str] = []
    for name in ("refine", "postprocess"):
        if name not in jobs:
            continue
        row = jobs[name].output("volumes").rows().row(0, named=True)
        final = row.get("image_path") or final
        halves = [row[half] for half in _HALVES if row.get(half)] or halves
        resolution = row.get("resolution_angst") or resolution
    if "fsc" in jobs:
        value = jobs["fsc"].metrics.get(_MODEL_RESOLUTION)
        model_resolution = float(value) if isinstance(value, int | float) else None
    return ProcessResult(
        project=project.root,
        steps=tuple(steps),
        map=None if final is None else (project.root / final).resolve(),
        half_maps=tuple((project.root / path).resolve() for path in halves),
        resolution_angst=resolution,
        model_resolution_angst=model_resolution,
        jobs=dict(jobs),
    )
