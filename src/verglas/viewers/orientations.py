"""Draw from which directions particles are seen, in an equal-area map of the sphere."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from verglas.viewers.palette import SOFT, finish, plot
from verglas.viewers.picture import Picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["direction_density", "orientation_picture"]

_N_LONGITUDE, _N_LATITUDE = 72, 36
_MOST_PARTICLES = 20_000
_BATCH = 500
_FINER = 3


def direction_density(
    rot_deg: NDArray[np.floating], tilt_deg: NDArray[np.floating], *, width_deg: float
) -> NDArray[np.float64]:
    """Work out how much more often each direction occurs than if all were equally likely.

    Args:
        rot_deg, tilt_deg: of the particles.
        width_deg: directions are blurred by about this angle (von Mises-Fisher kernel).

    Returns:
        `[latitude, longitude]`, 1 where the density is that of uniform views; latitude runs
        from tilt 180 to tilt 0, longitude from rot -180 to 180.
    """
    if len(rot_deg) > _MOST_PARTICLES:
        chosen = np.linspace(0, len(rot_deg) - 1, _MOST_PARTICLES).astype(int)
        rot_deg, tilt_deg = rot_deg[chosen], tilt_deg[chosen]
    longitude = np.deg2rad((np.arange(_N_LONGITUDE) + 0.5) * 360 / _N_LONGITUDE - 180)
    latitude = np.deg2rad((np.arange(_N_LATITUDE) + 0.5) * 180 / _N_LATITUDE - 90)
    grid = np.stack(
        [
            np.cos(latitude)[:, None] * np.cos(longitude),
            np.cos(latitude)[:, None] * np.sin(longitude),
            np.repeat(np.sin(latitude)[:, None], _N_LONGITUDE, axis=1),
        ],
        axis=-1,
    ).reshape(-1, 3)
    rot, tilt = np.deg2rad(rot_deg), np.deg2rad(tilt_deg)
    seen = np.stack([np.sin(tilt) * np.cos(rot), np.sin(tilt) * np.sin(rot), np.cos(tilt)])
    kappa = 1 / np.deg2rad(width_deg) ** 2
    total = np.zeros(len(grid))
    for start in range(0, seen.shape[1], _BATCH):
        cosine = grid.astype(np.float32) @ seen[:, start : start + _BATCH].astype(np.float32)
        total += np.exp(kappa * (cosine - 1)).sum(axis=1)
    # the kernel's integral over the sphere is 2 pi (1 - exp(-2 kappa)) / kappa
    uniform = seen.shape[1] * (1 - np.exp(-2 * kappa)) / (2 * kappa)
    density: NDArray[np.float64] = (total / uniform).reshape(_N_LATITUDE, _N_LONGITUDE)
    return density


def orientation_picture(
    rot_deg: NDArray[np.floating],
    tilt_deg: NDArray[np.floating],
    name: str,
    *,
    symmetry: str = "",
) -> Picture:
    """Draw the density of viewing directions as a Mollweide map.

    Args:
        rot_deg, tilt_deg: of the particles.
        name: of the picture.
        symmetry: point group, noted in the caption.
    """
    from matplotlib.colors import LinearSegmentedColormap
    from scipy.ndimage import zoom

    width = min(20.0, max(5.0, 120.0 / np.sqrt(max(len(rot_deg), 1))))
    density = direction_density(rot_deg, tilt_deg, width_deg=width)
    fine = zoom(density, _FINER, order=1, mode="grid-wrap", grid_mode=True)
    colours = LinearSegmentedColormap.from_list(
        "views", ["#f3f7f8", "#a9d3dc", "#3f97ab", "#0f5b6e", "#e0863a"]
    )
    empty = float((density < 0.1).mean())
    note = (
        f" Directions are as stored; symmetry {symmetry} gives each its equivalents."
        if symmetry and symmetry != "C1"
        else ""
    )
    caption = (
        f"Viewing directions of {len(rot_deg)} particles, rot across and tilt upwards from 180° "
        f"to 0°, blurred by {width:.0f}°; the busiest has {density.max():.1f} times the mean."
        f"{note}"
    )
    alt = f"Equal-area map of viewing directions; {100 * empty:.0f} % of the sphere is empty"
    with plot(460, 290, projection="mollweide") as (figure, axes):
        longitude = np.linspace(-np.pi, np.pi, fine.shape[1] + 1)
        latitude = np.linspace(-np.pi / 2, np.pi / 2, fine.shape[0] + 1)
        mesh = axes.pcolormesh(
            longitude, latitude, fine, cmap=colours, vmin=0, rasterized=True, shading="flat"
        )
        _label_sphere(axes)
        bar = figure.colorbar(mesh, ax=axes, orientation="horizontal", shrink=0.55, pad=0.06)
        bar.set_label("views, relative to uniform", fontsize=8)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7.5)
        return finish(figure, name, alt=alt, caption=caption)


def _label_sphere(axes: "Axes") -> None:
    """Draw the lines of the map and name the tilts."""
    axes.grid(visible=True, color=SOFT, alpha=0.25, linewidth=0.6)
    axes.set_xticks(np.deg2rad([-120, -60, 0, 60, 120]), [""] * 5)
    places = (-60, -30, 0, 30, 60)
    axes.set_yticks(np.deg2rad(places), [f"{90 - place}°" for place in places], fontsize=7)
