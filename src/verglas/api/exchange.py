"""Exchange data with other programs: RELION's STAR files, plain maps and tables.

What comes in becomes a job of the project like any other, so that it has a history.
"""

import os
import re
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from verglas.core.errors import FormatError, PortError, UserError
from verglas.core.files import atomic_path
from verglas.engine.progress import OnProgress, silent

if TYPE_CHECKING:
    import polars as pl

    from verglas.api.job import Job
    from verglas.api.project import Project
    from verglas.engine.placement import Placement
    from verglas.model import DataSet
    from verglas.sdk.protocol import ProtocolSpec

__all__ = [
    "ExportFormat",
    "PathStyle",
    "export",
    "export_format",
    "import_file",
    "resolve_export",
    "resolve_input",
]

ExportFormat = Literal["relion", "csv", "parquet", "mrc"]
PathStyle = Literal["relative", "absolute"]

_FORMAT_OF = {".star": "relion", ".csv": "csv", ".parquet": "parquet", ".mrc": "mrc", ".map": "mrc"}
_PATH_COLUMNS = ("image_path", "micrograph_path", "gain_path", "defects_path")
_RELION_KINDS = ("movies", "micrographs", "coordinates", "particles")
_IMPORTERS: dict[str, tuple[str, str]] = {
    # kind: protocol, and the name of its parameter for files
    "movies": ("movies.import", "files"),
    "micrographs": ("micrographs.import", "files"),
    "coordinates": ("coordinates.import", "files"),
    "particles": ("particles.import", "file"),
    "volumes": ("volumes.import", "files"),
    "masks": ("masks.import", "files"),
}


def export_format(path: Path, given: str | None = None) -> ExportFormat:
    """Choose the format of a file by name, or by its suffix."""
    known = get_args(ExportFormat)
    chosen = given or _FORMAT_OF.get(path.suffix.lower())
    if chosen not in known:
        got = repr(given) if given else f"{path.name!r}"
        raise UserError(
            f"cannot tell the format of the export: got {got}, expected {', '.join(known)}",
            "name the file .star, .csv, .parquet or .mrc, or give --format",
        )
    found: ExportFormat = chosen  # type: ignore[assignment]
    return found


def export(
    data: "DataSet", path: Path, *, form: ExportFormat, paths: PathStyle = "relative"
) -> list[Path]:
    """Write a data set for another program.

    Args:
        data: any data set; movies, micrographs, coordinates and particles for RELION, volumes
            as MRC.
        path: of the file; an existing one is replaced.
        form: `relion` STAR file, `csv` or `parquet` table, `mrc` copy of a map.
        paths: of images in the file: relative to its folder, or absolute.

    Returns:
        The files that were written.
    """
    path = path.absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "mrc":
        return _copy_maps(data, path)
    if form == "relion":
        _export_relion(data, path, paths)
        return [path]
    frame = _with_moved_paths(data.rows(with_optics=True), data, path, paths)
    with atomic_path(path) as temporary:
        if form == "parquet":
            frame.write_parquet(temporary)
        else:
            _flat(frame).write_csv(temporary)
    return [path]


def import_file(
    project: "Project",
    path: Path,
    *,
    kind: str = "",
    values: Mapping[str, Any] | None = None,
    placement: "Placement | None" = None,
    show: OnProgress = silent,
) -> "Job":
    """Take a file into the project: a STAR file of RELION, a map, a micrograph.

    A file that has changed since it was imported is read again.

    Args:
        project: grows by a job.
        path: of the file.
        kind: of data; by itself what the file says.
        values: further parameters and inputs of the importing protocol.
        placement: where chunks run.
        show: takes progress updates.
    """
    path = path.absolute()
    if not path.is_file():
        raise FormatError(f"no file {str(path)!r}")
    kind = kind or _kind_in(path)
    if kind not in _IMPORTERS:
        names = ", ".join(_IMPORTERS)
        raise UserError(f"{str(path)!r} holds {kind}: expected {names}")
    protocol_id, name = _IMPORTERS[kind]
    file: Any = [str(path)] if name == "files" else str(path)
    known = {record.number for record in project.records()}
    job = project.run(
        protocol_id, params={**(values or {}), name: file}, placement=placement, show=show
    )
    if job.number in known and _is_newer(path, job.record.ended):
        job = project.rerun(job, force=True, placement=placement, show=show)
    return job


def resolve_export(project: "Project", text: str, form: ExportFormat) -> "DataSet":
    """Find the data set that a person names; of a job's, the only one that the format holds.

    Args:
        project: that has it.
        text: as `d41`, `j12.particles` or `j12`.
        form: of the file.
    """
    holds = {"relion": _RELION_KINDS, "mrc": ("volumes", "masks")}.get(form)
    if holds and re.fullmatch(r"j\d+", text.strip().lower()):
        outputs = project.job(text).record.outputs
        fitting = [output.id for output in outputs if output.kind in holds]
        if len(fitting) == 1:
            return project.dataset(fitting[0])
    return project.dataset(text)


