"""Draw single contaminants onto the fields of `contamination`."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from verglas.kernels.fourier import irfft2, next_fast_size, rfft2, rfft_grid
from verglas.simulate.scattering import (
    VOLT_ANGST2,
    interaction_rad_per_volt_angst,
    scattering_amplitude_angst,
)

__all__ = ["Field", "add_aggregate", "add_carbon", "add_crystal", "add_tear", "empty_field"]

Image = NDArray[np.float32]
Rng = np.random.Generator

# Thickness that leaves 1/e of the electrons within aperture and energy slit at 300 kV: ice
# 3200 Å (Rice et al. 2018), carbon about 1800 Å by its density; shorter by beta^2 below.
_ICE_PATH_ANGST, _CARBON_PATH_ANGST = 3200.0, 1800.0
_CARBON_PER_ANGST3, _CARBON_VOLT = 0.1, 9.0  # amorphous, 2 g/cm^3; mean inner potential
_ICE_VOLT, _PROTEIN_VOLT = 3.6, 2.6  # crystalline ice; protein less the ice it displaces
_LATTICE_VOLT, _LATTICE_ANGST = 0.3, (3.90, 3.66, 3.44, 2.67, 2.25)  # hexagonal ice
_BODY_ANGST = (15.0, 40.0)  # radius of the bodies of an aggregate
# Thinner rims of a crystal are no dirt: 30 Å take 1 % of the electrons, 5 deviations of the counts
# of 18 e/Å^2 over a disc of 150 Å, which is what an eye can tell (Rose 1948).
_VISIBLE_ICE_ANGST = 30.0
_MARGIN_ANGST = 250.0  # beyond what the contrast transfer spreads at 3 Å and 2.5 µm
_CARBON, _CRYSTAL, _AGGREGATE, _TEAR = 1, 2, 3, 4


@dataclass
class Field:
    """Fields that are being drawn, larger than the image by a margin; see `Contamination`.

    Attributes:
        first_px: row and column of the fields where the image begins.
        image_px: rows and columns of the image.
        absorption: thickness over mean free path, more than clean ice has.
    """

    pixel_size_angst: float
    voltage_kv: float
    first_px: tuple[int, int]
    image_px: tuple[int, int]
    mask: NDArray[np.uint8]
    absorption: Image
    phases: Image
    ice: Image
    objects: list[tuple[str, float, float, float]] = field(default_factory=list)

    @property
    def inside(self) -> tuple[slice, slice]:
        """Where the image lies in the fields."""
        row, column = self.first_px
        return np.s_[row : row + self.image_px[0], column : column + self.image_px[1]]

    def axes(self) -> tuple[Image, Image]:
        """Columns' x and rows' y in Å, 0 at the image's first pixel."""
        height, width = self.mask.shape
        x = (np.arange(width) - self.first_px[1]) * self.pixel_size_angst
        y = (np.arange(height) - self.first_px[0]) * self.pixel_size_angst
        return x.astype(np.float32), y.astype(np.float32)

    @property
    def radian_per_volt_angst(self) -> float:
        """Phase of a volt over an Å."""
        return interaction_rad_per_volt_angst(self.voltage_kv)

    def path_angst(self, at_300_kv: float) -> float:
        """Mean free path at this voltage; it goes with the square of the speed."""
        beta2 = [1 - 1 / (1 + kv / 510.99895) ** 2 for kv in (self.voltage_kv, 300.0)]
        return at_300_kv * beta2[0] / beta2[1]


