"""Specimens for the protocols: one that they make themselves, and a tiny file."""

from pathlib import Path

import pytest

from verglas.simulate.atoms import Atoms
from verglas.simulate.phantom import apoferritin_like

PDB = """\
ATOM      1  CA  ALA A   1       1.000   2.000   3.000  1.00 20.00           C
ATOM      2  N   ALA A   1      17.000   2.000   3.000  1.00 20.00           N
ATOM      3  O   ALA A   1       9.000  14.000   3.000  1.00 20.00           O
END
"""


@pytest.fixture(scope="session")
def shell() -> Atoms:
    return apoferritin_like()


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a folder with three atoms in `model.pdb`."""
    (tmp_path / "model.pdb").write_text(PDB)
    return tmp_path
