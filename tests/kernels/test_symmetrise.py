import numpy as np
import pytest

from verglas.kernels.point_groups import group_operators, split_operators
from verglas.kernels.symmetrise import symmetrise_channels


def _blob_sums(side: int = 25, seed: int = 0):
    """A Hermitian half volume of a few smooth waves: real, imaginary, even."""
    rng = np.random.default_rng(seed)
    centre = side // 2
    z, y, x = np.meshgrid(*[np.arange(side) - centre] * 2, np.arange(centre + 1), indexing="ij")
    out = np.zeros((side, side, centre + 1, 3), np.float32)
    for a, b, c in rng.uniform(-0.2, 0.2, (6, 3)):
        phase = a * x + b * y + c * z
        out[..., 0] += np.cos(phase)
        out[..., 1] += np.sin(phase)
        out[..., 2] += 1 + np.cos(2 * phase)
    return out


@pytest.mark.parametrize("name", ["C1", "C2", "C3", "D3", "D4", "T", "O", "I1", "I3"])
def test_each_operator_is_one_permutation_times_one_representative(name):
    operators = group_operators(name)
    exact, others = split_operators(operators)
    products = np.einsum("cij,hjk->chik", others, exact).reshape(-1, 3, 3)
    assert len(products) == len(operators)
    gaps = np.abs(products[:, None] - operators).max((2, 3)).min(1)
    assert gaps.max() < 1e-9
    assert np.allclose(others[0], np.eye(3))


@pytest.mark.parametrize("name", ["C3", "O", "I2"])
def test_sums_over_a_group_are_symmetric(name):
    operators = group_operators(name)
    once = symmetrise_channels(_blob_sums(), operators)
    twice = symmetrise_channels(once, operators)
    # interpolation needs neighbours, which are missing at the rim of the sphere
    centre = len(once) // 2
    z, y, x = np.ogrid[-centre : centre + 1, -centre : centre + 1, : centre + 1]
    inside = x * x + y * y + z * z < (centre - 3) ** 2
    # waves of 18 voxels and more: trilinear interpolation is good to 3 % a turn
    error = np.abs(twice - len(operators) * once)[inside].max() / np.abs(twice).max()
    assert error < (1e-5 if name == "O" else 0.03)


def test_octahedral_sums_are_exact():
    sums = _blob_sums()
    centre = len(sums) // 2
    total = symmetrise_channels(sums, group_operators("O"))
    rotation = group_operators("O").astype(int)
    x, y, z = 3, -2, 5
    expected = np.zeros(3)
    for px, py, pz in rotation @ (x, y, z):
        sign = -1 if px < 0 else 1
        value = sums[sign * pz + centre, sign * py + centre, sign * px]
        expected += value * [1, sign, 1]
    np.testing.assert_allclose(total[z + centre, y + centre, x], expected, rtol=1e-4, atol=1e-4)
