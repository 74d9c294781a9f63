"""Draw on pixels: grey levels, scale bars, labels, circles, tiles.

Convention: row 0 of an array is the bottom line of a picture, as conventions say of images;
positions are in pixels of the array.
"""

import math
from functools import cache
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.palette import ACCENT, rgb

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFont import FreeTypeFont

__all__ = [
    "Corner",
    "draw_circles",
    "draw_frame",
    "draw_label",
    "draw_scale_bar",
    "font",
    "grey_levels",
    "grey_picture",
    "length_text",
    "montage",
    "nice_length_angst",
    "shrink",
]

Corner = Literal["top left", "top right", "bottom left", "bottom right"]

_PLATE = (10, 18, 24, 150)
_ON_GROUND = (122, 136, 146)  # read on white and on black
_STEPS = (1.0, 2.0, 5.0, 10.0)


@cache
def font(size_px: int, *, is_bold: bool = False) -> "FreeTypeFont":
    """Load the letters used in pictures, which know Å and µ."""
    from pathlib import Path

    from matplotlib import get_data_path
    from PIL import ImageFont

    name = "DejaVuSans-Bold.ttf" if is_bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(get_data_path()) / "fonts" / "ttf" / name), size_px)


def grey_levels(
    image: NDArray[np.generic], percentiles: tuple[float, float] = (0.5, 99.5)
) -> NDArray[np.uint8]:
    """Map grey values to 0-255 so that the percentiles become black and white."""
    from verglas.io.images import stretch_contrast

    return stretch_contrast(image, percentiles)


def grey_picture(
    image: NDArray[np.floating] | NDArray[np.uint8], percentiles: tuple[float, float] = (0.5, 99.5)
) -> "Image":
    """Turn an array `[h, w]` into a picture with its row 0 at the bottom."""
    from PIL import Image

    grey = image if image.dtype == np.uint8 else grey_levels(np.asarray(image), percentiles)
    return Image.fromarray(np.ascontiguousarray(grey[::-1])).convert("RGB")


