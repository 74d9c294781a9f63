"""Particle images whose poses, shifts and defocus are known.

The image model is the one that refinement assumes: `scale * CTF * shift * projection + noise`,
with one scale for the whole set, so that estimated grey-value scales can be checked too. The
CTF is applied on a box large enough for what it moves out of the particle's own box.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.kernels.ctf import evaluate_ctf, point_spread_angst
from verglas.kernels.fourier import fourier_shift, irfft2, next_fast_size, rfft_grid
from verglas.kernels.so3 import euler_to_matrix
from verglas.simulate.atoms import Atoms, radius_angst
from verglas.simulate.noise import NoiseSpectrum, draw_noise, item_generator
from verglas.simulate.potential import Projector, prepare_projector, project_atoms

__all__ = [
    "Optics",
    "ParticleConfig",
    "ParticleRenderer",
    "SimulatedParticles",
    "displacement_angst",
    "draw_particles",
    "optics_table",
    "particle_circle",
    "prepare_renderer",
    "render_images",
    "render_signal_ft",
    "simulate_particles",
]

_BATCH = 16
_N_PROBES = 64
_SPREAD_MARGIN = 1.2  # for the corners beyond Nyquist: 1 % of the contrast is left at 4 µm
_PROBE_KEY = 2**40  # beyond every item id, so that probes never share a particle's draws
_TRUTH_KEY = 2**40 + 1


@dataclass(frozen=True)
class Optics:
    """Constants of the microscope."""

    pixel_size_angst: float
    voltage_kv: float = 300.0
    spherical_aberration_mm: float = 2.7
    amplitude_contrast: float = 0.1


@dataclass(frozen=True)
class ParticleConfig:
    """What to simulate.

    Attributes:
        snr: variance of the noise-free image over variance of the noise, both within the
            circle about the particle, averaged over the set; 0 makes images of noise only.
        shift_angst: standard deviation of the true displacement along x and y.
        astigmatism_angst: largest difference of defocus u and v, drawn uniformly from 0.
        b_factor_angst2: envelope of the images, beside the atoms' own B factors.
    """

    n_particles: int
    box_px: int
    optics: Optics
    snr: float = 0.1
    defocus_min_angst: float = 8000.0
    defocus_max_angst: float = 20000.0
    astigmatism_angst: float = 400.0
    phase_shift_deg: float = 0.0
    shift_angst: float = 3.0
    b_factor_angst2: float = 40.0
    noise: NoiseSpectrum = field(default_factory=NoiseSpectrum)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.n_particles < 0 or self.box_px < 8:
            raise ValueError(f"cannot make {self.n_particles} particles of {self.box_px} px")
        if not self.defocus_min_angst <= self.defocus_max_angst:
            raise ValueError(
                "defocus range is empty: "
                f"{self.defocus_min_angst} to {self.defocus_max_angst} angstrom"
            )
        if self.snr < 0:
            raise ValueError(f"snr must not be negative: got {self.snr}")


def optics_table(optics: Optics, box_px: int | None = None) -> pl.DataFrame:
    """Make the optics table of one group, for particles when the box is given."""
    row: dict[str, float | int] = {
        "optics_group": 1,
        "pixel_size_angst": optics.pixel_size_angst,
        "voltage_kv": optics.voltage_kv,
        "spherical_aberration_mm": optics.spherical_aberration_mm,
        "amplitude_contrast": optics.amplitude_contrast,
    }
    if box_px is not None:
        row["box_px"] = box_px
    return pl.DataFrame([row])


def draw_particles(config: ParticleConfig) -> pl.DataFrame:
    """Draw the truth: uniform poses, normal shifts, uniform defocus.

    Returns:
        One row per particle with the columns of CTF and pose; `item_id` counts from 0.
    """
    return _draw(config, config.n_particles, item_generator(config.seed, _TRUTH_KEY))


def _draw(config: ParticleConfig, n: int, rng: np.random.Generator) -> pl.DataFrame:
    defocus = rng.uniform(config.defocus_min_angst, config.defocus_max_angst, n)
    half_difference = rng.uniform(0, config.astigmatism_angst, n) / 2
    return pl.DataFrame(
        {
            "item_id": np.arange(n),
            "source_id": np.arange(n),
            "optics_group": np.ones(n, np.int64),
            "defocus_u_angst": defocus + half_difference,
            "defocus_v_angst": defocus - half_difference,
            "defocus_angle_deg": rng.uniform(0, 180, n),
            "phase_shift_deg": np.full(n, config.phase_shift_deg),
            "angle_rot_deg": rng.uniform(-180, 180, n),
            "angle_tilt_deg": np.rad2deg(np.arccos(rng.uniform(-1, 1, n))),
            "angle_psi_deg": rng.uniform(-180, 180, n),
            "shift_x_angst": rng.normal(0, config.shift_angst, n),
            "shift_y_angst": rng.normal(0, config.shift_angst, n),
        }
    )


@dataclass(frozen=True)
class ParticleRenderer:
    """One specimen made ready for one set.

    Attributes:
        projector: on the wide box.
        config: of the set.
        signal_scale: factor from volts, summed over z, to the images' grey values.
    """

    projector: Projector
    config: ParticleConfig
    signal_scale: float


def displacement_angst(optics: Optics, defocus_angst: float) -> float:
    """Distance over which the CTF spreads a point, up to the corners of Fourier space."""
    nyquist = torch.tensor(0.5 / optics.pixel_size_angst, dtype=torch.float64)
    spread = point_spread_angst(
        nyquist,
        defocus_angst=defocus_angst,
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
    )
    return _SPREAD_MARGIN * float(spread)


def wide_box_px(config: ParticleConfig, radius: float) -> int:
    """Size of the box in which what the CTF displaces does not come round to the particle's."""
    defocus = config.defocus_max_angst + config.astigmatism_angst / 2
    reach = radius + 3 * config.shift_angst + displacement_angst(config.optics, defocus)
    least = config.box_px / 2 + reach / config.optics.pixel_size_angst
    return next_fast_size(int(np.ceil(max(config.box_px, least))))


