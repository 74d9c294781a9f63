"""Run protocols in a project: check, find an equal job, make or resume one, carry it out."""

import shutil
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from verglas.api.inputs import current_number, find_dataset, open_numbered
from verglas.api.job import Job, RunningJob
from verglas.core.errors import ParamsError, PortError, UserError, VerglasError
from verglas.engine.driver import JobRequest, cancel_on_signals, run_job
from verglas.engine.pool import get_executor
from verglas.engine.progress import OnProgress, silent
from verglas.project.provenance import RULES
from verglas.project.record import Input, JobRecord, JobStatus, Revision, now
from verglas.sdk.params import changed_params
from verglas.sdk.ports import Ports
from verglas.sdk.protocol import ProtocolSpec

if TYPE_CHECKING:
    from verglas.api.project import Project
    from verglas.engine.placement import Placement
    from verglas.sdk.params import Params

__all__ = ["Order", "RunOptions", "launch", "make_order", "rerun_order", "run_order"]


@dataclass(frozen=True)
class RunOptions:
    """How a job is run, which does not enter its results.

    Attributes:
        wait: return when the job has ended; else it runs in a thread.
        resume: go on with an equal job that was not finished.
        force: run even if an equal job is done, and find nothing of it again.
        placement: where chunks run; the project's by default.
        show: takes progress.
    """

    wait: bool = True
    resume: bool = True
    force: bool = False
    placement: "Placement | None" = None
    show: OnProgress = silent


@dataclass(frozen=True)
class Order:
    """A protocol with checked parameters and inputs."""

    spec: ProtocolSpec
    params: "Params"
    inputs: Ports
    links: tuple[Input, ...]
    seed: int = 0
    label: str = ""
    values: dict[str, Any] = field(default_factory=dict)


def make_order(
    project: "Project",
    protocol_id: str,
    values: Mapping[str, Any],
    *,
    seed: int = 0,
    label: str = "",
) -> Order:
    """Check what a person asked for, without leaving anything in the project.

    Args:
        project: where inputs are looked up.
        protocol_id: of the protocol.
        values: parameters and inputs by name; an input is a reference or a list of them.
        seed: of everything random.
        label: name for people.
    """
    spec = project.protocol(protocol_id)
    ports = spec.input_ports()
    params = spec.params(**{name: value for name, value in values.items() if name not in ports})
    given = {name: _as_list(values[name]) for name in ports if values.get(name) is not None}
    links = tuple(
        Input(port=name, dataset=find_dataset(project.store, ref, ports[name].kind, name))
        for name, refs in given.items()
        for ref in refs
    )
    if seed < 0:
        raise ParamsError(f"seed: got {seed!r}, expected >= 0")
    return Order(spec, params, _open_inputs(project, spec, links), links, seed, label)


def rerun_order(project: "Project", record: JobRecord, changes: Mapping[str, Any]) -> Order:
    """Order a job again with changes; inputs that were replaced are taken in their new form."""
    ports = project.protocol(record.protocol).input_ports()
    kept: dict[str, Any] = {port: [] for port in ports}
    for link in record.inputs:
        kept[link.port].append(f"d{current_number(project.store, link.dataset)}")
    values = {**record.parameters, **kept, **changes}
    return make_order(project, record.protocol, values, seed=record.seed, label=record.label)


def run_order(project: "Project", order: Order, options: RunOptions) -> Job:
    """Run an order as a new job, unless an equal one is done or can be resumed."""
    equal = _find_equal(project, order)
    if equal is not None and not options.force:
        if equal.status is JobStatus.DONE or equal.number in project.running:
            return Job(project, equal.number)
        if options.resume:
            return launch(project, equal, order, options)
    with project.store.writing():
        number = project.store.new_job_number()
        record = _with_order(JobRecord(number=number, protocol=order.spec.id, version=0), order)
        record = project.store.save(record.replace(created=now()).with_moment("created"))
    return launch(project, record, order, options)


def launch(project: "Project", record: JobRecord, order: Order, options: RunOptions) -> Job:
    """Run a job of the project in its own folder, here or in a thread.

    A job that was done before becomes its own next revision.
    """
    store = project.store
    if record.number in project.running:
        raise UserError(f"{record.id} is running", "wait for it or cancel it first")
    with store.writing():
        record = _with_order(_next_revision(record), order)
        if options.force:
            _remove(project, record, "forget")
        record = store.save(record)
    request = JobRequest(
        record=record,
        spec=order.spec,
        params=order.params,
        inputs=order.inputs,
        executor=get_executor(options.placement or project.placement),
        show=options.show,
    )
    running = RunningJob(request.cancel)
    job = Job(project, record.number)
    if options.wait:
        with _registered(project, record.number, running), cancel_on_signals(request.cancel):
            run_job(store, request)
        return job
    thread = threading.Thread(
        target=_run_in_thread, args=(project, request, running), name=f"job-{record.id}"
    )
    running.thread = thread
    project.running[record.number] = project.threads[record.number] = running
    thread.start()
    return job


def _run_in_thread(project: "Project", request: JobRequest, running: RunningJob) -> None:
    try:
        run_job(project.store, request)
    except VerglasError as error:
        running.error = error
    finally:
        project.running.pop(request.record.number, None)


@contextmanager
def _registered(project: "Project", number: int, running: RunningJob) -> Iterator[None]:
    project.running[number] = running
    try:
        yield
    finally:
        project.running.pop(number, None)


def _with_order(record: JobRecord, order: Order) -> JobRecord:
    return record.replace(
        protocol=order.spec.id,
        version=order.spec.version,
        label=order.label,
        parameters=order.params.model_dump(mode="json"),
        changed=changed_params(order.params),
        inputs=order.links,
        seed=order.seed,
        deleted=False,
    )


def _next_revision(record: JobRecord) -> JobRecord:
    """Put what a job made so far among its former revisions."""
    if not record.outputs:
        return record
    former = Revision(
        number=record.revision,
        parameters=record.parameters,
        inputs=record.inputs,
        outputs=record.outputs,
    )
    return record.replace(
        revision=record.revision + 1,
        former=(*record.former, former),
        outputs=(),
        started="",
        seconds=0.0,
    )


def _find_equal(project: "Project", order: Order) -> JobRecord | None:
    """Find the last job with equal protocol, parameters, inputs and seed."""
    wanted = _with_order(JobRecord(number=0, protocol=order.spec.id, version=0), order)
    names = ("protocol", "version", "parameters", "inputs", "seed")
    for record in reversed(project.store.jobs()):
        if not record.deleted and all(getattr(record, n) == getattr(wanted, n) for n in names):
            return record
    return None


def _open_inputs(project: "Project", spec: ProtocolSpec, links: Sequence[Input]) -> Ports:
    found: dict[str, list[Any]] = {}
    for link in links:
        found.setdefault(link.port, []).append(open_numbered(project.store, link.dataset))
    values: dict[str, Any] = {}
    for name, declared in spec.input_ports().items():
        sets = found.get(name, [])
        if len(sets) > 1 and not declared.many:
            raise PortError(f"port {name!r} of {spec.id} takes one data set: got {len(sets)}")
        if sets:
            values[name] = sets if declared.many else sets[0]
    return spec.inputs(**values)


def _remove(project: "Project", record: JobRecord, action: str) -> None:
    for name in RULES[action]:
        shutil.rmtree(project.store.folder(record) / name, ignore_errors=True)


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]
