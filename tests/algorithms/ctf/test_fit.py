"""The CTF is recovered from simulated micrographs, and bad ones are known as such."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.algorithms.thon import micrograph
from verglas.algorithms.ctf.fit import CtfFit, CtfFitConfig, fit_ctf

_REAL = Path(__file__).parents[4] / "shared/data/micrographs/apoferritin_EMPIAR-10146"
_README_DEFOCUS = {
    "May08_03.05.02": 19500, "May08_03.13.02": 21900, "May08_03.15.02": 22400,
    "May08_03.43.44": 20100, "May08_04.32.27": 16600, "May08_04.33.57": 16700,
    "May08_05.24.39": 16500, "May08_05.31.00": 22100, "May08_05.35.20": 24800,
    "May08_05.53.51": 19300, "May08_05.57.01": 21500, "May08_07.08.55": 16500,
    "May08_07.13.35": 19500,
}  # fmt: skip


def _fit(image, *, cs_mm=0.001, kv=300.0, pixel_size_angst=1.5, **config) -> CtfFit:
    return fit_ctf(
        torch.from_numpy(image),
        pixel_size_angst=pixel_size_angst,
        voltage_kv=kv,
        spherical_aberration_mm=cs_mm,
        amplitude_contrast=0.07,
        config=CtfFitConfig(**config),
    )


def _mean(fit: CtfFit) -> float:
    return 0.5 * (fit.defocus_u_angst + fit.defocus_v_angst)


@pytest.mark.parametrize("cs_mm", [0.001, 2.7])
@pytest.mark.parametrize(
    ("kv", "defocus"), [(300.0, 8000.0), (300.0, 21000.0), (200.0, 14000.0), (300.0, 38000.0)]
)
def test_defocus_is_found_within_50_angstrom(cs_mm, kv, defocus):
    """Ring height 0.15 of the background at 5 Å, 1024 x 1024 pixels of 1.5 Å."""
    image = micrograph(
        np.random.default_rng(1), defocus_angst=defocus, astigmatism_angst=500.0, cs_mm=cs_mm, kv=kv
    )
    fit = _fit(image, cs_mm=cs_mm, kv=kv)
    assert abs(_mean(fit) - defocus) < 50.0
    assert abs(_mean(fit) - defocus) < 4.0 * fit.defocus_error_angst
    assert abs(fit.defocus_u_angst - fit.defocus_v_angst - 500.0) < 150.0
    assert abs((fit.defocus_angle_deg - 50.0 + 90.0) % 180.0 - 90.0) < 10.0
    assert fit.has_rings
    assert fit.fit_res_angst < 6.0


def test_angle_runs_from_x_towards_increasing_row():
    image = micrograph(
        np.random.default_rng(2), defocus_angst=15000.0, astigmatism_angst=1500.0, angle_deg=30.0
    )
    fit = _fit(image)
    assert abs(fit.defocus_angle_deg - 30.0) < 3.0
    assert fit.defocus_u_angst > fit.defocus_v_angst


def test_phase_shift_is_searched_with_the_defocus():
    image = micrograph(np.random.default_rng(3), defocus_angst=12000.0, phase_deg=80.0)
    fit = _fit(image, max_phase_shift_deg=180.0)
    assert abs(fit.phase_shift_deg - 80.0) < 10.0
    assert abs(_mean(fit) - 12000.0) < 100.0


def test_fixed_phase_shift_is_taken_into_account():
    image = micrograph(np.random.default_rng(3), defocus_angst=12000.0, phase_deg=80.0)
    fit = _fit(image, min_phase_shift_deg=80.0, max_phase_shift_deg=80.0)
    assert fit.phase_shift_deg == pytest.approx(80.0)
    assert abs(_mean(fit) - 12000.0) < 50.0


@pytest.mark.parametrize("pixel_size_angst", [0.8, 2.4])
def test_pixel_size_does_not_matter(pixel_size_angst):
    image = micrograph(
        np.random.default_rng(4), defocus_angst=18000.0, pixel_size_angst=pixel_size_angst
    )
    fit = _fit(image, pixel_size_angst=pixel_size_angst)
    assert abs(_mean(fit) - 18000.0) < 100.0


def test_error_is_calibrated():
    """Root mean square of error over standard error of 5 images: 99.9 % range of chi-square."""
    rng = np.random.default_rng(5)
    pulls = []
    for defocus in rng.uniform(12000.0, 26000.0, 5):
        fit = _fit(micrograph(rng, defocus_angst=defocus, shape=(768, 768)))
        pulls.append((_mean(fit) - defocus) / fit.defocus_error_angst)
    assert 0.2 < math.sqrt(np.mean(np.square(pulls))) < 2.0


def test_noise_has_no_rings():
    image = np.random.default_rng(6).standard_normal((1024, 1024)).astype(np.float32)
    fit = _fit(image)
    assert not fit.has_rings
    assert fit.fit_res_angst == 30.0


def test_drift_is_measured_and_its_direction_found():
    image = micrograph(np.random.default_rng(7), defocus_angst=18000.0, drift_angst=12.0)
    still = micrograph(np.random.default_rng(7), defocus_angst=18000.0)
    fit = _fit(image)
    assert 8.0 < fit.drift_angst < 20.0
    assert min(fit.drift_angle_deg, 180.0 - fit.drift_angle_deg) < 15.0
    assert _fit(still).drift_angst < 5.0


@pytest.mark.parametrize("slope", [0.0, 0.3])
def test_slope_of_the_defocus_is_measured(slope):
    """Eight strips of stepwise defocus; 4 standard errors, which are below 0.08 Å per Å."""
    side, n = 960, 8
    strips = []
    for i in range(n):
        centre = ((i + 0.5) / n - 0.5) * side * 1.5
        image = micrograph(
            np.random.default_rng(12), defocus_angst=18000.0 + slope * centre, shape=(side, side)
        )
        strips.append(image[:, i * side // n : (i + 1) * side // n])
    fit = _fit(np.concatenate(strips, axis=1))
    assert fit.slope.error < 0.08
    assert abs(fit.slope.slope_x - slope) < 4.0 * fit.slope.error
    assert abs(fit.slope.slope_y) < 4.0 * fit.slope.error
    assert abs(_mean(fit) - 18000.0) < 50.0
    assert slope == 0.0 or fit.slope.slope_x > 3.0 * fit.slope.error


def test_wrong_spherical_aberration_is_noticed():
    image = micrograph(np.random.default_rng(8), defocus_angst=18000.0, cs_mm=2.7, snr=0.6)
    fit = _fit(image, cs_mm=0.001)
    assert abs(fit.aberration_fit_mm - 2.7) < 4.0 * fit.aberration_error_mm
    assert fit.aberration_fit_mm > 4.0 * fit.aberration_error_mm


def test_blank_margin_and_hot_pixels_do_not_matter():
    image = micrograph(np.random.default_rng(9), defocus_angst=20000.0)
    image[:, :120] = 0.0
    image[100:104, 500:504] = 1e4
    assert abs(_mean(_fit(image)) - 20000.0) < 60.0


def test_profile_and_picture_describe_the_fit():
    fit = _fit(micrograph(np.random.default_rng(10), defocus_angst=20000.0))
    n = len(fit.profile.radius_per_angst)
    assert len(fit.ctf2) == len(fit.background) == len(fit.profile.quality) == n
    assert fit.profile.quality[: n // 3].mean() > 0.9
    assert fit.picture.dtype == torch.uint8
    assert fit.picture.ndim == 2


def test_equal_images_give_equal_fits():
    image = micrograph(np.random.default_rng(11), defocus_angst=20000.0, shape=(600, 700))
    assert _fit(image).defocus_u_angst == _fit(image.copy()).defocus_u_angst


def test_small_image_is_refused():
    with pytest.raises(ValueError, match="at least 128"):
        _fit(np.zeros((64, 256), np.float32))


@pytest.mark.data
@pytest.mark.skipif(not _REAL.exists(), reason="needs the shared apoferritin images")
def test_real_apoferritin_fits_and_the_drifted_image_does_not():
    """README values are good to 500 Å; the default rejection limit is 10 Å."""
    mrcfile = pytest.importorskip("mrcfile")
    for name, defocus in _README_DEFOCUS.items():
        fit = _fit(mrcfile.read(_REAL / f"{name}_avg.mrc").astype(np.float32))
        assert abs(_mean(fit) - defocus) < 500.0, name
        assert fit.fit_res_angst < 7.0, name
        assert fit.fit_score > 0.8, name
    fit = _fit(mrcfile.read(_REAL / "May08_06.09.02_avg.mrc").astype(np.float32))
    assert not fit.has_rings
    assert fit.fit_res_angst > 10.0
