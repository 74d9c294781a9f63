"""Render a surface of a map: rays, light, and shade where the surface is hollow.

A march on the voxel grid brackets where each ray meets the surface; the crossing is then
refined on a cubic spline, and the gradient there is the normal. Hollows are darkened by how far
a pixel lies behind the mean depth around it.

References:
    Levoy 1988, doi:10.1109/38.511 (shading by the gradient); Luft et al. 2006,
    doi:10.1145/1141911.1142016 (depth darkening).
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.palette import rgb

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = [
    "VIEWS",
    "choose_level",
    "shrink_volume",
    "view_matrix",
    "without_dust",
]

VIEWS: tuple[tuple[str, tuple[float, float, float]], ...] = (
    ("along z", (0.0, 0.0, 0.0)),
    ("tilted", (30.0, 50.0, 15.0)),
    ("along x", (0.0, 90.0, 90.0)),
)
"""Names and Euler angles (rot, tilt, psi, degrees) of the views that are shown."""

_Floats = NDArray[np.floating]

_LOW, _HIGH = rgb("#2f7f93"), rgb("#e9f0ee")  # colours of the core and of the outside
_STEPS = 1
_NOISE_SIGMAS = 4.0
_BLUR_ANGST = 3.0
_ENCLOSED = 0.35
_DUST = 2e-3


def shrink_volume(
    volume: NDArray[np.floating], max_side_px: int
) -> tuple[NDArray[np.float32], float]:
    """Cut a cubic volume's transform so that no side is longer; the centre stays at n // 2.

    Returns:
        The smaller volume, and how many old voxels a new one is wide.
    """
    from scipy import fft

    n = volume.shape[0]
    values = np.asarray(volume, dtype=np.float32)
    if n <= max_side_px:
        return values, 1.0
    m = max_side_px - max_side_px % 2
    spectrum = fft.fftshift(fft.fftn(fft.ifftshift(values)))
    low = n // 2 - m // 2
    cut = spectrum[low : low + m, low : low + m, low : low + m]
    smaller = fft.fftshift(fft.ifftn(fft.ifftshift(cut)).real) * (m / n) ** 3
    return np.ascontiguousarray(smaller, dtype=np.float32), n / m


def choose_level(
    volume: NDArray[np.floating],
    *,
    pixel_size_angst: float,
    mask: NDArray[np.floating] | None = None,
) -> float:
    """Choose a grey value for the surface of a map from its own volume and noise.

    The blurred map is split into particle and solvent; the level is the one that encloses a
    third of the particle's volume, about what is drawn by hand, but never within the noise.

    Args:
        volume: `[n, n, n]`.
        pixel_size_angst: of the volume.
        mask: nothing outside of it counts as particle; None for the whole box.

    References:
        Otsu 1979, doi:10.1109/TSMC.1979.4310076.
    """
    from scipy import ndimage

    blurred = ndimage.gaussian_filter(volume, max(_BLUR_ANGST / pixel_size_angst, 0.8))
    allowed = np.ones(volume.shape, bool) if mask is None else mask > 0.5
    particle = (blurred > _otsu(blurred)) & allowed
    n_inside = int(_ENCLOSED * np.count_nonzero(particle))
    if n_inside < 1:
        return float(np.percentile(volume, 99))
    solvent = volume[(blurred <= np.median(blurred)) | ~allowed]
    centre = float(np.median(solvent))
    sigma = 1.4826 * float(np.median(np.abs(solvent - centre)))
    ordered = np.partition(volume[allowed], -n_inside)
    return max(float(ordered[-n_inside]), centre + _NOISE_SIGMAS * sigma)


def _otsu(values: NDArray[np.floating], n_bins: int = 256) -> float:
    """Split grey values into two groups that differ most."""
    count, edges = np.histogram(values, n_bins)
    middle = 0.5 * (edges[1:] + edges[:-1])
    weight, moment = np.cumsum(count), np.cumsum(count * middle)
    share = weight / weight[-1]
    spread = np.maximum(share * (1 - share), 1e-12)
    between = np.square(moment[-1] / weight[-1] * share - moment / weight[-1]) / spread
    return float(middle[int(np.argmax(between))])


def without_dust(volume: NDArray[np.floating], level: float) -> tuple[NDArray[np.float32], float]:
    """Lower what lies in pieces that are too small to matter below the level.

    Args:
        volume: `[n, n, n]`.
        level: grey value of the surface.

    Returns:
        The volume, cut to what is left of it about n // 2, and the radius of that in voxels.
    """
    from scipy import ndimage

    dense = volume >= level
    pieces, n_pieces = ndimage.label(dense, structure=np.ones((3, 3, 3)))
    sizes = np.bincount(pieces.ravel(), minlength=n_pieces + 1)
    sizes[0] = 0
    dusty = sizes < _DUST * sizes.sum()
    dusty[0] = False
    is_dust = ndimage.binary_dilation(dusty[pieces]) & ~(dense & ~dusty[pieces])
    cleaned = np.where(is_dust, np.minimum(volume, 0.5 * level), volume).astype(np.float32)
    kept = np.argwhere(dense & ~dusty[pieces]) - volume.shape[0] // 2
    n = volume.shape[0]
    radius = float(np.sqrt((kept**2).sum(axis=1).max())) if len(kept) else n / 2
    half = min(n // 2, math.ceil(radius) + 4)
    inside = slice(n // 2 - half, n // 2 + half)
    return np.ascontiguousarray(cleaned[inside, inside, inside]), radius


def view_matrix(rot_deg: float, tilt_deg: float, psi_deg: float) -> NDArray[np.float64]:
    """Make the matrix from the reference to the view, by the convention for Euler angles."""

    def z(angle_deg: float) -> NDArray[np.float64]:
        c, s = np.cos(np.deg2rad(angle_deg)), np.sin(np.deg2rad(angle_deg))
        return np.array([[c, s, 0.0], [-s, c, 0.0], [0.0, 0.0, 1.0]])

    c, s = np.cos(np.deg2rad(tilt_deg)), np.sin(np.deg2rad(tilt_deg))
    y = np.array([[c, 0.0, -s], [0.0, 1.0, 0.0], [s, 0.0, c]])
    matrix: NDArray[np.float64] = z(psi_deg) @ y @ z(rot_deg)
    return matrix


class Surface:
    """A surface of a map, ready to be seen from several sides."""

    def __init__(self, volume: _Floats, *, level: float) -> None:
        """Prepare the map.

        Args:
            volume: `[n, n, n]`.
            level: grey value of the surface; denser is inside.
        """
        from scipy import ndimage

        self.volume = np.asarray(volume, dtype=np.float32)
        self.level = level
        self.spline = ndimage.spline_filter(self.volume, order=3, output=np.float32)
        self.gradient = np.gradient(self.volume)

    def render(
        self, angles_deg: Sequence[float] = (0.0, 0.0, 0.0), *, side_px: int, zoom: float = 1.0
    ) -> "Image":
        """Draw the surface, seen from +z of the view, on a transparent ground.

        Args:
            angles_deg: rot, tilt, psi of the view.
            side_px: of the picture.
            zoom: above 1 shows only the middle of the box.
        """
        from PIL import Image

        n = self.volume.shape[0]
        field = _View(self, view_matrix(angles_deg[0], angles_deg[1], angles_deg[2]))
        step = n / (side_px * zoom)
        across = (np.arange(side_px) - (side_px - 1) / 2) * step
        x, y = np.meshgrid(across, -across)
        inside, hit = field.first_dense(x, y)
        xs, ys = x[hit], y[hit]
        found = field.crossing(xs, ys, inside[hit] + 1.5, inside[hit] - 0.25)
        depth = np.full(x.shape, np.nan)
        depth[hit] = found
        normal = field.normal(xs, ys, found)
        picture = np.zeros((side_px, side_px, 4), np.uint8)
        picture[hit, :3] = _shade(normal, (xs, ys, found), _hollows(depth, n, step)[hit])
        picture[hit, 3] = 255
        return Image.fromarray(picture)


class _View:
    """A surface in the coordinates of a view, z towards the eye."""

    def __init__(self, surface: Surface, turn: NDArray[np.float64]) -> None:
        self.surface = surface
        self.turn = turn
        self.n = surface.volume.shape[0]

    def where(self, x: _Floats, y: _Floats, z: _Floats) -> NDArray[np.float64]:
        """Indices of points of the view in the array, `[3, ...]` in z, y, x."""
        points = np.tensordot(self.turn.T, np.stack([x, y, z]), axes=1)
        indices: NDArray[np.float64] = points[::-1] + self.n // 2
        return indices

    def first_dense(self, x: _Floats, y: _Floats) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Find for each ray the first depth, to a voxel, that is dense, from +z down.

        Returns:
            The depths, and which rays meet anything.
        """
        from scipy import ndimage

        n, centre = self.n, self.n // 2
        # array order is z, y, x; the same rotation acts on it with both axes reversed
        matrix = self.turn.T[::-1, ::-1]
        offset = centre - matrix @ np.full(3, float(centre))
        turned = ndimage.affine_transform(
            self.surface.volume, matrix, offset, order=1, mode="constant"
        )
        dense = turned >= self.surface.level
        first = np.where(dense.any(axis=0), n - 1 - np.argmax(dense[::-1], axis=0), -1)
        # a fine ray may meet the surface where the nearest voxel's ray passes it by
        start = ndimage.maximum_filter(first, size=3)
        rows, columns = y + centre, x + centre
        nearest = tuple(np.clip(np.rint(part).astype(int), 0, n - 1) for part in (rows, columns))
        inside = start[nearest].astype(np.float64)
        is_open = inside >= 0
        hit = np.zeros(x.shape, bool)
        while is_open.any():
            where = [inside[is_open], rows[is_open], columns[is_open]]
            found = ndimage.map_coordinates(turned, where, order=1, mode="constant")
            hit[is_open] = found >= self.surface.level
            inside[is_open & ~hit] -= 1
            is_open &= ~hit & (inside >= 0)
        return inside - centre, hit

    def crossing(self, x: _Floats, y: _Floats, near: _Floats, far: _Floats) -> NDArray[np.float64]:
        """Find by false position where the rays pass the level between two depths."""
        from scipy import ndimage

        def excess(z: _Floats) -> NDArray[np.float64]:
            where = self.where(x, y, z)
            values = ndimage.map_coordinates(self.surface.spline, where, order=3, prefilter=False)
            return np.asarray(values, dtype=np.float64) - self.surface.level

        above, below = excess(near), excess(far)
        for _ in range(_STEPS):
            middle = _between(near, far, above, below)
            value = excess(middle)
            dense = value >= 0
            far, below = np.where(dense, middle, far), np.where(dense, value, below)
            near, above = np.where(dense, near, middle), np.where(dense, above, value)
        return _between(near, far, above, below)

    def normal(self, x: _Floats, y: _Floats, z: _Floats) -> NDArray[np.float64]:
        """Give the outward direction at surface points, `[3, ...]` in x, y, z of the view."""
        from scipy import ndimage

        where = self.where(x, y, z)
        parts = [
            ndimage.map_coordinates(part, where, order=1, output=np.float64)
            for part in reversed(self.surface.gradient)
        ]
        outward = -np.tensordot(self.turn, np.stack(parts), axes=1)
        unit: NDArray[np.float64] = outward / np.maximum(np.linalg.norm(outward, axis=0), 1e-12)
        return unit