def prepare_renderer(
    atoms: Atoms, config: ParticleConfig, *, signal_scale: float | None = None
) -> ParticleRenderer:
    """Grid what all images share and find the scale that gives the wanted SNR.

    The scale comes from probe particles that depend on the seed but not on the set, so that
    any part of a set, rendered alone, is the same as within the whole.

    Args:
        signal_scale: known from an earlier call, which saves the probes.
    """
    projector = prepare_projector(
        atoms,
        box_px=wide_box_px(config, radius_angst(atoms)),
        pixel_size_angst=config.optics.pixel_size_angst,
    )
    if signal_scale is None:
        signal_scale = _find_scale(projector, config, radius_angst(atoms))
    return ParticleRenderer(projector, config, signal_scale)


def _find_scale(projector: Projector, config: ParticleConfig, radius: float) -> float:
    if config.snr == 0:
        return 0.0
    probes = _draw(config, _N_PROBES, item_generator(config.seed, _PROBE_KEY))
    signal = _signal_images(ParticleRenderer(projector, config, 1.0), probes)
    circle = particle_circle(config.box_px, radius / config.optics.pixel_size_angst)
    variance = float(signal[:, circle].double().var(1, correction=0).mean())
    return float(np.sqrt(config.snr / variance))


def particle_circle(box_px: int, radius_px: float) -> Tensor:
    """Mark the pixels within the particle's radius (at least 2) of the centre, `[box, box]`."""
    index = torch.arange(box_px) - box_px // 2
    return (index[:, None] ** 2 + index**2) <= min(max(radius_px, 2), box_px / 2) ** 2


def _column(table: pl.DataFrame, name: str) -> Tensor:
    return torch.from_numpy(table[name].to_numpy().astype(np.float64))


def _columns(table: pl.DataFrame, *names: str) -> Tensor:
    return torch.stack([_column(table, name) for name in names], 1)


