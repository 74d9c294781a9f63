"""Simulate micrographs with known positions, poses and defocus.

Particles lie in a layer of ice without touching; each passes through the CTF of its own
height, and so does the ice, which gives the Thon rings. The detector counts electrons, so
protein is dark. `micrographs` is what a microscope would give; `true_micrographs` are the
same with their defocus, `true_particles` holds positions, poses and the defocus of each
particle, and `volume` the map of the specimen in volts. Contamination, if wanted, is in
`true_micrographs` as a mask; particles that it covers are in `contaminated_particles`.
Equal seed, equal images.
"""

from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic import model_validator

from verglas.model import COORDINATES, MICROGRAPHS, VOLUMES, DataSet
from verglas.protocols._specimen import (
    SPECIMEN_HELP,
    as_atoms,
    put_atoms,
    specimen_atoms,
    true_volume,
)
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.simulate.micrograph import MicrographConfig

__all__ = ["Inputs", "Outputs", "SimulateParams", "render_fields", "run"]

_TRUTH = (
    "defocus_u_angst",
    "defocus_v_angst",
    "defocus_angle_deg",
    "phase_shift_deg",
    "contamination_path",
)
_TORN = 4  # in the masks: there is no ice, so no particle


class SimulateParams(Params):
    """What to simulate."""

    specimen: str = param("apoferritin", help=SPECIMEN_HELP)
    n_micrographs: int = param(10, ge=1, le=100_000, help="Number of images.")
    height_px: int = param(2048, ge=64, le=16384, help="Rows of an image.")
    width_px: int = param(2048, ge=64, le=16384, help="Columns of an image.")
    pixel_size_angst: float = param(1.5, gt=0, le=20, help="Edge of a pixel.")
    particles_per_micrograph: int = param(
        200, ge=0, help="Particles wanted in each; fewer where they do not fit, 0 for ice only."
    )
    dose_e_per_angst2: float = param(40.0, gt=0, help="Electron exposure.")
    defocus_min_angst: float = param(8000.0, help="Smallest underfocus.")
    defocus_max_angst: float = param(20000.0, help="Largest underfocus.")
    astigmatism_angst: float = param(400.0, ge=0, help="Largest difference of the two defoci.")
    phase_shift_deg: float = param(0.0, advanced=True, help="Phase shift of a phase plate.")
    height_spread_angst: float = param(
        200.0, ge=0, help="Range of the particles' heights along the beam."
    )
    ice_thickness_angst: float = param(300.0, ge=0, help="Ice that scatters; 0 for none.")
    b_factor_angst2: float = param(60.0, ge=0, help="Envelope of the images as a B factor.")
    mtf_at_nyquist: float = param(
        0.6, ge=0, le=1, advanced=True, help="Signal the detector keeps at the Nyquist frequency."
    )
    gradient: float = param(
        0.1, ge=0, lt=1, advanced=True, help="Relative change of brightness across the image."
    )
    contamination: float = param(
        0.0,
        ge=0,
        le=5,
        help="How much carbon, ice crystals, aggregates and torn ice: 1 is a dirty grid, 0 clean.",
    )
    voltage_kv: float = param(300.0, gt=0, help="Acceleration voltage.")
    spherical_aberration_mm: float = param(2.7, ge=0, help="Of the objective lens.")
    amplitude_contrast: float = param(0.1, ge=0, le=1, help="Fraction of amplitude contrast.")
    seed: int = param(0, ge=0, help="Another seed gives other positions, poses and noise.")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "SimulateParams":
        if self.defocus_min_angst > self.defocus_max_angst:
            raise ValueError("defocus_min_angst must not exceed defocus_max_angst")
        return self


class Inputs(Ports):
    """None: the specimen is a parameter."""


class Outputs(Ports):
    """The images twice, without and with their defocus, and what is in them."""

    micrographs: DataSet = port(MICROGRAPHS)
    true_micrographs: DataSet = port(MICROGRAPHS, needs=("ctf",))
    true_particles: DataSet = port(COORDINATES, needs=("optics", "ctf", "pose3d"))
    contaminated_particles: DataSet | None = port(
        COORDINATES, needs=("optics", "ctf", "pose3d"), optional=True
    )
    volume: DataSet = port(VOLUMES)


