"""Commands that exchange data with other programs: import, export."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from verglas.cli._console import out, print_json
from verglas.cli._options import AsJson, ProjectFolder, Workers, open_project, placement_of
from verglas.cli._progress import progress_shown
from verglas.cli._records import print_job, record_json, run_explained
from verglas.core.errors import ParamsError
from verglas.viewers.words import count_text

__all__ = ["export_data", "import_file"]


def export_data(
    ref: Annotated[str, typer.Argument(metavar="DATASET", help="As d41 or j12.particles.")],
    path: Annotated[Path, typer.Argument(metavar="FILE", help="As out.star, map.mrc, table.csv.")],
    project_path: ProjectFolder = None,
    form: Annotated[
        Literal["relion", "csv", "parquet", "mrc"] | None,
        typer.Option("--format", help="By the suffix of the file.", show_default=False),
    ] = None,
    paths: Annotated[
        Literal["relative", "absolute"],
        typer.Option(help="Paths of images in the file: relative to its folder, or absolute."),
    ] = "relative",
    as_json: AsJson = False,
) -> None:
    """Write a data set as a STAR file for RELION, a map as MRC, or any table.

    RELION starts from its project folder: write the file there, or use absolute paths.
    """
    from verglas.api.exchange import export, export_format, resolve_export

    with open_project(project_path) as project:
        chosen = export_format(path, form)
        data = resolve_export(project, ref, chosen)
        written = export(data, path, form=chosen, paths=paths)
    if as_json:
        print_json({"files": [str(file) for file in written], "n_items": data.n_items})
        return
    for file in written:
        out().print(
            f"{count_text(data.n_items, data.kind.id)} in {file}", markup=False, soft_wrap=True
        )


def import_file(
    path: Annotated[
        Path, typer.Argument(metavar="FILE", help="STAR file of RELION, map, or micrograph.")
    ],
    project_path: ProjectFolder = None,
    kind: Annotated[
        Literal["movies", "micrographs", "coordinates", "particles", "volumes", "masks"] | None,
        typer.Option(help="By the content of the file.", show_default=False),
    ] = None,
    pixel_size_angst: Annotated[
        float | None,
        typer.Option(metavar="Å", help="Where the file does not say.", show_default=False),
    ] = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            "-i",
            metavar="PORT=DATA",
            help="Data that belongs to it, as micrographs=d3 for coordinates.",
            show_default=False,
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="PARAM=VALUE",
            help="Further parameters of the importing protocol, as listed by "
            "verglas run particles.import --help.",
            show_default=False,
        ),
    ] = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Take a file into a project: micrographs with CTF, coordinates, particles, maps, masks."""
    from verglas.api.exchange import import_file as take_in

    values: dict[str, Any] = {**_pairs(inputs or []), **_pairs(settings or [])}
    if pixel_size_angst is not None:
        values["pixel_size_angst"] = pixel_size_angst
    with open_project(project_path) as project, progress_shown() as show:
        job = run_explained(
            project,
            lambda: take_in(
                project,
                path,
                kind=kind or "",
                values=values,
                placement=placement_of(workers, ""),
                show=show,
            ),
        )
    if as_json:
        print_json(record_json(job.record))
    else:
        print_job(job)


def _pairs(typed: list[str]) -> dict[str, str]:
    found = {}
    for text in typed:
        name, equals, value = text.partition("=")
        if not equals:
            raise ParamsError(f"got {text!r}, expected NAME=VALUE")
        found[name.strip().replace("-", "_")] = value.strip()
    return found
