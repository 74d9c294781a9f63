import pytest

from verglas.core.units import ANGST_PER_MM, ANGST_PER_UM, UNITS, unit_of


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("defocus_u_angst", "Å"),
        ("x_per_angst", "1/Å"),
        ("b_factor_angst2", "Å²"),
        ("dose_e_per_angst2", "e/Å²"),
        ("angle_rot_deg", "°"),
        ("spherical_aberration_mm", "mm"),
        ("voltage_kv", "kV"),
        ("box_px", "px"),
        ("time_s", "s"),
        ("memory_gb", "GB"),
        ("beam_tilt_mrad", "mrad"),
    ],
)
def test_longest_suffix_gives_the_unit(name, symbol):
    assert unit_of(name).symbol == symbol


@pytest.mark.parametrize("name", ["score", "n_classes", "symmetry", "amplitude_contrast", "angst"])
def test_name_without_suffix_is_dimensionless(name):
    assert unit_of(name) is None


def test_every_suffix_reads_as_itself():
    assert [unit_of(f"value{suffix}").suffix for suffix in UNITS] == list(UNITS)


def test_factors_are_those_of_the_metre():
    assert ANGST_PER_MM == 1e-3 / 1e-10
    assert pytest.approx(1e-6 / 1e-10, rel=1e-12) == ANGST_PER_UM