def render_fields(
    rows: pl.DataFrame, task: Task, *, atoms: ArrayRef, config: "MicrographConfig"
) -> pl.DataFrame:
    """Render micrographs, each into a file of whole electrons."""
    from verglas.io.mrc import write_mrc
    from verglas.simulate.atoms import radius_angst
    from verglas.simulate.contamination import label_at
    from verglas.simulate.micrograph import (
        contamination_of,
        draw_micrograph,
        prepare_micrograph_renderer,
        render_micrograph,
    )

    specimen = as_atoms(task.load(atoms))
    renderer = prepare_micrograph_renderer(specimen, config)
    pixel = config.optics.pixel_size_angst
    made: list[dict[str, Any]] = []
    for done, item_id in enumerate(rows["item_id"]):
        micrograph, particles = draw_micrograph(config, item_id, 2 * radius_angst(specimen))
        image = render_micrograph(renderer, micrograph, particles)
        path = task.files / f"micrograph_{item_id:05d}.mrc"
        write_mrc(path, image, pixel, mode="int16")
        row = {"item_id": item_id, "image_path": task.relative(path), "image_slice": 0}
        contamination = contamination_of(config, item_id)
        if contamination is not None:
            mask = task.files / f"contamination_{item_id:05d}.mrc"
            write_mrc(mask, contamination.mask, pixel, mode="int8")
            x, y = (particles[f"coord_{axis}_angst"].to_numpy() for axis in "xy")
            row["contamination_path"] = task.relative(mask)
            row["covered"] = label_at(contamination.mask, x, y, pixel).tolist()
        made.append(row)
        task.progress(done + 1, rows.height)
    types = {"covered": pl.List(pl.Int64)} if config.contamination is not None else None
    return pl.DataFrame(made, schema_overrides=types)


def _config(params: SimulateParams) -> "MicrographConfig":
    from verglas.simulate.contamination import scaled_contamination
    from verglas.simulate.micrograph import MicrographConfig
    from verglas.simulate.particles import Optics

    return MicrographConfig(
        n_micrographs=params.n_micrographs,
        height_px=params.height_px,
        width_px=params.width_px,
        optics=Optics(
            params.pixel_size_angst,
            params.voltage_kv,
            params.spherical_aberration_mm,
            params.amplitude_contrast,
        ),
        particles_per_micrograph=params.particles_per_micrograph,
        dose_e_per_angst2=params.dose_e_per_angst2,
        defocus_min_angst=params.defocus_min_angst,
        defocus_max_angst=params.defocus_max_angst,
        astigmatism_angst=params.astigmatism_angst,
        phase_shift_deg=params.phase_shift_deg,
        height_spread_angst=params.height_spread_angst,
        ice_thickness_angst=params.ice_thickness_angst,
        b_factor_angst2=params.b_factor_angst2,
        mtf_at_nyquist=params.mtf_at_nyquist,
        gradient=params.gradient,
        seed=params.seed,
        contamination=scaled_contamination(params.contamination),
    )


def _parted(particles: pl.DataFrame, made: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Part the particles by what covers them; those in torn ice are in neither."""
    if "covered" not in made.columns:
        return particles, particles.clear()
    labels = dict(made.select("item_id", "covered").iter_rows())
    covered = pl.Series(
        [label for item in sorted(labels) for label in labels[item]], dtype=pl.Int64
    )
    on_dirt = (covered > 0) & (covered < _TORN)
    return particles.filter(covered == 0), particles.filter(on_dirt)


@protocol(
    "micrographs.simulate",
    version=1,
    label="Simulate micrographs",
    citations=("McMullan et al. 2015, doi:10.1016/j.ultramic.2015.05.017",),
)
def run(ctx: Context, params: SimulateParams, inputs: Inputs) -> Outputs:
    """Draw the truth, render one micrograph a chunk, and write the map."""
    from verglas.simulate.atoms import radius_angst
    from verglas.simulate.micrograph import draw_micrographs
    from verglas.simulate.particles import optics_table

    config = _config(params)
    atoms, symmetry = specimen_atoms(ctx, params.specimen)
    diameter = 2 * radius_angst(atoms)
    truth, particles = draw_micrographs(config, diameter)
    wanted = params.n_micrographs * params.particles_per_micrograph
    if particles.height < wanted:
        ctx.warn(f"{particles.height} of {wanted} particles of {diameter:.0f} Å found room")
    made = ctx.map(
        render_fields,
        truth.select("item_id"),
        chunk=1,
        atoms=put_atoms(ctx, atoms),
        config=config,
    )
    particles, on_dirt = _parted(particles, made)
    truth = truth.join(made.drop("covered", strict=False), on="item_id", maintain_order="left")
    paths = truth.select(micrograph_id="item_id", micrograph_path="image_path")
    particles = particles.join(paths, on="micrograph_id", maintain_order="left")
    on_dirt = on_dirt.join(paths, on="micrograph_id", maintain_order="left")
    optics = optics_table(config.optics)
    box = int(1.5 * diameter / params.pixel_size_angst) // 2 * 2
    ctx.metric("diameter_angst", round(diameter, 1))
    return Outputs(
        micrographs=ctx.dataset(MICROGRAPHS, truth.drop(_TRUTH, strict=False), optics=optics),
        true_micrographs=ctx.dataset(MICROGRAPHS, truth, optics=optics),
        true_particles=ctx.dataset(COORDINATES, particles, optics=optics),
        contaminated_particles=ctx.dataset(COORDINATES, on_dirt, optics=optics)
        if on_dirt.height
        else None,
        volume=true_volume(
            ctx, atoms, box_px=box, pixel_size_angst=params.pixel_size_angst, symmetry=symmetry
        ),
    )