def shrink(image: NDArray[np.floating], max_side_px: int) -> tuple[NDArray[np.float32], int]:
    """Average square blocks until no side is longer than twice the limit, cheaply.

    Returns:
        The smaller image, and the side of the blocks.
    """
    factor = -(-max(image.shape) // (2 * max_side_px))
    height, width = (side // factor for side in image.shape)
    blocks = image[: height * factor, : width * factor]
    blocks = blocks.reshape(height, factor, width, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32)), factor


def nice_length_angst(longest_angst: float) -> float:
    """Choose 1, 2 or 5 times a power of ten that is not longer than asked for."""
    power = 10.0 ** math.floor(math.log10(longest_angst))
    return max(step * power for step in _STEPS if step * power <= longest_angst * 1.0001)


def length_text(length_angst: float) -> str:
    """Write a length in Å, or in nm or µm where that is shorter."""
    if length_angst >= 10_000:
        return f"{length_angst / 10_000:g} µm"
    if length_angst >= 1000:
        return f"{length_angst / 10:g} nm"
    return f"{length_angst:g} Å"


def draw_scale_bar(
    image: "Image",
    angst_per_px: float,
    *,
    corner: Corner = "bottom left",
    share: float = 0.25,
    has_plate: bool = True,
) -> None:
    """Draw a bar and its length.

    Args:
        image: changed in place.
        angst_per_px: of the picture.
        corner: where.
        share: longest part of the picture's width.
        has_plate: white on a dark plate; else grey, for a transparent ground.
    """
    from PIL import ImageDraw

    length = nice_length_angst(share * image.width * angst_per_px)
    bar = length / angst_per_px
    size = _letter_px(image)
    text = length_text(length)
    width = max(bar, font(size).getlength(text))
    left, top = _plate(image, corner, width, size * 1.65, is_drawn=has_plate)
    draw = ImageDraw.Draw(image)
    middle, colour = left + width / 2, "white" if has_plate else _ON_GROUND
    thick = max(2, size // 6)
    draw.rectangle((middle - bar / 2, top, middle + bar / 2, top + thick), fill=colour)
    draw.text((middle, top + size * 1.05), text, fill=colour, font=font(size), anchor="mm")


def draw_label(
    image: "Image",
    text: str,
    corner: Corner,
    *,
    size_px: int | None = None,
    has_plate: bool = True,
) -> None:
    """Write a short text in a corner; lines are cut to the picture's width.

    Args:
        image: changed in place.
        text: of one or more lines.
        corner: where.
        size_px: of the letters.
        has_plate: white on a dark plate; else grey, for a transparent ground.
    """
    from PIL import ImageDraw

    size = size_px or _letter_px(image)
    letters = font(size)
    lines = [_fitting(line, letters, image.width - 1.6 * size) for line in text.split("\n")]
    width = max(letters.getlength(line) for line in lines)
    height = size * (1.25 * len(lines) - 0.25)
    left, top = _plate(image, corner, width, height, is_drawn=has_plate)
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        place = (left, top + size * (1.25 * i + 0.5))
        colour = "white" if has_plate else _ON_GROUND
        draw.text(place, line, fill=colour, font=letters, anchor="lm")


def _fitting(text: str, letters: "FreeTypeFont", width: float) -> str:
    """Cut a text to a width."""
    while len(text) > 2 and letters.getlength(text) > width:
        text = f"{text[:-2].rstrip()}…"
    return text


def draw_circles(
    image: "Image",
    x_px: NDArray[np.floating],
    y_px: NDArray[np.floating],
    *,
    radius_px: float,
    colour: str = "#2ee6d2",
    thickness_px: float = 2.0,
) -> None:
    """Draw smooth circles; y counts from the bottom line of the picture.

    Args:
        image: changed in place.
        x_px, y_px: centres, in pixels of the picture.
        radius_px: of all circles.
        colour: of the line.
        thickness_px: of the line.
    """
    from PIL import Image, ImageDraw

    finer = 4
    mask = Image.new("L", (image.width * finer, image.height * finer), 0)
    draw = ImageDraw.Draw(mask)
    radius, thick = radius_px * finer, max(1, round(thickness_px * finer))
    xs, ys = (x_px + 0.5) * finer, (image.height - 0.5 - y_px) * finer
    for x, y in zip(xs, ys, strict=True):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), outline=255, width=thick)
    image.paste(rgb(colour), mask=mask.reduce(finer))


def draw_frame(image: "Image", colour: str = ACCENT, *, thickness_px: int = 6) -> None:
    """Draw a frame inside the border."""
    from PIL import ImageDraw

    box = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(image).rectangle(box, outline=rgb(colour), width=thickness_px)


def montage(tiles: "list[Image]", *, n_columns: int, gap_px: int = 12) -> "Image":
    """Put tiles of one size side by side on a transparent ground."""
    from PIL import Image

    width, height = tiles[0].size
    n_columns = min(n_columns, len(tiles))
    n_rows = -(-len(tiles) // n_columns)
    size = (n_columns * (width + gap_px) - gap_px, n_rows * (height + gap_px) - gap_px)
    sheet = Image.new("RGBA", size, (0, 0, 0, 0))
    for i, tile in enumerate(tiles):
        row, column = divmod(i, n_columns)
        sheet.paste(tile, (column * (width + gap_px), row * (height + gap_px)))
    return sheet


def _letter_px(image: "Image") -> int:
    return max(20, min(32, image.width // 24))


def _plate(
    image: "Image", corner: Corner, width: float, height: float, *, is_drawn: bool = True
) -> tuple[float, float]:
    """Darken a corner and return where the content begins."""
    from PIL import Image, ImageDraw

    pad = max(6, round(0.35 * _letter_px(image)))
    margin = pad
    outer = (round(width + 2 * pad), round(height + 2 * pad))
    left = margin if corner.endswith("left") else image.width - margin - outer[0]
    top = margin if corner.startswith("top") else image.height - margin - outer[1]
    if is_drawn:
        mask = Image.new("L", outer, 0)
        box = (0, 0, outer[0] - 1, outer[1] - 1)
        ImageDraw.Draw(mask).rounded_rectangle(box, 5, fill=_PLATE[3])
        image.paste(_PLATE[:3], (left, top), mask)
    return left + pad, top + pad