def empty_field(image_px: tuple[int, int], pixel_size_angst: float, voltage_kv: float) -> Field:
    """Make a field of clean ice."""
    margin = int(np.ceil(_MARGIN_ANGST / pixel_size_angst))
    height, width = (next_fast_size(side + 2 * margin) for side in image_px)
    shape = (height, width)
    first = ((height - image_px[0]) // 2, (width - image_px[1]) // 2)
    return Field(
        pixel_size_angst,
        voltage_kv,
        first,
        image_px,
        np.zeros(shape, np.uint8),
        np.zeros(shape, np.float32),
        np.zeros(shape, np.float32),
        np.ones(shape, np.float32),
    )


def add_carbon(target: Field, thickness_angst: float, hole_angst: float, rng: Rng) -> None:
    """Let the film with its round hole reach in from a side."""
    half = np.array(target.image_px[::-1]) * target.pixel_size_angst / 2
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    # the rim crosses the line from the middle to this side somewhere within the image
    reach = min(half / np.maximum(np.abs(direction), 1e-9))
    centre = half + direction * (rng.uniform(0.0, 0.95) * reach - hole_angst)
    x, y = target.axes()
    outside = np.hypot(x - np.float32(centre[0]), (y - np.float32(centre[1]))[:, None])
    outside -= np.float32(hole_angst)
    outside += _waves(target, 400.0, rng) * rng.uniform(0, 25)  # rims are not perfect circles
    bevel = rng.uniform(30, 150)
    step = np.clip(outside / bevel + 0.5, 0, 1).astype(np.float32)
    target.mask[outside > 0] = _CARBON
    thickness = thickness_angst * step
    target.absorption += thickness / target.path_angst(_CARBON_PATH_ANGST)
    target.phases += target.radian_per_volt_angst * _CARBON_VOLT * thickness
    target.phases += np.sqrt(step) * _carbon_grain(target, thickness_angst, rng)
    target.objects.append(("carbon", float(centre[0]), float(centre[1]), hole_angst))


def add_crystal(target: Field, radius_angst: float, rng: Rng) -> None:
    """Put a faceted crystal of ice on the film, with its lattice where pixels can show it."""
    window, x, y, centre = _window(target, radius_angst, rng)
    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(5, 10)))
    distance = np.full(x.shape, np.inf, np.float32)
    for angle in angles:  # a convex outline; facets slope up from its sides
        side = radius_angst * rng.uniform(0.55, 1.0)
        slope = rng.uniform(0.4, 3.0)
        inward = side - (x * np.cos(angle) + y * np.sin(angle))
        distance = np.minimum(distance, slope * inward)
    distance = np.minimum(distance, 3 * (radius_angst - np.hypot(x, y)))
    top = radius_angst * rng.uniform(0.4, 1.5)
    thickness = np.clip(distance, 0, min(top, 1500.0)).astype(np.float32)
    inside = thickness > _VISIBLE_ICE_ANGST
    rough = 1 + 0.15 * _waves(target, 60.0, rng)[window]
    phases = target.radian_per_volt_angst * _ICE_VOLT * thickness * rough
    turn = rng.uniform(0, np.pi)
    for spacing in _LATTICE_ANGST:
        if spacing < 2.2 * target.pixel_size_angst or rng.uniform() < 0.3:
            continue
        turn += rng.uniform(0.3, 1.2)
        along = x * np.cos(turn) + y * np.sin(turn)
        wave = np.cos(2 * np.pi * (along / spacing + rng.uniform()))
        coherent = np.minimum(thickness, 150.0)  # mosaic and bending lose the rest
        phases += target.radian_per_volt_angst * _LATTICE_VOLT * coherent * wave
    target.phases[window] += phases.astype(np.float32)
    target.absorption[window] += thickness / target.path_angst(_ICE_PATH_ANGST)
    target.mask[window][inside] = _CRYSTAL
    target.objects.append(("crystal", *centre, radius_angst))


def add_aggregate(target: Field, radius_angst: float, rng: Rng) -> None:
    """Heap up bodies of protein about a few middles."""
    window, x, y, centre = _window(target, radius_angst, rng)
    seeds = rng.normal(0, radius_angst / 2.5, (rng.integers(1, 5), 2))
    mean_volume = 4 / 3 * np.pi * np.mean(np.array(_BODY_ANGST) ** 3)
    wanted = np.pi * radius_angst**2 * rng.uniform(40, 150) / mean_volume
    thickness = np.zeros(x.shape, np.float32)
    pixel = target.pixel_size_angst
    for _ in range(int(np.clip(wanted, 5, 3000))):
        place = seeds[rng.integers(len(seeds))] + rng.normal(0, radius_angst / 3.5, 2)
        body = rng.uniform(*_BODY_ANGST)
        reach = int(body / pixel) + 1
        row = round(place[1] / pixel) - round(float(y[0, 0]) / pixel)
        column = round(place[0] / pixel) - round(float(x[0, 0]) / pixel)
        piece = np.s_[
            max(row - reach, 0) : max(row + reach + 1, 0),
            max(column - reach, 0) : max(column + reach + 1, 0),
        ]
        square = (x[piece] - place[0]) ** 2 + (y[piece] - place[1]) ** 2
        thickness[piece] += 2 * np.sqrt(np.clip(body**2 - square, 0, None))
    target.phases[window] += target.radian_per_volt_angst * _PROTEIN_VOLT * thickness
    # protein replaces ice: it stops little more than ice of the same thickness would
    target.absorption[window] += 0.3 * thickness / target.path_angst(_ICE_PATH_ANGST)
    target.mask[window][_smeared(thickness, 30.0 / pixel) > 15.0] = _AGGREGATE
    target.objects.append(("aggregate", *centre, radius_angst))