def resolve_input(
    project: "Project",
    spec: "ProtocolSpec",
    port: str,
    text: str,
    *,
    placement: "Placement | None" = None,
    show: OnProgress = silent,
) -> str:
    """Turn what a person names as input into a data set: `d41`, `j12.maps`, or a file.

    Args:
        project: grows by a job where a file is imported.
        spec: of the protocol that will take it.
        port: of the protocol.
        text: as typed.
        placement: where chunks run.
        show: takes progress updates.
    """
    path = Path(text)
    if not path.is_file():
        if os.sep in text or path.suffix in _FORMAT_OF:
            raise PortError(f"no file {text!r} for port {port!r} of {spec.id}")
        return _preferred(project, port, text)
    kind = spec.input_ports()[port].kind.id
    if kind == "any":
        raise PortError(
            f"port {port!r} of {spec.id} takes a data set: got the file {text!r}",
            "take it in first: verglas import FILE",
        )
    if path.suffix.lower() != ".star" and kind not in ("volumes", "masks"):
        raise PortError(
            f"port {port!r} of {spec.id} takes {kind}: got the file {text!r}",
            f"take it in first: verglas run {_IMPORTERS.get(kind, (f'{kind}.import',))[0]} --help",
        )
    job = import_file(project, path, kind=kind, placement=placement, show=show)
    return next(output.id for output in job.record.outputs if output.kind == kind)


def _preferred(project: "Project", port: str, text: str) -> str:
    """Let `j12` mean the output that has the name of the port, where there is one."""
    if re.fullmatch(r"j?\d+", text.strip().lower()):
        record = project.job(text).record
        if record.output(port) is not None:
            return f"{record.id}.{port}"
    return text


def _kind_in(path: Path) -> str:
    """Tell what a file holds by its name, or a STAR file by its columns."""
    suffix = path.suffix.lower()
    if suffix == ".star":
        from verglas.io.relion import kind_of_star
        from verglas.io.relion_movies import holds_movies

        return "movies" if holds_movies(path) else kind_of_star(path)
    if suffix in (".map", ".ccp4"):
        return "volumes"
    if suffix == ".eer":
        return "movies"
    if suffix in (".mrc", ".tif", ".tiff"):
        from verglas.io.images import open_images

        n_images, height, width = open_images(path).shape
        if n_images == height == width > 1:
            return "volumes"
        return "movies" if n_images > 1 else "micrographs"
    raise UserError(
        f"cannot tell what {str(path)!r} holds: expected .star, .mrc, .map or .tif",
        "see verglas protocols import",
    )


def _is_newer(path: Path, moment: str) -> bool:
    if not moment:
        return False
    changed = datetime.fromtimestamp(path.stat().st_mtime, tz=UTC)
    return changed > datetime.fromisoformat(moment.replace("Z", "+00:00"))


def _export_relion(data: "DataSet", path: Path, paths: PathStyle) -> None:
    from verglas.io.relion import write_relion
    from verglas.io.relion_movies import write_relion_movies

    kind = data.kind.id
    if kind not in _RELION_KINDS:
        hint = "maps are plain MRC files: export them as .mrc" if kind == "volumes" else None
        raise UserError(f"RELION has no table of {kind}: cannot export {data.name}", hint)
    if "optics_group" not in data.columns or "pixel_size_angst" not in data.optics.columns:
        raise UserError(
            f"{data.name} lacks optics groups, without which coordinates have no pixels",
            "export the micrographs or particles that belong to it",
        )
    rows = _with_moved_paths(data.rows(), data, path, paths)
    if kind == "movies":
        write_relion_movies(path, rows, data.optics)
        return
    write_relion(path, kind, rows, data.optics)  # type: ignore[arg-type]


def _with_moved_paths(
    rows: "pl.DataFrame", data: "DataSet", target: Path, paths: PathStyle
) -> "pl.DataFrame":
    """Write the paths in a table for a reader who starts from the folder of the file."""
    import polars as pl

    def moved(text: str) -> str:
        full = Path(os.path.normpath(data.path(text)))
        if paths == "absolute":
            return full.as_posix()
        return Path(os.path.relpath(full, target.parent.resolve())).as_posix()

    for name in _PATH_COLUMNS:
        if name in rows.columns:
            old = rows[name].drop_nulls().unique().to_list()
            rows = rows.with_columns(pl.col(name).replace({text: moved(text) for text in old}))
    return rows


def _copy_maps(data: "DataSet", path: Path) -> list[Path]:
    if "image_path" not in data.columns or data.kind.id not in ("volumes", "masks"):
        raise UserError(f"only maps and masks are exported as MRC: got {data.name}")
    sources = [data.path(text) for text in data.rows(["image_path"])["image_path"]]
    if len(sources) == 1:
        targets = [path]
    else:
        targets = [
            path.with_name(f"{path.stem}_{i}{path.suffix}") for i in range(1, len(sources) + 1)
        ]
    for source, target in zip(sources, targets, strict=True):
        if not source.is_file():
            raise FormatError(f"the map {str(source)!r} of {data.name} is gone")
        with atomic_path(target) as temporary:
            shutil.copyfile(source, temporary)
    return targets


def _flat(frame: "pl.DataFrame") -> "pl.DataFrame":
    """Write lists as text, since CSV has none."""
    import polars as pl

    lists = [name for name, dtype in frame.schema.items() if dtype.is_nested()]
    texts = [pl.col(name).cast(pl.List(pl.String)).list.join(" ") for name in lists]
    return frame.with_columns(texts) if texts else frame
