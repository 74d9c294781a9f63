"""A project: make or open it, run protocols, look at jobs and data sets.

    project = Project.create(Path("apoferritin"))
    job = project.run("micrographs.import", files=["raw/*.tif"], pixel_size_angst=1.5)
    ctf = project.run("micrographs.estimate_ctf", micrographs=job.output())

Nothing heavy is imported until a protocol runs.
"""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from verglas.api.inputs import DataSetRef, JobRef, find_dataset, find_job, open_numbered
from verglas.api.job import Job, RunningJob
from verglas.core.errors import PortError, UserError
from verglas.core.registry import Registry, find_protocol, load_registry
from verglas.engine.placement import Placement
from verglas.engine.progress import OnProgress, silent
from verglas.project.layout import create_project, find_project
from verglas.project.provenance import (
    RULES,
    Graph,
    StaleReason,
    ancestors,
    descendants,
    graph,
    stale_jobs,
)
from verglas.project.record import JobRecord, JobStatus, Moment, now
from verglas.project.store import DataSetInfo, Store

if TYPE_CHECKING:
    from verglas.model import DataSet
    from verglas.sdk.protocol import ProtocolSpec

__all__ = ["Project"]


class Project:
    """A project folder that is open; use `create` or `open`.

    Attributes:
        root: the folder.
        store: records of jobs and data sets.
        placement: where chunks run unless a run says otherwise.
        running: jobs that run in this process.
        threads: the last run of each job that was started without waiting.
    """

    def __init__(
        self,
        store: Store,
        *,
        registry: Registry | None = None,
        placement: Placement | None = None,
    ) -> None:
        self.root = store.layout.root
        self.store = store
        self.placement = placement or Placement()
        self.running: dict[int, RunningJob] = {}
        self.threads: dict[int, RunningJob] = {}
        self._registry = registry

    @classmethod
    def create(cls, path: Path | str, *, name: str = "", **options: Any) -> "Project":
        """Make a project in a new or empty folder and open it.

        Args:
            path: of the folder.
            name: for people; the folder's by default.
            options: as for `open`.
        """
        layout = create_project(Path(path), name=name)
        return cls(Store(layout), **options)

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        registry: Registry | None = None,
        placement: Placement | None = None,
    ) -> "Project":
        """Open a project.

        Args:
            path: of the folder.
            registry: protocols to use instead of the installed ones.
            placement: where chunks run.
        """
        return cls(Store(find_project(Path(path))), registry=registry, placement=placement)

    def __enter__(self) -> "Project":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs in threads, and close the index."""
        for running in list(self.running.values()):
            running.cancel.set()
            if running.thread is not None:
                running.thread.join(timeout=60)
        self.store.close()

    @property
    def name(self) -> str:
        """The name in `project.toml`."""
        return str(self.store.layout.describe().get("name", ""))

    @property
    def registry(self) -> Registry:
        """The protocols, found when first asked for."""
        if self._registry is None:
            self._registry = load_registry()
        return self._registry

    def protocol(self, protocol_id: str) -> "ProtocolSpec":
        """Look up a protocol; the others are not imported for it."""
        spec: ProtocolSpec
        if self._registry is None:
            spec = find_protocol(protocol_id)
        else:
            spec = self._registry.protocol(protocol_id)
        return spec

    def run(
        self,
        protocol_id: str,
        *,
        wait: bool = True,
        resume: bool = True,
        force: bool = False,
        seed: int = 0,
        label: str = "",
        placement: Placement | None = None,
        show: OnProgress = silent,
        params: Mapping[str, Any] | None = None,
        **values: Any,
    ) -> Job:
        """Run a protocol; an equal job that is done is returned instead of run again.

        Args:
            protocol_id: as `particles.extract`.
            wait: return when the job has ended and raise if it failed; else it runs in a thread.
            resume: go on with an equal job that was not finished.
            force: run anew even if an equal job is done.
            seed: of everything random in the job; a protocol's own `seed` if it has one.
            label: name for people.
            placement: where chunks run.
            show: takes progress updates.
            params: further parameters and inputs, of any name.
            values: parameters, and inputs by the name of their port: `d41`, `j12.particles`,
                `j12`, a job, a data set, or a list of these.
        """
        from verglas.api.run import RunOptions, make_order, run_order

        own = self.protocol(protocol_id).params.model_fields
        if "seed" in own and seed:
            values, seed = {"seed": seed, **values}, 0
        values = {**values, **(params or {})}
        order = make_order(self, protocol_id, values, seed=seed, label=label)
        return run_order(self, order, RunOptions(wait, resume, force, placement, show))

    def resume(
        self,
        job: JobRef,
        *,
        wait: bool = True,
        placement: Placement | None = None,
        show: OnProgress = silent,
    ) -> Job:
        """Go on with a job that failed, was cancelled or was interrupted; one that is done stays.

        Args:
            job: `j12` or its number.
            wait: as for `run`.
            placement: where chunks run.
            show: takes progress updates.
        """
        record = find_job(self.store, job)
        if record.status is JobStatus.DONE and not record.deleted:
            return Job(self, record.number)
        return self.rerun(job, wait=wait, placement=placement, show=show)

    def rerun(
        self,
        job: JobRef,
        *,
        wait: bool = True,
        force: bool = False,
        placement: Placement | None = None,
        show: OnProgress = silent,
        **changes: Any,
    ) -> Job:
        """Run a job again in its place, with changed parameters or inputs.

        Inputs that were replaced meanwhile are taken in their new form. Jobs that used the old
        outputs are out of date afterwards, see `stale`. Chunks whose rows and arguments did not
        change are not run again.

        Args:
            job: `j12` or its number.
            wait: as for `run`.
            force: run every chunk again.
            placement: where chunks run.
            show: takes progress updates.
            changes: parameters and inputs.
        """
        from verglas.api.run import RunOptions, launch, rerun_order

        record = find_job(self.store, job)
        order = rerun_order(self, record, changes)
        is_same = (
            record.parameters == order.params.model_dump(mode="json")
            and record.inputs == order.links
            and record.version == order.spec.version
        )
        if record.status is JobStatus.DONE and is_same and not (force or record.deleted):
            return Job(self, record.number)
        return launch(self, record, order, RunOptions(wait, True, force, placement, show))

    def update(self, *, placement: Placement | None = None, show: OnProgress = silent) -> list[Job]:
        """Bring every job that is out of date up to date, in order.

        Args:
            placement: where chunks run.
            show: takes progress updates.
        """
        return [
            self.rerun(number, placement=placement, show=show)
            for number in sorted(self.stale())
            if self.store.job(number).status is JobStatus.DONE
        ]

    def draft(self, job: JobRef) -> "DataSet":
        """Open what a job that asks wants to have edited.

        Args:
            job: `j12` or its number.
        """
        from verglas.model import open_dataset

        return open_dataset(self._question_folder(find_job(self.store, job)) / "draft", self.root)

    def answer(self, job: JobRef, data: "DataSet", *, wait: bool = True, **options: Any) -> Job:
        """Answer a job that asks, and let it go on.

        Args:
            job: `j12` or its number.
            data: the draft as it was, selected from or with changed columns; or a data set of
                the kind asked for.
            wait: as for `run`.
            options: `placement` and `show`, as for `run`.
        """
        from verglas.model import write_dataset

        record = find_job(self.store, job)
        folder = self._question_folder(record)
        if record.question is not None and data.kind.id != record.question.kind:
            raise PortError(f"{record.id} asks for {record.question.kind}: got {data.name}")
        with self.store.writing():
            shutil.rmtree(folder / "answer", ignore_errors=True)
            write_dataset(data, folder / "answer")
            self.store.save(record.with_moment("answered", f"{data.n_items} {data.kind}"))
        return self.resume(record.number, wait=wait, **options)

    def job(self, job: JobRef) -> Job:
        """Look up a job by `j12`, `12` or its folder's name."""
        return Job(self, find_job(self.store, job).number)

    def jobs(self) -> list[Job]:
        """List all jobs in order."""
        return [Job(self, record.number) for record in self.store.jobs()]

    def records(self) -> list[JobRecord]:
        """List what is written down about all jobs, in one look-up."""
        return self.store.jobs()

    def dataset(self, ref: DataSetRef) -> "DataSet":
        """Open a data set by `d41`, `j12.particles`, or `j12` with a single output."""
        return open_numbered(self.store, find_dataset(self.store, ref))

    def datasets(self) -> list[DataSetInfo]:
        """List all data sets, those that were replaced included."""
        return self.store.datasets()

    def log(self, job: JobRef) -> str:
        """Read the log of a job."""
        return self.job(job).log()

    def graph(self) -> Graph:
        """Collect all jobs, how data sets join them, and which are out of date."""
        return graph(self.store.connection)

    def stale(self) -> dict[int, tuple[StaleReason, ...]]:
        """Map the jobs that are out of date to the reasons."""
        return stale_jobs(self.store.connection)

    def ancestors(self, job: JobRef) -> list[int]:
        """List the jobs whose data a job used, directly or not."""
        return ancestors(self.store.connection, find_job(self.store, job).number)

    def descendants(self, job: JobRef) -> list[int]:
        """List the jobs that used a job's data, directly or not."""
        return descendants(self.store.connection, find_job(self.store, job).number)

    def note(self, job: JobRef, text: str) -> Job:
        """Write a person's remark into a job's record."""
        record = find_job(self.store, job)
        with self.store.writing():
            notes = (*record.notes, Moment(time=now(), what="note", text=text))
            self.store.save(record.replace(notes=notes))
        return Job(self, record.number)

    def delete(self, job: JobRef) -> Job:
        """Remove a job's data and keep its record.

        Where other jobs used its data sets their tables stay, because those of the others may be
        stored as a difference to them; images and results go.

        Args:
            job: `j12` or its number.
        """
        record = find_job(self.store, job)
        if record.number in self.running:
            raise UserError(f"{record.id} is running", "cancel it first")
        users = [n for n in self.descendants(record.number) if not self.store.job(n).deleted]
        with self.store.writing():
            self.store.save(record.replace(deleted=True).with_moment("deleted"))
            for name in RULES["delete_used" if users else "delete"]:
                shutil.rmtree(self.store.folder(record) / name, ignore_errors=True)
        return Job(self, record.number)

    def reindex(self) -> int:
        """Make the index anew from the folders and return the number of jobs."""
        return self.store.reindex()

    def export_template(
        self, path: Path | str, jobs: Sequence[JobRef] | None = None
    ) -> dict[str, Any]:
        """Write the workflow without its data: protocols, changed parameters, links.

        Args:
            path: of the JSON file.
            jobs: the ones to take; all that are done by default.
        """
        from verglas.api.template import export_template

        return export_template(self, Path(path), jobs)

    def replay(
        self,
        template: Path | str | Mapping[str, Any],
        *,
        inputs: Mapping[str, DataSetRef] | None = None,
        overrides: Mapping[str, Mapping[str, Any]] | None = None,
        **options: Any,
    ) -> dict[str, Job]:
        """Run a workflow template.

        Args:
            template: JSON file, or what `export_template` returned.
            inputs: data sets for the template's free inputs, by name.
            overrides: parameters by the name of the node.
            options: as for `run`, but `wait`.
        """
        from verglas.api.template import replay

        return replay(self, template, inputs or {}, overrides or {}, options)

    def _question_folder(self, record: JobRecord) -> Path:
        if record.question is None:
            raise UserError(f"{record.id} ({record.status}) does not ask for anything")
        return self.store.folder(record) / "questions" / record.question.name
