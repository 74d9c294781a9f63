"""Compare what a workflow found with the truth of simulated data, or with given picks.

Nothing here is used by a protocol: truth never reaches the data that are processed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from verglas.core.errors import FormatError

if TYPE_CHECKING:
    from verglas.api.job import Job
    from verglas.model import DataSet

__all__ = [
    "compare_picks",
    "compare_with_truth",
    "defocus_errors",
    "match_positions",
    "motion_errors",
    "pose_errors",
]

PICK_DISTANCE_ANGST = 30.0
"""A pick farther from every true position is wrong: 20 pixels of 1.5 Å."""

_SUFFIX = r"(?i)\.(mrcs?|tiff?|png|jpe?g|eer)$"
_MAP_NUMBERS = {
    "fsc_05_angst": "map_to_truth_05_angst",
    "fsc_0143_angst": "map_to_truth_0143_angst",
    "half_0143_angst": "half_maps_0143_angst",
}
_POSITION = ("coord_x_angst", "coord_y_angst")
_EULER = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")


def compare_with_truth(jobs: Mapping[str, "Job"], *, symmetry: str) -> dict[str, float]:
    """Give the errors of a workflow that began with simulated micrographs.

    Args:
        jobs: by name of the step, as `verglas.api.process` gives them.
        symmetry: point group of the specimen.
    """
    truth = jobs["simulate"]
    is_movie = "align" in jobs
    images = truth.output("true_movies" if is_movie else "true_micrographs").rows()
    numbers = motion_errors(jobs["align"], images) if is_movie else {}
    numbers |= defocus_errors(jobs["ctf"], images)
    particles = truth.output("true_particles").rows()
    numbers |= {
        f"picks_{name}": value
        for name, value in _pick_scores(jobs["pick"].output("coordinates"), particles).items()
    }
    if "refine" in jobs:
        numbers |= pose_errors(jobs["refine"].output("particles").rows(), particles, symmetry)
    if "truth" in jobs:
        metrics = jobs["truth"].metrics
        known = {key: name for key, name in _MAP_NUMBERS.items() if key in metrics}
        numbers |= {name: float(metrics[key]) for key, name in known.items()}
    return numbers


def motion_errors(align: "Job", truth: pl.DataFrame) -> dict[str, float]:
    """Compare the paths of whole frames with the truth, up to where each path begins."""
    names = ["frame_shift_x_angst", "frame_shift_y_angst"]
    found = align.output("micrographs").rows(("item_id", *names))
    joined = found.join(truth.select("item_id", *names), on="item_id", suffix="_true")
    squares = []
    for row in joined.iter_rows(named=True):
        paths = [np.stack([row[f"{name}{end}"] for name in names]) for end in ("", "_true")]
        centred = [path - path.mean(axis=1, keepdims=True) for path in paths]
        squares.append(float(np.square(centred[0] - centred[1]).sum(axis=0).mean()))
    return {
        "n_movies": float(joined.height),
        "motion_error_rms_angst": float(np.sqrt(np.mean(squares))) if squares else float("nan"),
    }


def defocus_errors(ctf: "Job", truth: pl.DataFrame) -> dict[str, float]:
    """Compare the mean defocus of micrographs, rejected ones included, with the truth."""
    mean = (pl.col("defocus_u_angst") + pl.col("defocus_v_angst")) / 2
    tables = [
        ctf.output(port).rows().select("item_id", found=mean)
        for port in ("micrographs", "rejected")
    ]
    joined = pl.concat(tables).join(truth.select("item_id", true=mean), on="item_id")
    errors = (joined["found"] - joined["true"]).abs()
    return {
        "n_micrographs": float(joined.height),
        "defocus_error_median_angst": _number(errors.median()),
        "defocus_error_worst_angst": _number(errors.max()),
    }


def pose_errors(found: pl.DataFrame, truth: pl.DataFrame, symmetry: str) -> dict[str, float]:
    """Compare poses of refined particles with those of the particles they were cut from.

    The map may be turned, and be a mirror image, against the truth: one rotation and hand for
    all particles are found first.
    """
    from verglas.algorithms.pose_error import compare_poses

    pairs = match_positions(found, truth, max_distance_angst=PICK_DISTANCE_ANGST)
    if not pairs.height:
        return {"n_poses": 0.0}
    angles = [frame[list(_EULER)].to_numpy() for frame in (found, truth)]
    first, second = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    agreement = compare_poses(angles[0][first], angles[1][second], symmetry=symmetry)
    errors = agreement.errors_deg
    return {
        "n_poses": float(len(errors)),
        "pose_error_median_deg": float(np.median(errors)),
        "pose_error_90_percent_deg": float(np.quantile(errors, 0.9)),
        "is_mirrored": float(agreement.is_mirrored),
    }


def compare_picks(jobs: Mapping[str, "Job"], reference: Path) -> dict[str, float]:
    """Compare picks with positions in a CSV file.

    Args:
        jobs: by name of the step; `pick` and the micrographs that it used count.
        reference: with the columns micrograph, x and y in pixels, counted from the first pixel, y
            along the rows of an MRC file.
    """
    try:
        table = pl.read_csv(reference)
    except (OSError, pl.exceptions.PolarsError) as error:
        raise FormatError(f"cannot read {str(reference)!r}: {error}") from error
    table = table.rename({"x": "x_px", "y": "y_px"}, strict=False)
    missing = [name for name in ("micrograph", "x_px", "y_px") if name not in table.columns]
    if missing:
        raise FormatError(f"{str(reference)!r} has no column {missing[0]}: got {table.columns}")
    micrographs = jobs["ctf"].output("micrographs")
    file_name = pl.col("image_path").str.split("/").list.last()
    named = micrographs.rows(["item_id", "image_path", "pixel_size_angst"]).select(
        "pixel_size_angst", micrograph_id="item_id", micrograph=file_name.str.replace(_SUFFIX, "")
    )
    stems = table.with_columns(pl.col("micrograph").str.replace(_SUFFIX, ""))
    known = stems.join(named, on="micrograph", how="inner")
    if not known.height:
        raise FormatError(f"{str(reference)!r} names none of the micrographs of the project")
    truth = known.select(
        "micrograph_id",
        coord_x_angst=pl.col("x_px") * pl.col("pixel_size_angst"),
        coord_y_angst=pl.col("y_px") * pl.col("pixel_size_angst"),
    )
    return _pick_scores(jobs["pick"].output("coordinates"), truth)


def match_positions(
    first: pl.DataFrame, second: pl.DataFrame, *, max_distance_angst: float
) -> pl.DataFrame:
    """Pair positions in equal micrographs, each used once, nearest pairs first.

    Args:
        first, second: with `micrograph_id`, `coord_x_angst` and `coord_y_angst`.
        max_distance_angst: of a pair.

    Returns:
        Row numbers `first` and `second`, and `distance_angst`.
    """
    from scipy.spatial import cKDTree

    found: list[tuple[int, int, float]] = []
    groups = second.with_row_index("row").partition_by("micrograph_id", as_dict=True)
    for key, rows in (
        first.with_row_index("row").partition_by("micrograph_id", as_dict=True).items()
    ):
        others = groups.get(key)
        if others is None:
            continue
        tree = cKDTree(others.select(_POSITION).to_numpy())
        near = tree.query_ball_point(rows.select(_POSITION).to_numpy(), max_distance_angst)
        found += _nearest_first(rows, others, near)
    schema = {"first": pl.Int64, "second": pl.Int64, "distance_angst": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row").sort("first")


def _nearest_first(
    rows: pl.DataFrame, others: pl.DataFrame, near: Any
) -> list[tuple[int, int, float]]:
    a, b = rows.select(_POSITION).to_numpy(), others.select(_POSITION).to_numpy()
    pairs = [
        (float(np.hypot(*(a[i] - b[j]))), i, j) for i, matches in enumerate(near) for j in matches
    ]
    numbers = rows["row"].to_list(), others["row"].to_list()
    taken: tuple[set[int], set[int]] = (set(), set())
    kept = []
    for distance, i, j in sorted(pairs):
        if i in taken[0] or j in taken[1]:
            continue
        taken[0].add(i)
        taken[1].add(j)
        kept.append((numbers[0][i], numbers[1][j], distance))
    return kept


def _pick_scores(picks: "DataSet", truth: pl.DataFrame) -> dict[str, float]:
    """Give recall and precision within the micrographs that were picked from."""
    found = picks.rows(["micrograph_id", *_POSITION])
    seen = truth.filter(pl.col("micrograph_id").is_in(found["micrograph_id"].unique().implode()))
    pairs = match_positions(found, seen, max_distance_angst=PICK_DISTANCE_ANGST)
    return {
        "recall": pairs.height / max(1, seen.height),
        "precision": pairs.height / max(1, found.height),
        "distance_median_angst": _number(pairs["distance_angst"].median()),
    }


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
