"""Comparison with truth: positions are paired once, nearest first."""

import polars as pl
import pytest

from verglas.api.truth import match_positions, pose_errors

ANGLES = {"angle_rot_deg": 0.0, "angle_tilt_deg": 0.0, "angle_psi_deg": 0.0}


def positions(*points):
    ids, x, y = zip(*points, strict=True)
    return pl.DataFrame(
        {"micrograph_id": ids, "coord_x_angst": x, "coord_y_angst": y},
        schema_overrides={"coord_x_angst": pl.Float64, "coord_y_angst": pl.Float64},
    )


def test_positions_pair_within_a_micrograph_only():
    first = positions((0, 0, 0), (1, 0, 0))
    second = positions((1, 3, 4), (2, 0, 0))
    pairs = match_positions(first, second, max_distance_angst=10)
    assert pairs.rows() == [(1, 0, 5.0)]


def test_each_position_is_used_once_and_the_nearest_wins():
    first = positions((0, 0, 0), (0, 4, 0))
    second = positions((0, 3, 0))
    assert match_positions(first, second, max_distance_angst=10).rows() == [(1, 0, 1.0)]
    assert match_positions(second, first, max_distance_angst=10).rows() == [(0, 1, 1.0)]


def test_far_positions_do_not_pair():
    assert match_positions(
        positions((0, 0, 0)), positions((0, 11, 0)), max_distance_angst=10
    ).is_empty()


def test_poses_are_compared_for_particles_that_were_found():
    truth = positions((0, 0, 0), (0, 100, 0), (0, 200, 0)).with_columns(
        angle_rot_deg=pl.Series([10.0, 50.0, -80.0]),
        angle_tilt_deg=pl.Series([20.0, 90.0, 60.0]),
        angle_psi_deg=pl.Series([0.0, 30.0, 120.0]),
    )
    found = truth[[2, 0]].with_columns(pl.col("coord_x_angst") + 5)
    numbers = pose_errors(found, truth, "C1")
    assert numbers["n_poses"] == 2
    assert numbers["pose_error_median_deg"] == pytest.approx(0, abs=1e-4)
    nowhere = found.with_columns(micrograph_id=pl.lit(7))
    assert pose_errors(nowhere, truth, "C1") == {"n_poses": 0.0}
