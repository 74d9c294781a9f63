"""Mask, measure and sharpen maps from their half maps.

The mask is made from the sum of the half maps, unless one is given. The resolution is where
the Fourier shell correlation of the masked halves falls below 0.143, after the part that the
mask itself causes, measured with random phases, has been taken out; or, if that comes first,
where it drowns in the noise of the few coefficients that a symmetric map has of its own. The
mean of the halves is weighted by how well each shell is determined, sharpened by a B factor
(fitted from 10 Å to the resolution, or given) and low-passed at the resolution. Doubts are
reported as warnings: a mask that is too tight, halves that correlate up to Nyquist, too few
shells for a B factor.
"""

from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.model import CURVES, MASKS, VOLUMES, DataSet
from verglas.protocols.volumes._maps import curve_row, finite, fsc_rows, load_map, seeded, write_map
from verglas.sdk import Context, Params, Ports, Task, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.postprocess import PostprocessConfig, Postprocessed

__all__ = ["Inputs", "Outputs", "PostprocessParams", "postprocess_volumes", "run"]


_NUMBERS = ("resolution_angst", "resolution_0143_angst", "resolution_unmasked_angst")
_COLUMNS = ("item_id", "half_map_1_path", "half_map_2_path", "pixel_size_angst", "symmetry")


class PostprocessParams(Params):
    """Mask, sharpening and filter."""

    mask_low_pass_angst: float = param(
        15.0, gt=0, help="Resolution of the map whose outline becomes the mask."
    )
    mask_threshold: float | None = param(
        None, help="Grey value of the outline on the low-passed map; by itself found by Otsu."
    )
    mask_dilate_angst: float = param(6.0, ge=0, help="Distance by which the outline is moved out.")
    mask_edge_angst: float = param(10.0, gt=0, help="Width of the mask's soft edge.")
    b_factor_angst2: float | None = param(
        None, ge=-2000, le=2000, help="B factor to apply, negative sharpens; by itself fitted."
    )
    fit_from_angst: float = param(
        10.0, gt=0, advanced=True, help="Coarse end of the range for the B factor."
    )
    max_sharpening_angst2: float = param(
        500.0, ge=0, advanced=True, help="Strongest fitted B factor that is applied."
    )
    low_pass_angst: float | None = param(
        None, gt=0, help="Resolution of the result; by itself the resolution found."
    )
    randomise_below: float = param(
        0.8,
        gt=0,
        lt=1,
        advanced=True,
        help="Phases are made random from where the unmasked correlation falls below this.",
    )


class Inputs(Ports):
    """Maps with their halves, and a mask for all of them."""

    volumes: DataSet = port(VOLUMES, needs=("half_maps",))
    mask: DataSet | None = port(MASKS, optional=True, help="Used for every map.")


class Outputs(Ports):
    """Sharpened maps, their masks and curves."""

    volumes: DataSet = port(VOLUMES, needs=("half_maps", "mask", "resolution"))
    masks: DataSet = port(MASKS)
    curves: DataSet = port(CURVES)


def _curves(source_id: int, found: "Postprocessed") -> list[dict[str, Any]]:
    """Make the rows of the correlations and of the Guinier plot."""
    x = found.fsc.frequencies_per_angst
    rows = fsc_rows(source_id, found.fsc)
    used = found.log_amplitude.isfinite() & (x > 0)
    if used.any():
        plots = {"Guinier": found.log_amplitude[used]}
        if found.guinier.n_shells:
            slope = found.guinier.b_factor_angst2 / 4
            plots["Guinier fit"] = found.guinier.intercept + slope * x[used].square()
        rows += [
            curve_row(source_id, label, x[used], y, y_label="ln amplitude")
            for label, y in plots.items()
        ]
    return rows


