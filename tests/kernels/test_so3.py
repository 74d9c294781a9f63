"""Rotations, distances and orientation grids."""

import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from tests.tolerance import F64, assert_exact
from verglas.kernels import so3
from verglas.kernels.symmetry import symmetry_operators

GROUPS = ["C1", "C7", "D3", "T", "O", "I2"]


def rotations(n, seed=0):
    return so3.random_rotations(n, generator=torch.Generator().manual_seed(seed))


def test_euler_matrix_equals_scipy_passive_zyz():
    angles = torch.tensor([[10.0, 20.0, 30.0], [-170.0, 100.0, 250.0], [0.0, 0.0, 0.0]])
    # passive elementary matrices are the transposes of scipy's active ones
    expected = Rotation.from_euler("ZYZ", angles.numpy(), degrees=True).as_matrix()
    matrix = so3.euler_to_matrix(angles)
    assert matrix.dtype == torch.float64
    np.testing.assert_allclose(matrix, expected.transpose(0, 2, 1), **F64)


@settings(max_examples=100, deadline=None)
@given(st.tuples(st.floats(-360, 360), st.floats(0, 180), st.floats(-360, 360)))
def test_euler_angles_round_trip_through_the_matrix(angles):
    matrix = so3.euler_to_matrix(torch.tensor([angles], dtype=torch.float64))
    back = so3.matrix_to_euler(matrix)
    # 1e-10 of a radian of tilt is all that the last row holds near a pole
    torch.testing.assert_close(so3.euler_to_matrix(back), matrix, rtol=0, atol=2e-10)
    assert 0 <= back[0, 1] <= 180


@pytest.mark.parametrize("tilt", [0.0, 180.0])
def test_euler_angles_at_the_poles_have_no_rot(tilt):
    matrix = so3.euler_to_matrix(torch.tensor([[40.0, tilt, 25.0]]))
    back = so3.matrix_to_euler(matrix)
    assert back[0, 0] == 0
    torch.testing.assert_close(so3.euler_to_matrix(back), matrix, **F64)


