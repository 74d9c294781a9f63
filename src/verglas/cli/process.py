"""`verglas process`: micrographs in, a map out."""

import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verglas.api.single_particle import (
    Movies,
    Settings,
    quantities,
    single_particle_template,
    steps_of,
)
from verglas.cli._console import err, out, print_table
from verglas.cli._options import Scheduler, Workers, placement_of
from verglas.cli._progress import progress_shown
from verglas.cli._records import run_explained
from verglas.cli._words import duration_text, metric_text, number_text
from verglas.core.errors import ParamsError, UserError

if TYPE_CHECKING:
    from verglas.api.process import ProcessResult, StepResult
    from verglas.api.project import Project

__all__ = ["print_result", "read_overrides", "run_process", "run_workflow", "write_result"]

_RESOLUTION = "resolution_angst"

Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="STEP.PARAM=VALUE",
        help="Another value for a parameter of a step; repeat it for several.",
        show_default=False,
    ),
]
ResultFile = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", help="Write the result as JSON; - is stdout.", show_default=False
    ),
]


AreMovies = Annotated[
    bool, typer.Option("--movies", help="FILES are movies; their steps come first.")
]
FrameDose = Annotated[
    float,
    typer.Option(
        metavar="e/Å²", min=0.0, help="Of movies: exposure of one frame; 0 for no dose weights."
    ),
]
Gain = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Of movies: gain reference.", show_default=False),
]
Defects = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Of movies: list or mask of defective pixels.", show_default=False
    ),
]


def _steps_help() -> str:
    settings = Settings(pixel_size_angst=1.0, diameter_angst=100.0)
    box = quantities(settings)["box_angst"] / 100
    lists = (
        ("Steps:", settings),
        ("Steps with --movies:", replace(settings, movies=Movies())),
    )
    parts = [f"{title}\n{_step_lines(which)}" for title, which in lists]
    last = f"The box is {box:g} diameters. verglas run PROTOCOL --help lists what --set can set."
    return "\n\n".join([*parts, last])


def _step_lines(settings: Settings) -> str:
    lines = []
    for step in steps_of(settings):
        if "simulated" in step.only:
            continue
        when = " (with --atoms)" if "atoms" in step.only else ""
        lines.append(f"{step.name}: {step.does}{when} [{step.protocol}]")
    return "\n".join(lines).replace("[", "\\[")


