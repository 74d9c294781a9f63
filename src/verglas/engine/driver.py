"""Carry out a job: call its protocol, store what it makes, record how it ended.

The protocol runs in the thread that calls `run_job`; its chunks run on the executor. Whatever
happens, the record says how the job stands when this returns, and everything finished is found
again by the next run of the same job.
"""

import logging
import shutil
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from verglas.core.errors import EngineError, UserError, VerglasError
from verglas.core.ids import content_digest
from verglas.core.log import job_log
from verglas.engine import events as ev
from verglas.engine.environment import describe_environment, free_space_warning
from verglas.engine.executor import Executor
from verglas.engine.journal import Journal
from verglas.engine.progress import OnProgress, silent
from verglas.engine.runner import JobRunner, Parked
from verglas.engine.worker import explain
from verglas.model import DataSet
from verglas.model.dataset_files import is_dataset
from verglas.project.record import JobRecord, JobStatus, Output, now
from verglas.project.store import Store
from verglas.sdk.context import JobCancelled
from verglas.sdk.job_context import JobContext, store_outputs
from verglas.sdk.params import Params
from verglas.sdk.ports import Ports
from verglas.sdk.protocol import ProtocolSpec

__all__ = ["JobRequest", "cancel_on_signals", "run_job"]

log = logging.getLogger(__name__)

_CUT_FILES = (
    ".*.tmp*",
    "chunks/*/.*",
    "checkpoints/*/.*",
    "arrays/.*",
    "outputs/.*",
    "files/**/.*.tmp*",
)
"""What a crash leaves of files that were being written, below a job's folder."""


@dataclass(frozen=True)
class JobRequest:
    """A job that is ready to run.

    Attributes:
        record: as saved, in state draft, failed, cancelled or asking.
        spec: the protocol.
        params: checked.
        inputs: checked.
        executor: where chunks run.
        cancel: set it to stop the job.
        show: takes progress.
    """

    record: JobRecord
    spec: ProtocolSpec
    params: Params
    inputs: Ports
    executor: Executor
    cancel: threading.Event = field(default_factory=threading.Event)
    show: OnProgress = silent


def run_job(store: Store, request: JobRequest) -> JobRecord:
    """Run a job to its end and return its record.

    Raises:
        VerglasError: the job failed or was cancelled, which its record says too.
    """
    with store.writing():
        folder = store.folder(request.record)
        _clear_leftovers(folder)
        record = store.save(_started(request))
        started_s = time.monotonic()
        with job_log(folder), Journal(folder) as journal:
            runner = JobRunner(
                record.id,
                folder,
                (request.spec.id, request.spec.version),
                request.executor,
                journal,
                cancel=request.cancel,
                show=request.show,
            )
            try:
                outputs, error = _carry_out(store, request, runner), None
            except VerglasError as problem:
                outputs, error = None, problem
            seconds = time.monotonic() - started_s
            record = _ended(record, runner, error, seconds)
            if outputs is not None:
                record = record.replace(outputs=_register(store, record, outputs))
            _save_end(store, record, error)
            if outputs is not None:
                _clear_scaffold(folder)
            log.info("%s %s after %.1f s", record.id, record.status, seconds)
    if error is not None and not isinstance(error, Parked):
        raise error
    return record


def _carry_out(store: Store, request: JobRequest, runner: JobRunner) -> dict[str, list[DataSet]]:
    """Call the protocol and store its outputs; all errors become ours."""
    record, spec = request.record, request.spec
    folder = store.folder(record)
    with _border(request, runner):
        _log_start(request, folder)
        runner.tell(ev.Queued())
        runner.tell(ev.Started())
        context = JobContext(
            store.layout.root,
            folder,
            protocol=(spec.id, spec.version),
            runner=runner,
            recorder=runner,
            seed=record.seed,
            identity=_identity(request),
        )
        runner.check_cancelled()
        with _left_out_items_tried_again(context):
            outputs = spec.run(context, request.params, request.inputs)
        if not isinstance(outputs, spec.outputs):
            raise EngineError(
                f"{spec.id} returned {type(outputs).__name__}, expected {spec.outputs.__name__}"
            )
        stored = store_outputs(outputs, _output_base(store, record))
        runner.tell(ev.Returned())
    return stored


@contextmanager
def _left_out_items_tried_again(context: JobContext) -> Iterator[None]:
    """Forget results that leave items out if the job fails, perhaps for lack of those items.

    The person may put a file right and go on, and must not get the same answer.
    """
    try:
        yield
    except BaseException as problem:
        if not isinstance(problem, JobCancelled | Parked | KeyboardInterrupt):
            for path in context.incomplete:
                path.unlink(missing_ok=True)
        raise


@contextmanager
def _border(request: JobRequest, runner: JobRunner) -> Iterator[None]:
    """Tell the state machine how the protocol ended, and make every error one of ours."""
    try:
        yield
    except Parked as parked:
        _tell_end(runner, ev.Asked(parked.question.name))
        raise
    except JobCancelled:
        _tell_end(runner, ev.CancelRequested())
        raise
    except KeyboardInterrupt:
        _tell_end(runner, ev.CancelRequested())
        raise JobCancelled("stopped at once; finished chunks are kept") from None
    except Exception as problem:  # the job's border: a protocol may raise anything
        if request.cancel.is_set():  # as an outside program that Ctrl-C ended too
            _tell_end(runner, ev.CancelRequested())
            raise JobCancelled(f"cancelled: {problem}") from problem
        log.error("%s", problem)
        _tell_end(runner, ev.Raised(str(problem)))
        if isinstance(problem, VerglasError):
            raise
        text, is_user_error = explain(problem)
        log.error("%s", traceback.format_exc())
        raise (UserError if is_user_error else EngineError)(text) from problem


