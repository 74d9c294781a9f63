"""Declare the columns of the contrast transfer function and its fit."""

from verglas.model.column import FLOAT, FLOATS, TEXT, Column

__all__ = ["CTF"]

CTF = (
    Column(
        "defocus_u_angst",
        FLOAT,
        "Larger defocus; underfocus is positive.",
        low=-2e5,
        high=5e5,
        relion="rlnDefocusU",
        cryosparc="ctf/df1_A",
    ),
    Column(
        "defocus_v_angst",
        FLOAT,
        "Smaller defocus, across the direction of the larger.",
        low=-2e5,
        high=5e5,
        relion="rlnDefocusV",
        cryosparc="ctf/df2_A",
    ),
    Column(
        "defocus_angle_deg",
        FLOAT,
        "Direction of the larger defocus, from +x towards +y.",
        low=-360,
        high=360,
        relion="rlnDefocusAngle",
        cryosparc="ctf/df_angle_rad",
    ),
    Column(
        "defocus_std_angst",
        FLOAT,
        "Standard deviation of the defocus of a particle.",
        low=0,
    ),
    Column(
        "phase_shift_deg",
        FLOAT,
        "Phase shift of a phase plate.",
        low=-360,
        high=360,
        relion="rlnPhaseShift",
        cryosparc="ctf/phase_shift_rad",
    ),
    Column(
        "b_factor_angst2",
        FLOAT,
        "Fall-off of the signal as a B factor.",
        relion="rlnCtfBfactor",
        cryosparc="ctf/bfactor",
    ),
    Column(
        "fit_res_angst",
        FLOAT,
        "Resolution to which the fitted Thon rings agree.",
        low=0,
        relion="rlnCtfMaxResolution",
        cryosparc="ctf_stats/ctf_fit_to_A",
    ),
    Column(
        "fit_score",
        FLOAT,
        "Correlation of the fitted Thon rings with the spectrum.",
        low=-1,
        high=1,
        relion="rlnCtfFigureOfMerit",
        cryosparc="ctf_stats/cross_corr",
    ),
    Column("defocus_error_angst", FLOAT, "Standard error of the mean defocus.", low=0),
    Column(
        "drift_angst",
        FLOAT,
        "Motion during the exposure that explains weaker Thon rings in one direction.",
        low=0,
    ),
    Column("drift_angle_deg", FLOAT, "Direction of that motion, from +x towards +y."),
    Column("defocus_slope_x", FLOAT, "Change of the defocus per Å along x, from a tilt."),
    Column("defocus_slope_y", FLOAT, "Change of the defocus per Å along y, from a tilt."),
    Column("defocus_slope_error", FLOAT, "Standard error of either slope.", low=0),
    Column("ring_evidence", FLOAT, "Log-likelihood of Thon rings against none, nats."),
    Column(
        "spherical_aberration_fit_mm", FLOAT, "Spherical aberration that the Thon rings ask for."
    ),
    Column("spherical_aberration_error_mm", FLOAT, "Standard error of that.", low=0),
    Column("spectrum_path", TEXT, "Picture of the power spectrum beside the fit."),
    Column("profile_per_angst", FLOATS, "Frequencies of the radial profile."),
    Column("profile_power", FLOATS, "Radial power after taking the background away."),
    Column("profile_background", FLOATS, "Background that was taken away from the power."),
    Column("profile_ctf2", FLOATS, "Squared CTF of the fit along the radial profile."),
    Column("profile_score", FLOATS, "Local agreement of fit and profile."),
)
