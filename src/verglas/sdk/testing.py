"""Run protocols in this process, and check that they keep the contract.

    outputs = run(LocalContext(tmp_path), MyParams(), Inputs(particles=data))

`LocalContext` differs from the engine's context only in where chunks run: planning, keys,
results, sums and checkpoints are the same code.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from verglas.model import DataSet, Kind
from verglas.sdk.arrays import Arrays
from verglas.sdk.chunks import execute_chunk, has_result
from verglas.sdk.context import JobCancelled
from verglas.sdk.job_context import JobContext, Work, add_results, store_outputs
from verglas.sdk.params import Params, json_schema
from verglas.sdk.ports import Ports
from verglas.sdk.protocol import ProtocolSpec, spec_of

__all__ = ["LocalContext", "check_protocol", "check_resume"]

Answer = Callable[[Kind, DataSet], DataSet]


class LocalContext(JobContext):
    """A context that runs chunks in this process, one after another.

    Attributes:
        n_executed: chunks that were run.
        n_reused: chunks whose result was there already.
        warnings: texts, in order.
        metrics: key numbers by name.
    """

    def __init__(
        self,
        root: Path,
        *,
        job: str = "0001-local",
        protocol: tuple[str, int] = ("local.run_test", 1),
        seed: int = 0,
        device: str = "cpu",
        cancel_after: int | None = None,
        answer: Answer | None = None,
    ) -> None:
        """Set up a job below a folder.

        Args:
            root: stands for the project; paths of inputs must be relative to it.
            job: name of the job's folder; an equal one resumes.
            protocol: id and version, which enter the chunk keys.
            seed: of everything random.
            device: that chunks which use a GPU are told to use.
            cancel_after: raise `JobCancelled` instead of running one chunk more.
            answer: what a person would do when asked.
        """
        self.device = device
        self.cancel_after = cancel_after
        self.answer = answer
        self.n_executed = 0
        self.n_reused = 0
        self.warnings: list[str] = []
        self.metrics: dict[str, float | str] = {}
        folder = root / "jobs" / job
        super().__init__(
            root, folder, protocol=protocol, seed=seed, runner=_Runner(self), recorder=_Notes(self)
        )


class _Runner:
    """Run the chunks that have no result, here and now."""

    def __init__(self, context: LocalContext) -> None:
        self.context = context

    def run(self, work: Work) -> None:
        context = self.context
        for chunk in work.plan.chunks:
            path = work.result_path(chunk)
            if has_result(path):
                context.n_reused += 1
                continue
            if context.cancel_after is not None and context.n_executed >= context.cancel_after:
                raise JobCancelled(f"cancelled after {context.n_executed} chunks")
            device = context.device if work.gpus else "cpu"
            task = work.task(chunk, device=device, threads=work.cpus, progress=context.progress)
            execute_chunk(work.fn, work.plan.rows(chunk), task, work.kwargs, path)
            context.n_executed += 1

    def add(self, work: Work) -> dict[Any, Arrays]:
        return add_results(work)


class _Notes:
    """Keep what the job tells, for tests to look at."""

    def __init__(self, context: LocalContext) -> None:
        self.context = context

    def progress(self, done: int, total: int, text: str = "") -> None:
        if done > total:
            raise ValueError(f"progress must not pass its total: got {done} of {total}")

    def metric(self, name: str, value: float | str) -> None:
        self.context.metrics[name] = value

    def warn(self, text: str) -> None:
        self.context.warnings.append(text)

    def ask(self, kind: Kind, draft: DataSet) -> DataSet:
        return draft if self.context.answer is None else self.context.answer(kind, draft)


def check_protocol(run: Callable[..., Any]) -> ProtocolSpec:
    """Check what a protocol declares; raise `AssertionError` naming what is missing.

    Args:
        run: the decorated function.
    """
    spec = spec_of(run)
    assert spec.version >= 1, f"{spec.id}: version must be >= 1"
    assert spec.label, f"{spec.id} has no label"
    assert spec.summary.endswith("."), f"{spec.id}: the help page must begin with a sentence"
    assert len(spec.summary) <= 90, f"{spec.id}: first line of the help page is too long"
    schema = json_schema(spec.params)
    for name, entry in schema["properties"].items():
        text = entry["description"]
        assert text.endswith((".", "?")), f"{spec.id} {name}: help must be a sentence: {text!r}"
    assert spec.output_ports(), f"{spec.id} has no output"
    spec.input_ports()
    return spec


def check_resume(
    run: Callable[..., Any],
    make_inputs: Callable[[Path], Ports],
    params: Params,
    tmp_path: Path,
) -> None:
    """Check that a cancelled and resumed run equals an uninterrupted one.

    The run is stopped after each of a few numbers of chunks and taken up again; tables,
    files and the number of chunks that were run must agree with those of a run in one go.

    Args:
        run: the decorated function.
        make_inputs: makes equal inputs below a folder that stands for the project.
        params: of the run.
        tmp_path: a fresh folder.
    """
    whole = _context(run, tmp_path / "whole")
    expected = _outcome(run, whole, make_inputs, params)
    n_chunks = whole.n_executed
    for n_before in sorted({1, n_chunks // 2, n_chunks - 1} & set(range(1, n_chunks))):
        root = tmp_path / f"resumed-{n_before}"
        cancelled = _context(run, root, cancel_after=n_before)
        try:
            run(cancelled, params, make_inputs(root))
        except JobCancelled:
            pass
        else:
            raise AssertionError(f"the run ended within {n_before} of {n_chunks} chunks")
        resumed = _context(run, root)
        got = _outcome(run, resumed, make_inputs, params)
        n_after = resumed.n_executed
        assert n_before + n_after == n_chunks, (
            f"{n_before} chunks before and {n_after} after the stop: expected {n_chunks} in all"
        )
        _assert_same(got, expected)


def _context(
    run: Callable[..., Any], root: Path, *, cancel_after: int | None = None
) -> LocalContext:
    spec = spec_of(run)
    root.mkdir(parents=True, exist_ok=True)
    return LocalContext(root, protocol=(spec.id, spec.version), cancel_after=cancel_after)


def _outcome(
    run: Callable[..., Any],
    context: LocalContext,
    make_inputs: Callable[[Path], Ports],
    params: Params,
) -> dict[str, pl.DataFrame | bytes]:
    """Run, and collect all tables and files that the run made."""
    outputs = run(context, params, make_inputs(context.root))
    found: dict[str, pl.DataFrame | bytes] = {}
    for port, sets in store_outputs(outputs, context.folder).items():
        for i, data in enumerate(sets):
            found[f"output {port} {i}"] = data.rows()
            found[f"optics of output {port} {i}"] = data.optics
    for path in sorted(context.files.rglob("*")):
        if path.is_file():
            found[f"file {context.relative(path)}"] = path.read_bytes()
    return found


def _assert_same(
    got: dict[str, pl.DataFrame | bytes], expected: dict[str, pl.DataFrame | bytes]
) -> None:
    assert sorted(got) == sorted(expected), "the resumed run made other outputs or files"
    for name, value in expected.items():
        other = got[name]
        if isinstance(value, pl.DataFrame) and isinstance(other, pl.DataFrame):
            assert value.equals(other), f"{name} differs after resuming"
        else:
            assert value == other, f"{name} differs after resuming"
