"""Point groups and symmetrised volumes."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.spatial.transform import Rotation

from tests.tolerance import F64, INTERP, assert_close_to_peak, assert_exact
from verglas.kernels.symmetry import parse_symmetry, symmetrise_volume, symmetry_operators

ORDERS = {
    "C1": 1, "C2": 2, "C13": 13, "D1": 2, "D2": 4, "D7": 14, "T": 12, "O": 24,
    "I1": 60, "I2": 60, "I3": 60, "I4": 60,
}  # fmt: skip

# fold and axis of elements that RELION 5 lists for each group in src/symmetries.cpp
RELION_AXES = [
    ("C5", 5, (0, 0, 1)),
    ("D4", 4, (0, 0, 1)),
    ("D4", 2, (1, 0, 0)),
    ("T", 3, (0, 0, 1)),
    ("T", 2, (0, 0.816496, 0.577350)),
    ("O", 3, (0.5773502, 0.5773502, 0.5773502)),
    ("O", 4, (0, 0, 1)),
    ("I", 2, (0, 0, 1)),
    ("I", 5, (0.525731114, 0, 0.850650807)),
    ("I", 3, (0, 0.356822076, 0.934172364)),
    ("I1", 2, (1, 0, 0)),
    ("I1", 5, (0.85065080702670, 0, -0.5257311142635)),
    ("I1", 3, (0.9341723640, 0.3568220765, 0)),
    ("I3", 2, (-0.5257311143, 0, 0.8506508070)),
    ("I3", 5, (0, 0, 1)),
    ("I3", 3, (-0.4911234778630044, 0.3568220764705179, 0.7946544753759428)),
    ("I4", 2, (0.5257311143, 0, 0.8506508070)),
    ("I4", 5, (0.8944271932547096, 0, 0.4472135909903704)),
    ("I4", 3, (0.4911234778630044, 0.3568220764705179, 0.7946544753759428)),
]


@pytest.mark.parametrize(("group", "order"), ORDERS.items())
def test_operators_form_a_group_of_the_right_order(group, order):
    operators = symmetry_operators(group)
    assert operators.shape == (order, 3, 3)
    assert operators.dtype == torch.float64
    torch.testing.assert_close(operators[0], torch.eye(3).double(), **F64)
    identity = torch.eye(3).double().expand_as(operators)
    torch.testing.assert_close(operators @ operators.mT, identity, rtol=0, atol=1e-14)
    torch.testing.assert_close(torch.linalg.det(operators), torch.ones(order).double())
    products = (operators[:, None] @ operators).reshape(-1, 1, 9)
    gaps = (products - operators.reshape(1, -1, 9)).abs().amax(-1)
    assert gaps.amin(1).max() < 1e-12
    different = (operators[:, None] - operators).abs().amax((-1, -2))
    assert (different + torch.eye(order)).min() > 0.1


@pytest.mark.parametrize(("group", "fold", "axis"), RELION_AXES)
def test_axes_are_those_of_relion(group, fold, axis):
    vector = np.asarray(axis) / np.linalg.norm(axis) * 2 * np.pi / fold
    turn = torch.from_numpy(Rotation.from_rotvec(vector).as_matrix())
    # RELION gives the axis of T with six digits
    assert (symmetry_operators(group) - turn).abs().amax((1, 2)).min() < 5e-6


def test_octahedral_operators_are_exact_signed_permutations():
    operators = symmetry_operators("O")
    assert_exact(operators, operators.round())


@pytest.mark.parametrize(
    ("name", "normal"), [("c1", "C1"), (" d07 ", "D7"), ("I", "I2"), ("i3", "I3"), ("t", "T")]
)
def test_names_are_normalised(name, normal):
    assert parse_symmetry(name) == normal


@pytest.mark.parametrize("name", ["", "C", "C0", "C100", "D0", "I5", "Oh", "X3", "C-2", "C2v"])
def test_other_names_are_refused(name):
    with pytest.raises(ValueError, match="point group"):
        symmetry_operators(name)


def smooth_volume(n, dtype=torch.float32):
    """A sum of Gaussians well inside the box, about voxel n // 2."""
    generator = np.random.default_rng(0)
    axis = np.arange(n) - n // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    volume = np.zeros((n, n, n))
    for cx, cy, cz in generator.uniform(-n / 6, n / 6, (4, 3)):
        volume += np.exp(-((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2) / (2 * (n / 12) ** 2))
    return torch.from_numpy(volume)[None].to(dtype)


@pytest.mark.parametrize("n", [8, 9])
@pytest.mark.parametrize("group", ["O", "T", "C5"])
def test_rotations_without_oversampling_equal_scipy_about_the_centre(group, n):
    volume = torch.randn(2, n, n, n, generator=torch.Generator().manual_seed(0)).double()
    centre = np.full(3, n // 2)
    total, weight = np.zeros((2, n, n, n)), np.zeros((n, n, n))
    for operator in symmetry_operators(group).numpy():
        zyx = operator[::-1, ::-1]
        options = {"offset": centre - zyx @ centre, "order": 1}
        inside = ndimage.affine_transform(np.ones((n,) * 3), zyx, mode="grid-constant", **options)
        weight += inside
        for i in range(2):
            values = ndimage.affine_transform(volume[i].numpy(), zyx, mode="nearest", **options)
            total[i] += inside * values
    symmetric = symmetrise_volume(volume, symmetry_operators(group), oversampling=1)
    np.testing.assert_allclose(symmetric, total / weight, rtol=0, atol=1e-9)


def blob_volume(n, places, sigma):
    axis = np.arange(n) - n // 2
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
    squares = [(x - p[0]) ** 2 + (y - p[1]) ** 2 + (z - p[2]) ** 2 for p in places]
    return torch.from_numpy(sum(np.exp(-s / (2 * sigma**2)) for s in squares)).float()[None]


@pytest.mark.parametrize("n", [32, 33])
@pytest.mark.parametrize("group", ["C3", "D4", "T", "O", "I1", "I4"])
def test_symmetrised_blob_is_the_mean_of_its_mates(group, n):
    operators = symmetry_operators(group)
    place = np.array([3.1, 5.2, -6.3])
    symmetric = symmetrise_volume(blob_volume(n, [place], 2.0), operators)
    expected = blob_volume(n, place @ operators.numpy(), 2.0) / len(operators)
    # linear interpolation in steps of half a voxel lowers a Gaussian of 2 voxels by 2 %
    assert_close_to_peak(symmetric, expected, 2.5 * INTERP)


@pytest.mark.parametrize("n", [24, 25])
@pytest.mark.parametrize("group", ["C3", "D2", "T", "O", "I1"])
def test_symmetrised_volume_does_not_change_again(group, n):
    operators = symmetry_operators(group)
    once = symmetrise_volume(smooth_volume(n), operators)
    twice = symmetrise_volume(once, operators)
    exact = group in ("D2", "O")
    # each interpolation lowers a Gaussian of two voxels by up to 2 %
    assert_close_to_peak(twice, once, 1e-6 if exact else 2.5 * INTERP)


@pytest.mark.parametrize("n", [10, 11])
def test_octahedral_volume_is_exactly_invariant_inside_the_box(n):
    volume = torch.randn(1, n, n, n, generator=torch.Generator().manual_seed(0))
    symmetric = symmetrise_volume(volume, symmetry_operators("O"))[0]
    first = 1 - n % 2
    inner = symmetric[first:, first:, first:]
    quarter_turn = torch.rot90(inner, 1, (1, 2))
    threefold = inner.permute(2, 0, 1)
    torch.testing.assert_close(quarter_turn, inner)
    torch.testing.assert_close(threefold, inner)


def test_c1_changes_nothing_and_the_input_stays():
    volume = smooth_volume(9)
    before = volume.clone()
    assert_exact(symmetrise_volume(volume, symmetry_operators("C1")), before)
    symmetrise_volume(volume, symmetry_operators("I2"))
    assert_exact(volume, before)


def test_batch_equals_loop_and_gradients_are_finite():
    volumes = torch.cat([smooth_volume(8), 2 * smooth_volume(8).flip(1)]).requires_grad_()
    operators = symmetry_operators("D3")
    whole = symmetrise_volume(volumes, operators)
    parts = torch.cat([symmetrise_volume(volumes[i : i + 1], operators) for i in range(2)])
    torch.testing.assert_close(whole, parts)
    whole.square().sum().backward()
    assert torch.isfinite(volumes.grad).all()


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="cubic"):
        symmetrise_volume(torch.zeros(1, 4, 4, 5), symmetry_operators("C2"))
    with pytest.raises(ValueError, match="dimensions"):
        symmetrise_volume(torch.zeros(4, 4, 4), symmetry_operators("C2"))
    with pytest.raises(ValueError, match="end in shape"):
        symmetrise_volume(torch.zeros(1, 4, 4, 4), torch.zeros(2, 2))
