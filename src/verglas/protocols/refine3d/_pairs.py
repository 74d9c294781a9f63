"""Chunk functions of CTF refinement: images beside projections of their half's map."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from verglas.protocols._particles import (
    ABERRATION_COLUMNS,
    aberrations_of,
    image_source,
    optics_of,
    read_images,
)
from verglas.sdk import ArrayRef, Task

if TYPE_CHECKING:
    from torch import Tensor

    from verglas.algorithms.aberrations import Aberrations
    from verglas.algorithms.ctf_refine import Given, Pairs, Reference

__all__ = [
    "DEFOCUS",
    "POSE",
    "PairConfig",
    "add_phases",
    "calibrate",
    "fit_particles",
    "linearise",
    "remember_ctf",
]

POSE = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg", "shift_x_angst", "shift_y_angst")
DEFOCUS = ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg")
_OF_MAP = "x_of_map_"
_BLOCK_BYTES = 20_000_000


@dataclass(frozen=True)
class PairConfig:
    """Size of the images and what of them is compared.

    Attributes:
        box: in pixels.
        pixel_size_angst: of the images.
        radius: last shell.
        padding: of the maps.
        range_angst: largest change of a particle's defocus.
        spread_angst: standard deviation of the defocus within a micrograph.
        fits_magnification: whether its equations are wanted.
    """

    box: int
    pixel_size_angst: float
    radius: int
    padding: int = 2
    range_angst: float = 2000.0
    spread_angst: float = 300.0
    fits_magnification: bool = False


@dataclass(frozen=True)
class _Block:
    """Pairs of some rows of one half and one optics group, and what they were made of."""

    rows: pl.DataFrame
    pairs: "Pairs"
    rotations: "Tensor"
    reference: "Reference"
    aberrations: "Aberrations"


def remember_ctf(rows: pl.DataFrame) -> pl.DataFrame:
    """Keep what the map was made with beside what is about to change."""
    names = [name for name in (*DEFOCUS, *ABERRATION_COLUMNS) if name in rows]
    return rows.with_columns(pl.col(name).alias(_OF_MAP + name) for name in names)


def _given(rows: pl.DataFrame) -> "Given":
    from verglas.algorithms.ctf_refine import Given

    return Given(optics_of(rows), aberrations_of(rows)[0][0])


def _given_to_map(rows: pl.DataFrame) -> "Given":
    kept = [name for name in rows.columns if name.startswith(_OF_MAP)]
    known = rows.drop(DEFOCUS).drop(ABERRATION_COLUMNS, strict=False)
    return _given(known.rename({name: name.removeprefix(_OF_MAP) for name in kept}))


def _blocks(
    rows: pl.DataFrame,
    task: Task,
    config: PairConfig,
    maps: ArrayRef,
    *,
    is_crossed: bool = False,
) -> Iterator[_Block]:
    import torch

    from verglas.algorithms.ctf_refine import Reference, make_pairs
    from verglas.kernels.disc import half_disc
    from verglas.kernels.slices import volume_to_half_volume
    from verglas.kernels.so3 import euler_to_matrix

    torch.set_num_threads(task.threads)
    arrays = task.load(maps)
    disc = half_disc(config.box, config.radius)
    size = max(4, _BLOCK_BYTES // (4 * config.box**2))
    done = 0
    for half_rows in rows.partition_by("half_set", maintain_order=True):
        half = int(half_rows["half_set"][0]) - 1
        volume = torch.from_numpy(arrays["halves"][1 - half if is_crossed else half])
        # a magnified image reaches a little beyond its own radius
        reach = config.radius + 3
        reference = Reference(
            volume_to_half_volume(volume[None], radius=reach, padding=config.padding)[0],
            config.padding,
            torch.from_numpy(arrays["factor"]),
            torch.from_numpy(arrays["noise_power"]),
            torch.from_numpy(arrays["own_part"]),
        )
        for group_rows in half_rows.partition_by("optics_group", maintain_order=True):
            source = image_source(group_rows, task)
            for start in range(0, group_rows.height, size):
                part, images = read_images(group_rows.slice(start, size), source, task, start)
                pose = torch.tensor(part.select(pl.col(POSE).cast(pl.Float64)).to_numpy())
                rotations = euler_to_matrix(pose[:, :3])
                given = _given(part)
                pairs = make_pairs(
                    torch.from_numpy(images),
                    given=given,
                    of_map=_given_to_map(part),
                    rotations_ref_to_img=rotations,
                    shifts_angst=pose[:, 3:],
                    reference=reference,
                    disc=disc,
                    pixel_size_angst=config.pixel_size_angst,
                )
                yield _Block(part, pairs, rotations, reference, given.aberrations)
                done += part.height
                task.progress(done, rows.height)


def calibrate(
    rows: pl.DataFrame, task: Task, *, config: PairConfig, maps: ArrayRef, is_crossed: bool
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Add up what tells the maps' factor and the noise, or how the other half's map agrees."""
    from verglas.algorithms.ctf_refine import calibration_sums

    kept: list[pl.DataFrame] = []
    total: dict[str, Any] = {}
    for block in _blocks(rows, task, config, maps, is_crossed=is_crossed):
        kept.append(block.rows.select("item_id"))
        for name, value in calibration_sums(block.pairs).items():
            total[name] = total.get(name, 0) + value.numpy()
    return pl.concat(kept), total