def _between(near: _Floats, far: _Floats, above: _Floats, below: _Floats) -> NDArray[np.float64]:
    """Place the crossing between two depths by their values, not quite at either end."""
    share = np.clip(above / np.where(above == below, 1.0, above - below), 0.05, 0.95)
    place: NDArray[np.float64] = near + share * (far - near)
    return place


def _hollows(depth: NDArray[np.float64], n: int, step: float) -> NDArray[np.float64]:
    """Say how far each pixel lies behind the surface around it, 0 to 1."""
    from scipy import ndimage

    known = np.isfinite(depth)
    filled = np.where(known, depth, 0.0)
    shade = np.zeros(depth.shape)
    for share in (0.015, 0.05):
        side = 2 * round(1.7 * share * n / step) + 1
        weight = ndimage.uniform_filter(ndimage.uniform_filter(known.astype(float), side), side)
        mean = ndimage.uniform_filter(ndimage.uniform_filter(filled, side), side)
        mean /= np.maximum(weight, 1e-6)
        shade += np.clip((mean - filled) / (share * n * 1.6), 0.0, 1.0)
    result: NDArray[np.float64] = np.clip(0.5 * shade, 0.0, 1.0)
    return result


def _shade(
    normal: NDArray[np.float64], points: tuple[_Floats, _Floats, _Floats], hollow: _Floats
) -> NDArray[np.uint8]:
    """Colour surface points by their distance from the centre, light and shade."""
    light = np.array([-0.45, 0.6, 0.66])
    light /= np.linalg.norm(light)
    diffuse = np.clip(0.5 + 0.5 * np.tensordot(light, normal, axes=1), 0.0, 1.0) ** 1.4
    half_way = light + np.array([0.0, 0.0, 1.0])
    half_way /= np.linalg.norm(half_way)
    gloss = np.clip(np.tensordot(half_way, normal, axes=1), 0.0, 1.0) ** 28
    radius = np.linalg.norm(np.stack(points), axis=0)
    low, high = np.percentile(radius, (3, 97)) if radius.size else (0.0, 1.0)
    share = np.clip((radius - low) / max(high - low, 1e-6), 0.0, 1.0)
    base = np.array(_LOW)[:, None] * (1 - share) + np.array(_HIGH)[:, None] * share
    bright = (0.30 + 0.75 * diffuse) * (1 - 0.62 * hollow)
    colour = base * bright + 255 * 0.12 * gloss * (1 - hollow)
    shaded: NDArray[np.uint8] = np.clip(colour, 0, 255).astype(np.uint8).T
    return shaded
