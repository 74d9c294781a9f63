"""Atoms for the protocols that need some: from a file, or made without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from verglas.model import VOLUMES, DataSet
from verglas.sdk import ArrayRef, Arrays, Context

if TYPE_CHECKING:
    from verglas.simulate.atoms import Atoms

__all__ = ["SPECIMEN_HELP", "as_atoms", "put_atoms", "read_model", "specimen_atoms", "true_volume"]

SPECIMEN_HELP = (
    "`apoferritin` (octahedral shell) and `asymmetric` (200 kDa) are made on the spot; anything "
    "else is the path of an mmCIF or PDB file, whose first assembly is built."
)
_SYMMETRY = {"apoferritin": "O", "asymmetric": "C1"}


def read_model(ctx: Context, path: str, *, assembly: bool = True) -> Atoms:
    """Read an atomic model as it lies in its file."""
    from verglas.io.atoms import read_atoms
    from verglas.simulate.atoms import Atoms

    found = read_atoms(ctx.path(path), assembly=assembly)
    return Atoms.from_arrays(
        found.positions_angst, found.elements, found.b_factors_angst2, found.occupancies
    )


def specimen_atoms(ctx: Context, specimen: str) -> tuple[Atoms, str | None]:
    """Give a specimen about its centre of mass, and its point group where it is known."""
    from verglas.simulate.atoms import centred
    from verglas.simulate.phantom import apoferritin_like, asymmetric_complex

    if specimen == "apoferritin":
        return apoferritin_like(), _SYMMETRY[specimen]
    if specimen == "asymmetric":
        return asymmetric_complex(), _SYMMETRY[specimen]
    return centred(read_model(ctx, specimen)), None


def put_atoms(ctx: Context, atoms: Atoms) -> ArrayRef:
    """Put atoms aside for the chunks."""
    return ctx.put(
        {
            "positions_angst": atoms.positions_angst,
            "atomic_number": atoms.atomic_number,
            "b_factor_angst2": atoms.b_factor_angst2,
            "occupancy": atoms.occupancy,
        }
    )


def as_atoms(arrays: Arrays) -> Atoms:
    """Take atoms that were put aside."""
    from verglas.simulate.atoms import Atoms

    return Atoms(**arrays)


def true_volume(
    ctx: Context,
    atoms: Atoms,
    *,
    box_px: int,
    pixel_size_angst: float,
    symmetry: str | None,
    scale: float = 1.0,
) -> DataSet:
    """Write the map of a specimen, in volts times `scale`, as a data set of one row."""
    from verglas.io.mrc import write_mrc
    from verglas.simulate.potential import potential_volume

    volume = potential_volume(atoms, box_px=box_px, pixel_size_angst=pixel_size_angst) * scale
    path = ctx.write_file(
        "volume.mrc", lambda to: write_mrc(to, volume.numpy(), pixel_size_angst, is_stack=False)
    )
    row = {"image_path": path, "optics_group": 1, "symmetry": symmetry}
    known = {name: [value] for name, value in row.items() if value is not None}
    optics = {"optics_group": [1], "pixel_size_angst": [pixel_size_angst], "box_px": [box_px]}
    return ctx.dataset(VOLUMES, pl.DataFrame(known), optics=pl.DataFrame(optics))
