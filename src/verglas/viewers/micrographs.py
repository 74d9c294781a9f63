"""Show micrographs so that particles can be seen: low-passed, level, with picks on them."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.drawing import draw_circles, draw_label, draw_scale_bar, grey_picture, shrink
from verglas.viewers.picture import Picture, from_image

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["band_pass", "micrograph_picture", "thumbnail"]

_LEVEL_SHARE = 0.25  # of the image's side: waves longer than this are taken out
_VISIBLE_ANGST = 22.0
_MOST_PX_PER_PX = 2.0


def band_pass(
    image: NDArray[np.floating], *, low_pass_px: float, high_pass_px: float
) -> NDArray[np.float32]:
    """Take out what is finer than one length and coarser than another.

    Args:
        image: `[h, w]`.
        low_pass_px: a wave of this length keeps half of its amplitude.
        high_pass_px: the same for long waves.
    """
    from scipy import fft

    values = np.asarray(image, dtype=np.float32)
    values = np.where(np.isfinite(values), values, 0.0)
    values = values - values.mean(dtype=np.float64).astype(np.float32)
    k2 = (fft.fftfreq(values.shape[0])[:, None] ** 2 + fft.rfftfreq(values.shape[1]) ** 2).astype(
        np.float32
    )
    half = np.float32(np.log(2.0))
    weight = np.exp(-half * k2 * low_pass_px**2) * (1 - np.exp(-half * k2 * high_pass_px**2))
    filtered: NDArray[np.float32] = fft.irfft2(fft.rfft2(values) * weight, s=values.shape)
    return filtered


def thumbnail(
    image: NDArray[np.floating],
    *,
    pixel_size_angst: float,
    side_px: int,
    visible_angst: float = _VISIBLE_ANGST,
) -> tuple["Image", float]:
    """Make a small picture of a micrograph with its noise taken down.

    Args:
        image: `[h, w]`.
        pixel_size_angst: of the image.
        side_px: longest side of the picture.
        visible_angst: what is finer is taken out.

    Returns:
        The picture and its pixel size in Å.
    """
    from PIL import Image

    binned, factor = shrink(image, side_px)
    pixel = pixel_size_angst * factor
    longest = max(binned.shape)
    filtered = band_pass(
        binned,
        low_pass_px=max(visible_angst / pixel, 2.0),
        high_pass_px=_LEVEL_SHARE * longest,
    )
    picture = grey_picture(filtered, (0.3, 99.7))
    scale = min(side_px / longest, _MOST_PX_PER_PX)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS), pixel * binned.shape[1] / size[0]


def micrograph_picture(
    image: NDArray[np.floating],
    name: str,
    *,
    pixel_size_angst: float,
    x_angst: NDArray[np.floating] | None = None,
    y_angst: NDArray[np.floating] | None = None,
    diameter_angst: float = 0.0,
    title: str = "",
    side_px: int = 920,
) -> Picture:
    """Draw a micrograph with circles about its picks.

    Args:
        image: `[h, w]`.
        name: of the picture.
        pixel_size_angst: of the image.
        x_angst, y_angst: positions from the centre of the first pixel; None draws none.
        diameter_angst: of the circles.
        title: written on the picture.
        side_px: longest side of the file.
    """
    visible = max(_VISIBLE_ANGST, diameter_angst / 6)
    picture, pixel = thumbnail(
        image, pixel_size_angst=pixel_size_angst, side_px=side_px, visible_angst=visible
    )
    n_picks = 0
    if x_angst is not None and y_angst is not None:
        n_picks = len(x_angst)
        # the centre of the first pixel of the image is not that of the first pixel shown
        offset = 0.5 * pixel_size_angst / pixel - 0.5
        draw_circles(
            picture,
            np.asarray(x_angst) / pixel + offset,
            np.asarray(y_angst) / pixel + offset,
            radius_px=max(4.0, 0.5 * diameter_angst / pixel),
            thickness_px=3.0,
        )
    draw_scale_bar(picture, pixel)
    if title:
        draw_label(picture, title, "top left")
    picks = f" with {n_picks} picks" if x_angst is not None else ""
    caption = f"Low-passed to {visible:.0f} Å."
    if picks:
        caption = (
            f"Picks, circles of {diameter_angst:.0f} Å; the image is low-passed to {visible:.0f} Å."
        )
    alt = f"Micrograph {title}{picks}, low-passed to {visible:.0f} Å"
    return from_image(picture, name, alt=alt, caption=caption)