def _tell_end(runner: JobRunner, event: ev.Event) -> None:
    """Tell how the protocol ended; that it cannot be written down must not hide the reason."""
    try:
        runner.tell(event)
    except (VerglasError, OSError) as problem:
        log.error("the end could not be added to the events: %s", problem)


def _started(request: JobRequest) -> JobRecord:
    record = request.record
    return record.replace(
        status=JobStatus.RUNNING,
        started=record.started or now(),
        ended="",
        error="",
        warnings=(),
        question=None,
        environment=describe_environment(),
    ).with_moment("started" if not record.started else "resumed")


def _ended(
    record: JobRecord, runner: JobRunner, error: VerglasError | None, seconds: float
) -> JobRecord:
    """Write into the record how the job ended."""
    record = record.replace(
        status=runner.state.status if error is None else _status_of(error),
        ended=now(),
        seconds=round(record.seconds + seconds, 3),
        warnings=tuple(runner.warnings),
        metrics=dict(runner.metrics),
        steps=tuple(runner.steps.values()),
    )
    if isinstance(error, Parked):
        return record.replace(question=error.question).with_moment("asking", str(error))
    if error is not None:
        record = record.replace(error=str(error))
    return record.with_moment(record.status, record.error)


def _status_of(error: VerglasError) -> JobStatus:
    if isinstance(error, Parked):
        return JobStatus.ASKING
    return JobStatus.CANCELLED if isinstance(error, JobCancelled) else JobStatus.FAILED


def _save_end(store: Store, record: JobRecord, error: VerglasError | None) -> None:
    if error is not None:
        _remove_cut_files(store.folder(record))  # first, since the disk may be full
    try:
        store.save(record)
    except (UserError, OSError) as problem:
        if error is None:
            raise
        # the first error says more; the record stays "running" and is put right on opening
        log.warning("the record could not be saved: %s", problem)


def _register(
    store: Store, record: JobRecord, outputs: Mapping[str, list[DataSet]]
) -> tuple[Output, ...]:
    """Number the outputs; one that an earlier revision made keeps its number."""
    former = [output for revision in record.former for output in revision.outputs]
    earlier = {(output.port, output.fingerprint): output for output in former}
    registered = []
    for port, sets in outputs.items():
        for data in sets:
            known = earlier.get((port, data.content))
            if known is not None and is_dataset(store.layout.root / known.folder):
                _remove_copy(data, store.layout.root / known.folder)
                registered.append(known)
            else:
                registered.append(_new_output(store, record, port, data))
            log.info("%s: %d %s", port, data.n_items, data.kind)
    return tuple(registered)


def _remove_copy(data: DataSet, kept: Path) -> None:
    if data.folder is not None and data.folder != kept.resolve():
        shutil.rmtree(data.folder)


def _new_output(store: Store, record: JobRecord, port: str, data: DataSet) -> Output:
    assert data.folder is not None
    return Output(
        port=port,
        dataset=store.new_dataset_number(),
        kind=data.kind.id,
        n_items=data.n_items,
        fingerprint=data.content,
        folder=data.folder.relative_to(store.layout.root).as_posix(),
        traits=tuple(sorted(data.traits)),
        revision=record.revision,
    )


def _output_base(store: Store, record: JobRecord) -> Path:
    """Return the folder for `outputs/`, empty of what an interrupted run left there."""
    base = store.layout.output_base(record.folder, record.revision)
    for port in (base / "outputs").glob("*"):
        if not is_dataset(port) or not record.outputs:
            shutil.rmtree(port)
    return base


def _identity(request: JobRequest) -> str:
    """Hash parameters and inputs, on which the checkpoints of iterations depend."""
    contents = [data.content for sets in request.inputs.items().values() for data in sets]
    return content_digest(text.encode() for text in [request.params.model_dump_json(), *contents])


def _clear_leftovers(folder: Path) -> None:
    """Remove what a killed run left half done."""
    shutil.rmtree(folder / "live", ignore_errors=True)
    _remove_cut_files(folder)


def _remove_cut_files(folder: Path) -> None:
    """Remove what was being written; no worker is at it any more."""
    for pattern in _CUT_FILES:
        for path in folder.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


def _clear_scaffold(folder: Path) -> None:
    """Remove what only helps to resume, once the job is done."""
    for name in ("checkpoints", "arrays"):
        shutil.rmtree(folder / name, ignore_errors=True)


def _log_start(request: JobRequest, folder: Path) -> None:
    record = request.record
    log.info("%s: %s version %d", record.id, request.spec.id, request.spec.version)
    for name, value in record.changed.items():
        log.info("%s = %r", name, value)
    for port, sets in request.inputs.items().items():
        for data in sets:
            log.info("%s: %s, %d items", port, data.name, data.n_items)
    warning = free_space_warning(folder)
    if warning:
        log.warning("%s", warning)


@contextmanager
def cancel_on_signals(cancel: threading.Event) -> Iterator[None]:
    """Let Ctrl-C and SIGTERM cancel cleanly; a second one stops the program at once.

    Only the main thread can do this; elsewhere nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, frame: FrameType | None) -> Any:
        if cancel.is_set():
            raise KeyboardInterrupt
        cancel.set()
        log.warning("cancelling; once more to stop at once")

    former = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
