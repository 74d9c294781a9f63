"""Declare the constants of the microscope, one row per optics group."""

from verglas.model.column import FLOAT, FLOATS, INT, TEXT, Column

__all__ = ["OPTICS"]

OPTICS = (
    Column(
        "pixel_size_angst",
        FLOAT,
        "Pixel or voxel size of the image.",
        low=1e-3,
        high=1e4,
        relion="rlnImagePixelSize",
        cryosparc="blob/psize_A",
    ),
    Column(
        "micrograph_pixel_size_angst",
        FLOAT,
        "Pixel size of the micrographs that the particles were cut from.",
        low=1e-3,
        high=1e4,
        relion="rlnMicrographPixelSize",
    ),
    Column(
        "voltage_kv",
        FLOAT,
        "Acceleration voltage.",
        low=10,
        high=3000,
        relion="rlnVoltage",
        cryosparc="ctf/accel_kv",
    ),
    Column(
        "spherical_aberration_mm",
        FLOAT,
        "Spherical aberration of the objective lens.",
        low=0,
        high=20,
        relion="rlnSphericalAberration",
        cryosparc="ctf/cs_mm",
    ),
    Column(
        "amplitude_contrast",
        FLOAT,
        "Fraction of amplitude contrast.",
        low=0,
        high=1,
        relion="rlnAmplitudeContrast",
        cryosparc="ctf/amp_contrast",
    ),
    Column("box_px", INT, "Side of the square or cubic image.", low=1, relion="rlnImageSize"),
    Column(
        "optics_name", TEXT, "Name of the optics group for people.", relion="rlnOpticsGroupName"
    ),
    Column("beam_tilt_x_mrad", FLOAT, "Tilt of the beam along x.", relion="rlnBeamTiltX"),
    Column("beam_tilt_y_mrad", FLOAT, "Tilt of the beam along y.", relion="rlnBeamTiltY"),
    Column(
        "odd_zernike",
        FLOATS,
        "Odd aberrations beside beam tilt: factors of Zernike polynomials in 1/Å, radians.",
        relion="rlnOddZernike",
    ),
    Column(
        "even_zernike",
        FLOATS,
        "Even aberrations beside defocus and Cs: factors of Zernike polynomials in 1/Å, radians.",
        relion="rlnEvenZernike",
    ),
    *(
        Column(
            f"magnification_{i}{j}",
            FLOAT,
            f"Element {i}, {j} of the matrix from frequencies of the image to those of the map.",
            low=-2,
            high=2,
            relion=f"rlnMagMat{i}{j}",
        )
        for i in (0, 1)
        for j in (0, 1)
    ),
)
