"""Declare every column once: dtype, unit, meaning, range and foreign names.

A new column is added here first (docs/conventions.md, section 1). The unit is read from
the suffix of the name. The RELION name is the STAR label without its underscore; the
cryoSPARC name is the field of a `.cs` file. Values are converted in `verglas.io`.
"""

from dataclasses import dataclass

import polars as pl

from verglas.core.units import unit_of

__all__ = ["COLUMNS", "FOREIGN_PREFIX", "Column", "is_foreign"]

FOREIGN_PREFIX = "x_"
"""Columns of an import that nobody declared are kept under this prefix."""


@dataclass(frozen=True)
class Column:
    """One column of the tables of data sets.

    Attributes:
        name: with its unit suffix.
        dtype: as stored; narrower numbers are widened on writing.
        meaning: one sentence for people.
        low, high: valid range, both ends allowed; None leaves the side open.
        relion: STAR label without the underscore; empty where RELION has none.
        cryosparc: field of a `.cs` file; empty where cryoSPARC has none.
    """

    name: str
    dtype: pl.DataType
    meaning: str
    low: float | None = None
    high: float | None = None
    relion: str = ""
    cryosparc: str = ""

    @property
    def unit(self) -> str:
        """Give the symbol of the unit; empty for a dimensionless quantity."""
        unit = unit_of(self.name)
        return unit.symbol if unit else ""


def is_foreign(name: str) -> bool:
    """Say whether a column was kept from an import without being declared."""
    return name.startswith(FOREIGN_PREFIX)


_INT, _FLOAT, _TEXT = pl.Int64(), pl.Float64(), pl.String()
_FLOATS = pl.List(pl.Float64())

_ROW = (
    Column(
        "item_id",
        _INT,
        "Number of the row, unique in the data set; kept while the item is the same thing.",
        low=0,
        cryosparc="uid",
    ),
    Column("source_id", _INT, "Number of the row that this one was made from.", low=0),
    Column(
        "optics_group",
        _INT,
        "Row of the optics table with the constants of the microscope.",
        low=0,
        relion="rlnOpticsGroup",
        cryosparc="ctf/exp_group_id",
    ),
    Column("label", _TEXT, "Name of the row for people."),
    Column(
        "score",
        _FLOAT,
        "Figure of merit; larger is better.",
        relion="rlnAutopickFigureOfMerit",
        cryosparc="pick_stats/ncc_score",
    ),
)

_OPTICS = (
    Column(
        "pixel_size_angst",
        _FLOAT,
        "Pixel or voxel size of the image.",
        low=1e-3,
        high=1e4,
        relion="rlnImagePixelSize",
        cryosparc="blob/psize_A",
    ),
    Column(
        "micrograph_pixel_size_angst",
        _FLOAT,
        "Pixel size of the micrographs that the particles were cut from.",
        low=1e-3,
        high=1e4,
        relion="rlnMicrographPixelSize",
    ),
    Column(
        "voltage_kv",
        _FLOAT,
        "Acceleration voltage.",
        low=10,
        high=3000,
        relion="rlnVoltage",
        cryosparc="ctf/accel_kv",
    ),
    Column(
        "spherical_aberration_mm",
        _FLOAT,
        "Spherical aberration of the objective lens.",
        low=0,
        high=20,
        relion="rlnSphericalAberration",
        cryosparc="ctf/cs_mm",
    ),
    Column(
        "amplitude_contrast",
        _FLOAT,
        "Fraction of amplitude contrast.",
        low=0,
        high=1,
        relion="rlnAmplitudeContrast",
        cryosparc="ctf/amp_contrast",
    ),
    Column("box_px", _INT, "Side of the square or cubic image.", low=1, relion="rlnImageSize"),
    Column(
        "optics_name", _TEXT, "Name of the optics group for people.", relion="rlnOpticsGroupName"
    ),
    Column("beam_tilt_x_mrad", _FLOAT, "Tilt of the beam along x.", relion="rlnBeamTiltX"),
    Column("beam_tilt_y_mrad", _FLOAT, "Tilt of the beam along y.", relion="rlnBeamTiltY"),
    Column(
        "odd_zernike",
        _FLOATS,
        "Odd aberrations beside beam tilt: factors of Zernike polynomials in 1/Å, radians.",
        relion="rlnOddZernike",
    ),
    Column(
        "even_zernike",
        _FLOATS,
        "Even aberrations beside defocus and Cs: factors of Zernike polynomials in 1/Å, radians.",
        relion="rlnEvenZernike",
    ),
    *(
        Column(
            f"magnification_{i}{j}",
            _FLOAT,
            f"Element {i}, {j} of the matrix from frequencies of the image to those of the map.",
            low=-2,
            high=2,
            relion=f"rlnMagMat{i}{j}",
        )
        for i in (0, 1)
        for j in (0, 1)
    ),
)

