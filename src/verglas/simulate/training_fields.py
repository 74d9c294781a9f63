"""Small fields of random particles, made fast, for training a picker.

Every field has a specimen of its own (`random_shapes`), contrast transfer, density, signal,
background and dirt. The physics is that of a weak object in one plane at the resolution of
picking; `micrograph` is the exact simulator, on which the trained picker is judged. No field is
made from a real micrograph or a real structure.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.fft
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter, uniform_filter
from scipy.spatial import cKDTree

from verglas.simulate._training_dirt import DIRT, add_fragments, paste, smooth_field
from verglas.simulate.random_shapes import Shape, draw_shape, project_shape, random_rotations

__all__ = ["FieldConfig", "TrainingField", "draw_training_field"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator

_DENSE_FRACTION = 0.25
_PUSHES = 12
_MARGIN_PX = 16  # particles and waves come in from outside; cut off at the end
_WAVELENGTH_ANGST = {300.0: 0.019687, 200.0: 0.025079, 120.0: 0.033492}


@dataclass(frozen=True)
class FieldConfig:
    """What is drawn.

    Attributes:
        side_px: of a field.
        diameter_px: that the user would give; the specimen's varies about it.
        min_snr, max_snr: power of the particles inside their disc over that of the noise, at
            this pixel size and after the contrast transfer.
        dirt_fraction: of the fields that have dirt of some kind.
        empty_fraction: of the fields that have no particles.
        kind: recipe of the specimen, empty for all.
        covered_fraction: of the particles that lie on dirt, those that are seen through it; no
            centres are given for them.
    """

    side_px: int = 144
    diameter_px: float = 20.0
    min_snr: float = 0.04
    max_snr: float = 5.0
    dirt_fraction: float = 0.35
    empty_fraction: float = 0.08
    kind: str = ""
    covered_fraction: float = 0.0


@dataclass(frozen=True)
class TrainingField:
    """One field and what is in it.

    Attributes:
        image: `[side, side]`, protein bright, noise about 1, background and grey scale arbitrary.
        centres_px: `[n, 2]`, x and y from the middle of the first pixel; some lie just outside.
        dirt: `[side, side]`, where nothing should be picked.
        snr: of this field.
        kind: of the specimen.
    """

    image: Floats
    centres_px: NDArray[np.float64]
    dirt: Mask
    snr: float
    kind: str


def _places(rng: Rng, side: int, diameter_px: float) -> NDArray[np.float64]:
    """Throw particles, and drop those too near to an earlier one; or pack them densely."""
    if rng.uniform() < _DENSE_FRACTION:
        return _packed(rng, side, diameter_px * rng.uniform(0.85, 1.15))
    room = (side / diameter_px) ** 2
    n = max(1, int(room * np.exp(rng.uniform(np.log(0.05), np.log(1.6)))))
    thrown = rng.uniform(0, side, (n, 2))
    if rng.uniform() < 0.2:  # uneven density
        level = smooth_field(rng, side, 60.0)
        thrown = thrown[level[tuple(thrown.T.astype(int))[::-1]] > rng.uniform(-1, 0.5)]
    distance = diameter_px * rng.uniform(0.55, 1.15)
    is_kept = np.ones(len(thrown), bool)
    if len(thrown) > 1:
        for first, second in sorted(cKDTree(thrown).query_pairs(distance)):
            is_kept[second] &= not is_kept[first]
    return thrown[is_kept]


def _packed(rng: Rng, side: int, distance_px: float) -> NDArray[np.float64]:
    """Throw as many particles as have room, and let them push each other apart."""
    n = int((side / distance_px) ** 2 * rng.uniform(0.75, 1.1))
    places = rng.uniform(0, side, (n, 2))
    for _ in range(_PUSHES):
        pairs = cKDTree(places).query_pairs(distance_px, output_type="ndarray")
        apart = places[pairs[:, 0]] - places[pairs[:, 1]]
        length = np.hypot(*apart.T)[:, None]
        push = apart * (0.5 * (distance_px - length) / np.maximum(length, 1e-6))
        np.add.at(places, pairs[:, 0], push)
        np.add.at(places, pairs[:, 1], -push)
        places = np.clip(places, 0, side - 1e-3)
    return places


def _contrast_transfer(rng: Rng, side: int, diameter_px: float) -> tuple[Floats, Floats]:
    """Draw a microscope: contrast transfer of particles with envelope, and of ice without."""
    y, x = np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None]
    voltage = (300.0, 200.0, 120.0)[int(rng.choice(3, p=(0.7, 0.25, 0.05)))]
    wavelength = _WAVELENGTH_ANGST[voltage]
    pixel = float(np.exp(rng.uniform(np.log(70), np.log(420)))) / diameter_px
    defocus = float(np.exp(rng.uniform(np.log(4000), np.log(40000))))
    astigmatism = 0.1 * defocus * rng.uniform(0, 1) ** 2
    square = (x**2 + y**2) / pixel**2
    turn = np.cos(2 * (np.arctan2(y, x) - rng.uniform(0, np.pi)))
    spherical = 2.7e7 if rng.uniform() < 0.8 else 1e5
    phase = np.pi * wavelength * (defocus + astigmatism * turn) * square
    phase -= 0.5 * np.pi * spherical * wavelength**3 * square**2
    plate = np.pi / 2 if rng.uniform() < 0.06 else 0.0
    transfer = np.sin(phase + plate + np.arcsin(rng.uniform(0.05, 0.15)))
    envelope = np.exp(-rng.uniform(30, 400) / 4 * square)
    return (transfer * envelope).astype(np.float32), transfer.astype(np.float32)


def _filtered(image: Floats, transfer: Floats) -> Floats:
    out: Floats = scipy.fft.irfft2(scipy.fft.rfft2(image) * transfer, s=image.shape)
    return out


def _noise(rng: Rng, side: int, ice_transfer: Floats) -> Floats:
    """Draw counting noise, ice through the contrast transfer, and slow waves; deviation 1."""
    white, ice = rng.standard_normal((2, side, side), dtype=np.float32)
    noise = white + rng.uniform(0, 1.2) ** 2 * _filtered(ice, ice_transfer)
    wave_px = rng.uniform(8, 60)
    if rng.uniform() < 0.5:
        noise += rng.uniform(0, 0.6) * smooth_field(rng, side, wave_px)
    scaled: Floats = noise / noise.std()
    return scaled


def _signal(
    rng: Rng, shape: Shape, places: NDArray[np.float64], side: int, diameter_px: float
) -> Floats:
    """Project every particle at its place; all poses, or mostly one view."""
    whole = np.floor(places)
    images = project_shape(shape, _poses(rng, len(places)), places - whole, diameter_px=diameter_px)
    canvas = np.zeros((side, side), np.float32)
    paste(canvas, images, whole)
    return canvas


def _poses(rng: Rng, n: int) -> NDArray[np.float64]:
    rotations = random_rotations(rng, n)
    if n and rng.uniform() < 0.25:  # one view prevails, turned in the plane and wobbling
        angle = rng.uniform(0, 2 * np.pi, n)
        flat = np.zeros((n, 3, 3))
        flat[:, 0, 0] = flat[:, 1, 1] = np.cos(angle)
        flat[:, 0, 1], flat[:, 1, 0], flat[:, 2, 2] = -np.sin(angle), np.sin(angle), 1.0
        prevails = rng.uniform(size=n) < rng.uniform(0.5, 1.0)
        rotations[prevails] = flat[prevails] @ rotations[0]
    return rotations


def _treated(rng: Rng, image: Floats) -> Floats:
    """Do to some images what people do: low-pass, denoise, even out or squeeze contrast."""
    if rng.uniform() < 0.3:
        image = gaussian_filter(image, rng.uniform(0.4, 1.6))
    if rng.uniform() < 0.12:  # adaptive Wiener filter
        size = int(rng.integers(3, 8))
        mean = uniform_filter(image, size)
        variance = np.clip(uniform_filter(image * image, size) - mean * mean, 1e-9, None)
        noise = float(np.median(variance)) * rng.uniform(0.5, 1.2)
        image = mean + np.clip(1 - noise / variance, 0, 1) * (image - mean)
    if rng.uniform() < 0.12:  # local contrast
        sigma = rng.uniform(8, 50)
        centred = image - gaussian_filter(image, sigma)
        image = centred / np.sqrt(gaussian_filter(centred * centred, sigma) + 1e-4)
    if rng.uniform() < 0.12:
        middle = np.median(image)
        scale = rng.uniform(1.5, 4.0) * max(float(image.std()), 1e-6)
        image = np.tanh((image - middle) / scale)
    return image.astype(np.float32)


def _add_dirt(rng: Rng, image: Floats, dirt: Mask, config: FieldConfig) -> None:
    shares = np.array([share for share, _ in DIRT])
    n_kinds = 1 + int(rng.uniform() < 0.3)
    for kind in rng.choice(len(DIRT), n_kinds, replace=False, p=shares / shares.sum()):
        DIRT[int(kind)][1](rng, image, dirt, config.diameter_px)


def draw_training_field(rng: Rng, config: FieldConfig) -> TrainingField:
    """Draw one field.

    Args:
        rng: equal states give equal fields.
        config: what is drawn.
    """
    side = config.side_px + 2 * _MARGIN_PX
    shape = draw_shape(rng, config.kind or None)
    diameter = config.diameter_px * float(np.clip(rng.normal(0.95, 0.1), 0.72, 1.2))
    is_empty = rng.uniform() < config.empty_fraction
    places = np.empty((0, 2)) if is_empty else _places(rng, side, diameter)
    snr = float(np.exp(rng.uniform(np.log(config.min_snr), np.log(config.max_snr))))
    particle_transfer, ice_transfer = _contrast_transfer(rng, side, config.diameter_px)
    dirt = np.zeros((side, side), bool)
    image = _noise(rng, side, ice_transfer)
    if rng.uniform() < config.dirt_fraction:
        _add_dirt(rng, image, dirt, config)
    inside = np.clip(places.astype(int), 0, side - 1)
    is_covered = dirt[inside[:, 1], inside[:, 0]]
    seen_through = np.empty((0, 2))
    if config.covered_fraction > 0:
        chosen = is_covered & (rng.uniform(size=len(places)) < config.covered_fraction)
        seen_through = places[chosen]
    places = places[~is_covered]
    lone = _lone(rng, shape, diameter, side)
    signal = _signal(rng, shape, np.concatenate([places, seen_through]), side, diameter)
    if rng.uniform() < 0.2:
        sizes = (rng.uniform(0.25, 0.55), rng.uniform(1.7, 3.0))
        size = sizes[int(rng.uniform() < 0.2)]
        add_fragments(rng, signal, shape, size, diameter)
    seen = _filtered(signal, particle_transfer)
    power = float(np.square(_filtered(lone, particle_transfer)).sum() / (math.pi * diameter**2))
    thickness = np.exp(0.25 * smooth_field(rng, side, 80.0)) if rng.uniform() < 0.3 else 1.0
    image += seen * thickness * np.float32(np.sqrt(snr / max(power, 1e-6)))
    image += 12 * rng.uniform(0, 1) ** 4 * smooth_field(rng, side, rng.uniform(60, 400))
    image = _treated(rng, image)
    crop = slice(_MARGIN_PX, -_MARGIN_PX)
    return TrainingField(
        np.ascontiguousarray(image[crop, crop]),
        places - _MARGIN_PX,
        dirt[crop, crop],
        snr,
        shape.kind,
    )


def _lone(rng: Rng, shape: Shape, diameter_px: float, side: int) -> Floats:
    """Place four particles far apart, by which the signal's power is measured."""
    places = np.array([[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]) * side
    return _signal(rng, shape, places, side, diameter_px)
