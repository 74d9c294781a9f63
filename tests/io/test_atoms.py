import gzip

import gemmi
import numpy as np
import pytest
from scipy.spatial import cKDTree

from verglas.core.errors import FormatError
from verglas.io.atoms import read_atoms

from .samples import PDB


@pytest.fixture
def pdb(tmp_path):
    (tmp_path / "a.pdb").write_text(PDB)
    return tmp_path / "a.pdb"


def test_atoms_are_read_with_everything_the_scattering_needs(pdb):
    atoms = read_atoms(pdb, assembly=False)
    np.testing.assert_array_equal(atoms.positions_angst[:2], [[1, 2, 3], [2, 2.5, 3.5]])
    assert atoms.elements.tolist() == [7, 6, 1, 1]
    assert atoms.b_factors_angst2.tolist() == [10, 20, 30, 30]
    assert atoms.occupancies.tolist() == [1, 0.5, 1, 1]
    assert atoms.chains.tolist() == ["A"] * 4


def test_assembly_operators_are_applied(pdb):
    atoms = read_atoms(pdb)
    assert len(atoms) == 8
    np.testing.assert_allclose(atoms.positions_angst[4], [9, 18, 3])
    assert atoms.chains.tolist() == ["A1"] * 4 + ["A2"] * 4
    np.testing.assert_array_equal(read_atoms(pdb, assembly="1").elements, atoms.elements)


def test_unknown_assembly_is_refused_with_the_names(pdb):
    with pytest.raises(FormatError, match=r"has no assembly '7': got 1; choose one of these"):
        read_atoms(pdb, assembly="7")


def test_waters_and_hydrogens_are_chosen(pdb):
    assert read_atoms(pdb, assembly=False, hydrogens=False).elements.tolist() == [7, 6]
    assert read_atoms(pdb, assembly=False, waters=True).elements.tolist() == [7, 6, 1, 1, 8]


@pytest.mark.parametrize("name", ["a.cif", "a.cif.gz", "anything"])
def test_mmcif_is_told_by_its_content(pdb, name):
    structure = gemmi.read_structure(str(pdb))
    structure.setup_entities()
    text = structure.make_mmcif_document().as_string().encode()
    path = pdb.with_name(name)
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    np.testing.assert_array_equal(read_atoms(path).positions_angst, read_atoms(pdb).positions_angst)


def test_only_the_first_model_is_taken(tmp_path):
    atom = PDB.splitlines()[8]
    text = f"MODEL        1\n{atom}\nENDMDL\nMODEL        2\n{atom}\n{atom}\nENDMDL\nEND\n"
    (tmp_path / "a.pdb").write_text(text)
    assert len(read_atoms(tmp_path / "a.pdb")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty, expected an mmCIF or PDB file"),
        ("some text\n", "holds no atoms; expected the ATOM records"),
        ("data_x\n_cell.length_a 1\n", "holds no atoms"),
        ("data_x\nloop_\n_atom_site.Cartn_x\n", "holds no atoms"),
        ("data_x\nloop_\n_a\n_b\n1\n", "cannot be read as an mmCIF or PDB file"),
        (PDB.replace("           N", "          Xx"), "1 atoms of unknown element"),
    ],
)
def test_unsuitable_files_are_explained(tmp_path, text, message):
    (tmp_path / "a.cif").write_text(text)
    with pytest.raises(FormatError, match=message):
        read_atoms(tmp_path / "a.cif", assembly=False)


def test_missing_file_is_explained(tmp_path):
    with pytest.raises(FormatError, match="does not exist"):
        read_atoms(tmp_path / "none.pdb")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "n_atoms", "n_chains", "symmetry"),
    [
        ("7a4m.cif.gz", 73590, 24, "O"),
        ("6z6u.pdb.gz", 32618, 24, None),
        ("5ni1.cif.gz", 4555, 4, None),
        ("4v5d.cif.gz", 148020, 57, None),
    ],
)
def test_real_models_are_whole_particles(shared_data, name, n_atoms, n_chains, symmetry):
    atoms = read_atoms(shared_data / "models" / name)
    assert len(atoms) == n_atoms
    assert len(set(atoms.chains)) == n_chains
    if symmetry is None:
        return
    from verglas.kernels.symmetry import symmetry_operators  # loads torch

    centred = atoms.positions_angst - atoms.positions_angst.mean(axis=0)
    tree = cKDTree(centred)
    for operator in symmetry_operators(symmetry).numpy():
        distances, _ = tree.query(centred[::50] @ operator.T)
        assert distances.max() < 0.05