def fit_particles(
    rows: pl.DataFrame, task: Task, *, config: PairConfig, maps: ArrayRef
) -> pl.DataFrame:
    """Find the change of defocus of each particle."""
    from verglas.algorithms.ctf_refine import fit_defocus

    parts = []
    for block in _blocks(rows, task, config, maps):
        fit = fit_defocus(
            block.pairs, range_angst=config.range_angst, spread_angst=config.spread_angst
        )
        parts.append(
            block.rows.select("item_id").with_columns(
                offset_angst=pl.Series(fit.offset_angst.numpy()),
                defocus_std_angst=pl.Series(fit.std_angst.numpy()),
            )
        )
    return pl.concat(parts)


def linearise(
    rows: pl.DataFrame, task: Task, *, config: PairConfig, maps: ArrayRef
) -> pl.DataFrame:
    """Give each particle's part of the equations of its micrograph, as columns of numbers."""
    import torch

    from verglas.algorithms.ctf_refine import astigmatism_equations

    parts = []
    for block in _blocks(rows, task, config, maps):
        slope, information = astigmatism_equations(block.pairs)
        numbers = torch.cat([slope, information.flatten(1)], dim=1).numpy()
        columns = {f"e{i}": numbers[:, i] for i in range(numbers.shape[1])}
        parts.append(block.rows.select("item_id").with_columns(**_series(columns)))
    return pl.concat(parts)


def _series(columns: dict[str, Any]) -> dict[str, pl.Series]:
    return {name: pl.Series(values.copy()) for name, values in columns.items()}


def add_phases(
    rows: pl.DataFrame, task: Task, *, config: PairConfig, maps: ArrayRef
) -> tuple[pl.DataFrame, dict[str, Any]]:
    """Add up what tells the phases and the magnification of an optics group."""
    from verglas.algorithms.ctf_refine import phase_sums
    from verglas.algorithms.magnification import magnification_equations

    kept: list[pl.DataFrame] = []
    total: dict[str, Any] = {}
    for block in _blocks(rows, task, config, maps):
        kept.append(block.rows.select("item_id"))
        sums = phase_sums(block.pairs)
        if config.fits_magnification:
            sums["slope"], sums["information"] = magnification_equations(
                block.pairs, block.rotations, block.reference, block.aberrations
            )
        for name, value in sums.items():
            total[name] = total.get(name, 0) + value.numpy()
    return pl.concat(kept), total
