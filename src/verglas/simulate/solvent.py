"""The ice that a molecule keeps out of its place, as a flat region with soft edges.

Crystallography describes water about a molecule in this way: everything that a probe of the
size of a water molecule cannot reach is free of it. Ice that is taken away atom by atom
(`scattering.form_factors`) has the right sum, but holes where atoms are far apart.
"""

import gemmi
import numpy as np
import torch
from torch import Tensor

from verglas.kernels.fourier import fourier_resize3, irfft3, next_fast_size, rfft3, rfft_grid
from verglas.simulate.atoms import Atoms
from verglas.simulate.scattering import (
    SOLVENT_B_ANGST2,
    VOLT_ANGST2,
    WATER_PER_ANGST3,
    water_amplitude_angst,
)

__all__ = ["displaced_ice"]

_GRID_ANGST = 0.75  # of the mask, which is then blurred by far more
_MOST_VOXELS = 400  # along an axis of the mask


def displaced_ice(atoms: Atoms, *, box_px: int, pixel_size_angst: float) -> Tensor:
    """Grid the potential of the ice that would be where the molecule is.

    Convention: as `potential.potential_volume`.

    Returns:
        `[box_px, box_px, box_px]`, volt; positive, to be subtracted from the atoms' potential.

    References:
        Jiang & Brunger 1994, J. Mol. Biol. 243:100: mask by probe and shrinking, edge by B factor.
    """
    mask = torch.from_numpy(_mask(atoms, box_px * pixel_size_angst))
    inside = fourier_resize3(mask[None], shape=(box_px,) * 3)
    frequency = torch.linalg.vector_norm(rfft_grid((box_px,) * 3, pixel_size_angst), dim=-1)
    soft_ft = rfft3(inside) * torch.exp(-SOLVENT_B_ANGST2 / 4 * frequency**2)
    water_volt = float(water_amplitude_angst(np.zeros(1))[0]) * WATER_PER_ANGST3 * VOLT_ANGST2
    return water_volt * irfft3(soft_ft, shape=(box_px,) * 3)[0]


def _mask(atoms: Atoms, side_angst: float) -> np.ndarray:
    """Return 1 where no water can be, on a fine grid whose middle voxel is the origin."""
    n = next_fast_size(min(max(8, int(side_angst / _GRID_ANGST)), _MOST_VOXELS))
    grid = gemmi.FloatGrid(n, n, n)
    grid.set_unit_cell(gemmi.UnitCell(side_angst, side_angst, side_angst, 90, 90, 90))
    grid.spacegroup = gemmi.SpaceGroup("P1")
    residue = gemmi.Residue()
    origin = (n // 2) * side_angst / n
    for place, number in zip(atoms.positions_angst + origin, atoms.atomic_number, strict=True):
        atom = gemmi.Atom()
        atom.element = gemmi.Element(int(number))
        atom.pos = gemmi.Position(*place)
        residue.add_atom(atom)
    chain, model = gemmi.Chain("A"), gemmi.Model(1)
    chain.add_residue(residue)
    model.add_chain(chain)
    gemmi.SolventMasker(gemmi.AtomicRadiiSet.Cctbx).put_mask_on_float_grid(grid, model)
    return np.ascontiguousarray(1 - np.array(grid, copy=False).transpose(2, 1, 0))
