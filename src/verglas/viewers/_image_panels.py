"""Draw panels of images: galleries, single pictures, picks."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from verglas.core.errors import VerglasError
from verglas.model import DataSet
from verglas.sdk.viewer import Gallery, Image, Picks
from verglas.viewers.drawing import grey_picture, shrink
from verglas.viewers.gallery import Tile, gallery_picture
from verglas.viewers.micrographs import micrograph_picture, thumbnail
from verglas.viewers.picture import Missing, Picture, from_image
from verglas.viewers.scene import Scene, broken_limits, chosen_row, read_image, row_name
from verglas.viewers.spectra import rings_picture, rings_tile
from verglas.viewers.words import count_text, quantity_text, title_of

_DRAWN = ("motion_picture_path", "motion_spectrum_path", "gain_picture_path")
FRAMED_KINDS = ("classes2d", "volumes")
"""Kinds of which a selection is shown among what it was selected from."""

_ORDER_WORDS = {"n_particles": "size"}
_N_TILES = {"particles": 40, "micrographs": 8}
_N_COLUMNS = {"particles": 10, "micrographs": 4}
_N_SPECTRA = 24
_MOST_TILES = 80
_MOST_ASIDE = 8
_PARTICLE_LOW_PASS_ANGST = 8.0
_MICROGRAPH_PX = 512
_N_PICKED = 2


def draw_gallery(panel: Gallery, scene: Scene, name: str) -> list[Picture | Missing]:
    """Draw the rows of a data set, those put aside behind them, and frames about chosen ones."""
    data, chosen = scene.data, None
    kind = data.kind.id
    parent = scene.parent() if kind in FRAMED_KINDS else None
    if parent is not None:
        chosen = set(data.rows(["item_id"])["item_id"])
        data = parent
    is_spectrum = panel.image == "spectrum_path"
    n_tiles = _N_SPECTRA if is_spectrum else _N_TILES.get(kind, _MOST_TILES)
    rows = _gallery_rows(panel, data, n_tiles)
    tiles: list[Tile] = []
    missing: list[str] = []
    for row in rows:
        is_chosen = None if chosen is None else row["item_id"] in chosen
        _add_tile(tiles, missing, panel, data, row, _caption(panel, row), is_chosen)
    if parent is None and panel.sort_by:
        for port, aside in scene.others.items():
            for row in (
                _gallery_rows(panel, aside, _MOST_ASIDE) if panel.image in aside.columns else []
            ):
                why = "\n".join([port, *broken_limits(row, scene.params, is_brief=True)])
                _add_tile(tiles, missing, panel, aside, row, why, None, is_faint=True)
    shown: list[Picture | Missing] = []
    if tiles:
        n_shown = sum(not tile.is_faint for tile in tiles) if chosen is None else len(tiles)
        shown.append(_gallery(panel, scene, name, tiles, (data.n_items, n_shown, chosen)))
    if missing:
        reason = missing[0] + (f" (and {len(missing) - 1} more)" if len(missing) > 1 else "")
        shown.append(Missing(f"{count_text(len(missing), kind)}", reason))
    return shown


def _gallery(
    panel: Gallery,
    scene: Scene,
    name: str,
    tiles: list[Tile],
    counts: tuple[int, int, Any],
) -> Picture:
    n_items, n_shown, chosen = counts
    kind = scene.data.kind.id
    caption = "All " if n_shown == n_items else f"{n_shown} of "
    caption += count_text(n_items, kind)
    if panel.sort_by:
        caption += f", sorted by {_ORDER_WORDS.get(panel.sort_by, title_of(panel.sort_by).lower())}"
    caption += "."
    if chosen is not None:
        caption += f" The {len(chosen)} framed ones were selected."
    n_faint = sum(tile.is_faint for tile in tiles)
    if n_faint and chosen is None:
        caption += f" {n_faint} more {'was' if n_faint == 1 else 'were'} put aside, shown faintly."
    if kind == "particles":
        caption += f" Low-passed to {_PARTICLE_LOW_PASS_ANGST:g} Å to be seen."
    return gallery_picture(
        tiles,
        name,
        alt=f"Gallery of {kind}: {caption}",
        caption=caption,
        n_columns=8 if panel.image == "spectrum_path" else _N_COLUMNS.get(kind, 8),
        low_pass_angst=_PARTICLE_LOW_PASS_ANGST if kind == "particles" else 0.0,
    )


def _gallery_rows(panel: Gallery, data: DataSet, n_tiles: int) -> list[dict[str, Any]]:
    """Choose rows: best first where there is an order, spread evenly where there is none."""
    is_sorted = bool(panel.sort_by) and panel.sort_by in data.columns
    columns = ["item_id", *([panel.sort_by] if is_sorted else [])]
    if panel.image in data.columns and panel.image not in columns:
        columns.append(panel.image)
    ids = data.rows(columns)
    if panel.image in columns:
        ids = ids.filter(pl.col(panel.image).is_not_null())
    is_descending = panel.sort_by.startswith("n_") or panel.sort_by == "score"
    if is_sorted:
        ids = ids.sort(panel.sort_by, descending=is_descending, nulls_last=True)
    if is_sorted and is_descending:
        ids = ids.head(n_tiles)
    else:
        places = np.linspace(0, ids.height - 1, min(ids.height, n_tiles)).round().astype(int)
        ids = ids[np.unique(places).tolist()]
    wanted = ids.select("item_id").lazy()
    rows = wanted.join(data.with_optics(), on="item_id", how="left", maintain_order="left")
    return rows.collect().to_dicts()


def _add_tile(
    tiles: list[Tile],
    missing: list[str],
    panel: Gallery,
    data: DataSet,
    row: Mapping[str, Any],
    text: str,
    is_chosen: bool | None,
    *,
    is_faint: bool = False,
) -> None:
    """Add a tile, or the reason why there is none."""
    pixel = float(row.get("pixel_size_angst") or 0.0)
    try:
        image = read_image(data, row, panel.image)
    except (VerglasError, OSError) as error:
        missing.append(str(error))
        return
    if panel.image == "thumbnail_path" and row.get("image_width_px"):
        pixel *= row["image_width_px"] / image.shape[1]  # pixels were averaged
    faint = is_faint or is_chosen is False
    if panel.image == "spectrum_path":
        tiles.append(Tile(rings_tile(image, 300), text, is_faint=faint))
    elif max(image.shape) > _MICROGRAPH_PX or image.shape[0] != image.shape[1]:
        small, _ = thumbnail(image, pixel_size_angst=pixel or 1.0, side_px=_MICROGRAPH_PX)
        side = min(small.size)
        tiles.append(Tile(small.crop((0, 0, side, side)), text, is_faint=faint))
    else:
        tiles.append(Tile(image, text, bool(is_chosen), faint, pixel))


def _caption(panel: Gallery, row: Mapping[str, Any]) -> str:
    parts = []
    for column in panel.caption:
        value = row.get(column)
        if value is None:
            continue
        if isinstance(value, float):
            value = round(value, 1)
        parts.append(f"{value}" if column == "n_particles" else quantity_text(column, value))
    return " · ".join(parts)


def draw_image(panel: Image, scene: Scene, name: str) -> list[Picture | Missing]:
    """Draw the image of the row that stands for all."""
    row = chosen_row(scene.data)
    image = read_image(scene.data, row, panel.image)
    title = row_name(row)
    if panel.image == "spectrum_path":
        return [_rings(image, row, name, title)]
    pixel = float(row.get("pixel_size_angst") or 0.0)
    if pixel > 0 and panel.image not in _DRAWN:
        return [micrograph_picture(image, name, pixel_size_angst=pixel, title=title)]
    picture = grey_picture(shrink(image, 500)[0])
    return [from_image(picture, name, alt=f"Image of {title}", caption=title)]


def _rings(image: Any, row: Mapping[str, Any], name: str, title: str) -> Picture:
    frequencies = row.get("profile_per_angst")
    highest = 0.0
    if frequencies:
        # the picture has a rim of two pixels around the highest frequency
        half = image.shape[0] // 2
        highest = max(frequencies) * (image.shape[0] / 2) / max(half - 2, 1)
    return rings_picture(
        image,
        name,
        highest_per_angst=highest,
        fit_res_angst=row.get("fit_res_angst"),
        title=title,
    )


def draw_picks(panel: Picks, scene: Scene, name: str) -> list[Picture | Missing]:
    """Draw the picks of a micrograph with many and of one with a usual number."""
    rows = scene.data.with_optics()
    known = {*scene.data.columns, *scene.data.optics.columns}
    counts = (
        rows.group_by(panel.micrograph)
        .agg(n_picks=pl.len())
        .sort("n_picks", panel.micrograph, descending=[True, False])
        .collect()
    )
    wanted = [0, counts.height // 2] if counts.height > 1 else [0]
    shown: list[Picture | Missing] = []
    for number, place in enumerate(dict.fromkeys(wanted), start=1):
        path, n_picks = counts.row(place)
        picks = rows.filter(pl.col(panel.micrograph) == path).collect()
        title = str(path).rpartition("/")[2]
        try:
            image = read_image(scene.data, {"image_path": path})
        except (VerglasError, OSError) as error:
            shown.append(Missing(f"the picks in {title}", str(error)))
            continue
        pixel = _pixel_size(scene, picks, str(path))
        if pixel is None:
            shown.append(Missing(f"the picks in {title}", "the pixel size is not known"))
            continue
        diameter = scene.params.get("diameter_angst")
        if diameter is None and "diameter_angst" in known:
            diameter = picks["diameter_angst"].median()
        picture = micrograph_picture(
            image,
            f"{name}-{number}",
            pixel_size_angst=pixel,
            x_angst=picks[panel.x].to_numpy(),
            y_angst=picks[panel.y].to_numpy(),
            diameter_angst=float(str(diameter or 0.0)),
            title=f"{title} · {n_picks} picks",
        )
        shown.append(picture)
    return shown


def _pixel_size(scene: Scene, picks: pl.DataFrame, path: str) -> float | None:
    """Find the pixel size with the picks, or with the micrographs that the job read."""
    if "pixel_size_angst" in picks.columns:
        return float(picks["pixel_size_angst"][0])
    for micrographs in scene.inputs_of("micrographs"):
        row = micrographs.with_optics().filter(pl.col("image_path") == path).head(1).collect()
        if row.height and "pixel_size_angst" in row.columns:
            return float(row["pixel_size_angst"][0])
    return None
