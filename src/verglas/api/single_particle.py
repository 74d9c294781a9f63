"""The single-particle workflow as data: steps, links, and what follows from a few numbers.

A person gives the acquisition, the diameter and the point group. `quantities` works out what
the steps need; each step names the quantities that it takes. The result is a workflow
template like any other (`verglas.api.template`). Light to import: the help page shows it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verglas.api.movie_steps import MOVIE_STEPS
from verglas.api.steps import Step, make_template
from verglas.core.errors import ParamsError

__all__ = ["Movies", "Settings", "quantities", "single_particle_template", "steps_of"]

BOX_OVER_DIAMETER = 1.8
"""The CTF spreads a particle by wavelength x defocus / resolution, 56 Å at 300 kV, 2 µm and 7 Å;
with 0.4 diameters of room on each side the box keeps nearly all of that for 130 Å particles. A
larger one costs time, and more of it must be filled with noise at the borders."""

N_CLASSES = 20
"""Class averages: enough to tell views and junk apart in some thousand particles."""


N_FIRST_CLASSES = 10
"""Averages that become templates: a few views are enough to find the others."""

FIRST_BOX_PX = 64
"""Of the coarse images whose averages become templates: enough for the outline and rough shape."""


@dataclass(frozen=True)
class Movies:
    """What a person knows of movies.

    Attributes:
        frame_dose_e_per_angst2: electron exposure of one frame; 0 where it is not known.
        gain: gain reference; empty where there is none.
        defects: list or mask of defective pixels; empty where there is none.
    """

    frame_dose_e_per_angst2: float = 0.0
    gain: str = ""
    defects: str = ""


@dataclass(frozen=True)
class Settings:
    """What a person knows of the data.

    Attributes:
        pixel_size_angst: of the micrographs.
        voltage_kv, spherical_aberration_mm, amplitude_contrast: of the microscope.
        diameter_angst: of the particle, its longest extent.
        symmetry: point group.
        files: micrographs or movies; empty where the workflow simulates them.
        atoms: atomic model to compare the map with.
        simulate: parameters of `micrographs.simulate` or `movies.simulate`; None takes files.
        movies: what is known of movies; None for micrographs.
    """

    pixel_size_angst: float
    diameter_angst: float
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1
    symmetry: str = "C1"
    files: tuple[str, ...] = ()
    atoms: Path | None = None
    simulate: Mapping[str, Any] | None = None
    movies: Movies | None = None


_OPTICS = ("pixel_size_angst", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")

_MICROGRAPH_STEPS: tuple[Step, ...] = (
    Step(
        "import",
        "micrographs.import",
        "take in the micrographs",
        takes={name: name for name in ("files", *_OPTICS)},
        only=("real",),
    ),
    Step(
        "simulate",
        "micrographs.simulate",
        "make micrographs with known truth",
        takes={name: name for name in _OPTICS},
        only=("simulated",),
    ),
    Step(
        "ctf",
        "micrographs.estimate_ctf",
        "fit the CTF and put bad micrographs aside",
        {"micrographs": "source.micrographs"},
        advice="every micrograph was rejected: check pixel size and voltage, or loosen the limits",
    ),
    Step(
        "pick",
        "micrographs.pick_log",
        "find particles by their size",
        {"micrographs": "ctf.micrographs"},
        {"diameter_angst": "diameter_angst"},
        advice="no particles were found: check the diameter, and that protein is dark",
    ),
    Step(
        "extract",
        "particles.extract",
        "cut the particles out",
        {"micrographs": "ctf.micrographs", "coordinates": "pick.coordinates"},
        {
            "box_angst": "box_angst",
            "diameter_angst": "diameter_angst",
        },
        advice="every particle was at a border: check the diameter",
    ),
    Step(
        "classify",
        "particles.classify_2d",
        "average similar particles",
        {"particles": "extract.particles"},
        {"diameter_angst": "diameter_angst", "n_classes": "n_classes"},
    ),
    Step(
        "select",
        "classes2d.select",
        "keep the particles of good averages",
        {"classes": "classify.classes", "particles": "classify.particles"},
        advice="no class average was good: look at them, and loosen the rule",
    ),
)
"""From micrographs to the particles of good class averages."""

_MAP_STEPS: tuple[Step, ...] = (
    Step(
        "initial",
        "particles.initial_volume",
        "find a first map",
        {"particles": "select.particles"},
        {"symmetry": "symmetry", "diameter_angst": "diameter_angst"},
    ),
    Step(
        "refine",
        "particles.refine_3d",
        "refine two independent half maps",
        {"particles": "select.particles", "reference": "initial.volumes"},
        {"symmetry": "symmetry", "diameter_angst": "diameter_angst"},
    ),
    Step(
        "postprocess",
        "volumes.postprocess",
        "mask, measure and sharpen the map",
        {"volumes": "refine.volumes"},
    ),
    Step(
        "fsc",
        "volumes.fsc",
        "compare the map with the atomic model",
        {"volumes": "postprocess.volumes"},
        {"atoms": "atoms"},
        only=("atoms",),
    ),
    Step(
        "truth",
        "volumes.fsc",
        "compare the map with the true one",
        {"volumes": "postprocess.volumes", "reference": "simulate.volume"},
        only=("simulated",),
    ),
)


def steps_of(settings: Settings) -> tuple[Step, ...]:
    """List the steps for some data, also those for other circumstances."""
    first = _MICROGRAPH_STEPS if settings.movies is None else MOVIE_STEPS
    return (*first, *_MAP_STEPS)


def quantities(settings: Settings) -> dict[str, Any]:
    """Work out what the steps take from what a person gave."""
    found: dict[str, Any] = {name: getattr(settings, name) for name in _OPTICS}
    movies = settings.movies or Movies()
    found |= {name: value or None for name, value in vars(movies).items()}
    return {
        **found,
        "files": list(settings.files),
        "diameter_angst": settings.diameter_angst,
        "box_angst": round(BOX_OVER_DIAMETER * settings.diameter_angst, 1),
        "first_box_px": FIRST_BOX_PX,
        "n_classes": N_CLASSES,
        "n_first_classes": N_FIRST_CLASSES,
        "symmetry": settings.symmetry,
        "atoms": None if settings.atoms is None else str(settings.atoms),
    }


def _check_symmetry(name: str) -> None:
    from verglas.kernels.point_groups import parse_symmetry

    try:
        parse_symmetry(name)
    except ValueError as error:
        raise ParamsError(f"symmetry: {error}") from error


def single_particle_template(settings: Settings) -> dict[str, Any]:
    """Make the workflow for some data, as `Project.replay` takes it.

    Raises:
        ParamsError: the point group has no name that is known; the steps that use it come late.
    """
    _check_symmetry(settings.symmetry)
    is_simulated = settings.simulate is not None
    circumstances = {"simulated" if is_simulated else "real"}
    if settings.atoms is not None:
        circumstances.add("atoms")
    return make_template(
        "single particles",
        steps_of(settings),
        quantities(settings),
        circumstances=frozenset(circumstances),
        changes={"simulate": settings.simulate or {}},
    )
