"""Read atomic models from mmCIF and PDB files.

The biological assembly is built from the operators in the file, since the specimen holds
the whole particle where the file often holds one chain. The parsing is gemmi's.
"""

from dataclasses import dataclass
from pathlib import Path

import gemmi
import numpy as np
from numpy.typing import NDArray

from verglas.core.errors import FormatError
from verglas.io._files import decoding, read_bytes

__all__ = ["Atoms", "read_atoms"]

_WHAT = "an mmCIF or PDB file"
_DEUTERIUM = 119  # gemmi's number; for scattering it is hydrogen
_MAX_ATOMS = 50_000_000


@dataclass(frozen=True)
class Atoms:
    """Atoms of one model.

    Attributes:
        positions_angst: `[n, 3]` float64, x, y, z.
        elements: `[n]` uint8, atomic numbers.
        b_factors_angst2: `[n]` float32.
        occupancies: `[n]` float32, 0 to 1; alternatives share one atom's.
        chains: `[n]` names; copies made by an operator carry a number.
    """

    positions_angst: NDArray[np.float64]
    elements: NDArray[np.uint8]
    b_factors_angst2: NDArray[np.float32]
    occupancies: NDArray[np.float32]
    chains: NDArray[np.str_]

    def __len__(self) -> int:
        return len(self.elements)


def read_atoms(
    path: Path,
    *,
    assembly: bool | str = True,
    hydrogens: bool = True,
    waters: bool = False,
) -> Atoms:
    """Read an atomic model, gzip allowed.

    Args:
        path: mmCIF or PDB file, told apart by content.
        assembly: True builds the first biological assembly where the file describes one,
            a name builds that one, False takes the atoms as they are in the file.
        hydrogens: keep the hydrogens that are in the file.
        waters: keep the water molecules.
    """
    data = read_bytes(path, _WHAT)
    with decoding(path, _WHAT):
        structure = _parse(data)
    if len(structure) == 0 or structure[0].count_atom_sites() == 0:
        raise FormatError(
            f"{str(path)!r} holds no atoms",
            "expected the ATOM records of a PDB file or the _atom_site table of mmCIF",
        )
    with decoding(path, _WHAT):
        while len(structure) > 1:
            del structure[-1]  # further models are alternatives of the first
        # operators name subchains, so these must still be there when they are applied
        _build_assembly(structure, assembly, path)
        if not waters:
            structure.remove_waters()
        if not hydrogens:
            structure.remove_hydrogens()
        atoms = _as_arrays(structure)
    if not len(atoms):
        raise FormatError(f"{str(path)!r} holds no atoms but waters or hydrogens")
    if not np.isfinite(atoms.positions_angst).all():
        raise FormatError(f"{str(path)!r} holds positions that are not numbers")
    if (atoms.elements == 0).any():
        raise FormatError(
            f"{str(path)!r} holds {int((atoms.elements == 0).sum())} atoms of unknown element",
            "fill in the element column, or remove these atoms",
        )
    return atoms


def _parse(data: bytes) -> gemmi.Structure:
    """Parse mmCIF if a line begins a data block, PDB otherwise."""
    text = data.decode("latin-1")
    if text.startswith("data_") or "\ndata_" in text:
        for block in gemmi.cif.read_string(text):
            if block.find_values("_atom_site.Cartn_x"):
                return gemmi.make_structure_from_block(block)
        return gemmi.Structure()
    return gemmi.read_pdb_string(text)


def _build_assembly(structure: gemmi.Structure, assembly: bool | str, path: Path) -> None:
    if assembly is False:
        return
    names = [entry.name for entry in structure.assemblies]
    if assembly is True:
        if not names:
            return
        assembly = names[0]
    if assembly not in names:
        raise FormatError(
            f"{str(path)!r} has no assembly {assembly!r}: got {', '.join(names) or 'none'}",
            "choose one of these, or take the atoms as they are with assembly=False",
        )
    chosen = structure.assemblies[names.index(assembly)]
    n_copies = sum(max(1, len(entry.operators)) for entry in chosen.generators)
    if structure[0].count_atom_sites() * n_copies > _MAX_ATOMS:
        raise FormatError(f"{str(path)!r} would make {n_copies} copies in assembly {assembly!r}")
    structure.transform_to_assembly(assembly, gemmi.HowToNameCopiedChain.AddNumber)


def _as_arrays(structure: gemmi.Structure) -> Atoms:
    flat = gemmi.FlatStructure(structure)
    elements = np.array(flat.elements, dtype=np.uint8)
    elements[elements == _DEUTERIUM] = 1
    names = np.ascontiguousarray(flat.chain_ids)
    return Atoms(
        positions_angst=np.array(flat.pos, dtype=np.float64),
        elements=elements,
        b_factors_angst2=np.array(flat.b_iso, dtype=np.float32),
        occupancies=np.array(flat.occ, dtype=np.float32),
        chains=names.view(f"S{names.shape[1]}")[:, 0].astype(np.str_) if len(names) else names,
    )