_IMAGE = (
    Column(
        "image_path",
        _TEXT,
        "File of the image, relative to the project.",
        relion="rlnImageName",
        cryosparc="blob/path",
    ),
    Column(
        "image_slice",
        _INT,
        "Index in a stack, from 0; 0 for a single image.",
        low=0,
        cryosparc="blob/idx",
    ),
    Column("image_height_px", _INT, "Rows of the image.", low=1),
    Column("image_width_px", _INT, "Columns of the image.", low=1),
    Column("thumbnail_path", _TEXT, "Small picture of the image, PNG or JPEG."),
    Column("dose_e_per_angst2", _FLOAT, "Electron exposure of the image.", low=0),
    Column("background_mean", _FLOAT, "Mean grey value outside the particle before normalising."),
    Column(
        "background_std",
        _FLOAT,
        "Standard deviation outside the particle before normalising.",
        low=0,
    ),
    Column(
        "box_fill_fraction",
        _FLOAT,
        "Share of the box that lay beyond the micrograph's border and was filled with noise.",
        low=0,
        high=1,
    ),
)

_CTF = (
    Column(
        "defocus_u_angst",
        _FLOAT,
        "Larger defocus; underfocus is positive.",
        low=-2e5,
        high=5e5,
        relion="rlnDefocusU",
        cryosparc="ctf/df1_A",
    ),
    Column(
        "defocus_v_angst",
        _FLOAT,
        "Smaller defocus, across the direction of the larger.",
        low=-2e5,
        high=5e5,
        relion="rlnDefocusV",
        cryosparc="ctf/df2_A",
    ),
    Column(
        "defocus_angle_deg",
        _FLOAT,
        "Direction of the larger defocus, from +x towards +y.",
        low=-360,
        high=360,
        relion="rlnDefocusAngle",
        cryosparc="ctf/df_angle_rad",
    ),
    Column(
        "defocus_std_angst",
        _FLOAT,
        "Standard deviation of the defocus of a particle.",
        low=0,
    ),
    Column(
        "phase_shift_deg",
        _FLOAT,
        "Phase shift of a phase plate.",
        low=-360,
        high=360,
        relion="rlnPhaseShift",
        cryosparc="ctf/phase_shift_rad",
    ),
    Column(
        "b_factor_angst2",
        _FLOAT,
        "Fall-off of the signal as a B factor.",
        relion="rlnCtfBfactor",
        cryosparc="ctf/bfactor",
    ),
    Column(
        "fit_res_angst",
        _FLOAT,
        "Resolution to which the fitted Thon rings agree.",
        low=0,
        relion="rlnCtfMaxResolution",
        cryosparc="ctf_stats/ctf_fit_to_A",
    ),
    Column(
        "fit_score",
        _FLOAT,
        "Correlation of the fitted Thon rings with the spectrum.",
        low=-1,
        high=1,
        relion="rlnCtfFigureOfMerit",
        cryosparc="ctf_stats/cross_corr",
    ),
    Column("defocus_error_angst", _FLOAT, "Standard error of the mean defocus.", low=0),
    Column(
        "drift_angst",
        _FLOAT,
        "Motion during the exposure that explains weaker Thon rings in one direction.",
        low=0,
    ),
    Column("drift_angle_deg", _FLOAT, "Direction of that motion, from +x towards +y."),
    Column("defocus_slope_x", _FLOAT, "Change of the defocus per Å along x, from a tilt."),
    Column("defocus_slope_y", _FLOAT, "Change of the defocus per Å along y, from a tilt."),
    Column("defocus_slope_error", _FLOAT, "Standard error of either slope.", low=0),
    Column("ring_evidence", _FLOAT, "Log-likelihood of Thon rings against none, nats."),
    Column(
        "spherical_aberration_fit_mm", _FLOAT, "Spherical aberration that the Thon rings ask for."
    ),
    Column("spherical_aberration_error_mm", _FLOAT, "Standard error of that.", low=0),
    Column("spectrum_path", _TEXT, "Picture of the power spectrum beside the fit."),
    Column("profile_per_angst", _FLOATS, "Frequencies of the radial profile."),
    Column("profile_power", _FLOATS, "Radial power after taking the background away."),
    Column("profile_background", _FLOATS, "Background that was taken away from the power."),
    Column("profile_ctf2", _FLOATS, "Squared CTF of the fit along the radial profile."),
    Column("profile_score", _FLOATS, "Local agreement of fit and profile."),
)

_COORDINATE = (
    Column(
        "coord_x_angst",
        _FLOAT,
        "Position from the centre of the first pixel, along x.",
        relion="rlnCoordinateX",
        cryosparc="location/center_x_frac",
    ),
    Column(
        "coord_y_angst",
        _FLOAT,
        "Position from the centre of the first pixel, along y.",
        relion="rlnCoordinateY",
        cryosparc="location/center_y_frac",
    ),
    Column(
        "micrograph_path",
        _TEXT,
        "Micrograph in which the particle lies.",
        relion="rlnMicrographName",
        cryosparc="location/micrograph_path",
    ),
    Column(
        "micrograph_id",
        _INT,
        "`item_id` of the micrograph.",
        low=0,
        cryosparc="location/micrograph_uid",
    ),
    Column("diameter_angst", _FLOAT, "Diameter of the particle.", low=0),
)

