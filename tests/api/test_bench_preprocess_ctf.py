"""Estimators of the CTF are measured against micrographs whose CTF is known."""

import numpy as np
import polars as pl
import pytest

from tests.algorithms.thon import micrograph
from verglas.api.bench_preprocess_ctf import measure_ctf
from verglas.core.errors import UserError
from verglas.io.mrc import write_mrc


def test_errors_and_time_are_told_for_each_method(tmp_path):
    """One micrograph, SNR 2, 512 x 512 pixels of 2 Å, 15000 Å of defocus."""
    image = micrograph(
        np.random.default_rng(0),
        defocus_angst=15000.0,
        astigmatism_angst=400.0,
        cs_mm=2.7,
        snr=2.0,
        shape=(512, 512),
        pixel_size_angst=2.0,
    )
    write_mrc(tmp_path / "m.mrc", image, 2.0)
    truth = pl.DataFrame(
        {
            "image_path": ["m.mrc"],
            "image_slice": [0],
            "pixel_size_angst": [2.0],
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.7],
            "amplitude_contrast": [0.07],
            "defocus_u_angst": [15200.0],
            "defocus_v_angst": [14800.0],
            "defocus_angle_deg": [50.0],
        }
    )
    results = measure_ctf(truth, tmp_path, methods=("likelihood", "correlation"))
    assert [result.method for result in results] == ["likelihood", "correlation"]
    for result in results:
        assert result.n_micrographs == 1
        assert 0.0 < result.cpu_s < 10.0
        assert result.defocus_error_angst == result.worst_defocus_error_angst < 50.0
        assert result.astigmatism_error_angst < 100.0
        assert result.angle_error_deg < 10.0
        assert result.phase_shift_error_deg == 0.0


def test_micrographs_without_truth_are_refused(tmp_path):
    with pytest.raises(UserError, match="lack"):
        measure_ctf(pl.DataFrame({"image_path": ["m.mrc"]}), tmp_path)
