import numpy as np

from verglas.simulate.ice import ice_phase_power, stirring, structure_factor


def test_structure_factor_peaks_at_the_spacing_of_ice_and_tends_to_one():
    k = np.linspace(0, 1, 1001)
    factor = structure_factor(k)
    assert 1 / k[factor.argmax()] == np.clip(1 / k[factor.argmax()], 3.5, 3.9)
    assert factor[0] < 0.1
    assert abs(factor[-1] - 1) < 0.01


def test_stirring_is_the_mean_correlation_over_the_exposure():
    k, dose = 0.15, 30.0
    decay = 2 * np.pi**2 * k**2 / 3
    moments = (np.arange(1000) + 0.5) * dose / 1000
    mean = np.exp(-decay * np.abs(moments[:, None] - moments)).mean()
    np.testing.assert_allclose(stirring(np.array([k]), dose), mean, rtol=1e-3)


def test_stirring_leaves_low_frequencies_and_small_doses_alone():
    assert stirring(np.zeros(1), 50.0)[0] == 1
    assert stirring(np.array([0.2]), 1e-4)[0] > 0.9999
    steps = stirring(np.linspace(0, 0.5, 500), 40.0)
    assert (np.diff(steps) <= 0).all()


def test_power_grows_with_thickness_and_is_below_shot_noise_at_common_doses():
    k = np.array([0.05, 0.1, 0.2])
    thin, thick = (
        ice_phase_power(k, thickness_angst=t, voltage_kv=300.0, dose_e_per_angst2=40.0)
        for t in (200.0, 400.0)
    )
    np.testing.assert_allclose(thick, 2 * thin)
    # contrast power 4 phi^2, half of it left by the CTF, against the shot noise's 1/dose
    assert (2 * thick < 1 / 40).all()
    assert (2 * thick > 0.1 / 40).all()
