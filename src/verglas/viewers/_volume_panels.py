"""Draw panels of maps and of the directions that particles are seen from."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from verglas.core.errors import VerglasError
from verglas.sdk.viewer import OrientationMap, Slices, Volume
from verglas.viewers.maps import MAX_BOX_PX, slices_picture, surface_picture
from verglas.viewers.orientations import orientation_picture
from verglas.viewers.picture import Missing, Picture
from verglas.viewers.scene import Scene, read_volume

_MOST_MAPS = 4
_SLICES_BOX_PX = 320


def draw_slices(panel: Slices, scene: Scene, name: str) -> list[Picture | Missing]:
    """Draw the central slices of the first maps."""
    shown: list[Picture | Missing] = []
    for number, row in enumerate(_rows(scene), start=1):
        volume, mask, pixel = _read(scene, row, panel.volume, _SLICES_BOX_PX)
        title = f"{name}-{number}"
        picture = slices_picture(volume, title, pixel_size_angst=pixel, mask=mask)
        shown.append(_named(picture, row, scene, number))
    return shown


def draw_surface(panel: Volume, scene: Scene, name: str) -> list[Picture | Missing]:
    """Draw the surface of the first maps."""
    shown: list[Picture | Missing] = []
    for number, row in enumerate(_rows(scene), start=1):
        volume, mask, pixel = _read(scene, row, panel.volume, MAX_BOX_PX)
        level = row.get(panel.threshold) if panel.threshold else None
        title = f"{name}-{number}"
        picture = surface_picture(volume, title, pixel_size_angst=pixel, mask=mask, level=level)
        shown.append(_named(picture, row, scene, number))
    return shown


def draw_orientations(panel: OrientationMap, scene: Scene, name: str) -> list[Picture | Missing]:
    """Draw from where the particles are seen."""
    rows = scene.data.rows([panel.rot, panel.tilt]).drop_nulls()
    if not rows.height:
        return [Missing("viewing directions", "no particle has angles")]
    symmetry = str(scene.params.get("symmetry") or "")
    rot, tilt = (rows[column].cast(pl.Float64).to_numpy() for column in (panel.rot, panel.tilt))
    return [orientation_picture(rot, tilt, name, symmetry=symmetry)]


def _rows(scene: Scene) -> list[dict[str, Any]]:
    return scene.data.with_optics().head(_MOST_MAPS).collect().to_dicts()


def _named(picture: Picture, row: Mapping[str, Any], scene: Scene, number: int) -> Picture:
    """Say which of several maps it is, and how many are not shown."""
    n_maps = scene.data.n_items
    if n_maps < 2:
        return picture
    parts = [f"Map {number} of {n_maps}"]
    if row.get("class_index") is not None:
        parts = [f"Class {row['class_index']}"]
    elif row.get("label"):
        parts = [str(row["label"])]
    if row.get("n_particles") is not None:
        parts.append(f"{row['n_particles']} particles")
    caption = f"{', '.join(parts)}. {picture.caption}"
    if number == _MOST_MAPS < n_maps:
        caption += f" {n_maps - number} more maps are not shown."
    return replace(picture, caption=caption)


def _read(
    scene: Scene, row: Mapping[str, Any], column: str, max_side_px: int
) -> tuple[NDArray[np.float32], NDArray[np.float32] | None, float]:
    """Read a map, its mask if that can be read, and the pixel size."""
    volume, factor = read_volume(scene.data, row[column], max_side_px=max_side_px)
    mask = None
    if row.get("mask_path"):
        try:
            mask, _ = read_volume(scene.data, row["mask_path"], max_side_px=max_side_px)
        except (VerglasError, OSError):
            mask = None
    return volume, mask, float(row.get("pixel_size_angst") or 1.0) * factor
