"""What lies in micrographs beside good particles: carbon, ice crystals, aggregates, tears.

Every object is a thickness over the image. What it absorbs is slow and darkens; its fine
structure (grain of carbon, facets and lattice of ice, bodies in an aggregate) shifts the
phase and goes through the contrast transfer, so carbon shows Thon rings and edges have
fringes. Thickness, mean free path and scattering are physical; no constant is of grey levels.
On a finished micrograph, `draw_contamination` and then `contaminate` with the same size.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray

from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import irfft2, rfft2, rfft_grid
from verglas.simulate._contaminants import (
    Field,
    add_aggregate,
    add_carbon,
    add_crystal,
    add_tear,
    empty_field,
)
from verglas.simulate.particles import Optics

__all__ = [
    "LABELS",
    "Contamination",
    "ContaminationConfig",
    "contaminate",
    "contrast_factor",
    "draw_contamination",
    "label_at",
    "scaled_contamination",
]

LABELS = ("clean", "carbon", "crystal", "aggregate", "tear")
"""What the values 0, 1, ... of a mask mean."""

_SLOW_ANGST = 250.0  # waves beyond this are absorption, shorter ones phase
_FACTORS = (0.1, 4.0)  # where the linear contrast of thick objects ends


@dataclass(frozen=True)
class ContaminationConfig:
    """What may lie in a micrograph.

    Attributes:
        carbon_probability: that the edge of the film reaches into the image.
        carbon_thickness_angst: mean thickness of the film; drawn within half and 1.5 times.
        hole_radius_angst: of the hole in the film.
        crystals: mean number; the number is Poisson distributed.
        crystal_radius_angst: smallest and largest radius, drawn on a logarithmic scale.
        aggregates: mean number of heaps of denatured protein.
        aggregate_radius_angst: smallest and largest.
        tears: mean number of places without ice.
        tear_radius_angst: smallest and largest.
    """

    carbon_probability: float = 0.5
    carbon_thickness_angst: float = 200.0
    hole_radius_angst: float = 6000.0
    crystals: float = 1.5
    crystal_radius_angst: tuple[float, float] = (100.0, 800.0)
    aggregates: float = 1.0
    aggregate_radius_angst: tuple[float, float] = (150.0, 600.0)
    tears: float = 0.2
    tear_radius_angst: tuple[float, float] = (150.0, 500.0)

    def __post_init__(self) -> None:
        if not 0 <= self.carbon_probability <= 1:
            raise ValueError(f"probability must be in 0..1: got {self.carbon_probability}")
        if min(self.crystals, self.aggregates, self.tears) < 0:
            raise ValueError("mean numbers must not be negative")
        if min(self.carbon_thickness_angst, self.hole_radius_angst) <= 0:
            raise ValueError("carbon needs a thickness, and its hole a radius")


@dataclass(frozen=True)
class Contamination:
    """The contamination of one field.

    Attributes:
        mask: `[h, w]` uint8, the index in `LABELS` of what covers the pixel; a picker should
            leave all but 0.
        transmission: `[h, w]` float32, electrons that remain, over those through clean ice;
            above 1 where ice is missing.
        phases: float32, radian, before the contrast transfer, without slow waves; larger than
            the image, so that fringes come in from outside.
        first_px: row and column of the phases where the image begins.
        ice: `[h, w]` float32, thickness of the ice over that of a clean place; 0 in a tear.
        objects: a row for each: `label`, `coord_x_angst`, `coord_y_angst`, `radius_angst`.
    """

    mask: NDArray[np.uint8]
    transmission: NDArray[np.float32]
    phases: NDArray[np.float32]
    first_px: tuple[int, int]
    ice: NDArray[np.float32]
    objects: pl.DataFrame


def scaled_contamination(amount: float) -> ContaminationConfig | None:
    """Make the default contamination rarer or more frequent.

    Args:
        amount: 1 for the default numbers, 0 for a clean set, which gives None.
    """
    if amount <= 0:
        return None
    usual = ContaminationConfig()
    return replace(
        usual,
        carbon_probability=min(1.0, usual.carbon_probability * amount),
        crystals=usual.crystals * amount,
        aggregates=usual.aggregates * amount,
        tears=usual.tears * amount,
    )


def draw_contamination(
    config: ContaminationConfig,
    *,
    shape: tuple[int, int],
    optics: Optics,
    rng: np.random.Generator,
    ice_thickness_angst: float = 300.0,
) -> Contamination:
    """Draw the contamination of one field; equal generators draw the same.

    Args:
        config: what may be there.
        shape: rows and columns of the image.
        optics: of the microscope; pixel size and voltage are used.
        rng: where the randomness comes from.
        ice_thickness_angst: of clean ice, which a tear lacks.
    """
    field = empty_field(shape, optics.pixel_size_angst, optics.voltage_kv)
    if rng.uniform() < config.carbon_probability:
        thickness = config.carbon_thickness_angst * rng.uniform(0.5, 1.5)
        add_carbon(field, thickness, config.hole_radius_angst, rng)
    for _ in range(rng.poisson(config.tears)):
        add_tear(field, _log_uniform(config.tear_radius_angst, rng), ice_thickness_angst, rng)
    for _ in range(rng.poisson(config.aggregates)):
        add_aggregate(field, _log_uniform(config.aggregate_radius_angst, rng), rng)
    for _ in range(rng.poisson(config.crystals)):
        add_crystal(field, _log_uniform(config.crystal_radius_angst, rng), rng)
    return Contamination(
        np.ascontiguousarray(field.mask[field.inside]),
        np.exp(-field.absorption[field.inside]).astype(np.float32),
        _without_slow_waves(field),
        field.first_px,
        np.ascontiguousarray(field.ice[field.inside]),
        pl.DataFrame(
            field.objects,
            schema={
                "label": pl.String,
                "coord_x_angst": pl.Float64,
                "coord_y_angst": pl.Float64,
                "radius_angst": pl.Float64,
            },
            orient="row",
        ),
    )


def contrast_factor(
    contamination: Contamination,
    *,
    micrograph: pl.DataFrame,
    optics: Optics,
    b_factor_angst2: float,
) -> NDArray[np.float32]:
    """Work out by what the contamination multiplies the expected electrons of each pixel.

    Args:
        contamination: of the field.
        micrograph: one row with the defocus columns.
        optics: of the microscope.
        b_factor_angst2: envelope of the image.

    Returns:
        `[h, w]`, positive.
    """
    height, width = contamination.mask.shape
    if not len(contamination.objects):
        return np.ones((height, width), np.float32)
    shape = (contamination.phases.shape[0], contamination.phases.shape[1])
    row = micrograph.row(0, named=True)
    names = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg")
    ctf = evaluate_ctf(
        rfft_grid(shape, optics.pixel_size_angst),
        **{name: torch.tensor([float(row[name])]) for name in names},
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        b_factor_angst2=torch.tensor([b_factor_angst2]),
    )
    phases_ft = rfft2(torch.from_numpy(contamination.phases)[None])
    top, left = contamination.first_px
    fine = irfft2(phases_ft * ctf, shape=shape)[0].numpy()
    fine = fine[top : top + height, left : left + width]
    factor = contamination.transmission * np.clip(1 - 2 * fine, *_FACTORS)
    return np.asarray(factor, np.float32)


def contaminate(
    image: NDArray[np.generic],
    contamination: Contamination,
    *,
    micrograph: pl.DataFrame,
    optics: Optics,
    rng: np.random.Generator,
    b_factor_angst2: float = 60.0,
) -> NDArray[np.float32]:
    """Add contamination to a micrograph of counted electrons.

    Electrons are lost one by one and added one by one, so that the result is distributed as
    if the contamination had been there from the start.

    Args:
        image: `[h, w]`, electrons per pixel, whole numbers.
        contamination: of the same size.
        micrograph: one row with the defocus columns.
        optics: of the microscope.
        rng: for the electrons that are lost.
        b_factor_angst2: envelope of the image.
    """
    if image.shape != contamination.mask.shape:
        raise ValueError(
            f"image and contamination must be of one size: got {image.shape} "
            f"and {contamination.mask.shape}"
        )
    factor = contrast_factor(
        contamination, micrograph=micrograph, optics=optics, b_factor_angst2=b_factor_angst2
    ).astype(np.float64)
    counts = np.rint(np.asarray(image, np.float64)).clip(min=0).astype(np.int64)
    kept = rng.binomial(counts, np.minimum(factor, 1.0))
    gained = rng.poisson(np.maximum(factor - 1.0, 0.0) * max(float(counts.mean()), 0.0))
    return np.asarray(kept + gained, np.float32)


def label_at(
    mask: NDArray[np.uint8],
    coord_x_angst: NDArray[np.float64],
    coord_y_angst: NDArray[np.float64],
    pixel_size_angst: float,
) -> NDArray[np.uint8]:
    """Look up what covers each of some places, `[n]`; outside of the image the nearest pixel."""
    height, width = mask.shape
    columns = np.rint(coord_x_angst / pixel_size_angst).astype(np.int64).clip(0, width - 1)
    rows = np.rint(coord_y_angst / pixel_size_angst).astype(np.int64).clip(0, height - 1)
    return np.asarray(mask[rows, columns])


def _log_uniform(limits: tuple[float, float], rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(*np.log(limits))))


def _without_slow_waves(field: Field) -> NDArray[np.float32]:
    """Take out of the phases what the transmission stands for already."""
    if not field.phases.any():
        return field.phases
    shape = (field.phases.shape[0], field.phases.shape[1])
    square = rfft_grid(shape, field.pixel_size_angst).square().sum(-1) * _SLOW_ANGST**2
    phases_ft = rfft2(torch.from_numpy(field.phases)[None])
    return np.asarray(irfft2(phases_ft * (square / (1 + square)), shape=shape)[0].numpy())
