"""`verglas demo`: the whole job on real micrographs of apoferritin, or on simulated ones."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from verglas.api.single_particle import Movies, Settings, single_particle_template
from verglas.cli._console import err, out, print_table
from verglas.cli._options import Workers, placement_of
from verglas.cli._words import value_text
from verglas.cli.process import (
    Overrides,
    ResultFile,
    finish,
    open_or_make,
    read_overrides,
    run_workflow,
    write_result,
)
from verglas.core.errors import UserError

__all__ = [
    "find_demo_data",
    "movie_settings",
    "real_settings",
    "run_demo",
    "simulated_settings",
]

_DATA = "data/apoferritin"
_SOURCE = "https://www.ebi.ac.uk/empiar/EMPIAR-10146"

SIMULATED: dict[str, Any] = {
    "specimen": "apoferritin",
    "n_micrographs": 12,
    "height_px": 1200,
    "width_px": 1240,
    "particles_per_micrograph": 80,
    "dose_e_per_angst2": 40.0,
}

SIMULATED_MOVIES: dict[str, Any] = {
    "specimen": "apoferritin",
    "n_movies": 12,
    "n_frames": 20,
    "height_px": 1200,
    "width_px": 1240,
    "particles_per_micrograph": 80,
    "frame_dose_e_per_angst2": 2.0,
}


def run_demo(
    is_simulated: Annotated[
        bool,
        typer.Option("--simulated", help="Simulate micrographs, and compare with the truth."),
    ] = False,
    from_movies: Annotated[
        bool,
        typer.Option("--movies", help="Simulate movies, and compare with the truth."),
    ] = False,
    project_path: Annotated[
        Path | None,
        typer.Option(
            "--project",
            "-p",
            metavar="FOLDER",
            help="Made if it is not there; by default demo-project, demo-simulated or demo-movies.",
            show_default=False,
        ),
    ] = None,
    n_micrographs: Annotated[
        int | None,
        typer.Option("--micrographs", min=1, help="Only so many images.", show_default=False),
    ] = None,
    reference_picks: Annotated[
        Path | None,
        typer.Option(
            metavar="CSV",
            help="Picks to compare with: columns micrograph, x and y, in pixels.",
            show_default=False,
        ),
    ] = None,
    overrides: Overrides = None,
    result_file: ResultFile = None,
    workers: Workers = None,
) -> None:
    """Make a map of apoferritin from real micrographs (EMPIAR-10146), in minutes.

    The same command goes on where it was stopped.
    """
    name, settings = _what_to_run(n_micrographs, is_simulated=is_simulated, movies=from_movies)
    workflow = single_particle_template(settings)
    with open_or_make(project_path or Path(name)) as project:
        changed = read_overrides(project, workflow, overrides or [])
        result = run_workflow(project, workflow, changed, placement=placement_of(workers, ""))
        finish(result, result_file)
        extra: dict[str, Any] = {}
        if settings.simulate is not None:
            from verglas.api.truth import compare_with_truth

            extra["truth"] = compare_with_truth(result.jobs, symmetry=settings.symmetry)
            _print_numbers("against the truth", extra["truth"])
        if reference_picks is not None:
            from verglas.api.truth import compare_picks

            extra["picks"] = compare_picks(result.jobs, reference_picks)
            _print_numbers("picks against the reference", extra["picks"])
    if extra and result_file is not None and str(result_file) != "-":
        write_result(result_file, {**result.as_json(), **extra})


def find_demo_data() -> Path:
    """Find the demonstration micrographs: in the repository around the code, or here."""
    for folder in (*Path(__file__).parents, Path.cwd(), *Path.cwd().parents):
        if (folder / _DATA).is_dir():
            return folder / _DATA
    raise UserError(
        f"the demonstration micrographs ({_DATA}, 15 MB) are not part of the installed package",
        f"run it from a clone of the repository, or get images from {_SOURCE} "
        "and use verglas process; verglas demo --simulated and --movies need no files",
    )


def real_settings(n_micrographs: int | None) -> Settings:
    """Say what is known of the real micrographs: acquisition, diameter and symmetry."""
    folder = find_demo_data()
    files = [str(path.resolve()) for path in sorted(folder.glob("*.tif"))][:n_micrographs]
    err().print(f"{len(files)} micrographs of apoferritin, EMPIAR-10146 (CC0)", markup=False)
    return Settings(
        pixel_size_angst=1.5,
        voltage_kv=300.0,
        spherical_aberration_mm=0.001,
        amplitude_contrast=0.07,
        diameter_angst=130.0,
        symmetry="O",
        files=tuple(files),
        atoms=(folder / "6z6u.cif.gz").resolve(),
    )


def _what_to_run(n_images: int | None, *, is_simulated: bool, movies: bool) -> tuple[str, Settings]:
    if movies:
        return "demo-movies", movie_settings(n_images)
    if is_simulated:
        return "demo-simulated", simulated_settings(n_images)
    return "demo-project", real_settings(n_images)


def movie_settings(n_movies: int | None) -> Settings:
    """Say what the simulated movies are like."""
    changed = {} if n_movies is None else {"n_movies": n_movies}
    return replace(
        simulated_settings(None),
        simulate=SIMULATED_MOVIES | changed,
        movies=Movies(SIMULATED_MOVIES["frame_dose_e_per_angst2"]),
    )


def simulated_settings(n_micrographs: int | None) -> Settings:
    """Say what the simulated micrographs are like."""
    simulate = dict(SIMULATED)
    if n_micrographs is not None:
        simulate["n_micrographs"] = n_micrographs
    return Settings(
        pixel_size_angst=1.5,
        voltage_kv=300.0,
        spherical_aberration_mm=2.7,
        amplitude_contrast=0.1,
        diameter_angst=130.0,
        symmetry="O",
        simulate=simulate,
    )


def _print_numbers(title: str, numbers: dict[str, Any]) -> None:
    from verglas.core.units import unit_of

    rows = []
    for name, value in numbers.items():
        unit = unit_of(name)
        rows.append([name, value_text(value), unit.symbol if unit else ""])
    out().print()
    print_table(title, ("number", "value", "unit"), rows, right=("value",))
