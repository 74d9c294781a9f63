"""Whole micrographs with known positions, poses and defocus.

Weak-phase images: each particle is projected exactly and passes through the CTF of its own
height; so does the ice, slab by slab. What the detector counts is Poisson distributed about
the expected number of electrons, so protein is dark and the grey value is electrons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import irfft2, next_fast_size, rfft2, rfft_grid
from verglas.simulate.atoms import Atoms, radius_angst
from verglas.simulate.contamination import (
    Contamination,
    ContaminationConfig,
    contrast_factor,
    draw_contamination,
)
from verglas.simulate.ice import ice_phase_power
from verglas.simulate.noise import item_generator
from verglas.simulate.particles import Optics, displacement_angst, optics_table, render_signal_ft
from verglas.simulate.potential import Projector, prepare_projector
from verglas.simulate.scattering import interaction_rad_per_volt_angst

__all__ = [
    "MicrographConfig",
    "MicrographRenderer",
    "SimulatedMicrographs",
    "brightness_of",
    "contamination_of",
    "draw_micrograph",
    "draw_micrographs",
    "field_ctf",
    "particle_phases",
    "prepare_micrograph_renderer",
    "render_micrograph",
    "simulate_micrographs",
]

Floats = NDArray[np.float64]
ShotNoise = Literal["poisson", "gaussian", "none"]

_BATCH = 16
_SLAB_ANGST = 75.0  # defocus within a slab changes a phase by < 0.3 rad at 3 Å
_TRUTH_KEY, _NOISE_KEY, _ICE_KEY, _DIRT_KEY = (2**40 + i for i in (2, 3, 4, 5))
_PLACING_ROUNDS = 40


@dataclass(frozen=True)
class MicrographConfig:
    """What to simulate.

    Attributes:
        particles_per_micrograph: wanted; fewer when they do not fit.
        min_distance: between centres, in diameters of the specimen.
        height_spread_angst: particles lie uniformly over this range along the beam.
        ice_thickness_angst: of the layer that gives structured noise; 0 for none.
        b_factor_angst2: envelope of particles and ice.
        mtf_at_nyquist: modulation transfer of the detector falls linearly to this.
        gradient: relative change of brightness across the image.
        shot_noise: `none` keeps the expected counts.
        contamination: what else may lie in the image; None keeps it clean.
    """

    n_micrographs: int
    height_px: int
    width_px: int
    optics: Optics
    particles_per_micrograph: int = 60
    min_distance: float = 1.1
    dose_e_per_angst2: float = 40.0
    defocus_min_angst: float = 8000.0
    defocus_max_angst: float = 20000.0
    astigmatism_angst: float = 400.0
    phase_shift_deg: float = 0.0
    height_spread_angst: float = 200.0
    ice_thickness_angst: float = 300.0
    b_factor_angst2: float = 60.0
    mtf_at_nyquist: float = 0.6
    gradient: float = 0.1
    shot_noise: ShotNoise = "poisson"
    seed: int = 0
    contamination: ContaminationConfig | None = None

    def __post_init__(self) -> None:
        if min(self.height_px, self.width_px) < 64:
            raise ValueError(
                f"micrograph must be at least 64 px: got {self.height_px} x {self.width_px}"
            )
        if not self.defocus_min_angst <= self.defocus_max_angst:
            raise ValueError(
                "defocus range is empty: "
                f"{self.defocus_min_angst} to {self.defocus_max_angst} angstrom"
            )
        if self.dose_e_per_angst2 <= 0 or not 0 <= self.mtf_at_nyquist <= 1:
            raise ValueError("dose must be positive and the modulation transfer within 0..1")


def _draw_positions(config: MicrographConfig, diameter: float, rng: np.random.Generator) -> Floats:
    """Throw places one at a time, keep those far enough from the earlier; `[n, 2]`, x and y."""
    pixel = config.optics.pixel_size_angst
    last = np.array([config.width_px - 1, config.height_px - 1]) * pixel
    low = np.minimum(diameter / 2, last / 2)
    wanted = config.particles_per_micrograph
    places = np.empty((0, 2))
    for candidate in rng.uniform(low, last - low, (wanted * _PLACING_ROUNDS, 2)):
        if len(places) == wanted:
            break
        distance = np.hypot(*(places - candidate).T)
        if (distance >= config.min_distance * diameter).all():
            places = np.vstack([places, candidate])
    return places


def draw_micrographs(
    config: MicrographConfig, diameter_angst: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the truth of all micrographs and of the particles in them.

    Returns:
        The tables of `draw_micrograph` one below the other; particles have an `item_id`.
    """
    drawn = [draw_micrograph(config, i, diameter_angst) for i in range(config.n_micrographs)]
    micrographs = pl.concat([pair[0] for pair in drawn]) if drawn else pl.DataFrame()
    particles = pl.concat([pair[1] for pair in drawn]) if drawn else pl.DataFrame()
    numbered = particles.with_row_index("item_id").with_columns(pl.col("item_id").cast(pl.Int64))
    return micrographs, numbered


