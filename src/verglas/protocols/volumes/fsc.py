"""Measure the Fourier shell correlation of maps against their halves, a map or a model.

Against a map or an atomic model, each map is first aligned in three dimensions and in both
hands, whatever its orientation; boxes and pixel sizes may differ. The model's potential is
computed with its own B factors and its first biological assembly. Both are then masked by a
soft outline of the low-passed reference. The number to quote is the resolution at 0.5; the
curve with random phases shows how much of it the mask could explain. If the map has half maps,
their correlation under the same mask is given beside it, with what it predicts.

Against its halves the mask is the one given, or that of the map, or one made from the map.

The aligned map is written in the frame of the reference, `score.json` holds all numbers.
"""

import json
import math
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from verglas.core.errors import ParamsError, PortError
from verglas.core.files import write_text
from verglas.model import CURVES, MASKS, VOLUMES, DataSet
from verglas.protocols._specimen import read_model
from verglas.protocols.volumes._compare import (
    Reference,
    compare_with_halves,
    compare_with_reference,
)
from verglas.sdk import Context, Params, Ports, param, port, protocol

if TYPE_CHECKING:
    from verglas.algorithms.map_align import AlignConfig
    from verglas.algorithms.map_fsc import MaskConfig

__all__ = ["FscParams", "Inputs", "Outputs", "run"]

# Room around a model for its mask: dilation, edge and the spread of the low-pass.
_MARGIN_ANGST = 35.0
_SCALE_WARNING = 0.005
_UNSUPPORTED = 0.6  # of the agreement on coarser shells
_METRICS = (
    "fsc_05_angst",
    "fsc_0143_angst",
    "fsc_corrected_05_angst",
    "other_hand_05_angst",
    "half_0143_angst",
    "support_coarse",
    "support_fine",
    "pixel_size_factor",
    "rescaled_05_angst",
)


class FscParams(Params):
    """What to compare with, and how to align and mask."""

    mode: Literal["automatic", "halves", "map", "model"] = param(
        "automatic",
        help="Compare with the half maps, a reference map or an atomic model; automatic takes "
        "the model if it is given, else the reference, else the halves.",
    )
    atoms: str | None = param(None, help="Atomic model, mmCIF or PDB, gzip allowed.")
    symmetry: str | None = param(
        None, help="Point group of the maps about their axes; by itself the one they carry."
    )
    diameter_angst: float | None = param(
        None, gt=0, help="Diameter of the particle; by itself 2/3 of the box, or the model's."
    )
    search_order: int = param(
        3,
        ge=1,
        le=5,
        advanced=True,
        help="HEALPix order of the orientation search: 3 has steps of 7.5 degrees.",
    )
    fit_pixel_size: bool = param(
        True, help="Also find the pixel size that the reference would prefer."
    )
    mask_low_pass_angst: float = param(
        12.0, gt=0, advanced=True, help="Resolution of the reference whose outline is the mask."
    )
    mask_dilate_angst: float = param(
        8.0, ge=0, advanced=True, help="Distance by which the outline is moved out."
    )
    mask_edge_angst: float = param(15.0, gt=0, advanced=True, help="Width of the mask's soft edge.")


class Inputs(Ports):
    """Maps, and what they are compared with."""

    volumes: DataSet = port(VOLUMES)
    reference: DataSet | None = port(VOLUMES, optional=True, help="Its first map is the reference.")
    mask: DataSet | None = port(MASKS, optional=True, help="For the half maps only.")


class Outputs(Ports):
    """Curves, and the maps as aligned to the reference."""

    curves: DataSet = port(CURVES)
    aligned: DataSet | None = port(VOLUMES, optional=True)


def _mask_config(params: FscParams) -> "MaskConfig":
    from verglas.algorithms.map_fsc import MaskConfig

    return MaskConfig(
        low_pass_angst=params.mask_low_pass_angst,
        dilate_angst=params.mask_dilate_angst,
        edge_angst=params.mask_edge_angst,
    )


def _align_config(params: FscParams, reference: Reference) -> "AlignConfig":
    from verglas.algorithms.map_align import AlignConfig

    return AlignConfig(
        diameter_angst=params.diameter_angst or reference.diameter_angst,
        order=params.search_order,
    )