def add_tear(target: Field, radius_angst: float, ice_angst: float, rng: Rng) -> None:
    """Take the ice away from a round place."""
    window, x, y, centre = _window(target, radius_angst, rng)
    ragged = radius_angst * (0.85 + 0.06 * _waves(target, 200.0, rng)[window])
    left = np.clip((np.hypot(x, y) - ragged) / 60.0 + 0.5, 0, 1).astype(np.float32)
    missing = (1 - left) * ice_angst
    target.ice[window] *= left
    target.absorption[window] -= missing / target.path_angst(_ICE_PATH_ANGST)
    target.phases[window] -= target.radian_per_volt_angst * _ICE_VOLT * missing
    target.mask[window][left < 0.5] = _TEAR
    target.objects.append(("tear", *centre, radius_angst))


def _window(
    target: Field, radius_angst: float, rng: Rng
) -> tuple[tuple[slice, slice], Image, Image, tuple[float, float]]:
    """Choose a place in the image; the part of it within reach, and its x and y from there."""
    last = np.array(target.image_px[::-1]) - 1
    x, y = rng.uniform(0, 1, 2) * last * target.pixel_size_angst
    reach = 1.6 * radius_angst + 2 * target.pixel_size_angst
    columns, lines = target.axes()
    low_x, high_x = np.searchsorted(columns, [x - reach, x + reach])
    low_y, high_y = np.searchsorted(lines, [y - reach, y + reach])
    across, up = np.meshgrid(columns[low_x:high_x] - x, lines[low_y:high_y] - y)
    window = np.s_[int(low_y) : int(high_y), int(low_x) : int(high_x)]
    return window, across.astype(np.float32), up.astype(np.float32), (float(x), float(y))


def _waves(target: Field, wavelength_angst: float, rng: Rng) -> Image:
    """Draw a smooth random surface of deviation 1, by bilinear steps between coarse knots."""
    shape, step = target.mask.shape, wavelength_angst / target.pixel_size_angst / 2
    knots = tuple(max(4, int(side / step) + 3) for side in shape)
    coarse = torch.from_numpy(rng.standard_normal((1, 1, *knots), dtype=np.float32))
    surface = torch.nn.functional.interpolate(coarse, shape, mode="bicubic", align_corners=True)
    surface = surface[0, 0] / surface.std().clamp(min=1e-6)
    return np.asarray(surface.numpy())


def _smeared(image: Image, sigma_px: float) -> Image:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image, sigma_px), np.float32)


def _carbon_grain(target: Field, thickness_angst: float, rng: Rng) -> Image:
    """Draw the phase of atoms that lie at random; neighbours keep a little apart."""
    shape, pixel = target.mask.shape, target.pixel_size_angst
    k = torch.linalg.vector_norm(rfft_grid(shape, pixel), dim=-1).numpy()
    table = np.linspace(0, float(k.max()), 512)
    phase = target.radian_per_volt_angst * VOLT_ANGST2 * scattering_amplitude_angst(6, table)
    apart = 1 - 0.7 * np.exp(-((table / 0.3) ** 2))  # about the structure factor of glassy carbon
    power = _CARBON_PER_ANGST3 * thickness_angst * phase**2 * apart
    amplitude = np.interp(k.ravel(), table, np.sqrt(power) / pixel).reshape(k.shape)
    white = torch.from_numpy(rng.standard_normal((1, *shape), dtype=np.float32))
    grain_ft = rfft2(white) * torch.from_numpy(amplitude.astype(np.float32))
    return np.asarray(irfft2(grain_ft, shape=shape)[0].numpy())
