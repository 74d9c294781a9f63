"""Declare the columns of alignments and classes."""

from verglas.model.column import FLOAT, INT, Column

__all__ = ["POSE"]

POSE = (
    Column(
        "angle_rot_deg",
        FLOAT,
        "First Euler angle, about z of the reference.",
        relion="rlnAngleRot",
        cryosparc="alignments3D/pose",
    ),
    Column(
        "angle_tilt_deg",
        FLOAT,
        "Second Euler angle, about the new y.",
        relion="rlnAngleTilt",
        cryosparc="alignments3D/pose",
    ),
    Column(
        "angle_psi_deg",
        FLOAT,
        "Third Euler angle, in the plane of the image.",
        relion="rlnAnglePsi",
        cryosparc="alignments2D/pose",
    ),
    Column(
        "shift_x_angst",
        FLOAT,
        "Shift that moves the image onto the reference, along x.",
        relion="rlnOriginXAngst",
        cryosparc="alignments3D/shift",
    ),
    Column(
        "shift_y_angst",
        FLOAT,
        "Shift that moves the image onto the reference, along y.",
        relion="rlnOriginYAngst",
        cryosparc="alignments3D/shift",
    ),
    Column(
        "half_set",
        INT,
        "Independent half that the particle belongs to for good, 1 or 2.",
        low=1,
        high=2,
        relion="rlnRandomSubset",
        cryosparc="alignments3D/split",
    ),
    Column(
        "class_index",
        INT,
        "Class of the particle, from 0.",
        low=0,
        relion="rlnClassNumber",
        cryosparc="alignments2D/class",
    ),
    Column(
        "class_prob",
        FLOAT,
        "Posterior probability of the class.",
        low=0,
        high=1,
        relion="rlnMaxValueProbDistribution",
        cryosparc="alignments2D/class_posterior",
    ),
    Column(
        "n_significant",
        INT,
        "Orientations and shifts that carry 99.9 % of the posterior.",
        low=0,
        relion="rlnNrOfSignificantSamples",
    ),
    Column(
        "n_effective_orientations",
        FLOAT,
        "Orientations that share the posterior: 1 / sum of the squared probabilities.",
        low=0,
    ),
    Column(
        "angle_sd_deg",
        FLOAT,
        "Standard deviation of the orientation, all three angles together.",
        low=0,
    ),
    Column(
        "shift_sd_angst",
        FLOAT,
        "Standard deviation of the shift, both directions together.",
        low=0,
    ),
    Column(
        "loglik",
        FLOAT,
        "Log-likelihood of the image under the model.",
        relion="rlnLogLikeliContribution",
    ),
    Column(
        "intensity_scale",
        FLOAT,
        "Grey-value scale of the image against the reference.",
        relion="rlnGroupScaleCorrection",
        cryosparc="alignments3D/alpha",
    ),
)