def _from_atoms(ctx: Context, params: FscParams, volumes: DataSet) -> Reference:
    """Grid the model finely enough for all maps, with room for its mask."""
    from verglas.kernels.fourier import next_fast_size
    from verglas.simulate.atoms import centred, radius_angst
    from verglas.simulate.potential import potential_volume

    if params.atoms is None:
        raise ParamsError("volumes.fsc needs atoms: got no path of a model to compare with")
    atoms = read_model(ctx, params.atoms)
    middle = centred(atoms)
    centre = atoms.positions_angst[0] - middle.positions_angst[0]
    diameter = 2 * radius_angst(middle)
    pixel = float(volumes.rows(["pixel_size_angst"])["pixel_size_angst"].min())  # type: ignore[arg-type]
    box = next_fast_size(math.ceil((diameter + 2 * _MARGIN_ANGST) / pixel))
    potential = potential_volume(middle, box_px=box, pixel_size_angst=pixel, solvent="bulk")
    x, y, z = (float(value) - (box // 2) * pixel for value in centre)
    ref = ctx.put({"volume": potential.numpy()})
    return Reference(ref, box, pixel, (x, y, z), diameter)


def _from_map(ctx: Context, reference: DataSet | None) -> Reference:
    from verglas.io.mrc import read_mrc

    if reference is None:
        raise PortError("port 'reference' of volumes.fsc is empty: expected volumes")
    row = reference.rows(with_optics=True).row(0, named=True)
    volume, _ = read_mrc(reference.path(row["image_path"]))
    ref = ctx.put({"volume": volume})
    return Reference(ref, len(volume), row["pixel_size_angst"], (0.0, 0.0, 0.0), None)


def _mode(params: FscParams, inputs: Inputs) -> str:
    if params.mode != "automatic":
        return params.mode
    if params.atoms is not None:
        return "model"
    return "map" if inputs.reference is not None else "halves"


def _warn(ctx: Context, score: dict[str, Any], pixel_size_angst: float) -> None:
    """Say what a person should know about one map."""
    factor = score.get("pixel_size_factor")
    if factor is not None and abs(factor - 1) > _SCALE_WARNING:
        ctx.warn(
            f"the reference fits best if the pixel size is {factor * pixel_size_angst:.4f} Å, "
            f"{100 * (factor - 1):+.1f} % from the {pixel_size_angst:g} Å stated"
        )
    if score.get("is_mirrored"):
        ctx.warn("the map is the mirror image of the reference: its hand must be changed")
    coarse, fine = score.get("support_coarse"), score.get("support_fine")
    if coarse and fine is not None and fine < _UNSUPPORTED * coarse:
        ctx.warn(
            f"the half maps claim {score['half_0143_angst']:.2f} Å; beyond "
            f"{score['fsc_05_angst']:.2f} Å the reference agrees only {fine:.2f} times as well as "
            f"they foresee, against {coarse:.2f} times on coarser shells"
        )


def _aligned(
    ctx: Context, scores: list[dict[str, Any]], reference: Reference, source: DataSet
) -> DataSet:
    rows = pl.DataFrame(
        {
            "source_id": [score["item_id"] for score in scores],
            "image_path": [score["aligned_path"] for score in scores],
            "resolution_angst": [score["fsc_05_angst"] for score in scores],
            "optics_group": 1,
        },
        schema_overrides={"resolution_angst": pl.Float64},
    )
    optics = {
        "optics_group": [1],
        "pixel_size_angst": [reference.pixel_size_angst],
        "box_px": [reference.box_px],
    }
    return ctx.dataset(VOLUMES, rows, optics=pl.DataFrame(optics), source=source)


@protocol(
    "volumes.fsc",
    version=3,
    label="Fourier shell correlation",
    citations=(
        "Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013",
        "Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004",
    ),
)
def run(ctx: Context, params: FscParams, inputs: Inputs) -> Outputs:
    """Compare each map by itself, collect the curves and write the scores."""
    data, mode, reference = inputs.volumes, _mode(params, inputs), None
    if mode == "halves":
        data.require(("half_maps",), needed_by="volumes.fsc against half maps")
        found = ctx.map(
            compare_with_halves,
            data,
            chunk=1,
            gpus=1,
            outline=_mask_config(params),
            mask=inputs.mask,
        )
    else:
        is_model = mode == "model"
        reference = _from_atoms(ctx, params, data) if is_model else _from_map(ctx, inputs.reference)
        found = ctx.map(
            compare_with_reference,
            data,
            chunk=1,
            gpus=1,
            reference=reference,
            align=_align_config(params, reference),
            outline=_mask_config(params),
            symmetry=params.symmetry,
            fit_pixel_size=params.fit_pixel_size,
        )
    scores = [json.loads(text) for text in found["score"]]
    pixels = data.rows(["pixel_size_angst"])["pixel_size_angst"]
    for score, pixel in zip(scores, pixels, strict=True):
        _warn(ctx, score, pixel)
    for name, value in scores[0].items():
        if name in _METRICS and value is not None:
            ctx.metric(name, round(value, 4))
    ctx.write_file("score.json", lambda path: write_text(path, json.dumps(scores, indent=1)))
    return Outputs(
        curves=ctx.dataset(CURVES, found.select("curves").explode("curves").unnest("curves")),
        aligned=_aligned(ctx, scores, reference, data) if reference else None,
    )
