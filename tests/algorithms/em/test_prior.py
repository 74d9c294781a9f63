"""What is learnt between iterations: signal to noise, noise, scale."""

import pytest
import torch

from tests.tolerance import F32, F64, STAT, assert_exact
from verglas.algorithms.em.prior import (
    half_map_fsc,
    inverse_snr_of_fsc,
    last_shell_above,
    updated_envelope,
    updated_noise,
    updated_scale,
)
from verglas.kernels.masks import soft_sphere


def curve(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_inverse_snr_is_that_of_rosenthal_and_henderson():
    found = inverse_snr_of_fsc(curve(1, 0.9, 0.5, 0.2), radius=3)
    torch.testing.assert_close(found[1:], curve(0.1 / 0.9, 1, 4), **F64)
    assert found[0] == found[1]


def test_tau_multiplies_the_snr():
    plain = inverse_snr_of_fsc(curve(1, 0.9, 0.5, 0.2), radius=3)
    trusted = inverse_snr_of_fsc(curve(1, 0.9, 0.5, 0.2), radius=3, tau=4.0)
    torch.testing.assert_close(trusted, plain / 4, **F64)


def test_perfect_correlation_stays_finite():
    found = inverse_snr_of_fsc(torch.ones(4, dtype=torch.float64), radius=3)
    torch.testing.assert_close(found, torch.full((4,), 0.001 / 0.999, dtype=torch.float64), **F64)


@pytest.mark.parametrize("dead", [0.0, -0.4, 1e-4])
def test_nothing_is_believed_after_the_first_dead_shell(dead):
    found = inverse_snr_of_fsc(curve(1, 0.9, dead, 0.8), radius=5)
    assert torch.isfinite(found[:2]).all()
    assert torch.isinf(found[2:]).all()


def test_shells_beyond_the_curve_are_unknown_and_longer_curves_are_cut():
    assert torch.isinf(inverse_snr_of_fsc(curve(1, 0.9), radius=4)[2:]).all()
    assert len(inverse_snr_of_fsc(torch.ones(9, dtype=torch.float64), radius=4)) == 5


@pytest.mark.parametrize(
    ("values", "shell"),
    [
        ((1, 0.9, 0.5, 0.3, 0.1, 0.05), 3),
        ((1, 0.9, 0.5, 0.3, 0.2, 0.2), 5),  # never falls
        ((1, 0.9, 0.1, 0.3, 0.2, 0.0), 4),  # a single dip, then the end
        ((1, 0.9, 0.1, 0.1, 0.9, 0.9), 1),  # comes back too late
        ((1, 0.0, 0.0, 0.0, 0.0, 0.0), 1),  # shells 0 and 1 are not looked at
        ((1, 0.9, 0.5, 0.143, 0.1429, 0.0), 3),  # the threshold itself is above
    ],
)
def test_last_shell_is_before_the_first_lasting_fall(values, shell):
    assert last_shell_above(curve(*values), 0.143) == shell


def test_fsc_of_half_maps_is_that_inside_the_mask():
    generator = torch.Generator().manual_seed(0)
    n = 24
    mask = soft_sphere(n, 6.0, 3.0)
    signal = torch.randn(n, n, n, generator=generator) * mask
    noise = torch.randn(2, n, n, n, generator=generator) * (1 - mask).square()
    fsc = half_map_fsc(signal + noise, mask, n_shells=11)
    assert fsc.dtype == torch.float64
    assert fsc[2:].min() > 0.9
    unmasked = half_map_fsc(signal + noise, torch.ones(n, n, n), n_shells=11)
    assert unmasked[2:].mean() < fsc[2:].mean()


def residuals(true, counts, seed=0):
    """Summed half squared moduli of `counts` coefficients of variance `true` per component."""
    generator = torch.Generator().manual_seed(seed)
    gamma = torch._standard_gamma(counts.clone().double(), generator=generator)
    return true * gamma


def test_noise_of_large_groups_is_what_was_measured():
    true = torch.tensor([[1.0, 0.8, 0.6, 0.5], [3.0, 2.4, 1.8, 1.5]]).double()
    counts = torch.full((2, 4), 2e5).double()
    counts[:, 0] = 0
    found = updated_noise(residuals(true, counts.clamp_min(1)), counts, torch.ones(2, 6))
    assert ((found[:, 1:4] / true[:, 1:] - 1).abs() < STAT / 2e5**0.5 * 2).all()
    assert_exact(found[:, 0], found[:, 1])
    assert_exact(found[:, 4:], torch.ones(2, 2))


def test_noise_of_small_groups_leans_on_the_shape_of_all():
    shape = torch.tensor([1.0, 1.0, 0.5, 0.25]).double()
    counts = torch.tensor([[0.0, 1e5, 1e5, 1e5], [0.0, 4.0, 4.0, 4.0]]).double()
    errors = []
    for seed in range(40):
        true = torch.stack([shape, 2 * shape])
        found = updated_noise(
            residuals(true, counts.clamp_min(1e-3), seed), counts, torch.ones(2, 4)
        )
        errors.append(found[1, 1:] / true[1, 1:] - 1)
    spread = torch.stack(errors).double().square().mean().sqrt()
    # level from 12 coefficients: 29 %; by itself each shell would be known to 50 %
    assert spread < 0.35


def test_group_without_views_keeps_a_sensible_noise():
    power = torch.tensor([[0.0, 100.0, 50.0], [0.0, 0.0, 0.0]]).double()
    counts = torch.tensor([[0.0, 100.0, 100.0], [0.0, 0.0, 0.0]]).double()
    found = updated_noise(power, counts, torch.tensor([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]))
    torch.testing.assert_close(found[0, 1:], torch.tensor([1.0, 0.5]), **F32)
    assert_exact(found[1], torch.tensor([2.0, 2.0, 2.0]))


def test_scale_moves_to_where_the_images_are():
    found = updated_scale(
        torch.ones(3), torch.tensor([[1.0, 1.0], [0.5, 0.5], [0.0, 0.5]]), torch.full((3, 2), 0.5)
    )
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 0.5]), **F32)


