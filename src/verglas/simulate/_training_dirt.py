"""What lies in micrographs beside particles: carbon, ice, aggregates, beads, fibres, fragments.

Each function adds its object to an image whose noise has deviation 1 and in which protein is
bright, and marks the pixels that no picker should touch.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from verglas.simulate.random_shapes import Shape, draw_shape, project_shape, random_rotations

__all__ = ["DIRT", "add_fragments", "paste", "smooth_field"]

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]
Rng = np.random.Generator


def smooth_field(rng: Rng, side: int, wave_px: float) -> Floats:
    """Draw a smooth random surface of deviation about 1."""
    n_knots = max(3, int(side / wave_px) + 3)
    knots = rng.standard_normal((n_knots, n_knots), dtype=np.float32)
    place = np.linspace(0, n_knots - 1, side, dtype=np.float32)[:, None]
    basis = np.exp(-1.5 * np.square(place - np.arange(n_knots, dtype=np.float32)))
    basis /= np.sqrt(np.square(basis).sum(axis=1, keepdims=True))
    surface: Floats = basis @ knots @ basis.T
    return surface


def paste(canvas: Floats, images: Floats, places_px: NDArray[np.float64]) -> None:
    """Add images about the whole part of their places; what hangs over is cut off."""
    half = images.shape[-1] // 2
    side = canvas.shape[0]
    for image, (x, y) in zip(images, np.floor(places_px).astype(int), strict=True):
        low_x, low_y = max(0, x - half), max(0, y - half)
        high_x, high_y = min(side, x + half + 1), min(side, y + half + 1)
        if low_x < high_x and low_y < high_y:
            canvas[low_y:high_y, low_x:high_x] += image[
                low_y - y + half : high_y - y + half, low_x - x + half : high_x - x + half
            ]


def _axes(side: int) -> tuple[Floats, Floats]:
    axis = np.arange(side, dtype=np.float32)
    return axis[None, :], axis[:, None]


def _outline(rng: Rng, side: int, radius_px: float) -> Mask:
    """Draw an irregular patch somewhere."""
    x, y = _axes(side)
    middle = rng.uniform(0, side, 2)
    ratio, angle = rng.uniform(0.5, 1.0), rng.uniform(0, np.pi)
    along = (x - middle[0]) * np.cos(angle) + (y - middle[1]) * np.sin(angle)
    across = (y - middle[1]) * np.cos(angle) - (x - middle[0]) * np.sin(angle)
    rough = rng.uniform(0, 0.35) * smooth_field(rng, side, max(6.0, 0.7 * radius_px))
    inside: Mask = np.hypot(along, across / ratio) < radius_px * (1 + rough)
    return inside


def _soft_step(mask: Mask, sigma_px: float) -> Floats:
    soft: Floats = gaussian_filter(mask.astype(np.float32), sigma_px)
    return soft


def _carbon(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    """Cover one side by a film with a grain of its own and a fringe at its edge."""
    side = image.shape[0]
    x, y = _axes(side)
    radius = rng.uniform(1.0, 20.0) * side
    angle = rng.uniform(0, 2 * np.pi)
    depth = rng.uniform(0.1, 0.7) * side
    reach = radius + side / 2 - depth
    middle = side / 2 + reach * np.array([np.cos(angle), np.sin(angle)])
    inside = np.hypot(x - middle[0], y - middle[1]) < radius
    if rng.uniform() < 0.3:  # the film's hole lies in view, or the film is round
        inside = ~inside if inside.mean() > 0.5 else inside
    step = _soft_step(inside, rng.uniform(0.5, 2.0))
    grain = gaussian_filter(
        rng.standard_normal(image.shape).astype(np.float32), rng.uniform(0.6, 1.6)
    )
    grain *= rng.uniform(0.3, 2.5) / max(float(grain.std()), 1e-6)
    image += step * (rng.uniform(0.5, 8.0) + grain)
    fringe = _soft_step(inside, 1.0) - _soft_step(inside, 2.5)
    image += rng.uniform(0, 12.0) * fringe
    dirt |= inside


def _ice(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    """Scatter lumps of ice with sharp or soft outlines, dark rims and texture."""
    for _ in range(int(rng.integers(1, 6))):
        inside = _outline(rng, image.shape[0], diameter_px * float(np.exp(rng.uniform(-1.2, 1.4))))
        step = _soft_step(inside, rng.uniform(0.4, 0.2 * diameter_px))
        sign = 1.0 if rng.uniform() < 0.8 else -1.0
        texture = 1 + rng.uniform(0, 0.6) * smooth_field(rng, image.shape[0], rng.uniform(4, 20))
        image += sign * float(np.exp(rng.uniform(0.7, 2.7))) * step * texture
        rim = _soft_step(inside, 1.0) - _soft_step(inside, 3.0)
        image += rng.uniform(-3, 8) * rim
        dirt |= step > 0.3


def _grains(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    """Cover a region with the mottle of crystalline ice."""
    inside = _outline(rng, image.shape[0], diameter_px * rng.uniform(1.5, 6.0))
    mottle = smooth_field(rng, image.shape[0], diameter_px * rng.uniform(0.2, 0.9))
    image += rng.uniform(1.5, 8.0) * _soft_step(inside & (mottle > rng.uniform(0, 1)), 0.8)
    dirt |= inside


def _beads(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    x, y = _axes(image.shape[0])
    radius = diameter_px * rng.uniform(0.08, 0.6)
    for middle in rng.uniform(0, image.shape[0], (int(rng.integers(1, 9)), 2)):
        distance = np.hypot(x - middle[0], y - middle[1]) / radius
        image += rng.uniform(6, 25) * np.sqrt(np.clip(1 - distance**2, 0, None))
        image -= rng.uniform(0, 4) * np.exp(-8 * (distance - 1.3) ** 2)
        dirt |= distance < 1.2


def _fibres(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    x, y = _axes(image.shape[0])
    for _ in range(int(rng.integers(1, 4))):
        middle, angle = rng.uniform(0, image.shape[0], 2), rng.uniform(0, np.pi)
        along = (x - middle[0]) * np.cos(angle) + (y - middle[1]) * np.sin(angle)
        across = (y - middle[1]) * np.cos(angle) - (x - middle[0]) * np.sin(angle)
        bend = rng.uniform(-1, 1) / image.shape[0]
        width = diameter_px * rng.uniform(0.05, 0.4)
        distance = np.abs(across - bend * along**2) / width
        image += rng.uniform(1.0, 4.0) * np.exp(-0.5 * (2 * distance) ** 4)
        dirt |= distance < 1.0


def _wrinkles(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    """Cracks and streaks: narrow, sharp, of either sign."""
    x, y = _axes(image.shape[0])
    middle, angle = rng.uniform(0, image.shape[0], 2), rng.uniform(0, np.pi)
    wave = smooth_field(rng, image.shape[0], 40.0) * rng.uniform(0, 15)
    distance = (y - middle[1]) * np.cos(angle) - (x - middle[0]) * np.sin(angle) + wave
    width = rng.uniform(0.8, 4.0)
    image += rng.uniform(-10, 10) * np.exp(-0.5 * (distance / width) ** 2)
    dirt |= np.abs(distance) < 2 * width


def _clump(rng: Rng, image: Floats, dirt: Mask, diameter_px: float) -> None:
    """Heap up particles that cannot be told apart."""
    n, middle = int(rng.integers(8, 40)), rng.uniform(0, image.shape[0], 2)
    spread = diameter_px * 0.3 * np.sqrt(n)
    places = middle + spread * rng.uniform(-1, 1, (n, 1)) * _unit(rng, n)
    canvas = np.zeros_like(image)
    pictures = project_shape(
        draw_shape(rng), random_rotations(rng, n), np.zeros((n, 2)), diameter_px=diameter_px
    )
    paste(canvas, pictures, places)
    canvas *= rng.uniform(2, 10) / max(float(canvas.max()), 1e-6)
    image += canvas
    dirt |= canvas > 0.25 * canvas.max()


def _unit(rng: Rng, n: int) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi, n)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


DIRT: tuple[tuple[float, Callable[[Rng, Floats, Mask, float], None]], ...] = (
    (0.25, _carbon),
    (0.28, _ice),
    (0.10, _grains),
    (0.10, _beads),
    (0.07, _fibres),
    (0.05, _wrinkles),
    (0.15, _clump),
)
"""How often each kind is drawn, and what draws it."""


def add_fragments(
    rng: Rng, signal: Floats, shape: Shape, relative_size: float, diameter_px: float
) -> None:
    """Strew objects of another size than the particle's: they are no particles, and no dirt."""
    n = int(rng.integers(1, 40 if relative_size < 1 else 4))
    shape = shape if rng.uniform() < 0.4 else draw_shape(rng)
    pictures = project_shape(
        shape,
        random_rotations(rng, n),
        np.zeros((n, 2)),
        diameter_px=diameter_px * relative_size,
    )
    pictures *= rng.uniform(0.4, 1.0) * relative_size  # a smaller body is thinner
    paste(signal, pictures, rng.uniform(0, signal.shape[0], (n, 2)))
