"""Show maps: central slices and a shaded surface, each with a scale bar."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.drawing import draw_label, draw_scale_bar, grey_picture, montage
from verglas.viewers.palette import rgb
from verglas.viewers.picture import Picture, from_image
from verglas.viewers.surface import (
    VIEWS,
    Surface,
    choose_level,
    shrink_volume,
    without_dust,
)

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["MAX_BOX_PX", "portrait_picture", "slices_picture", "surface_picture"]

MAX_BOX_PX = 128
_TILE_PX = 600
_SURFACE_PX = 480
_OUTLINE = "#35d0c0"


def slices_picture(
    volume: NDArray[np.floating],
    name: str,
    *,
    pixel_size_angst: float,
    mask: NDArray[np.floating] | None = None,
) -> Picture:
    """Draw the three slices through the centre of a map.

    Args:
        volume: `[n, n, n]`.
        name: of the picture.
        pixel_size_angst: of the volume.
        mask: drawn as an outline where it is half.
    """
    from PIL import Image

    centre = volume.shape[0] // 2
    if mask is not None and mask.shape != volume.shape:
        mask = None
    shown = volume if mask is None else volume[mask > 0.01]
    low, high = np.percentile(shown if np.size(shown) else volume, (1.0, 99.7))
    scaled = np.clip((volume - low) / max(float(high - low), 1e-20), 0.0, 1.0)
    tiles = []
    for axis, plane in ((0, "xy, z = 0"), (1, "xz, y = 0"), (2, "yz, x = 0")):
        section = np.rint(255 * np.take(scaled, centre, axis=axis)).astype(np.uint8)
        tile = grey_picture(section)
        tile = tile.resize((_TILE_PX, _TILE_PX), Image.Resampling.BICUBIC)
        if mask is not None:
            _draw_outline(tile, np.take(mask, centre, axis=axis))
        draw_label(tile, plane, "top left")
        tiles.append(tile)
    draw_scale_bar(tiles[0], pixel_size_angst * volume.shape[0] / _TILE_PX)
    outline = " The line is where the mask is one half." if mask is not None else ""
    return from_image(
        montage(tiles, n_columns=3),
        name,
        alt="Three orthogonal slices through the centre of the map",
        caption=f"Central slices, density bright.{outline}",
        width="whole",
        scale=1.95,
    )


def _draw_outline(tile: "Image", mask: NDArray[np.floating]) -> None:
    """Draw where a mask is one half."""
    from PIL import Image, ImageChops, ImageFilter

    levels = np.rint(255 * np.clip(mask, 0, 1)).astype(np.uint8)
    smooth = grey_picture(levels).convert("L").resize(tile.size, Image.Resampling.BICUBIC)
    inside = smooth.point(lambda value: 255 if value >= 128 else 0)
    edge = ImageChops.difference(
        inside.filter(ImageFilter.MaxFilter(3)), inside.filter(ImageFilter.MinFilter(3))
    )
    tile.paste(rgb(_OUTLINE), mask=edge)


def portrait_picture(
    volume: NDArray[np.floating],
    name: str,
    *,
    pixel_size_angst: float,
    mask: NDArray[np.floating] | None = None,
) -> Picture:
    """Draw the surface of a map from one side, without words.

    Args:
        volume: `[n, n, n]`.
        name: of the picture.
        pixel_size_angst: of the volume.
        mask: of the particle.
    """
    clean, _, chosen, zoom = _prepared(volume, pixel_size_angst, mask, None)
    image = Surface(clean, level=chosen).render(VIEWS[1][1], side_px=_SURFACE_PX, zoom=zoom)
    return from_image(image, name, alt="Shaded surface of the final map")


def _prepared(
    volume: NDArray[np.floating],
    pixel_size_angst: float,
    mask: NDArray[np.floating] | None,
    level: float | None,
) -> tuple[NDArray[np.float32], float, float, float]:
    """Shrink a map, choose its level, clean it; returns it, its pixel size, level and zoom."""
    smaller, wider = shrink_volume(volume, MAX_BOX_PX)
    if mask is not None:
        mask = shrink_volume(mask, MAX_BOX_PX)[0] if mask.shape == volume.shape else None
    pixel = pixel_size_angst * wider
    chosen = choose_level(smaller, pixel_size_angst=pixel, mask=mask) if level is None else level
    clean, radius = without_dust(smaller, chosen)
    return clean, pixel, chosen, len(clean) / 2 / (1.05 * radius + 1.0)


def surface_picture(
    volume: NDArray[np.floating],
    name: str,
    *,
    pixel_size_angst: float,
    mask: NDArray[np.floating] | None = None,
    level: float | None = None,
) -> Picture:
    """Draw the surface of a map from three sides.

    Args:
        volume: `[n, n, n]`.
        name: of the picture.
        pixel_size_angst: of the volume.
        mask: of the particle; helps to choose the level.
        level: grey value of the surface; chosen from the map by default.
    """
    clean, pixel, chosen, zoom = _prepared(volume, pixel_size_angst, mask, level)
    surface = Surface(clean, level=chosen)
    tiles = []
    for title, angles in VIEWS:
        tile = surface.render(angles, side_px=_SURFACE_PX, zoom=zoom)
        draw_label(tile, title, "top left", has_plate=False)
        tiles.append(tile)
    draw_scale_bar(tiles[0], pixel * len(clean) / (zoom * _SURFACE_PX), has_plate=False)
    sigma = float(volume.std())
    return from_image(
        montage(tiles, n_columns=3),
        name,
        alt="Shaded surface of the map, seen along z, tilted and along x",
        caption=f"Surface at a grey value of {chosen:.3g}, {chosen / sigma:.1f} standard "
        "deviations of the map; pale is far from the centre. Loose specks are left out."
        if sigma > 0
        else "The map is flat.",
        width="whole",
        scale=1.55,
    )
