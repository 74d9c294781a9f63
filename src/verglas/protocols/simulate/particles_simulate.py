"""Simulate particle images with known poses, shifts and defocus.

Each image is the exact projection of an atomic model in ice through the CTF and an envelope,
plus Gaussian noise of variance 1. The signal-to-noise ratio is the variance of the noise-free
image over that of the noise, within the circle about the particle. `particles` is what a
microscope would give; `true_particles` are the same images with their poses, and `volume` is
the map that they are projections of, on the same grey scale. Equal seed, equal images.
"""

from typing import TYPE_CHECKING

import polars as pl
from pydantic import model_validator

from verglas.model import PARTICLES, VOLUMES, DataSet
from verglas.protocols._specimen import (
    SPECIMEN_HELP,
    as_atoms,
    put_atoms,
    specimen_atoms,
    true_volume,
)
from verglas.sdk import ArrayRef, Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.simulate.particles import ParticleConfig

__all__ = ["Inputs", "Outputs", "SimulateParams", "render_stack", "run"]

_CHUNK = 250
_POSE = (
    "angle_rot_deg",
    "angle_tilt_deg",
    "angle_psi_deg",
    "shift_x_angst",
    "shift_y_angst",
)


class SimulateParams(Params):
    """What to simulate."""

    specimen: str = param("apoferritin", help=SPECIMEN_HELP)
    n_particles: int = param(1000, ge=1, le=10_000_000, help="Number of images.")
    box_px: int = param(128, ge=16, le=2048, help="Side of an image.")
    pixel_size_angst: float = param(1.5, gt=0, le=20, help="Edge of a pixel.")
    snr: float = param(0.1, ge=0, help="Signal-to-noise ratio; 0 makes images of noise only.")
    defocus_min_angst: float = param(8000.0, help="Smallest underfocus.")
    defocus_max_angst: float = param(20000.0, help="Largest underfocus.")
    astigmatism_angst: float = param(400.0, ge=0, help="Largest difference of the two defoci.")
    phase_shift_deg: float = param(0.0, advanced=True, help="Phase shift of a phase plate.")
    shift_angst: float = param(
        3.0, ge=0, help="Standard deviation of the particles' displacement along x and y."
    )
    b_factor_angst2: float = param(40.0, ge=0, help="Envelope of the images as a B factor.")
    coloured_fraction: float = param(
        0.0, ge=0, le=1, help="Part of the noise's variance that falls off from 1/30 Å on."
    )
    voltage_kv: float = param(300.0, gt=0, help="Acceleration voltage.")
    spherical_aberration_mm: float = param(2.7, ge=0, help="Of the objective lens.")
    amplitude_contrast: float = param(0.1, ge=0, le=1, help="Fraction of amplitude contrast.")
    seed: int = param(0, ge=0, help="Another seed gives other poses and other noise.")

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "SimulateParams":
        if self.defocus_min_angst > self.defocus_max_angst:
            raise ValueError("defocus_min_angst must not exceed defocus_max_angst")
        return self


class Inputs(Ports):
    """None: the specimen is a parameter."""


class Outputs(Ports):
    """The images twice, without and with their poses, and the map behind them."""

    particles: DataSet = port(PARTICLES, needs=("optics", "ctf"))
    true_particles: DataSet = port(PARTICLES, needs=("optics", "ctf", "pose3d"))
    volume: DataSet = port(VOLUMES)


def render_stack(
    rows: pl.DataFrame,
    task: Task,
    *,
    atoms: ArrayRef,
    config: "ParticleConfig",
    signal_scale: float,
) -> pl.DataFrame:
    """Render some particles into a stack of their own."""
    from verglas.io.mrc import write_mrc
    from verglas.simulate.particles import prepare_renderer, render_images

    renderer = prepare_renderer(as_atoms(task.load(atoms)), config, signal_scale=signal_scale)
    path = task.files / "particles.mrcs"
    images = render_images(renderer, rows).numpy()
    write_mrc(path, images, config.optics.pixel_size_angst, is_stack=True)
    return rows.select(
        "item_id",
        image_path=pl.lit(task.relative(path)),
        image_slice=pl.int_range(pl.len(), dtype=pl.Int64),
    )


def _config(params: SimulateParams) -> "ParticleConfig":
    from verglas.simulate.noise import NoiseSpectrum
    from verglas.simulate.particles import Optics, ParticleConfig

    return ParticleConfig(
        n_particles=params.n_particles,
        box_px=params.box_px,
        optics=Optics(
            params.pixel_size_angst,
            params.voltage_kv,
            params.spherical_aberration_mm,
            params.amplitude_contrast,
        ),
        snr=params.snr,
        defocus_min_angst=params.defocus_min_angst,
        defocus_max_angst=params.defocus_max_angst,
        astigmatism_angst=params.astigmatism_angst,
        phase_shift_deg=params.phase_shift_deg,
        shift_angst=params.shift_angst,
        b_factor_angst2=params.b_factor_angst2,
        noise=NoiseSpectrum(params.coloured_fraction),
        seed=params.seed,
    )


@protocol(
    "particles.simulate",
    version=1,
    label="Simulate particles",
    citations=("Barnett et al. 2019, doi:10.1137/18M120885X",),
)
def run(ctx: Context, params: SimulateParams, inputs: Inputs) -> Outputs:
    """Draw the truth, render it in chunks, and write the map."""
    from verglas.simulate.atoms import radius_angst
    from verglas.simulate.particles import draw_particles, optics_table, prepare_renderer

    config = _config(params)
    atoms, symmetry = specimen_atoms(ctx, params.specimen)
    diameter = 2 * radius_angst(atoms)
    extent = params.box_px * params.pixel_size_angst
    if diameter > extent:
        ctx.warn(f"specimen of {diameter:.0f} Å is larger than the box of {extent:.0f} Å")
    scale = prepare_renderer(atoms, config).signal_scale
    truth = draw_particles(config)
    made = ctx.map(
        render_stack,
        truth,
        chunk=_CHUNK,
        atoms=put_atoms(ctx, atoms),
        config=config,
        signal_scale=scale,
    )
    truth = truth.join(made, on="item_id", maintain_order="left")
    optics = optics_table(config.optics, config.box_px)
    ctx.metric("diameter_angst", round(diameter, 1))
    return Outputs(
        particles=ctx.dataset(PARTICLES, truth.drop(_POSE), optics=optics),
        true_particles=ctx.dataset(PARTICLES, truth, optics=optics),
        volume=true_volume(
            ctx,
            atoms,
            box_px=params.box_px,
            pixel_size_angst=params.pixel_size_angst,
            symmetry=symmetry,
            scale=scale or 1.0,
        ),
    )
