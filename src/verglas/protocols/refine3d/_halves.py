"""Half sets, references and masks of refinements, checked before anything is worked out."""

from typing import TYPE_CHECKING

import polars as pl

from verglas.core.errors import ParamsError, PortError
from verglas.model import DataSet
from verglas.protocols._particles import ParticleStack
from verglas.sdk import Context

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from verglas.algorithms.em.refine_config import RefineConfig

__all__ = [
    "check_diameter",
    "mask_map",
    "parsed_symmetry",
    "reference_array",
    "reference_map",
    "with_halves",
]

_FEWEST = 40
_SAME_PIXEL = 1e-4  # a hundredth of a pixel at the edge of a box of 200
_IMAGE = ("image_path", "image_slice")


def with_halves(stack: ParticleStack, seed: int, *, needed_by: str) -> pl.DataFrame:
    """Give every particle its half, once: those it has are kept.

    Copies of one image go to one half; halves that share images are refused, for their
    correlation would prove nothing.

    Args:
        stack: the particles.
        seed: of the draw.
        needed_by: id of the protocol, for messages.
    """
    import numpy as np

    rows = stack.rows
    if rows.height < _FEWEST:
        raise PortError(
            f"{needed_by} needs at least {_FEWEST} particles for two halves: got {rows.height}",
            "pick more, or loosen the selection",
        )
    if "half_set" in rows.columns and rows["half_set"].null_count() == 0:
        if rows["half_set"].n_unique() != 2:
            raise PortError(
                f"{needed_by}: all particles are in one half set",
                "give both halves, or particles without a half_set column",
            )
        both = rows.group_by(_IMAGE).agg(pl.col("half_set").n_unique(), pl.col("item_id").min())
        both = both.filter(pl.col("half_set") > 1)
        if both.height:
            raise PortError(
                f"{needed_by}: {both.height} images are in both half sets, as that of item "
                f"{both.row(0, named=True)['item_id']}",
                "keep one copy of each image, or drop the half_set column",
            )
        return rows
    images = rows.select(_IMAGE).unique(maintain_order=True)
    order = np.random.default_rng(seed).permutation(images.height)
    half = np.empty(images.height, np.int8)
    half[order] = np.arange(images.height) % 2 + 1
    return rows.drop("half_set", strict=False).join(
        images.with_columns(half_set=pl.Series(half)), on=_IMAGE, how="left", maintain_order="left"
    )


def parsed_symmetry(name: str) -> str:
    """Return a point group in its usual spelling, or say what is wrong with it."""
    from verglas.kernels.point_groups import parse_symmetry

    try:
        return parse_symmetry(name)
    except ValueError as error:
        raise ParamsError(str(error), "give a point group, as C1, D7 or O") from error


def check_diameter(diameter_angst: float, extent_angst: float) -> None:
    """Refuse a particle that is larger than its box."""
    if diameter_angst > extent_angst:
        raise ParamsError(
            f"diameter_angst must fit the box of {extent_angst:.0f} Å: got {diameter_angst:.0f}",
            "extract with a larger box",
        )


def _read(ctx: Context, data: DataSet, row: int, what: str) -> "tuple[NDArray[np.float32], float]":
    import numpy as np

    from verglas.io.mrc import read_mrc

    named = data.rows(with_optics=True).row(row, named=True)
    volume, header_pixel = read_mrc(ctx.path(named["image_path"]))
    pixel = named.get("pixel_size_angst") or header_pixel
    if pixel is None:
        raise PortError(f"the {what} has no pixel size", "import it with one")
    if not np.isfinite(volume).all():
        raise PortError(f"the {what} {named['image_path']!r} holds values that are not finite")
    return volume, float(pixel)


def reference_map(ctx: Context, volumes: DataSet, config: "RefineConfig", row: int = 0) -> "Tensor":
    """Bring a map onto the box of the particles, `[box, box, box]`."""
    import torch

    return torch.from_numpy(reference_array(ctx, volumes, config, row))


def reference_array(
    ctx: Context, volumes: DataSet, config: "RefineConfig", row: int = 0
) -> "NDArray[np.float32]":
    """Do what `reference_map` does; without tensors where the map is on that box already."""
    volume, pixel = _read(ctx, volumes, row, "reference")
    is_there = volume.shape == (config.box,) * 3
    if is_there and abs(pixel / config.pixel_size_angst - 1) < _SAME_PIXEL:
        return volume
    return _fitted(volume, pixel, config).numpy()


def _fitted(volume: "NDArray[np.float32]", pixel: float, config: "RefineConfig") -> "Tensor":
    import torch

    from verglas.algorithms.em.refine_start import fit_to_box

    return fit_to_box(torch.from_numpy(volume), pixel_size_angst=pixel, config=config)


def mask_map(
    ctx: Context,
    masks: DataSet | None,
    config: "RefineConfig",
    reference: "Tensor | None" = None,
    *,
    least_kept: float = 0.05,
) -> "Tensor | None":
    """Bring a mask onto the box of the particles, `[box, box, box]` in [0, 1].

    Args:
        ctx: of the job.
        masks: its first row is taken; None for no mask.
        config: sizes.
        reference: a map of which the mask must keep something.
        least_kept: of the reference's power.
    """
    if masks is None:
        return None
    volume, pixel = _read(ctx, masks, 0, "mask")
    low, high = float(volume.min()), float(volume.max())
    if low < -0.01 or high > 1.01 or high < 0.5:
        raise PortError(
            f"a mask must go from 0 to 1: got {low:.3g} to {high:.3g}",
            "give a mask, not a map; volumes.postprocess makes one",
        )
    extent = volume.shape[-1] * pixel
    if abs(extent - config.extent_angst) > 2 * max(pixel, config.pixel_size_angst):
        raise PortError(
            f"the mask is {extent:.0f} Å wide, the particles' box {config.extent_angst:.0f} Å",
            "make the mask from a map of these particles",
        )
    mask = _fitted(volume, pixel, config).clamp(0, 1)
    if reference is not None:
        kept = float((reference * mask).square().sum() / reference.square().sum().clamp_min(1e-30))
        if kept < least_kept:
            raise PortError(
                f"the mask leaves {100 * kept:.2g} % of the reference's power",
                "give a mask that covers the particle, made in the reference's frame",
            )
    return mask
