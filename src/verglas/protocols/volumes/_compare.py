"""Compare maps with their halves or with a reference, one chunk at a time."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.model import DataSet
from verglas.protocols.volumes._maps import fsc_rows, load_map, seeded, write_map
from verglas.protocols.volumes._score import (
    halves_curves,
    halves_score,
    reference_curves,
    reference_score,
    support_score,
)
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.map_align import AlignConfig
    from verglas.algorithms.map_fsc import MaskConfig
    from verglas.algorithms.model_fsc import ModelFsc

__all__ = ["Reference", "compare_with_halves", "compare_with_reference"]


@dataclass(frozen=True)
class Reference:
    """What the maps are compared with.

    Attributes:
        volume: the array `volume`, `[n, n, n]`.
        box_px: n.
        pixel_size_angst: of the volume.
        origin_angst: coordinate of its first voxel in the model's file.
        diameter_angst: of the model, where it is known.
    """

    volume: ArrayRef
    box_px: int
    pixel_size_angst: float
    origin_angst: tuple[float, float, float]
    diameter_angst: float | None


def _result(item: int, score: dict[str, Any], curves: list[dict[str, Any]]) -> dict[str, Any]:
    # As text: a column of numbers that are missing in one chunk would change its type.
    return {"item_id": item, "score": json.dumps({"item_id": item, **score}), "curves": curves}


def compare_with_halves(
    rows: pl.DataFrame, task: Task, *, outline: MaskConfig, mask: DataSet | None
) -> pl.DataFrame:
    """Correlate the half maps of each map under a mask."""
    from verglas.algorithms.map_fsc import masked_fsc

    given = mask.rows()["image_path"][0] if mask is not None else None
    results = []
    for row in rows.iter_rows(named=True):
        item, pixel = row["item_id"], row["pixel_size_angst"]
        first, second = (load_map(task, row[f"half_map_{half}_path"]) for half in (1, 2))
        text = given or row.get("mask_path")
        if text:
            soft = load_map(task, text)
        else:
            soft = outline.build((first + second) / 2, pixel_size_angst=pixel)
        fsc = masked_fsc(first, second, soft, pixel_size_angst=pixel, generator=seeded(task))
        score = halves_score(fsc) | {"mask_fraction": float(soft.mean())}
        results.append(_result(item, score, fsc_rows(item, fsc)))
    return pl.DataFrame(results)


def compare_with_reference(
    rows: pl.DataFrame,
    task: Task,
    *,
    reference: Reference,
    align: AlignConfig,
    outline: MaskConfig,
    symmetry: str | None,
    fit_pixel_size: bool,
) -> pl.DataFrame:
    """Align each map to the reference, correlate, and write the maps in both frames.

    Args:
        rows: maps.
        task: of the chunk.
        reference: what they are compared with.
        align: search settings but for the point group.
        outline: how the mask is made from the reference.
        symmetry: point group of the maps; None takes that of each row.
        fit_pixel_size: also find the pixel size that the reference prefers.
    """
    import torch

    from verglas.algorithms.model_fsc import model_fsc

    target = torch.from_numpy(task.load(reference.volume)["volume"].copy()).to(task.device)
    results = []
    for row in rows.iter_rows(named=True):
        volume = load_map(task, row["image_path"])
        found = model_fsc(
            volume,
            target,
            pixel_size_angst=row["pixel_size_angst"],
            model_pixel_size_angst=reference.pixel_size_angst,
            generator=seeded(task),
            align=replace(align, symmetry=symmetry or row.get("symmetry") or "C1"),
            mask=outline,
            fit_pixel_size=fit_pixel_size,
        )
        score, curves = reference_score(found), reference_curves(row["item_id"], found)
        score |= _write_maps(task, row, volume, found, reference)
        if row.get("half_map_1_path") and row.get("half_map_2_path"):
            more_score, more_curves = _halves_beside(task, row, found)
            score, curves = score | more_score, curves + more_curves
        results.append(_result(row["item_id"], score, curves))
    return pl.DataFrame(results)


def _halves_beside(
    task: Task, row: dict[str, Any], found: ModelFsc
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Correlate the half maps under the mask of the comparison with the reference."""
    from verglas.algorithms.map_fsc import masked_fsc

    halves = masked_fsc(
        load_map(task, row["half_map_1_path"]),
        load_map(task, row["half_map_2_path"]),
        found.mask,
        pixel_size_angst=row["pixel_size_angst"],
        generator=seeded(task),
    )
    score = halves_score(halves) | support_score(found, halves)
    return score, halves_curves(row["item_id"], halves)


def _write_maps(
    task: Task, row: dict[str, Any], volume: Tensor, found: ModelFsc, reference: Reference
) -> dict[str, Any]:
    """Write the map in the reference's frame, and reference and mask in the map's."""
    from verglas.algorithms.resample import resample_volume

    item, pixel = row["item_id"], row["pixel_size_angst"]
    aligned = resample_volume(
        volume,
        found.alignment.best.pose,
        pixel_size_angst=pixel,
        box=reference.box_px,
        output_pixel_size_angst=reference.pixel_size_angst,
    )
    return {
        "aligned_path": write_map(
            task,
            f"aligned_{item:04d}.mrc",
            aligned,
            reference.pixel_size_angst,
            origin_angst=reference.origin_angst,
        ),
        "reference_path": write_map(task, f"reference_{item:04d}.mrc", found.model, pixel),
        "mask_path": write_map(task, f"mask_{item:04d}.mrc", found.mask, pixel),
    }