def run_process(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES...",
            help="Micrographs, MRC or TIFF, or movies, EER too; a folder takes all.",
        ),
    ],
    project_path: Annotated[
        Path, typer.Option("--project", "-p", metavar="FOLDER", help="Made if it is not there.")
    ],
    pixel_size_angst: Annotated[float, typer.Option(metavar="Å", help="Of the micrographs.")],
    diameter_angst: Annotated[
        float, typer.Option(metavar="Å", help="Longest extent of the particle.")
    ],
    voltage_kv: Annotated[float, typer.Option(metavar="kV", help="Acceleration voltage.")] = 300.0,
    spherical_aberration_mm: Annotated[
        float, typer.Option(metavar="mm", help="Of the objective lens.")
    ] = 2.7,
    amplitude_contrast: Annotated[float, typer.Option(help="Fraction.")] = 0.1,
    symmetry: Annotated[str, typer.Option(metavar="GROUP", help="As C1, D7, O.")] = "C1",
    atoms: Annotated[
        Path | None,
        typer.Option(
            metavar="MODEL",
            help="Atomic model, mmCIF or PDB, to compare the map with.",
            show_default=False,
        ),
    ] = None,
    are_movies: AreMovies = False,
    frame_dose_e_per_angst2: FrameDose = 0.0,
    gain: Gain = None,
    defects: Defects = None,
    overrides: Overrides = None,
    result_file: ResultFile = None,
    workers: Workers = None,
    scheduler: Scheduler = "",
    template_file: Annotated[
        Path | None,
        typer.Option(
            "--write-template",
            metavar="FILE",
            help="Write the steps and their parameters as JSON and run nothing.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Take micrographs or movies to a map: the whole single-particle workflow, resumable.

    The same command on the same project goes on where it stopped; steps that are done are not
    run again.
    """
    settings = Settings(
        pixel_size_angst=pixel_size_angst,
        voltage_kv=voltage_kv,
        spherical_aberration_mm=spherical_aberration_mm,
        amplitude_contrast=amplitude_contrast,
        diameter_angst=diameter_angst,
        symmetry=symmetry,
        files=find_images(files, are_movies=are_movies),
        atoms=_existing(atoms, "--atoms takes an mmCIF or PDB file"),
        movies=_movies(frame_dose_e_per_angst2, gain, defects) if are_movies else None,
    )
    workflow = single_particle_template(settings)
    if template_file is not None:
        template_file.write_text(json.dumps(workflow, indent=1) + "\n", "utf-8")
        out().print(f"wrote {template_file}", markup=False)
        return
    with open_or_make(project_path) as project:
        result = run_workflow(
            project, workflow, read_overrides(project, workflow, overrides or []),
            placement=placement_of(workers, scheduler),
        )  # fmt: skip
    finish(result, result_file)


def run_workflow(
    project: "Project",
    workflow: Mapping[str, Any],
    overrides: Mapping[str, Mapping[str, Any]],
    *,
    inputs: Mapping[str, Any] | None = None,
    placement: Any,
) -> "ProcessResult":
    """Run a workflow with a line for each step and a bar for what is going on."""
    from verglas.api.process import Watch, process

    with progress_shown() as show:
        watch = Watch(progress=show, started=_say_start, ended=_say_end)
        return run_explained(
            project,
            lambda: process(
                project,
                workflow,
                overrides=overrides,
                inputs=inputs,
                placement=placement,
                watch=watch,
                report=project.root / "report.html",
            ),
        )


def finish(result: "ProcessResult", result_file: Path | None) -> None:
    """Show the result, and write it where it was asked for."""
    if result_file is not None and str(result_file) == "-":
        typer.echo(json.dumps(result.as_json(), indent=1, ensure_ascii=False))
        return
    print_result(result)
    if result_file is not None:
        write_result(result_file, result.as_json())


def print_result(result: "ProcessResult") -> None:
    """Show the table of steps and the map."""
    rows = [
        [
            step.name,
            step.job,
            _counts(step.items_in),
            _counts(step.items_out),
            duration_text(step.seconds),
            _key_number(step),
        ]
        for step in result.steps
    ]
    columns = ("step", "job", "in", "out", "time", "key number")
    print_table("", columns, rows, right=("time",))
    total_s = sum(step.seconds for step in result.steps)
    facts = {
        "time": f"{duration_text(result.elapsed_s)}, all steps {duration_text(total_s)}",
        "map": result.map,
        "half maps": ", ".join(map(str, result.half_maps)),
        "resolution": _angst(result.resolution_angst, "half maps, FSC 0.143"),
        "against model": _angst(result.model_resolution_angst, "FSC 0.5"),
        "report": result.report,
        "project": result.project,
    }
    out().print()
    for name, value in facts.items():
        if value:
            out().print(f"{name:<14} {value}", markup=False, soft_wrap=True)


def write_result(path: Path, content: Mapping[str, Any]) -> None:
    """Write a result as JSON, in one step."""
    from verglas.project.layout import write_json

    write_json(path, content)


def read_overrides(
    project: "Project", workflow: Mapping[str, Any], typed: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Read `step.parameter=value` by the types of the step's parameters."""
    from verglas.api.template import load_template
    from verglas.cli._schema import parse_value
    from verglas.sdk.params import json_schema

    protocols = {node.name: node.protocol for node in load_template(workflow).nodes}
    found: dict[str, dict[str, Any]] = {}
    for text in typed:
        target, equals, value = text.partition("=")
        step, dot, name = target.strip().partition(".")
        if not (equals and dot and name):
            raise ParamsError(f"got {text!r}, expected STEP.PARAM=VALUE", "as pick.threshold=0.4")
        if step not in protocols:
            raise ParamsError(f"no step {step!r}", f"the steps are {', '.join(protocols)}")
        name = name.replace("-", "_")
        schema = json_schema(project.protocol(protocols[step]).params)
        entry = schema["properties"].get(name, {})
        found.setdefault(step, {})[name] = parse_value(entry, value.strip()) if entry else value
    return found


def find_images(given: Sequence[str], *, are_movies: bool) -> tuple[str, ...]:
    """List the files that were meant, as absolute paths in order; a folder gives its images."""
    suffixes = {".mrc", ".mrcs", ".tif", ".tiff"} | ({".eer"} if are_movies else set())
    found: list[Path] = []
    for text in given:
        path = Path(text)
        if path.is_dir():
            inside = [p for p in sorted(path.iterdir()) if p.suffix.lower() in suffixes]
            if not inside:
                what = "movies" if are_movies else "micrographs"
                endings = ", ".join(sorted(suffixes))
                raise UserError(f"no {what} in {text!r}: expected files ending in {endings}")
            found += inside
        elif path.exists():
            found.append(path)
        else:
            matches = sorted(Path().glob(text)) if not path.is_absolute() else []
            if not matches:
                raise UserError(
                    f"no file {text!r}", "check the path; a pattern must match something"
                )
            found += matches
    return tuple(dict.fromkeys(str(path.absolute()) for path in found))


def open_or_make(path: Path) -> "Project":
    """Open a project, or make it where there is none."""
    from verglas.api.project import Project

    if (path / "project.toml").exists():
        return Project.open(path)
    return Project.create(path)


def _existing(path: Path | None, hint: str) -> Path | None:
    if path is not None and not path.is_file():
        raise UserError(f"no file {str(path)!r}", hint)
    return None if path is None else path.absolute()


def _movies(frame_dose_e_per_angst2: float, gain: Path | None, defects: Path | None) -> Movies:
    found = [
        _existing(gain, "--gain takes an image of the size of a frame"),
        _existing(defects, "--defects takes a mask or a list of rectangles"),
    ]
    return Movies(frame_dose_e_per_angst2, *("" if path is None else str(path) for path in found))


def _say_start(name: str, number: int, count: int) -> None:
    err().print(f"[{number}/{count}] {name} ...", markup=False)


def _say_end(step: "StepResult") -> None:
    time_text = "done before" if step.is_reused else duration_text(step.seconds)
    words = [_counts(step.items_out), _key_number(step), time_text]
    err().print(f"      {', '.join(word for word in words if word)}", markup=False)
    if not step.is_reused:
        for text in step.warnings:
            err().print(f"      warning: {text}", style="yellow", markup=False, soft_wrap=True)


def _counts(items: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {port}" for port, count in items.items())


def _key_number(step: "StepResult") -> str:
    """Choose the resolution, or the first number that is not a count, as the items say those."""
    numbers = {name: value for name, value in step.numbers.items() if not name.startswith("n_")}
    if _RESOLUTION in numbers:
        return metric_text(_RESOLUTION, numbers[_RESOLUTION])
    return next((metric_text(name, value) for name, value in numbers.items()), "")


def _angst(value: float | None, meaning: str) -> str:
    return "" if value is None else f"{number_text(value, 3)} Å ({meaning})"


with suppress(AttributeError):  # an interpreter that strips docstrings has none to add to
    run_process.__doc__ = f"{inspect.cleandoc(run_process.__doc__ or '')}\n\n{_steps_help()}"
