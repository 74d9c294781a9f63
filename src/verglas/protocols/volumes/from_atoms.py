"""Make a map from an atomic model.

The electrostatic potential in volts, from electron scattering factors, occupancies and B
factors, band-limited at the Nyquist frequency. The ice that the atoms displace is subtracted,
so that the contrast is that of a particle in ice. The first biological assembly in the file
is built unless told otherwise.
"""

from typing import Literal

import polars as pl

from verglas.model import VOLUMES, DataSet
from verglas.protocols._specimen import read_model
from verglas.sdk import Context, Params, Ports, param, port, protocol

__all__ = ["FromAtomsParams", "Inputs", "Outputs", "run"]

_MARGIN = 1.3  # box over diameter where the box is left to us


class FromAtomsParams(Params):
    """How to grid the model."""

    path: str = param(help="Atomic model, mmCIF or PDB, gzip allowed.")
    pixel_size_angst: float = param(1.0, gt=0, le=20, help="Edge of a voxel.")
    box_px: int | None = param(
        None, ge=8, le=2048, help="Side of the map; by itself 1.3 diameters of the model."
    )
    resolution_angst: float | None = param(
        None, gt=0, help="Soft low-pass at this resolution; none keeps all to Nyquist."
    )
    b_factor_angst2: float = param(0.0, ge=0, help="Added to the B factor of every atom.")
    centre: Literal["mass", "origin"] = param(
        "mass", help="What comes to the centre of the box: the mass of the model, or its origin."
    )
    assembly: Literal["biological", "file"] = param(
        "biological", help="Build the first biological assembly, or take the atoms in the file."
    )
    solvent: Literal["ice", "vacuum"] = param(
        "ice",
        advanced=True,
        help="What surrounds the atoms; the ice that they displace together is subtracted.",
    )
    symmetry: str = param("C1", help="Point group to record with the map, as C1, D7 or O.")


class Inputs(Ports):
    """None: the model is a file."""


class Outputs(Ports):
    """The map."""

    volume: DataSet = port(VOLUMES)


@protocol(
    "volumes.from_atoms",
    version=2,
    label="Map from atoms",
    citations=(
        "Peng et al. 1996, doi:10.1107/S0108767395014371",
        "Jiang & Brunger 1994, doi:10.1006/jmbi.1994.1633",
        "Barnett et al. 2019, doi:10.1137/18M120885X",
    ),
)
def run(ctx: Context, params: FromAtomsParams, inputs: Inputs) -> Outputs:
    """Grid the atoms and write one map."""
    from verglas.core.errors import ParamsError
    from verglas.io.mrc import write_mrc
    from verglas.kernels.fourier import next_fast_size
    from verglas.kernels.point_groups import parse_symmetry
    from verglas.simulate.atoms import centred, mass_kda, radius_angst
    from verglas.simulate.potential import potential_volume

    try:
        symmetry = parse_symmetry(params.symmetry)
    except ValueError as error:
        raise ParamsError(f"volumes.from_atoms: {error}") from error
    atoms = read_model(ctx, params.path, assembly=params.assembly == "biological")
    if params.centre == "mass":
        atoms = centred(atoms)
    pixel, diameter = params.pixel_size_angst, 2 * radius_angst(atoms)
    box = params.box_px or next_fast_size(max(8, int(_MARGIN * diameter / pixel)))
    if diameter > box * pixel:
        ctx.warn(f"model of {diameter:.0f} Å is larger than the box of {box * pixel:.0f} Å")
    volume = potential_volume(
        atoms,
        box_px=box,
        pixel_size_angst=pixel,
        resolution_angst=params.resolution_angst,
        b_factor_angst2=params.b_factor_angst2,
        solvent="bulk" if params.solvent == "ice" else "vacuum",
    ).numpy()
    path = ctx.write_file("volume.mrc", lambda to: write_mrc(to, volume, pixel, is_stack=False))
    for name, value in (("diameter_angst", diameter), ("mass_kda", mass_kda(atoms))):
        ctx.metric(name, round(value, 1))
    row = {
        "image_path": path,
        "optics_group": 1,
        "symmetry": symmetry,
        "atoms_path": ctx.relative(ctx.path(params.path)),
    }
    limit = {"resolution_angst": params.resolution_angst} if params.resolution_angst else {}
    optics = {"optics_group": 1, "pixel_size_angst": pixel, "box_px": box}
    return Outputs(
        volume=ctx.dataset(VOLUMES, pl.DataFrame([row | limit]), optics=pl.DataFrame([optics]))
    )
