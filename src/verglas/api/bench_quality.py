"""Judge benchmark jobs against the truth of their particles, matched by item."""

from typing import TYPE_CHECKING

import numpy as np
import polars as pl

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["class_errors", "class_purity", "curve_mean", "fsc_in_place", "pose_numbers"]

_EULER = ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg")
_SHIFT = ("shift_x_angst", "shift_y_angst")
_CLOSE_DEG = 15.0  # two views of a class are of one side of the particle
_SMALLEST_CLASS = 5
_FIT_ROUNDS = 5
_MASK_LOW_PASS_ANGST, _MASK_LEVEL = 15.0, 0.08
_MASK_MARGIN_ANGST, _MASK_EDGE_ANGST = 6.0, 12.0


def pose_numbers(found: pl.DataFrame, truth: pl.DataFrame, symmetry: str) -> dict[str, float]:
    """Give median errors of angles and shifts; rotation, hand and place of the map do not count.

    Args:
        found, truth: with `item_id` and poses.
        symmetry: point group of the specimen.
    """
    from verglas.algorithms.pose_error import compare_poses
    from verglas.kernels.rotations import rotations_of_angles

    columns = ("item_id", *_EULER, *_SHIFT)
    both = found.select(columns).join(truth.select(columns), on="item_id", suffix="_true")
    angles = both.select(_EULER).to_numpy()
    true = both.select(f"{name}_true" for name in _EULER).to_numpy()
    agreement = compare_poses(angles, true, symmetry=symmetry)
    moved = both.select(_SHIFT).to_numpy()
    moved = moved - both.select(f"{name}_true" for name in _SHIFT).to_numpy()
    rest = _free_of_map_shift(moved, rotations_of_angles(angles))
    return {
        "n_poses": float(both.height),
        "pose_error_median_deg": float(np.median(agreement.errors_deg)),
        "shift_error_median_angst": float(np.median(np.hypot(*rest.T))),
    }


def _free_of_map_shift(
    moved: "NDArray[np.float64]", rotations: "NDArray[np.float64]"
) -> "NDArray[np.float64]":
    """Take off what a displacement of the whole map does to the shifts; outliers are left out."""
    design, values = rotations[:, :2].reshape(-1, 3), moved.reshape(-1)
    kept = np.ones(len(values), bool)
    place: NDArray[np.floating] = np.zeros(3)
    for _ in range(_FIT_ROUNDS):
        place = np.linalg.lstsq(design[kept], values[kept], rcond=None)[0]
        error = np.abs(values - design @ place)
        kept = error <= 3 * np.median(error) + 1e-6
    return (values - design @ place).reshape(-1, 2)


def class_errors(found: pl.DataFrame, truth: pl.DataFrame) -> dict[str, float]:
    """Give the spread of views within classes and the error of angles in the plane.

    Every pair of a class is compared; in-plane angles where the two views are within 15
    degrees. Random pairs are 60 degrees apart, folded to one hemisphere.

    Args:
        found: with `item_id`, `class_index` and `angle_psi_deg`.
        truth: with `item_id` and poses.
    """
    from verglas.kernels.rotations import rotations_of_angles

    both = found.select("item_id", "class_index", psi="angle_psi_deg").join(
        truth.select("item_id", *_EULER), on="item_id"
    )
    rotations = rotations_of_angles(both.select(_EULER).to_numpy())
    classes, psi = both["class_index"].to_numpy(), both["psi"].to_numpy()
    spreads, turns, n_used = [], [], 0
    for index in np.unique(classes):
        members = np.flatnonzero(classes == index)
        if len(members) < _SMALLEST_CLASS:
            continue
        n_used += 1
        first, second = np.triu_indices(len(members), 1)
        first, second = members[first], members[second]
        cosine = (rotations[first, 2] * rotations[second, 2]).sum(1)
        apart = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        relative = rotations[first] @ np.swapaxes(rotations[second], 1, 2)
        true = np.degrees(np.arctan2(relative[:, 0, 1], relative[:, 0, 0]))
        wrong = np.abs((true - (psi[first] - psi[second]) + 180) % 360 - 180)
        spreads.append(np.minimum(apart, 180 - apart))
        turns.append(wrong[apart < _CLOSE_DEG])
    if not n_used:
        return {"n_classes_used": 0.0}
    close = np.concatenate(turns)
    return {
        "n_classes_used": float(n_used),
        "view_spread_median_deg": float(np.median(np.concatenate(spreads))),
        "in_plane_error_median_deg": float(np.median(close)) if len(close) else float("nan"),
    }


def class_purity(found: pl.DataFrame, truth: pl.DataFrame) -> dict[str, float]:
    """Give the share of particles in the right class, once classes are matched with states.

    Args:
        found: with `item_id` and `class_index`.
        truth: with `item_id` and `class_index`, the state of each.
    """
    from scipy.optimize import linear_sum_assignment

    columns = ("item_id", "class_index")
    both = found.select(columns).join(truth.select(columns), on="item_id", suffix="_true")
    _, true = np.unique(both["class_index_true"].to_numpy(), return_inverse=True)
    _, label = np.unique(both["class_index"].to_numpy(), return_inverse=True)
    table = np.zeros((true.max() + 1, label.max() + 1))
    np.add.at(table, (true, label), 1)
    matched = linear_sum_assignment(-table)
    return {"purity": float(table[matched].sum() / both.height)}


def curve_mean(curves: pl.DataFrame, label: str) -> float:
    """Average a curve over all shells but the first.

    Args:
        curves: with `label` and `y`.
        label: of the curve.
    """
    return float(np.mean(curves.filter(pl.col("label") == label)["y"][0].to_numpy()[1:]))


def fsc_in_place(
    volume: "NDArray[np.float32]", truth: "NDArray[np.float32]", pixel_size_angst: float
) -> "NDArray[np.float64]":
    """Correlate a map with the truth where it lies, inside a soft outline of the truth.

    Args:
        volume, truth: `[n, n, n]`.
        pixel_size_angst: of both.
    """
    mask = _outline(truth, pixel_size_angst)
    n = len(truth)
    a_ft, b_ft = np.fft.fftn(volume * mask), np.fft.fftn(truth * mask)
    axis = np.fft.fftfreq(n, 1 / n) ** 2
    shell = np.rint(np.sqrt(axis[:, None, None] + axis[:, None] + axis)).astype(int).ravel()
    parts = ((a_ft * b_ft.conj()).real, np.abs(a_ft) ** 2, np.abs(b_ft) ** 2)
    cross, a_power, b_power = (np.bincount(shell, part.ravel()) for part in parts)
    fsc: NDArray[np.float64] = cross / np.sqrt(np.maximum(a_power * b_power, 1e-300))
    return fsc[: n // 2 + 1]


def _outline(volume: "NDArray[np.float32]", pixel_size_angst: float) -> "NDArray[np.float64]":
    """Return 1 within the low-passed volume and a margin, falling to 0 along a cosine."""
    from scipy import ndimage

    sigma_px = _MASK_LOW_PASS_ANGST / pixel_size_angst * 0.19
    low = ndimage.gaussian_filter(volume, sigma_px)
    inside = ndimage.binary_fill_holes(low > _MASK_LEVEL * low.max())
    distance = ndimage.distance_transform_edt(~inside) * pixel_size_angst - _MASK_MARGIN_ANGST
    ramp = np.clip(distance / _MASK_EDGE_ANGST, 0, 1)
    return np.asarray(0.5 + 0.5 * np.cos(np.pi * ramp))