def test_quaternions_equal_scipy_and_round_trip():
    matrix = rotations(200)
    quaternion = so3.matrix_to_quaternion(matrix)
    expected = Rotation.from_matrix(matrix.numpy()).as_quat(canonical=True, scalar_first=True)
    np.testing.assert_allclose(quaternion, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(so3.quaternion_to_matrix(quaternion), matrix, **F64)


@pytest.mark.parametrize("axis", range(3))
def test_quaternion_of_a_half_turn_is_its_axis(axis):
    vector = torch.zeros(1, 3, dtype=torch.float64)
    vector[0, axis] = torch.pi
    quaternion = so3.matrix_to_quaternion(so3.rotation_from_vector(vector))
    assert quaternion[0, 1 + axis].abs().item() == pytest.approx(1, abs=1e-12)


def test_exponential_map_equals_scipy_and_keeps_dtype():
    vectors = torch.randn(100, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    vectors[0], vectors[1] = 0, vectors[1] * 1e-6
    expected = Rotation.from_rotvec(vectors.numpy()).as_matrix()
    np.testing.assert_allclose(so3.rotation_from_vector(vectors), expected, **F64)
    assert so3.rotation_from_vector(vectors.float()).dtype == torch.float32


@pytest.mark.parametrize("length", [0.0, 1e-8, 9.99e-3, 1.01e-2, 2.0])
def test_exponential_map_has_right_gradients(length):
    vector = torch.tensor([[0.6, 0.0, 0.8]], dtype=torch.float64) * length
    assert torch.autograd.gradcheck(so3.rotation_from_vector, vector.requires_grad_())


@pytest.mark.parametrize("angle_deg", [0.0, 1e-6, 30.0, 179.9999, 180.0])
def test_rotation_angle_is_accurate_everywhere(angle_deg):
    axis = torch.tensor([[2.0, -1.0, 2.0]], dtype=torch.float64) / 3
    rotation = so3.rotation_from_vector(axis * np.radians(angle_deg))
    assert so3.rotation_angle_deg(rotation).item() == pytest.approx(angle_deg, abs=1e-9)


@pytest.mark.parametrize("group", GROUPS)
def test_pose_distance_ignores_mates_and_finds_small_turns(group):
    operators = symmetry_operators(group)
    a = rotations(500)
    which = torch.randint(len(operators), (500,), generator=torch.Generator().manual_seed(2))
    turn = so3.rotation_from_vector(torch.tensor([[0.0, 0.01, 0.0]], dtype=torch.float64))
    b = turn @ a @ operators[which]
    distance = so3.pose_distance_deg(a, b, operators)
    torch.testing.assert_close(distance, torch.full((500,), np.degrees(0.01)).double())


def test_pose_distance_equals_the_smallest_angle_over_all_mates():
    operators = symmetry_operators("D3")
    a, b = rotations(50, seed=3), rotations(50, seed=4)
    mates = b[:, None] @ operators
    between = a[:, None].transpose(-1, -2) @ mates
    expected = so3.rotation_angle_deg(between).amin(1)
    torch.testing.assert_close(so3.pose_distance_deg(a, b, operators), expected, **F64)
    with pytest.raises(ValueError, match="shapes differ"):
        so3.pose_distance_deg(a, b[:2], operators)


def test_pose_distance_by_blocks_equals_whole(monkeypatch):
    a, b = rotations(11, seed=3), rotations(11, seed=4)
    operators = symmetry_operators("O")
    whole = so3.pose_distance_deg(a, b, operators)
    monkeypatch.setattr(so3, "_BLOCK", 4)
    torch.testing.assert_close(so3.pose_distance_deg(a, b, operators), whole, **F64)
    assert so3.pose_distance_deg(a[:0], b[:0], operators).shape == (0,)


def test_mean_rotation_equals_scipy_and_stays_a_rotation():
    spread = so3.rotation_from_vector(
        0.3 * torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(5)).double()
    )
    cluster = rotations(2)[:, None] @ spread
    weights = torch.rand(2, 20, generator=torch.Generator().manual_seed(6)).double()
    mean = so3.mean_rotation(cluster, weights)
    for i in range(2):
        expected = Rotation.from_matrix(cluster[i].numpy()).mean(weights[i].numpy()).as_matrix()
        np.testing.assert_allclose(mean[i], expected, rtol=0, atol=1e-9)
    far_apart = so3.mean_rotation(rotations(60).reshape(3, 20, 3, 3))
    torch.testing.assert_close(torch.linalg.det(far_apart), torch.ones(3).double())


def test_random_rotations_are_uniform_and_repeat():
    sample = rotations(20000)
    assert_exact(sample, rotations(20000))
    torch.testing.assert_close(
        sample @ sample.mT, torch.eye(3).double().expand_as(sample), rtol=0, atol=1e-12
    )
    # the angle of a uniform rotation has mean 90 + 360 / pi^2 degrees
    angle = so3.rotation_angle_deg(sample)
    error = angle.std() / len(angle) ** 0.5
    assert abs(angle.mean() - (90 + 360 / np.pi**2)) < 4 * error
    assert sample.mean(0).abs().max() < 4 * (1 / 3 / 20000) ** 0.5


@pytest.mark.parametrize("order", range(4))
def test_grid_of_c1_has_72_times_8_to_the_order_rotations(order):
    grid = so3.orientation_grid(order)
    assert grid.shape == (72 * 8**order, 3, 3)
    assert grid.dtype == torch.float64
    assert len(torch.unique((grid.reshape(-1, 9) * 1e6).round(), dim=0)) == len(grid)


@pytest.mark.parametrize("group", GROUPS)
def test_grid_of_a_group_has_its_share_of_rotations(group):
    n = len(so3.orientation_cells(4, symmetry=group))
    expected = 72 * 8**4 / len(symmetry_operators(group))
    assert n == pytest.approx(expected, rel=0.12)


@pytest.mark.parametrize("group", ["C1", "C7", "D3", "O", "I2"])
def test_grid_leaves_no_pose_far_from_it(group):
    """The step at order 2 is 15 degrees; half a cell's diagonal is 3^(1/2)/2 of it."""
    grid, operators = so3.orientation_grid(2, symmetry=group), symmetry_operators(group)
    poses = rotations(400)
    mates = (grid[:, None] @ operators).reshape(-1, 9)
    trace = (poses.reshape(-1, 9) @ mates.T).amax(1)
    nearest = torch.rad2deg(torch.acos(((trace - 1) / 2).clamp(-1, 1)))
    assert nearest.mean() < 8
    assert nearest.max() < 15 * 1.2
    if group == "C1":
        assert nearest.max() < 15


def test_grid_points_are_as_far_apart_as_their_step():
    """No crowding at the poles: the nearest neighbour is never closer than 0.4 steps."""
    grid = so3.orientation_grid(1).reshape(-1, 9)
    trace = grid @ grid.T
    trace.fill_diagonal_(-1)
    nearest = torch.rad2deg(torch.acos((trace.amax(1) - 1) / 2))
    assert nearest.min() > 0.4 * 30
    assert nearest.max() < 1.2 * 30


@pytest.mark.parametrize("group", ["D3", "O", "I2"])
def test_each_set_of_mates_is_kept_about_once(group):
    """Of the mates of any pose exactly one direction lies in the domain."""
    operators = symmetry_operators(group)
    kept = torch.zeros(12 * 4**5, dtype=torch.int64)
    n_psi = 6 * 2**5
    kept[so3.orientation_cells(5, symmetry=group) // n_psi] = 1
    mates = rotations(2000)[:, None] @ operators
    angles = so3.matrix_to_euler(mates)[..., :2].reshape(-1, 2)
    pixels = so3.healpix_pixels(angles, order=5).reshape(2000, -1)
    inside = kept[pixels].sum(1)
    # pixels across the domain's border may count a pose twice or not at all
    assert inside.double().mean().item() == pytest.approx(1, abs=0.1)
    assert (inside == 1).double().mean() > 0.75


def test_a_group_too_large_for_a_coarse_grid_keeps_one_direction():
    assert len(so3.orientation_cells(0, symmetry="I2")) == 6


def test_children_of_all_parents_are_the_next_grid():
    cells = so3.orientation_cells(1)
    children = so3.refine_cells(cells, order=1).reshape(-1)
    assert_exact(children.sort().values, so3.orientation_cells(2))


@pytest.mark.parametrize("order", [1, 2, 4])
def test_children_stay_within_their_parents_cell(order):
    cells = so3.orientation_cells(order)[:: 8 ** (order - 1) * 3]
    parents = so3.rotations_of_cells(cells, order=order)
    children = so3.refine_orientation_grid(parents, order)
    assert children.shape == (len(cells), 8, 3, 3)
    flat = children.reshape(-1, 3, 3)
    repeated = parents.repeat_interleave(8, dim=0)
    distance = so3.pose_distance_deg(repeated, flat, symmetry_operators("C1"))
    step = 60 / 2**order
    assert distance.max() < 0.8 * step
    assert distance.min() > 0.25 * step


def test_children_of_poses_off_the_grid_are_those_of_their_cell():
    cells = so3.orientation_cells(2)[::97]
    centres = so3.rotations_of_cells(cells, order=2)
    small = so3.rotation_from_vector(torch.tensor([[0.0, 0.0, 0.01]], dtype=torch.float64))
    torch.testing.assert_close(
        so3.refine_orientation_grid(small @ centres, 2),
        so3.refine_orientation_grid(centres, 2),
        **F64,
    )


def test_a_fine_grid_is_made_in_under_two_seconds():
    start = time.perf_counter()
    grid = so3.orientation_grid(5, symmetry="O")
    assert len(grid) == pytest.approx(72 * 8**5 / 24, rel=0.05)
    assert time.perf_counter() - start < 2


def test_inputs_stay_and_wrong_shapes_are_refused():
    matrix = rotations(3)
    before = matrix.clone()
    so3.matrix_to_euler(matrix)
    so3.matrix_to_quaternion(matrix)
    so3.mean_rotation(matrix[None])
    assert_exact(matrix, before)
    for call, bad in (
        (so3.euler_to_matrix, torch.zeros(2, 2)),
        (so3.matrix_to_euler, torch.zeros(2, 3)),
        (so3.rotation_from_vector, torch.zeros(2, 4)),
        (so3.quaternion_to_matrix, torch.zeros(2, 3)),
        (so3.rotation_angle_deg, torch.zeros(3, 2)),
    ):
        with pytest.raises(ValueError, match="end in shape"):
            call(bad)