def draw_micrograph(
    config: MicrographConfig, index: int, diameter_angst: float
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Draw the truth of one micrograph; it depends on the seed and the index only.

    Convention: the defocus of a particle is its micrograph's plus its height, counted along
    the beam from the middle of the ice.

    Returns:
        The micrograph's row, and its particles with `micrograph_id`, coordinates, pose
        (shifts are 0: coordinates are exact) and the defocus of their height.
    """
    rng = item_generator(config.seed, _TRUTH_KEY, index)
    row = _draw_optics(config, index, rng)
    return pl.DataFrame([row]), _draw_field(config, row, diameter_angst, rng)


def _draw_optics(
    config: MicrographConfig, index: int, rng: np.random.Generator
) -> dict[str, float | int]:
    defocus = rng.uniform(config.defocus_min_angst, config.defocus_max_angst)
    half_difference = rng.uniform(0, config.astigmatism_angst) / 2
    return {
        "item_id": index,
        "source_id": index,
        "optics_group": 1,
        "image_height_px": config.height_px,
        "image_width_px": config.width_px,
        "dose_e_per_angst2": config.dose_e_per_angst2,
        "defocus_u_angst": defocus + half_difference,
        "defocus_v_angst": defocus - half_difference,
        "defocus_angle_deg": rng.uniform(0, 180),
        "phase_shift_deg": config.phase_shift_deg,
    }


def _draw_field(
    config: MicrographConfig,
    micrograph: dict[str, float | int],
    diameter: float,
    rng: np.random.Generator,
) -> pl.DataFrame:
    places = _draw_positions(config, diameter, rng)
    n = len(places)
    height = rng.uniform(-0.5, 0.5, n) * config.height_spread_angst
    index = np.full(n, micrograph["item_id"], np.int64)
    return pl.DataFrame(
        {
            "source_id": index,
            "micrograph_id": index,
            "optics_group": np.ones(n, np.int64),
            "coord_x_angst": places[:, 0],
            "coord_y_angst": places[:, 1],
            "diameter_angst": np.full(n, diameter),
            "defocus_u_angst": micrograph["defocus_u_angst"] + height,
            "defocus_v_angst": micrograph["defocus_v_angst"] + height,
            "defocus_angle_deg": np.full(n, micrograph["defocus_angle_deg"]),
            "phase_shift_deg": np.full(n, config.phase_shift_deg),
            "angle_rot_deg": rng.uniform(-180, 180, n),
            "angle_tilt_deg": np.rad2deg(np.arccos(rng.uniform(-1, 1, n))),
            "angle_psi_deg": rng.uniform(-180, 180, n),
            "shift_x_angst": np.zeros(n),
            "shift_y_angst": np.zeros(n),
        }
    )


@dataclass(frozen=True)
class MicrographRenderer:
    """One specimen made ready for a set of micrographs."""

    projector: Projector
    config: MicrographConfig


def prepare_micrograph_renderer(atoms: Atoms, config: MicrographConfig) -> MicrographRenderer:
    """Grid what all particles share, on a box that holds what the CTF displaces."""
    defocus = config.defocus_max_angst + (config.astigmatism_angst + config.height_spread_angst) / 2
    reach = radius_angst(atoms) + displacement_angst(config.optics, defocus)
    pixel = config.optics.pixel_size_angst
    box = next_fast_size(int(np.ceil(2 * reach / pixel)) + 4)
    return MicrographRenderer(prepare_projector(atoms, box_px=box, pixel_size_angst=pixel), config)


def particle_phases(renderer: MicrographRenderer, particles: pl.DataFrame) -> Tensor:
    """Sum the particles' phases after the CTF, radian, `[h, w]`."""
    config, box = renderer.config, renderer.projector.box_px
    pixel = config.optics.pixel_size_angst
    per_volt = interaction_rad_per_volt_angst(config.optics.voltage_kv) * pixel
    # a margin takes what lies beyond the borders, so that no window needs cutting
    canvas = torch.zeros((config.height_px + 2 * box, config.width_px + 2 * box))
    offset = torch.arange(box) + box - box // 2
    for rows in particles.iter_slices(_BATCH):
        place = rows.select("coord_x_angst", "coord_y_angst").to_numpy() / pixel
        whole = np.floor(place + 0.5)
        left_over = (whole - place) * pixel
        moved = rows.with_columns(shift_x_angst=left_over[:, 0], shift_y_angst=left_over[:, 1])
        images_ft = render_signal_ft(
            renderer.projector,
            moved,
            optics=config.optics,
            b_factor_angst2=config.b_factor_angst2,
        )
        corner = torch.from_numpy(whole.astype(np.int64))
        columns, lines = (corner[:, axis, None] + offset for axis in (0, 1))
        images = irfft2(images_ft, shape=(box, box)) * per_volt
        canvas.index_put_((lines[:, :, None], columns[:, None, :]), images, accumulate=True)
    return canvas[box:-box, box:-box]


def field_ctf(config: MicrographConfig, micrograph: pl.DataFrame, offset_angst: float) -> Tensor:
    """CTF with envelope of a slab that lies `offset_angst` along the beam, `[1, h, w//2+1]`."""
    optics, row = config.optics, micrograph.row(0, named=True)
    return evaluate_ctf(
        rfft_grid((config.height_px, config.width_px), optics.pixel_size_angst),
        defocus_u_angst=torch.tensor([row["defocus_u_angst"] + offset_angst]),
        defocus_v_angst=torch.tensor([row["defocus_v_angst"] + offset_angst]),
        defocus_angle_deg=torch.tensor([row["defocus_angle_deg"]]),
        phase_shift_deg=torch.tensor([row["phase_shift_deg"]]),
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        b_factor_angst2=torch.tensor([config.b_factor_angst2]),
    )


def _ice_phases(config: MicrographConfig, micrograph: pl.DataFrame) -> Tensor:
    """Draw the ice's phase after the CTF, radian, `[h, w]`; thick ice blurs its Thon rings."""
    shape = (config.height_px, config.width_px)
    total = torch.zeros(shape)
    if config.ice_thickness_angst <= 0:
        return total
    optics = config.optics
    grid = rfft_grid(shape, optics.pixel_size_angst, dtype=torch.float64)
    n_slabs = max(1, round(config.ice_thickness_angst / _SLAB_ANGST))
    power = ice_phase_power(
        torch.linalg.vector_norm(grid, dim=-1).numpy(),
        thickness_angst=config.ice_thickness_angst / n_slabs,
        voltage_kv=optics.voltage_kv,
        dose_e_per_angst2=config.dose_e_per_angst2,
    )
    amplitude = torch.from_numpy(np.sqrt(power) / optics.pixel_size_angst).float()
    item = int(micrograph["item_id"].item())
    slabs = np.arange(n_slabs)
    for slab in slabs:
        white = item_generator(config.seed, _ICE_KEY, item, int(slab)).standard_normal(
            (1, *shape), dtype=np.float32
        )
        offset = (slab - slabs.mean()) * config.ice_thickness_angst / n_slabs
        ctf = field_ctf(config, micrograph, float(offset))
        slab_ft = rfft2(torch.from_numpy(white)) * amplitude * ctf
        total += irfft2(slab_ft, shape=shape)[0]
    return total


def _detected(config: MicrographConfig, image: Tensor) -> Tensor:
    """Blur as the detector does; `[h, w]`."""
    shape = (config.height_px, config.width_px)
    pixel = config.optics.pixel_size_angst
    frequency = torch.linalg.vector_norm(rfft_grid(shape, pixel), dim=-1) * (2 * pixel)
    transfer = (1 - (1 - config.mtf_at_nyquist) * frequency).clamp(min=0)
    return irfft2(rfft2(image[None]) * transfer, shape=shape)[0]


def contamination_of(config: MicrographConfig, item_id: int) -> Contamination | None:
    """Draw what covers a micrograph, with its truth mask; None for a clean set."""
    if config.contamination is None:
        return None
    return draw_contamination(
        config.contamination,
        shape=(config.height_px, config.width_px),
        optics=config.optics,
        rng=item_generator(config.seed, _DIRT_KEY, item_id),
        ice_thickness_angst=config.ice_thickness_angst,
    )


def brightness_of(config: MicrographConfig, rng: np.random.Generator) -> Tensor:
    """Draw a plane of mean 1 that changes by `gradient` across the image; `[h, w]`."""
    direction = rng.uniform(0, 2 * np.pi)
    y = torch.linspace(-0.5, 0.5, config.height_px)[:, None] * np.sin(direction)
    x = torch.linspace(-0.5, 0.5, config.width_px) * np.cos(direction)
    plane: Tensor = 1 + config.gradient * (x + y)
    return plane


def render_micrograph(
    renderer: MicrographRenderer, micrograph: pl.DataFrame, particles: pl.DataFrame
) -> NDArray[np.float32]:
    """Render one micrograph, in electrons per pixel.

    Its noise depends on the seed and the micrograph's `item_id` only.

    Args:
        micrograph: one row of the micrographs of `draw_micrographs`.
        particles: the rows that lie in it.

    Returns:
        `[height_px, width_px]`, protein dark.
    """
    config = renderer.config
    phases = particle_phases(renderer, particles)
    ice = _ice_phases(config, micrograph)
    item = int(micrograph["item_id"].item())
    rng = item_generator(config.seed, _NOISE_KEY, item)
    electrons = config.dose_e_per_angst2 * config.optics.pixel_size_angst**2
    contamination = contamination_of(config, item)
    if contamination is None:
        contrast = _detected(config, -2 * (phases + ice))
    else:
        wave = 1 - 2 * (phases + ice * torch.from_numpy(contamination.ice))
        factor = contrast_factor(
            contamination,
            micrograph=micrograph,
            optics=config.optics,
            b_factor_angst2=config.b_factor_angst2,
        )
        contrast = _detected(config, wave * torch.from_numpy(factor)) - 1
    expected = (electrons * brightness_of(config, rng) * (1 + contrast)).clamp(min=0).numpy()
    if config.shot_noise == "none":
        return np.asarray(expected, np.float32)
    if config.shot_noise == "gaussian":
        noise = rng.standard_normal(expected.shape, dtype=np.float32)
        return np.asarray(expected + np.sqrt(expected) * noise, np.float32)
    return rng.poisson(expected).astype(np.float32)


@dataclass(frozen=True)
class SimulatedMicrographs:
    """A set of micrographs in memory.

    Attributes:
        images: `[n, h, w]` float32, electrons per pixel.
        micrographs: truth, one row per image.
        particles: truth, one row per particle, `micrograph_id` points to `micrographs`.
        optics: optics table.
    """

    images: NDArray[np.float32]
    micrographs: pl.DataFrame
    particles: pl.DataFrame
    optics: pl.DataFrame


def simulate_micrographs(atoms: Atoms, config: MicrographConfig) -> SimulatedMicrographs:
    """Simulate a set of micrographs of one specimen.

    Args:
        atoms: the specimen about the origin.
        config: what to simulate; no particles for a set of ice only.
    """
    micrographs, particles = draw_micrographs(config, 2 * radius_angst(atoms))
    renderer = prepare_micrograph_renderer(atoms, config)
    images = [
        render_micrograph(renderer, row, particles.filter(micrograph_id=row["item_id"].item()))
        for row in micrographs.iter_slices(1)
    ]
    stack = np.stack(images) if images else np.empty((0, config.height_px, config.width_px), "f4")
    return SimulatedMicrographs(stack, micrographs, particles, optics_table(config.optics))
