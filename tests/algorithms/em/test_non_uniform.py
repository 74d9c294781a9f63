import pytest
import torch

from verglas.algorithms.em.non_uniform import filters_of, local_weights, regularise_locally
from verglas.kernels.filters import filter_by_shell, gaussian
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import shell_index

N, SHELL = 40, 14


def _noise(seed):
    return torch.randn(N, N, N, generator=torch.Generator().manual_seed(seed))


def _ball(x_px, radius_px):
    axis = torch.arange(N) - N // 2
    square = axis[:, None, None] ** 2 + axis[:, None] ** 2 + (axis - x_px) ** 2
    return (square < radius_px**2).float()


def _specimen(blur_px):
    """Two balls of fine structure side by side; the right one is blurred."""
    fine = gaussian(_noise(0)[None], sigma_angst=1.0, pixel_size_angst=1.0)[0]
    fine = fine / fine.std()
    left, right = _ball(-8, 7), _ball(8, 7)
    blurred = gaussian((fine * right)[None], sigma_angst=blur_px, pixel_size_angst=1.0)[0]
    return fine * left + blurred, left.bool(), right.bool()


def _halves(truth, noise):
    halves = torch.stack([truth + noise * _noise(seed) for seed in (1, 2)])

    def reconstruct(inverse_snr):
        return filter_by_shell(halves, (1 / (1 + inverse_snr)).float().expand(2, -1))

    power = rfft3(torch.stack([truth, noise * _noise(3)])).abs().square().flatten(1).double()
    shell = shell_index((N,) * 3).flatten().clamp_max(N // 2)
    total = torch.zeros(2, N // 2 + 1, dtype=torch.float64).index_add_(1, shell, power)
    inverse_snr = total[1] / total[0]
    inverse_snr[SHELL + 1 :] = torch.inf
    return reconstruct, inverse_snr


def _error(maps, truth, where):
    return float((maps - truth)[:, where].square().mean())


def _both(truth, noise):
    reconstruct, inverse_snr = _halves(truth, noise)
    uniform = reconstruct(inverse_snr)
    local = regularise_locally(reconstruct, inverse_snr, resolution_px=N / SHELL)
    return uniform, local


@pytest.mark.parametrize("noise", [0.4, 0.7])
def test_a_blurred_region_is_nearer_to_the_truth_and_the_other_no_farther(noise):
    truth, sharp, blurred = _specimen(3.0)
    uniform, local = _both(truth, noise)
    assert _error(local, truth, blurred) < 0.85 * _error(uniform, truth, blurred)
    assert _error(local, truth, sharp) < 1.01 * _error(uniform, truth, sharp)


def test_a_specimen_alike_everywhere_is_no_worse():
    fine = gaussian(_noise(0)[None], sigma_angst=1.0, pixel_size_angst=1.0)[0]
    truth, everywhere = fine / fine.std(), torch.ones(N, N, N, dtype=torch.bool)
    uniform, local = _both(truth, 1.0)
    assert _error(local, truth, everywhere) < 1.01 * _error(uniform, truth, everywhere)


def test_halves_share_the_weights_and_nothing_else():
    truth, _, _ = _specimen(3.0)
    reconstruct, inverse_snr = _halves(truth, 1.0)
    filtered = [reconstruct(one) for one in filters_of(inverse_snr)]
    plain = reconstruct(torch.where(inverse_snr.isfinite(), 0.0, torch.inf))
    weights = local_weights(filtered, plain, resolution_px=N / SHELL)
    torch.testing.assert_close(torch.stack(weights).sum(0), torch.ones(N, N, N))
    expected = sum(weight * maps[0] for weight, maps in zip(weights, filtered, strict=True))
    local = regularise_locally(reconstruct, inverse_snr, resolution_px=N / SHELL)
    torch.testing.assert_close(local[0], expected, rtol=1e-5, atol=1e-5)


def test_noise_does_not_become_common_to_the_halves():
    """Filters chosen from both halves of pure noise must not make them alike."""
    reconstruct, inverse_snr = _halves(torch.zeros(N, N, N), 1.0)
    inverse_snr = torch.where(torch.arange(N // 2 + 1) <= SHELL, 1.0, torch.inf).double()
    local = regularise_locally(reconstruct, inverse_snr, resolution_px=N / SHELL)
    plain = reconstruct(inverse_snr)
    power = float(plain.square().mean())
    assert float(local.square().mean()) < 0.1 * power
    # two halves of N^3 independent voxels have a covariance of 0.4 % of their power by chance
    assert abs(float((local[0] * local[1]).mean())) < 0.01 * power
