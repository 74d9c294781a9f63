"""Where things lie in a project folder.

project.toml  project.db  project.lock  .reserve
jobs/0012-estimate_ctf/  job.json  events.jsonl  log.txt  chunks/  checkpoints/  files/
                         outputs/<port>/  questions/<name>/  revisions/<n>/outputs/<port>/

A data set never moves, since others may be stored as a difference to it: what a job makes when
it is run again with other parameters goes to `revisions/2/outputs/`.
"""

import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from verglas.core.errors import FormatError, UserError
from verglas.core.files import write_text

__all__ = [
    "ProjectLayout",
    "create_project",
    "find_project",
    "json_text",
    "read_json",
    "write_json",
]

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ProjectLayout:
    """The paths of a project."""

    root: Path

    @property
    def manifest(self) -> Path:
        """The file that makes a folder a project."""
        return self.root / "project.toml"

    @property
    def database(self) -> Path:
        """The index, which can be rebuilt from the job folders."""
        return self.root / "project.db"

    @property
    def lock(self) -> Path:
        """The file that names the one writer."""
        return self.root / "project.lock"

    @property
    def reserve(self) -> Path:
        """The file that keeps some disk space back, see `project.reserve`."""
        return self.root / ".reserve"

    @property
    def jobs(self) -> Path:
        """The folder of all jobs."""
        return self.root / "jobs"

    def output_base(self, job_folder: str, revision: int) -> Path:
        """Return the folder in which a revision of a job has its `outputs/`."""
        folder = self.jobs / job_folder
        return folder if revision == 1 else folder / "revisions" / str(revision)

    def job_folders(self) -> Iterator[Path]:
        """Go through the job folders in order of their names, and so of their numbers."""
        if self.jobs.is_dir():
            yield from sorted(p for p in self.jobs.iterdir() if (p / "job.json").is_file())

    def describe(self) -> dict[str, Any]:
        """Read `project.toml`: name, id and format version.

        Raises:
            UserError: there is no project here.
            FormatError: the file is damaged.
        """
        try:
            return tomllib.loads(self.manifest.read_text("utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"no project at {str(self.root)!r}", f"make one with: verglas new {self.root}"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise FormatError(f"{str(self.manifest)!r} cannot be read: {error}") from error


def create_project(root: Path, *, name: str = "") -> ProjectLayout:
    """Make a project folder, which must not be a project already."""
    layout = ProjectLayout(root.resolve())
    if layout.manifest.exists():
        raise UserError(f"{str(root)!r} is a project already", "open it, or choose another folder")
    if layout.root.exists() and not layout.root.is_dir():
        raise UserError(f"{str(root)!r} is a file", "choose a folder that is new or empty")
    layout.jobs.mkdir(parents=True, exist_ok=True)
    lines = [
        f"format_version = {FORMAT_VERSION}",
        f"name = {json.dumps(name or layout.root.name)}",
        f"id = {json.dumps(uuid4().hex)}",
    ]
    write_text(layout.manifest, "\n".join(lines) + "\n")
    return layout


def find_project(path: Path) -> ProjectLayout:
    """Return the layout of the project at `path`; a newer format is refused."""
    layout = ProjectLayout(path.resolve())
    version = layout.describe().get("format_version")
    if version != FORMAT_VERSION:
        raise FormatError(
            f"project {str(path)!r} has format {version!r}, this program reads {FORMAT_VERSION}",
            "install a newer version of verglas",
        )
    return layout


def write_json(path: Path, value: object) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json_text(value))


def json_text(value: object) -> str:
    """Write a value as the content of a JSON file."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def read_json(path: Path) -> Any:
    """Read a JSON file, or raise `FormatError` when it is absent or damaged."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise FormatError(f"file {str(path)!r} is absent") from None
    except (ValueError, UnicodeDecodeError) as error:
        raise FormatError(f"{str(path)!r} is not JSON: {error}") from error
