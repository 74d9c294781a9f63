"""Show Thon rings beside their fit, and the radial profile with the fitted CTF."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.drawing import draw_label, font, grey_picture
from verglas.viewers.palette import SERIES, SOFT, finish, plot
from verglas.viewers.picture import Picture, from_image
from verglas.viewers.plots import resolution_axis

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["profile_picture", "rings_picture", "rings_tile"]

_RING_MARKS_ANGST = (10.0, 7.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5)


def rings_tile(spectrum: NDArray[np.floating], side_px: int) -> "Image":
    """Make a small picture of a spectrum.

    Args:
        spectrum: `[p, p]`, 0 to 255, zero frequency in the middle.
        side_px: of the picture.
    """
    from PIL import Image

    levels = np.clip(np.rint(spectrum), 0, 255).astype(np.uint8)
    return grey_picture(levels).resize((side_px, side_px), Image.Resampling.LANCZOS)


def rings_picture(
    spectrum: NDArray[np.floating],
    name: str,
    *,
    highest_per_angst: float,
    fit_res_angst: float | None = None,
    title: str = "",
    side_px: int = 560,
) -> Picture:
    """Draw a spectrum, measured on the left and fitted on the right, with resolutions marked.

    Args:
        spectrum: `[p, p]`, 0 to 255, zero frequency in the middle.
        name: of the picture.
        highest_per_angst: frequency at the edge of the picture's middle line.
        fit_res_angst: of the bright circle.
        title: written on the picture.
        side_px: of the file.
    """
    picture = rings_tile(spectrum, side_px)
    if highest_per_angst > 0:
        _mark_resolutions(picture, highest_per_angst)
    if title:
        draw_label(picture, title, "top left")
    draw_label(picture, "measured", "bottom left")
    draw_label(picture, "fitted", "bottom right")
    fit = f", rings fitted to {fit_res_angst:.1f} Å" if fit_res_angst else ""
    return from_image(
        picture,
        name,
        alt=f"Power spectrum of {title or 'a micrograph'}, measured left and fitted right{fit}",
        caption="Thon rings: measured on the left, fitted on the right"
        + ("; the circle is the fit resolution." if fit else "."),
        width="third",
    )


def profile_picture(
    frequencies_per_angst: NDArray[np.floating],
    name: str,
    *,
    power: NDArray[np.floating],
    ctf2: NDArray[np.floating],
    quality: NDArray[np.floating] | None = None,
    fit_res_angst: float | None = None,
    title: str = "",
) -> Picture:
    """Draw the radial profile of a spectrum against the squared CTF.

    Args:
        frequencies_per_angst: `[n]`.
        name: of the picture.
        power: `[n]`, background taken away.
        ctf2: `[n]`, of the fit.
        quality: `[n]`, running agreement of the two.
        fit_res_angst: to which they agree.
        title: of the micrograph, for the text.
    """
    curves = [("measured", _matched(power, ctf2), SERIES[0], 1.3), ("CTF²", ctf2, SERIES[1], 1.3)]
    curves += [("agreement", quality, SERIES[3], 1.0)] if quality is not None else []
    fit = f" They agree to {fit_res_angst:.1f} Å." if fit_res_angst else ""
    caption = f"Radial profile{f' of {title}' if title else ''} against the fitted CTF.{fit}"
    with plot(600, 300) as (figure, axes):
        for label, values, colour, width in curves:
            axes.plot(frequencies_per_angst, values, color=colour, label=label, linewidth=width)
        if fit_res_angst:
            axes.axvline(1 / fit_res_angst, color=SOFT, linewidth=1, linestyle="--")
            axes.annotate(
                f"{fit_res_angst:.1f} Å",
                (1 / fit_res_angst, -0.28),
                xytext=(-4, 0),
                textcoords="offset points",
                fontsize=8.5,
                ha="right",
            )
        axes.set(
            ylim=(-0.3, 1.55),
            xlabel="spatial frequency at the mean defocus (1/Å)",
            ylabel="power, scaled",
        )
        axes.margins(x=0)
        resolution_axis(axes)
        axes.legend(loc="upper right", ncols=3)
        return finish(figure, name, alt=caption, caption=caption, width="two-thirds")


def _matched(power: NDArray[np.floating], ctf2: NDArray[np.floating]) -> NDArray[np.float64]:
    """Scale measured power to the model by least squares, in sliding windows.

    The envelope falls off; what is compared is where the rings are.
    """
    from scipy.ndimage import uniform_filter1d

    width = max(9, len(power) // 5)
    measured = np.nan_to_num(np.asarray(power, dtype=np.float64))
    model = np.asarray(ctf2, dtype=np.float64)

    def smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
        result: NDArray[np.float64] = uniform_filter1d(values, width, mode="nearest")
        return result

    level, model_level = smooth(measured), smooth(model)
    spread = np.sqrt(np.maximum(smooth(measured**2) - level**2, 1e-20))
    model_spread = np.sqrt(np.maximum(smooth(model**2) - model_level**2, 0.0))
    matched: NDArray[np.float64] = model_level + (measured - level) / spread * model_spread
    return matched


def _mark_resolutions(picture: "Image", highest_per_angst: float) -> None:
    """Write resolutions along the line to the right of the middle."""
    from PIL import ImageDraw

    draw = ImageDraw.Draw(picture)
    centre = picture.width / 2
    size = max(15, picture.width // 25)
    last = 0.0
    for mark in _RING_MARKS_ANGST:
        place = centre + centre / mark / highest_per_angst
        if place > picture.width - 2 * size or place - last < 3.4 * size:
            continue
        last = place
        draw.line((place, centre - size / 2, place, centre + size / 2), fill="white", width=2)
        draw.text(
            (place, centre + 1.3 * size),
            f"{mark:g} Å",
            fill="white",
            font=font(size),
            anchor="mm",
            stroke_width=3,
            stroke_fill=(10, 18, 24),
        )