def test_scale_has_geometric_mean_one_and_bounded_spread():
    cross = torch.tensor([[100.0], [1.0], [1.1], [0.9], [-3.0]])
    found = updated_scale(torch.full((5,), 2.0), cross, torch.ones(5, 1))
    assert float(found.log().mean()) == pytest.approx(0, abs=1e-6)
    assert float(found.max() / found.min()) <= 25.0 + 1e-4
    assert (found > 0).all()


def test_scale_of_a_group_without_views_stays_relative_to_the_others():
    found = updated_scale(
        torch.ones(3), torch.tensor([[1.0], [0.0], [1.0]]), torch.tensor([[1.0], [0.0], [1.0]])
    )
    torch.testing.assert_close(found, torch.ones(3), **F32)


EXTENT_ANGST = 200.0


def envelope_sums(scale, b_factor, *, energy):
    """Noise-free sums of groups whose signal has an envelope that was not yet modelled."""
    shells = torch.arange(41, dtype=torch.float64)
    quarter = (shells / EXTENT_ANGST).square() / 4
    power = torch.full((len(scale), 41), energy, dtype=torch.float64)
    return power * scale[:, None] * (-b_factor[:, None] * quarter).exp(), power


def test_envelope_of_each_group_is_found_against_the_mean():
    scale = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    b_factor = torch.tensor([-60.0, 0.0, 60.0], dtype=torch.float64)
    cross, power = envelope_sums(scale, b_factor, energy=1e4)
    found = updated_envelope(torch.ones(3), torch.zeros(3), cross, power, extent_angst=EXTENT_ANGST)
    torch.testing.assert_close(found[0].double(), scale, rtol=0.01, atol=0)
    torch.testing.assert_close(found[1].double(), b_factor, rtol=0, atol=1.0)
    # what is modelled already stays
    same = updated_envelope(*found, power, power, extent_angst=EXTENT_ANGST)
    torch.testing.assert_close(same[1], found[1], rtol=0, atol=1.0)


def test_envelope_of_groups_that_say_little_stays_near_the_mean():
    b_factor = torch.tensor([-300.0, 300.0], dtype=torch.float64)
    cross, power = envelope_sums(torch.ones(2).double(), b_factor, energy=1e-3)
    _, found = updated_envelope(
        torch.ones(2), torch.zeros(2), cross, power, extent_angst=EXTENT_ANGST
    )
    assert float(found.abs().max()) < 20
    empty = torch.zeros(2, 41, dtype=torch.float64)
    scale, found = updated_envelope(
        torch.ones(2), torch.zeros(2), empty, empty, extent_angst=EXTENT_ANGST
    )
    torch.testing.assert_close(scale, torch.ones(2), **F32)
    torch.testing.assert_close(found, torch.zeros(2), **F32)
