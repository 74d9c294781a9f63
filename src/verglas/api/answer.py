"""Answer a job that waits for a person, with a file or with its own suggestion."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from verglas.api.inputs import JobRef, find_job
from verglas.core.errors import FormatError, UserError
from verglas.core.ids import dataset_id

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.api.project import Project

__all__ = ["accept_draft", "answer_with_file"]


def accept_draft(project: "Project", job: JobRef, **options: Any) -> "Job":
    """Take what a job suggests as it is, and let it go on.

    Args:
        project: of the job.
        job: that asks.
        options: as for `Project.answer`.
    """
    return project.answer(job, project.draft(job), **options)


def answer_with_file(
    project: "Project",
    job: JobRef,
    path: Path,
    *,
    unit: Literal["pixel", "angstrom"] = "pixel",
    **options: Any,
) -> "Job":
    """Answer a job that asks for coordinates with a CSV or STAR file of them.

    Args:
        project: of the job.
        job: that asks; the micrographs that it was given say where the positions lie.
        path: of the file; it is imported by a job of its own.
        unit: of positions in text files.
        options: as for `Project.answer`.
    """
    record = find_job(project.store, job)
    if not path.is_file():
        raise FormatError(f"no file {str(path)!r}")
    if record.question is None or record.question.kind != "coordinates":
        asked = record.question.kind if record.question else "nothing"
        raise UserError(
            f"{record.id} asks for {asked}: a file of coordinates does not answer it",
            "see verglas jobs --status asking",
        )
    numbers = [link.dataset for link in record.inputs if link.port == "micrographs"]
    if not numbers:
        raise UserError(f"{record.id} has no micrographs that the positions could lie in")
    taken = project.run(
        "coordinates.import",
        files=[str(path.resolve())],
        unit=unit,
        micrographs=dataset_id(numbers[0]),
    )
    return project.answer(job, taken.output("coordinates"), **options)
