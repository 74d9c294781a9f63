"""Show many small images side by side, each with a line of text."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.drawing import draw_frame, draw_label, draw_scale_bar, grey_picture, montage
from verglas.viewers.micrographs import band_pass
from verglas.viewers.picture import Picture, Width, from_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Tile", "gallery_picture", "image_tile"]

_GAP_PX = 10
_FAINT = 0.45


@dataclass(frozen=True)
class Tile:
    """One image of a gallery.

    Attributes:
        image: `[h, w]`, or a finished picture.
        text: written on it.
        is_framed: one of those that were chosen.
        is_faint: one of those that were not.
        pixel_size_angst: for the scale bar; 0 for none.
    """

    image: "NDArray[np.floating] | Image"
    text: str = ""
    is_framed: bool = False
    is_faint: bool = False
    pixel_size_angst: float = 0.0


def image_tile(image: NDArray[np.floating], side_px: int, *, low_pass_px: float = 0.0) -> "Image":
    """Make a tile of an image, its contrast set by the middle.

    Args:
        image: `[h, w]`.
        side_px: of the tile.
        low_pass_px: a wave of this length keeps half of its amplitude; 0 filters nothing.
    """
    from PIL import Image

    values = np.asarray(image, dtype=np.float32)
    if low_pass_px > 0:
        values = band_pass(values, low_pass_px=low_pass_px, high_pass_px=2.0 * max(values.shape))
    low, high = np.percentile(values[np.isfinite(values)], (0.5, 99.7)) if values.size else (0, 1)
    scaled = np.clip((values - low) / max(float(high - low), 1e-20), 0, 1)
    grey = np.rint(255 * np.nan_to_num(scaled)).astype(np.uint8)
    return grey_picture(grey).resize((side_px, side_px), Image.Resampling.BICUBIC)


def gallery_picture(
    tiles: Sequence[Tile],
    name: str,
    *,
    alt: str,
    caption: str = "",
    n_columns: int = 8,
    width_px: int = 940,
    low_pass_angst: float = 0.0,
    width: Width = "whole",
) -> Picture:
    """Put tiles together.

    Args:
        tiles: at least one; the first with a pixel size gets a scale bar.
        name: of the picture.
        alt: what it shows.
        caption: what to look at.
        n_columns: at most.
        width_px: of the whole, as shown.
        low_pass_angst: applied to arrays.
        width: share of the page.
    """
    n_columns = min(n_columns, max(len(tiles), 4))
    side = (2 * width_px + _GAP_PX) // n_columns - _GAP_PX
    made = []
    has_bar = False
    for tile in tiles:
        if isinstance(tile.image, np.ndarray):
            pixel = tile.pixel_size_angst
            low_pass = low_pass_angst / pixel if pixel > 0 else 0.0
            picture = image_tile(tile.image, side, low_pass_px=low_pass)
        else:
            picture = tile.image.convert("RGB").resize((side, side))
        if tile.is_faint:
            picture = _faded(picture)
        if tile.pixel_size_angst > 0 and not has_bar and isinstance(tile.image, np.ndarray):
            angst_per_px = tile.pixel_size_angst * tile.image.shape[1] / side
            draw_scale_bar(picture, angst_per_px, corner="top left", share=0.45)
            has_bar = True
        if tile.text:
            draw_label(picture, tile.text, "bottom left", size_px=min(26, max(20, side // 9)))
        if tile.is_framed:
            draw_frame(picture, "#35d0c0")
        made.append(picture)
    sheet = montage(made, n_columns=n_columns, gap_px=_GAP_PX)
    return from_image(sheet, name, alt=alt, caption=caption, width=width)


def _faded(picture: "Image") -> "Image":
    from PIL import Image

    grey = Image.new("RGB", picture.size, (120, 126, 130))
    return Image.blend(picture, grey, _FAINT)
