"""Measure picking by size and extraction on micrographs whose particles are known.

Processor time is that of the algorithm alone, on one thread.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from verglas.api.truth import match_positions

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["KnownField", "PickBenchmark", "measure_picks"]

_MATCH_DIAMETERS = 0.3


@dataclass(frozen=True)
class KnownField:
    """A micrograph with dark particles.

    Attributes:
        image: `[h, w]`.
        position_px: `[n, 2]`, x and y of the particles, from the centre of the first pixel.
    """

    image: "NDArray[np.float32]"
    position_px: "NDArray[np.float64]"


@dataclass(frozen=True)
class PickBenchmark:
    """What was measured over some fields.

    Attributes:
        cpu_s: processor time of picking in one field.
        recall, precision: within 0.3 diameters, of what is half a diameter from the border.
        distance_median_angst: of a pick from its particle.
        particles_per_cpu_s: that are cut out, halved in size, and normalised.
    """

    cpu_s: float
    recall: float
    precision: float
    distance_median_angst: float
    particles_per_cpu_s: float


def measure_picks(
    fields: Sequence[KnownField], *, pixel_size_angst: float, diameter_angst: float
) -> PickBenchmark:
    """Pick and cut out the particles of some fields.

    Args:
        fields: with their truth, of one size.
        pixel_size_angst: of the images.
        diameter_angst: of the particle.
    """
    from verglas.algorithms.picking.throughput import cutting_rate, timed_picks

    images = [field.image for field in fields]
    scale = {"pixel_size_angst": pixel_size_angst, "diameter_angst": diameter_angst}
    picked = timed_picks(images, **scale)
    found = _table([positions for positions, _ in picked], pixel_size_angst)
    truth = _table([field.position_px for field in fields], pixel_size_angst)
    pairs = match_positions(found, truth, max_distance_angst=_MATCH_DIAMETERS * diameter_angst)
    extent_angst = np.array(images[0].shape[::-1]) * pixel_size_angst
    found_inside, true_inside = (
        _is_inside(table, extent_angst, diameter_angst / 2) for table in (found, truth)
    )
    # particles cut off by the border count neither as missed nor as wrong
    n_right = int(true_inside[pairs["second"].to_numpy()].sum())
    found_inside[pairs["first"].to_numpy()] = False
    return PickBenchmark(
        cpu_s=float(np.mean([seconds for _, seconds in picked])),
        recall=n_right / max(1, int(true_inside.sum())),
        precision=n_right / max(1, n_right + int(found_inside.sum())),
        distance_median_angst=float(np.median(pairs["distance_angst"].to_numpy())),
        particles_per_cpu_s=cutting_rate(images, **scale),
    )


def _is_inside(
    table: pl.DataFrame, extent_angst: "NDArray[np.float64]", margin_angst: float
) -> "NDArray[np.bool_]":
    position = table.select("coord_x_angst", "coord_y_angst").to_numpy()
    inside = (position > margin_angst) & (position < extent_angst - margin_angst)
    return np.asarray(inside.all(axis=1))


def _table(by_field: Sequence["NDArray[np.float64]"], pixel_size_angst: float) -> pl.DataFrame:
    number = np.repeat(np.arange(len(by_field)), [len(positions) for positions in by_field])
    positions = np.concatenate(list(by_field)) * pixel_size_angst
    return pl.DataFrame(
        {
            "micrograph_id": number,
            "coord_x_angst": positions[:, 0],
            "coord_y_angst": positions[:, 1],
        }
    )
