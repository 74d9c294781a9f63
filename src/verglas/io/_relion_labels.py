"""Name what RELION and Verglas call the same thing."""

from typing import Literal

from verglas.model.columns import COLUMNS

__all__ = ["DECIMALS", "PIXEL_SIZES", "PLAIN_OPTICS", "ForeignKind", "label_of", "plain_rows"]

ForeignKind = Literal["micrographs", "coordinates", "particles", "coordinates3d"]
# Same value on both sides; the labels are those of the column declarations.
_PLAIN_ROWS = (
    "optics_group",
    "defocus_u_angst",
    "defocus_v_angst",
    "defocus_angle_deg",
    "phase_shift_deg",
    "b_factor_angst2",
    "fit_res_angst",
    "fit_score",
    "angle_rot_deg",
    "angle_tilt_deg",
    "angle_psi_deg",
    "shift_x_angst",
    "shift_y_angst",
    "half_set",
    "class_prob",
    "n_significant",
    "loglik",
    "intensity_scale",
    "score",
)
PLAIN_OPTICS = (
    "optics_group",
    "optics_name",
    "voltage_kv",
    "spherical_aberration_mm",
    "amplitude_contrast",
    "beam_tilt_x_mrad",
    "beam_tilt_y_mrad",
    "odd_zernike",
    "even_zernike",
    "magnification_00",
    "magnification_01",
    "magnification_10",
    "magnification_11",
)
_NOT_FOR_MICROGRAPHS = ("score", "class_prob")
DECIMALS = 8  # after a change of unit; hides the rounding of the multiplication
# Columns of the optics table that rows are joined with.
PIXEL_SIZES = ("pixel_size_angst", "micrograph_pixel_size_angst")


def plain_rows(kind: ForeignKind) -> list[str]:
    """List the columns whose values are the same on both sides."""
    skipped = _NOT_FOR_MICROGRAPHS if kind == "micrographs" else ()
    return [name for name in _PLAIN_ROWS if name not in skipped]


def label_of(name: str) -> str:
    """Return RELION's label of a declared column."""
    return COLUMNS[name].relion
