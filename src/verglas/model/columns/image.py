"""Declare the columns of images."""

from verglas.model.column import FLOAT, INT, TEXT, Column

__all__ = ["IMAGE"]

IMAGE = (
    Column(
        "image_path",
        TEXT,
        "File of the image, relative to the project.",
        relion="rlnImageName",
        cryosparc="blob/path",
    ),
    Column(
        "image_slice",
        INT,
        "Index in a stack, from 0; 0 for a single image.",
        low=0,
        cryosparc="blob/idx",
    ),
    Column("image_height_px", INT, "Rows of the image.", low=1),
    Column("image_width_px", INT, "Columns of the image.", low=1),
    Column("thumbnail_path", TEXT, "Small picture of the image, PNG or JPEG."),
    Column("z_score", FLOAT, "Distance from the other images, in deviations.", low=0),
    Column("ssnr_db", FLOAT, "Signal inside of the particle over noise outside, in decibels."),
    Column("variance_ratio", FLOAT, "Variance inside of the particle over that outside.", low=0),
    Column(
        "masked_fraction",
        FLOAT,
        "Share of the image that is contaminated.",
        low=0,
        high=1,
    ),
    Column("dose_e_per_angst2", FLOAT, "Electron exposure of the image.", low=0),
    Column("background_mean", FLOAT, "Mean grey value outside the particle before normalising."),
    Column(
        "background_std",
        FLOAT,
        "Standard deviation outside the particle before normalising.",
        low=0,
    ),
    Column(
        "box_fill_fraction",
        FLOAT,
        "Share of the box that lay beyond the micrograph's border and was filled with noise.",
        low=0,
        high=1,
    ),
)