_POSE = (
    Column(
        "angle_rot_deg",
        _FLOAT,
        "First Euler angle, about z of the reference.",
        relion="rlnAngleRot",
        cryosparc="alignments3D/pose",
    ),
    Column(
        "angle_tilt_deg",
        _FLOAT,
        "Second Euler angle, about the new y.",
        relion="rlnAngleTilt",
        cryosparc="alignments3D/pose",
    ),
    Column(
        "angle_psi_deg",
        _FLOAT,
        "Third Euler angle, in the plane of the image.",
        relion="rlnAnglePsi",
        cryosparc="alignments2D/pose",
    ),
    Column(
        "shift_x_angst",
        _FLOAT,
        "Shift that moves the image onto the reference, along x.",
        relion="rlnOriginXAngst",
        cryosparc="alignments3D/shift",
    ),
    Column(
        "shift_y_angst",
        _FLOAT,
        "Shift that moves the image onto the reference, along y.",
        relion="rlnOriginYAngst",
        cryosparc="alignments3D/shift",
    ),
    Column(
        "half_set",
        _INT,
        "Independent half that the particle belongs to for good, 1 or 2.",
        low=1,
        high=2,
        relion="rlnRandomSubset",
        cryosparc="alignments3D/split",
    ),
    Column(
        "class_index",
        _INT,
        "Class of the particle, from 0.",
        low=0,
        relion="rlnClassNumber",
        cryosparc="alignments2D/class",
    ),
    Column(
        "class_prob",
        _FLOAT,
        "Posterior probability of the class.",
        low=0,
        high=1,
        relion="rlnMaxValueProbDistribution",
        cryosparc="alignments2D/class_posterior",
    ),
    Column(
        "n_significant",
        _INT,
        "Orientations and shifts that carry 99.9 % of the posterior.",
        low=0,
        relion="rlnNrOfSignificantSamples",
    ),
    Column(
        "n_effective_orientations",
        _FLOAT,
        "Orientations that share the posterior: 1 / sum of the squared probabilities.",
        low=0,
    ),
    Column(
        "angle_sd_deg",
        _FLOAT,
        "Standard deviation of the orientation, all three angles together.",
        low=0,
    ),
    Column(
        "shift_sd_angst",
        _FLOAT,
        "Standard deviation of the shift, both directions together.",
        low=0,
    ),
    Column(
        "loglik",
        _FLOAT,
        "Log-likelihood of the image under the model.",
        relion="rlnLogLikeliContribution",
    ),
    Column(
        "intensity_scale",
        _FLOAT,
        "Grey-value scale of the image against the reference.",
        relion="rlnGroupScaleCorrection",
        cryosparc="alignments3D/alpha",
    ),
)

_VOLUME = (
    Column("half_map_1_path", _TEXT, "Map from half set 1, unfiltered."),
    Column("half_map_2_path", _TEXT, "Map from half set 2, unfiltered."),
    Column("mask_path", _TEXT, "Mask that belongs to the map, 0 to 1."),
    Column("atoms_path", _TEXT, "Atomic model, mmCIF or PDB."),
    Column(
        "symmetry",
        _TEXT,
        "Point group in the orientation of RELION, as C1, D7, O.",
        relion="rlnSymmetryGroup",
    ),
    Column(
        "resolution_angst",
        _FLOAT,
        "Resolution of the map or class average.",
        low=0,
        relion="rlnEstimatedResolution",
    ),
    Column("n_particles", _INT, "Particles in the map or class.", low=0),
    Column(
        "agreement",
        _FLOAT,
        "Mean shell correlation with a map from another random start, in the better hand.",
        low=-1,
        high=1,
    ),
    Column(
        "class_fraction",
        _FLOAT,
        "Fraction of the particles in the class.",
        low=0,
        high=1,
        relion="rlnClassDistribution",
    ),
    Column("threshold", _FLOAT, "Grey value of the surface."),
)

_CURVE = (
    Column("x_per_angst", _FLOATS, "Spatial frequencies of a curve."),
    Column("x", _FLOATS, "Abscissa of a curve that is not a spatial frequency."),
    Column("y", _FLOATS, "Values of a curve."),
    Column("x_label", _TEXT, "What the abscissa is, with its unit."),
    Column("y_label", _TEXT, "What the values are, with their unit."),
)

COLUMNS: dict[str, Column] = {
    column.name: column
    for column in (*_ROW, *_OPTICS, *_IMAGE, *_CTF, *_COORDINATE, *_POSE, *_VOLUME, *_CURVE)
}
"""Every declared column by name."""
