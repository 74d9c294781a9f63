import gemmi
import numpy as np
import pytest

from verglas.simulate.atoms import Atoms
from verglas.simulate.scattering import (
    basis_at,
    form_factors,
    interaction_rad_per_volt_angst,
    scattering_amplitude_angst,
)


def test_amplitude_agrees_with_gemmi_on_its_own_argument():
    k = np.linspace(0, 1, 7)
    ours = scattering_amplitude_angst(6, k)
    theirs = [gemmi.Element("C").c4322.calculate_sf(stol2=(x / 2) ** 2) for x in k]
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_interaction_constant_agrees_with_the_table():
    # Kirkland 2010, table 5.1 (sigma in rad/(kV Å)): 0.7288 at 200 kV, 0.6526 at 300 kV
    assert interaction_rad_per_volt_angst(200) * 1000 == pytest.approx(0.7288, rel=2e-4)
    assert interaction_rad_per_volt_angst(300) * 1000 == pytest.approx(0.6526, rel=2e-4)


@pytest.mark.parametrize("solvent", ["vacuum", "ice"])
def test_few_curves_stand_for_every_element_and_b_factor(few_atoms, solvent):
    factors = form_factors(few_atoms, max_frequency_per_angst=0.5, solvent=solvent)
    assert factors.coefficients.shape[1] <= 8
    k = np.linspace(0.0, 0.5, 33)
    ours = factors.coefficients.astype(float) @ basis_at(factors, k)
    pairs = zip(few_atoms.atomic_number, few_atoms.b_factor_angst2, strict=True)
    bare = np.array([scattering_amplitude_angst(z, k) * np.exp(-b * k**2 / 4) for z, b in pairs])
    if solvent == "vacuum":
        error = ours - bare * few_atoms.occupancy[:, None]
        rms = np.sqrt((bare**2).mean(0))
        assert np.sqrt((error**2).mean(0) / rms**2).max() < 2e-3
    else:
        assert (ours[:, 0] < bare[:, 0] * few_atoms.occupancy).all()


def test_protein_keeps_two_fifths_of_its_potential_in_ice(complex_atoms):
    # protein 7.0 to 7.7 V, ice 4.5 V (neutral atoms at their densities)
    totals = []
    for solvent in ("vacuum", "ice"):
        factors = form_factors(complex_atoms, max_frequency_per_angst=0.3, solvent=solvent)
        totals.append((factors.coefficients @ basis_at(factors, np.zeros(1))).sum())
    assert 0.3 < totals[1] / totals[0] < 0.55


def test_heavy_element_without_fit_is_named():
    with pytest.raises(ValueError, match="atomic number 99"):
        scattering_amplitude_angst(99, np.zeros(1))


def test_no_atoms_are_refused():
    with pytest.raises(ValueError, match="no atoms"):
        form_factors(Atoms.from_arrays(np.empty((0, 3)), 6), max_frequency_per_angst=0.3)


def test_atoms_refuse_columns_of_other_lengths():
    with pytest.raises(ValueError, match="atomic_number"):
        Atoms(np.zeros((2, 3)), np.zeros(3, np.int64), np.zeros(2), np.zeros(2))