def render_signal_ft(
    projector: Projector, table: pl.DataFrame, *, optics: Optics, b_factor_angst2: float
) -> Tensor:
    """Project, shift and apply CTF and envelope; no noise.

    Args:
        projector: on a box wide enough for what the CTF displaces.
        table: rows with the columns of CTF and pose; a missing shift counts as 0.
        optics: of the rows.
        b_factor_angst2: envelope of the images.

    Returns:
        `[b, w, w//2+1]`, transforms of images in volts summed over z.
    """
    box = projector.box_px
    angles = _columns(table, "angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
    images_ft = project_atoms(projector, euler_to_matrix(angles).numpy())
    if "shift_x_angst" in table.columns:
        moved = -_columns(table, "shift_x_angst", "shift_y_angst")
        images_ft = fourier_shift(
            images_ft, moved, shape=(box, box), pixel_size_angst=optics.pixel_size_angst
        )
    return images_ft * evaluate_ctf(
        rfft_grid((box, box), optics.pixel_size_angst),
        defocus_u_angst=_column(table, "defocus_u_angst"),
        defocus_v_angst=_column(table, "defocus_v_angst"),
        defocus_angle_deg=_column(table, "defocus_angle_deg"),
        phase_shift_deg=_column(table, "phase_shift_deg"),
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        b_factor_angst2=torch.full((len(table),), b_factor_angst2),
    )


def _signal_images(renderer: ParticleRenderer, table: pl.DataFrame) -> Tensor:
    config, wide = renderer.config, renderer.projector.box_px
    box = config.box_px
    window = slice(wide // 2 - box // 2, wide // 2 - box // 2 + box)
    images = torch.zeros((len(table), box, box))
    for start, rows in zip(range(0, len(table), _BATCH), table.iter_slices(_BATCH), strict=True):
        images_ft = render_signal_ft(
            renderer.projector, rows, optics=config.optics, b_factor_angst2=config.b_factor_angst2
        )
        wide_images = irfft2(images_ft, shape=(wide, wide))
        images[start : start + len(rows)] = wide_images[:, window, window]
    return images * renderer.signal_scale


def render_images(renderer: ParticleRenderer, table: pl.DataFrame) -> Tensor:
    """Render particles with their noise, whose variance is 1.

    Convention: protein is bright; a particle `d` right of the centre has a stored shift of
    `-d`. The noise of a row depends on the seed and its `item_id` only.

    Args:
        table: rows of `draw_particles`, or others with the same columns.

    Returns:
        `[b, box_px, box_px]` float32.
    """
    config = renderer.config
    noise = draw_noise(
        table["item_id"].to_numpy(),
        (config.box_px, config.box_px),
        seed=config.seed,
        spectrum=config.noise,
        pixel_size_angst=config.optics.pixel_size_angst,
    )
    if renderer.signal_scale == 0:
        return noise
    return _signal_images(renderer, table) + noise


@dataclass(frozen=True)
class SimulatedParticles:
    """A whole set in memory.

    Attributes:
        images: `[n, box_px, box_px]` float32, noise of variance 1.
        table: truth, one row per image.
        optics: optics table.
        signal_scale: factor from volts, summed over z, to grey values; `potential_volume`
            times it is the volume that the images are projections of.
    """

    images: NDArray[np.float32]
    table: pl.DataFrame
    optics: pl.DataFrame
    signal_scale: float


def simulate_particles(
    atoms: Atoms, config: ParticleConfig, table: pl.DataFrame | None = None
) -> SimulatedParticles:
    """Simulate a set of particles.

    Args:
        atoms: the specimen about the origin.
        config: what to simulate.
        table: poses and defocus to use instead of drawn ones, with `item_id`.
    """
    truth = draw_particles(config) if table is None else table
    renderer = prepare_renderer(atoms, config)
    images = render_images(renderer, truth).numpy()
    return SimulatedParticles(
        images, truth, optics_table(config.optics, config.box_px), renderer.signal_scale
    )