def _config(params: PostprocessParams, symmetry: str) -> "PostprocessConfig":
    from verglas.algorithms.map_fsc import FscConfig, MaskConfig
    from verglas.algorithms.postprocess import PostprocessConfig

    return PostprocessConfig(
        mask=MaskConfig(
            low_pass_angst=params.mask_low_pass_angst,
            dilate_angst=params.mask_dilate_angst,
            edge_angst=params.mask_edge_angst,
            threshold=params.mask_threshold,
        ),
        fsc=FscConfig(randomise_below=params.randomise_below),
        b_factor_angst2=params.b_factor_angst2,
        fit_from_angst=params.fit_from_angst,
        max_sharpening_angst2=params.max_sharpening_angst2,
        low_pass_angst=params.low_pass_angst,
        symmetry=symmetry,
    )


def postprocess_volumes(
    rows: pl.DataFrame, task: Task, *, params: PostprocessParams, mask: DataSet | None
) -> pl.DataFrame:
    """Process each map; returns paths, numbers, doubts and, as structs, curves."""
    from verglas.algorithms.postprocess import postprocess

    given = load_map(task, mask.rows()["image_path"][0]) if mask is not None else None
    results = []
    for row in rows.iter_rows(named=True):
        item, pixel = row["item_id"], row["pixel_size_angst"]
        found = postprocess(
            load_map(task, row["half_map_1_path"]),
            load_map(task, row["half_map_2_path"]),
            pixel_size_angst=pixel,
            generator=seeded(task),
            config=_config(params, row.get("symmetry") or "C1"),
            mask=given,
        )
        masked = found.volume * found.mask
        write_map(task, f"map_{item:04d}_masked.mrc", masked, pixel)
        results.append(
            {
                "item_id": item,
                "image_path": write_map(task, f"map_{item:04d}.mrc", found.volume, pixel),
                "mask_path": write_map(task, f"mask_{item:04d}.mrc", found.mask, pixel),
                "resolution_angst": finite(found.resolution_angst),
                "resolution_0143_angst": finite(found.resolution_0143_angst),
                "resolution_unmasked_angst": finite(found.resolution_unmasked_angst),
                "b_factor_angst2": found.b_factor_angst2,
                "notes": list(found.notes),
                "curves": _curves(item, found),
            }
        )
    numbers = (*_NUMBERS, "b_factor_angst2")
    schema: dict[str, Any] = dict.fromkeys(numbers, pl.Float64) | {"notes": pl.List(pl.String)}
    return pl.DataFrame(results, schema_overrides=schema)


def _metrics(ctx: Context, found: pl.DataFrame) -> None:
    """Record the numbers of the best map, and all doubts."""
    best = found.sort("resolution_angst", nulls_last=True).row(0, named=True)
    for name in (*_NUMBERS, "b_factor_angst2"):
        if best[name] is not None:
            ctx.metric(name, round(best[name], 2))
    several = found.height > 1
    for row in found.iter_rows(named=True):
        for note in row["notes"]:
            ctx.warn(f"map {row['item_id']}: {note}" if several else note)


@protocol(
    "volumes.postprocess",
    version=2,
    label="Post-process maps",
    citations=(
        "Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013",
        "Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004",
    ),
)
def run(ctx: Context, params: PostprocessParams, inputs: Inputs) -> Outputs:
    """Process each map by itself and collect files, numbers and curves."""
    data = inputs.volumes
    found = ctx.map(
        postprocess_volumes,
        data,
        chunk=1,
        gpus=1,
        columns=tuple(name for name in _COLUMNS if name != "symmetry" or name in data.columns),
        params=params,
        mask=inputs.mask,
    )
    _metrics(ctx, found)
    new = found.select("item_id", "image_path", "mask_path", "resolution_angst", "b_factor_angst2")
    rows = data.rows().drop(
        "image_path", "mask_path", "resolution_angst", "b_factor_angst2", strict=False
    )
    rows = rows.join(new, on="item_id", maintain_order="left").with_columns(source_id="item_id")
    masks = rows.select("item_id", "source_id", "optics_group", image_path="mask_path")
    curves = found.select("curves").explode("curves").unnest("curves")
    return Outputs(
        volumes=ctx.dataset(VOLUMES, rows, source=data),
        masks=ctx.dataset(MASKS, masks, source=data),
        curves=ctx.dataset(CURVES, curves),
    )
