"""The jobs that the engine is measured by: what is run, on which images, and what is asked for."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from verglas.core.errors import UserError

__all__ = [
    "CASES",
    "GPU_AGREEMENT_CASE",
    "GPU_CASE",
    "SCALING",
    "STACKS",
    "Case",
    "Simulation",
    "select_cases",
]

SCALING = "scaling"
"""Name of the table of growth, which is no single job."""

_LOW_PASS = {"initial_low_pass_angst": 30.0}


@dataclass(frozen=True)
class Simulation:
    """What `particles.simulate` makes a stack of."""

    specimen: str
    n_particles: int
    box_px: int
    pixel_size_angst: float
    snr: float


STACKS = {
    "oct48": Simulation("apoferritin", 1000, 48, 4.8, 0.5),
    "asym48": Simulation("asymmetric", 1000, 48, 4.8, 0.5),
    "oct64": Simulation("apoferritin", 2000, 64, 3.6, 0.05),
    "asym64": Simulation("asymmetric", 2000, 64, 3.6, 0.05),
    "oct96": Simulation("apoferritin", 5000, 96, 2.4, 0.05),
    "asym96": Simulation("asymmetric", 5000, 96, 2.4, 0.05),
    "part128": Simulation("asymmetric", 2000, 128, 1.5, 0.1),
    "big128": Simulation("asymmetric", 100_000, 128, 1.5, 0.1),
    "tiny": Simulation("apoferritin", 60, 24, 8.0, 2.0),
}


@dataclass(frozen=True)
class Case:
    """One job of the table.

    Attributes:
        name: for people and for `--only`.
        stack: name of its images.
        protocol: that is run.
        params: of the protocol.
        symmetry: point group of the specimen, for judging poses.
        peer: what the best peer took and reached (docs/benchmarks.md says where).
        wanted: what must be reached.
        needs_reference: whether the job starts from a map.
        knows_poses: whether it gets the particles with their true poses.
        is_near: whether it gets them with poses 7.5 degrees and 1.8 Å off.
        relion: arguments for RELION's program that does the same, for `--peers`.
    """

    name: str
    stack: str
    protocol: str
    params: Mapping[str, Any] = field(default_factory=dict)
    symmetry: str = "C1"
    peer: str = ""
    wanted: str = ""
    needs_reference: bool = False
    knows_poses: bool = False
    is_near: bool = False
    relion: tuple[str, ...] = ()


def _relion_refine(symmetry: str, diameter: int) -> tuple[str, ...]:
    return (
        *("relion_refine_mpi", "--auto_refine", "--split_random_halves", "--ctf"),
        *("--i", "particles.star", "--ref", "ref_30A.mrc", "--ini_high", "30"),
        *("--firstiter_cc", "--low_resol_join_halves", "40", "--flatten_solvent", "--zero_mask"),
        *("--norm", "--scale", "--oversampling", "1", "--pad", "2", "--healpix_order", "2"),
        *("--auto_local_healpix_order", "4", "--offset_range", "5", "--offset_step", "2"),
        *("--dont_combine_weights_via_disc", "--pool", "20", "--sym", symmetry),
        *("--particle_diameter", str(diameter), "--o", "{out}/run"),
    )


def _relion_classes() -> tuple[str, ...]:
    return (
        *("relion_refine", "--i", "particles.star", "--o", "{out}/run", "--K", "16"),
        *("--iter", "25", "--tau2_fudge", "2", "--particle_diameter", "190", "--ctf"),
        *("--flatten_solvent", "--zero_mask", "--norm", "--scale", "--oversampling", "1"),
        *("--pad", "2", "--center_classes", "--psi_step", "12", "--offset_range", "5"),
        *("--offset_step", "2", "--dont_combine_weights_via_disc", "--pool", "20", "--j", "2"),
    )


def _relion_classes_3d() -> tuple[str, ...]:
    return (
        *("relion_refine", "--i", "particles.star", "--ref", "ref_30A.mrc", "--ini_high", "30"),
        *("--firstiter_cc", "--K", "3", "--iter", "25", "--tau2_fudge", "4", "--sym", "C1"),
        *("--particle_diameter", "190", "--ctf", "--flatten_solvent", "--zero_mask", "--norm"),
        *("--scale", "--oversampling", "1", "--pad", "2", "--healpix_order", "2"),
        *("--offset_range", "5", "--offset_step", "2", "--dont_combine_weights_via_disc"),
        *("--pool", "20", "--j", "2", "--o", "{out}/run"),
    )


def _relion_reconstruct(symmetry: str) -> tuple[str, ...]:
    return (
        *("relion_reconstruct", "--i", "truth.star", "--o", "{out}/map.mrc"),
        *("--ctf", "--sym", symmetry, "--j", "2"),
    )


def _refine(symmetry: str, diameter: float) -> dict[str, Any]:
    return {"symmetry": symmetry, "diameter_angst": diameter} | _LOW_PASS


CASES = (
    Case(
        "refine-O", "oct48", "particles.refine_3d", _refine("O", 160.0), "O",
        "RELION 5: 401 CPU s, 0.74 deg, FSC 0.990", "36 CPU s, 0.74 deg", needs_reference=True,
        relion=_relion_refine("O", 160),
    ),
    Case(
        "refine-C1", "asym48", "particles.refine_3d", _refine("C1", 190.0), "C1",
        "RELION 5: 2,000-3,000 CPU s", "250 CPU s, 2 deg", needs_reference=True,
        relion=_relion_refine("C1", 190),
    ),
    Case(
        "refine-O-noisy", "oct64", "particles.refine_3d", _refine("O", 160.0), "O",
        "RELION 5: 800-1,000 CPU s", "90 CPU s", needs_reference=True,
        relion=_relion_refine("O", 160),
    ),
    Case(
        "initial-C1", "asym48", "particles.initial_volume", {"diameter_angst": 190.0}, "C1",
        "RELION 5: > 2,000 CPU s", "150 CPU s a seed, 15 A",
    ),
    Case(
        "initial-O", "oct64", "particles.initial_volume",
        {"symmetry": "O", "diameter_angst": 160.0}, "O",
        "RELION 5: ~1,200 CPU s", "60 CPU s a seed, 15 A",
    ),
    Case(
        "classes-2D", "asym48", "particles.classify_2d",
        {"n_classes": 16, "diameter_angst": 190.0}, "C1",
        "RELION 5: 269 CPU s, 3.2-3.6 deg in plane", "32 CPU s, 3.6 deg",
        relion=_relion_classes(),
    ),
    Case(
        "classes-2D-noisy", "asym64", "particles.classify_2d",
        {"n_classes": 16, "diameter_angst": 190.0}, "C1",
        "RELION 5: ~700 CPU s, no usable classes", "90 CPU s, 6 deg in plane",
        relion=_relion_classes(),
    ),
    Case(
        "classes-3D", "het48", "particles.classify_3d",
        {"n_classes": 3, "diameter_angst": 190.0} | _LOW_PASS, "C1",
        "RELION 5: ~2,600 CPU s, purity 0.72 after 787", "90 CPU s, purity 0.9",
        needs_reference=True, relion=_relion_classes_3d(),
    ),
    Case(
        "local-C1", "asym48", "particles.refine_local", {"diameter_angst": 190.0}, "C1",
        "cisTEM: 4.5 CPU s, 1.73 deg", "1.5 CPU s, 1.5 deg", needs_reference=True, is_near=True,
    ),
    Case(
        "local-O", "oct48", "particles.refine_local",
        {"symmetry": "O", "diameter_angst": 160.0}, "O",
        "cisTEM: 4.5 CPU s, 1.68 deg", "1.5 CPU s, 1.5 deg", needs_reference=True, is_near=True,
    ),
    Case(
        "reconstruct-C1", "asym96", "particles.reconstruct", {"symmetry": "C1"}, "C1",
        "cisTEM 3.3 CPU s, FSC 0.902; RELION 5: 5.9, 0.923", "1.5 CPU s, FSC 0.923",
        knows_poses=True, relion=_relion_reconstruct("C1"),
    ),
    Case(
        "reconstruct-O", "oct96", "particles.reconstruct", {"symmetry": "O"}, "O",
        "cisTEM 39 CPU s, FSC 0.968; RELION 5: 6.1, 0.990", "1.8 CPU s, FSC 0.990",
        knows_poses=True, relion=_relion_reconstruct("O"),
    ),
)  # fmt: skip
"""The table of jobs, with peers measured on 2 cores of an AMD EPYC (Zen 4)."""

GPU_AGREEMENT_CASE = Case(
    "refine-C1-GPU-agreement", "part128", "particles.refine_3d",
    {"diameter_angst": 130.0, "initial_low_pass_angst": 60.0}, "C1",
    "", "FSC 0.999 with the processor's map", needs_reference=True,
)  # fmt: skip
"""The job that is run with and without the GPU."""

GPU_CASE = Case(
    "refine-C1-GPU", "big128", "particles.refine_3d",
    {"diameter_angst": 130.0, "initial_low_pass_angst": 60.0}, "C1",
    "", "5 minutes on one H200", needs_reference=True,
)  # fmt: skip
"""The job that is timed on a GPU."""


def select_cases(only: Sequence[str]) -> list[Case]:
    """Choose cases by name or by the beginning of it; all for none.

    Args:
        only: names.
    """
    names = [case.name for case in CASES]
    unknown = [name for name in only if not any(known.startswith(name) for known in names)]
    if unknown:
        raise UserError(
            f"no benchmark is called {unknown[0]!r}", "there are " + ", ".join([*names, SCALING])
        )
    whole = {name for name in only if name in names}
    beginnings = tuple(name for name in only if name not in whole)
    return [
        case
        for case in CASES
        if not only or case.name in whole or (beginnings and case.name.startswith(beginnings))
    ]
