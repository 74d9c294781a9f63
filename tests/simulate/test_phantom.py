import numpy as np
import pytest
from scipy.spatial import cKDTree

from verglas.kernels.symmetry import symmetry_operators
from verglas.simulate.atoms import mass_kda, radius_angst
from verglas.simulate.peptide import add_side_chains, helix, strand
from verglas.simulate.phantom import apoferritin_like, make_phantom
from verglas.simulate.potential import potential_volume

SUBUNIT_ATOMS = 24


def test_helix_is_right_handed_with_the_pitch_of_proteins():
    ca = helix(30).backbone_angst[:, 1]
    rise = np.diff(ca[:, 2])
    turn = np.diff(np.unwrap(np.arctan2(ca[:, 1], ca[:, 0])))
    assert rise.mean() == pytest.approx(1.5, abs=0.06)
    assert np.rad2deg(turn.mean()) == pytest.approx(100, abs=2)  # positive along +z: right hand
    assert np.linalg.norm(ca[:, :2], axis=1).mean() == pytest.approx(2.3, abs=0.1)


def test_helix_oxygens_reach_the_nitrogen_four_residues_on():
    backbone = helix(20).backbone_angst
    distance = np.linalg.norm(backbone[:-4, 3] - backbone[4:, 0], axis=1)
    np.testing.assert_allclose(distance, 2.9, atol=0.25)


def test_strand_is_extended():
    ca = strand(12).backbone_angst[:, 1]
    assert np.diff(ca[:, 2]).mean() == pytest.approx(3.35, abs=0.1)


def test_residues_are_left_handed_amino_acids():
    # the chiral volume N . (C x CB) about CA is +2.5 Å^3 for L residues
    fold = helix(12)
    atoms = add_side_chains([fold], np.random.default_rng(3))
    side = atoms.positions_angst[len(fold.backbone_angst) * 4 :]
    volumes = []
    for n, ca, c, _ in fold.backbone_angst:
        distance = np.linalg.norm(side - ca, axis=1)
        if distance.min() < 1.6:
            volumes.append(np.dot(n - ca, np.cross(c - ca, side[distance.argmin()] - ca)))
    assert len(volumes) >= 8
    np.testing.assert_allclose(volumes, 2.5, atol=0.1)


def test_shell_has_the_size_and_radii_of_apoferritin(shell):
    radius = np.linalg.norm(shell.positions_angst, axis=1)
    assert 24000 < len(shell) < 28000
    assert np.percentile(radius, 1) > 38
    assert radius_angst(shell) < 66
    assert 300 < mass_kda(shell) < 420


def test_shell_atoms_are_symmetric_under_all_24_operators(shell):
    tree = cKDTree(shell.positions_angst)
    for operator in symmetry_operators("O").numpy():
        distance, _ = tree.query(shell.positions_angst @ operator.T)
        assert distance.max() < 1e-6


def test_shell_volume_is_symmetric(shell):
    volume = potential_volume(shell, box_px=65, pixel_size_angst=2.5)
    for turned in (volume.rot90(1, (1, 2)), volume.rot90(1, (0, 1)), volume.permute(1, 2, 0)):
        assert (turned - volume).abs().max() < 2e-3 * volume.abs().max()


def test_subunits_pack_without_falling_into_each_other(shell):
    unit, rest = np.split(shell.positions_angst, [len(shell) // SUBUNIT_ATOMS])
    distance, _ = cKDTree(rest).query(unit)
    assert (distance < 2.5).mean() < 0.03
    assert distance.min() > 0.8


def test_shell_is_hollow_and_as_dense_as_protein(shell):
    volume = potential_volume(shell, box_px=80, pixel_size_angst=2.0, resolution_angst=12.0)
    index = (np.mgrid[:80, :80, :80] - 40) * 2.0
    radius = np.sqrt((index**2).sum(0))
    density = volume.numpy()
    assert abs(density[radius < 25].mean()) < 0.1
    assert density[(radius > 46) & (radius < 57)].mean() > 1.5  # volt above ice


def test_asymmetric_complex_weighs_as_asked_and_has_no_axis(complex_atoms):
    assert 150 < mass_kda(complex_atoms) < 300
    assert radius_angst(complex_atoms) < 95
    lengths = np.sqrt(np.linalg.eigvalsh(np.cov(complex_atoms.positions_angst.T)))
    assert (np.diff(lengths) / lengths[1:] > 0.05).all()


def test_equal_seed_gives_equal_atoms_and_another_seed_others(shell):
    np.testing.assert_array_equal(apoferritin_like(0).positions_angst, shell.positions_angst)
    other = make_phantom("apoferritin", 1)
    n = min(len(other), len(shell))
    assert np.abs(other.positions_angst[:n] - shell.positions_angst[:n]).max() > 1
