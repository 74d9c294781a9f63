"""Shell correlations with masks and their control."""

import numpy as np
import pytest
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map, with_noise
from tests.tolerance import F64, STAT, assert_close_to_peak
from verglas.algorithms.map_fsc import (
    FscConfig,
    MaskConfig,
    expected_truth_fsc,
    masked_fsc,
    randomise_phases,
    without_offset,
)
from verglas.kernels.fourier import rfft3
from verglas.kernels.fsc import shell_index
from verglas.kernels.masks import soft_sphere

BOX, PIXEL = 48, 2.0


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def halves(ratio, sigma_angst=3.0):
    truth = blob_map(asymmetric_points(), box=BOX, pixel_size_angst=PIXEL, sigma_angst=sigma_angst)
    return truth, *(with_noise(truth, ratio=ratio, seed=seed) for seed in (1, 2))


def noise_pair():
    return torch.randn(2, BOX, BOX, BOX, generator=generator(5))


def test_random_phases_keep_amplitudes_and_low_shells():
    truth, *_ = halves(0)
    changed = randomise_phases(truth, from_shell=8, generator=generator())
    before, after = rfft3(truth[None])[0], rfft3(changed[None])[0]
    assert_close_to_peak(after.abs(), before.abs())
    low = shell_index((BOX,) * 3) < 8
    assert_close_to_peak(after[low], before[low])
    high = ~low & (before.abs() > 1e-3)
    agreement = (after[high] * before[high].conj()).real / before[high].abs().square()
    standard_error = float(agreement.std()) / np.sqrt(agreement.numel() / 2)
    assert abs(float(agreement.mean())) < STAT * standard_error


def test_noise_under_a_tight_hard_mask_is_corrected_to_zero():
    # the hard ball of 6 voxels correlates with itself: that part must go
    first, second = noise_pair()
    mask = (soft_sphere(BOX, 6.0, 0.0) > 0.5).float()
    offset = 5.0
    fsc = masked_fsc(
        first + offset,
        second + offset,
        mask,
        pixel_size_angst=PIXEL,
        generator=generator(),
        config=FscConfig(n_random=5),
    )
    fine = slice(4, None)
    assert fsc.masked[fine].mean() > 0.3
    # shells of a 6 voxel ball hold few independent components
    assert abs(fsc.corrected[fine].mean()) < 0.1


def test_wide_soft_mask_leaves_noise_at_zero():
    first, second = noise_pair()
    mask = soft_sphere(BOX, 14.0, 8.0)
    fsc = masked_fsc(first, second, mask, pixel_size_angst=PIXEL, generator=generator())
    assert abs(fsc.masked[6:].mean()) < 0.05
    assert fsc.resolution_angst(fsc.corrected, 0.143) > 15


def test_half_map_curve_predicts_the_correlation_with_the_truth():
    # per voxel the noise is 3 x the signal's standard deviation
    truth, first, second = halves(3.0)
    mask = soft_sphere(BOX, 20.0, 4.0)
    fsc = masked_fsc(first, second, mask, pixel_size_angst=PIXEL, generator=generator())
    with_truth = masked_fsc(
        (first + second) / 2, truth, mask, pixel_size_angst=PIXEL, generator=generator()
    )
    used = (fsc.corrected > 0.143) & (torch.arange(BOX // 2 + 1) >= 3)
    predicted = expected_truth_fsc(fsc.corrected)[used]
    # 0.05 is the demand on whole reconstructions; single shells of this box scatter more
    assert (predicted - with_truth.masked[used]).abs().mean() < 0.05


def test_curve_is_left_alone_below_the_random_shell():
    _, first, second = halves(2.0)
    mask = soft_sphere(BOX, 20.0, 4.0)
    fsc = masked_fsc(first, second, mask, pixel_size_angst=PIXEL, generator=generator())
    start = fsc.random_from_shell + 2
    np.testing.assert_array_equal(fsc.corrected[:start], fsc.masked[:start])
    assert fsc.unmasked[fsc.random_from_shell] < 0.8


def test_equal_maps_correlate_everywhere_and_need_no_control():
    truth, *_ = halves(0)
    noisy = with_noise(truth, ratio=1.0)
    mask = soft_sphere(BOX, 20.0, 4.0)
    fsc = masked_fsc(noisy, noisy, mask, pixel_size_angst=PIXEL, generator=generator())
    np.testing.assert_allclose(fsc.corrected, 1.0, rtol=0, atol=1e-5)
    assert fsc.random_from_shell == BOX // 2 + 1
    assert fsc.resolution_angst(fsc.corrected, 0.143) == pytest.approx(2 * PIXEL)


def test_expected_truth_follows_the_formula():
    curve = torch.tensor([1.0, 0.5, 0.143, 0.0, -0.3], dtype=torch.float64)
    expected = [1.0, np.sqrt(2 / 3), np.sqrt(0.286 / 1.143), 0.0, 0.0]
    np.testing.assert_allclose(expected_truth_fsc(curve), expected, **F64)


def test_grey_value_of_the_solvent_is_taken_off_before_masking():
    truth, *_ = halves(0)
    mask = soft_sphere(BOX, 18.0, 4.0)
    assert_close_to_peak(without_offset(truth + 7.0, mask), without_offset(truth, mask), 1e-4)


def test_mask_covers_the_map_and_little_else():
    truth, noisy, _ = halves(1.0)
    mask = MaskConfig(low_pass_angst=12.0).build(noisy, pixel_size_angst=PIXEL)
    assert mask.shape == truth.shape
    assert float((truth * mask).sum() / truth.sum()) > 0.95
    assert float(mask.mean()) < 0.6


def test_maps_of_other_shapes_raise():
    with pytest.raises(ValueError, match="one shape"):
        masked_fsc(
            torch.zeros(4, 4, 4),
            torch.zeros(4, 4, 4),
            torch.zeros(6, 6, 6),
            pixel_size_angst=1.0,
            generator=generator(),
        )
