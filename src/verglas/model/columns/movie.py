"""Declare the columns of movies and of what became of their frames."""

from verglas.model.column import FLOAT, FLOATS, INT, TEXT, Column

__all__ = ["MOVIE"]

MOVIE = (
    Column("n_frames", INT, "Frames of the movie, as they are read.", low=1),
    Column("first_frame", INT, "First frame that is used, from 0.", low=0),
    Column("last_frame", INT, "Last frame that is used, from 0.", low=0),
    Column(
        "frame_dose_e_per_angst2",
        FLOAT,
        "Electron exposure of one frame.",
        low=0,
        relion="rlnMicrographDoseRate",
    ),
    Column(
        "pre_exposure_e_per_angst2",
        FLOAT,
        "Electron exposure before the first frame.",
        low=0,
        relion="rlnMicrographPreExposure",
    ),
    Column(
        "gain_path",
        TEXT,
        "Gain reference, as it lies on the frames; frames are multiplied by it.",
        relion="rlnMicrographGainName",
    ),
    Column("dark_path", TEXT, "Dark reference; taken from the frames before the gain."),
    Column(
        "defects_path",
        TEXT,
        "Pixels to replace: a mask image or a text file of x, y, width, height in pixels.",
        relion="rlnMicrographDefectFile",
    ),
    Column("eer_frames_per_fraction", INT, "EER frames that are summed to one frame.", low=1),
    Column("eer_upsampling", INT, "Pixels that an EER pixel is read as, along each side.", low=1),
    Column(
        "frame_shift_x_angst",
        FLOATS,
        "Shift that moves each frame onto the reference, along x; the whole frame alike.",
    ),
    Column(
        "frame_shift_y_angst",
        FLOATS,
        "Shift that moves each frame onto the reference, along y; the whole frame alike.",
    ),
    Column("local_motion_path", TEXT, "Coefficients of the motion that changes over the image."),
    Column("travel_angst", FLOAT, "Length of the path of the whole frame.", low=0),
    Column("largest_frame_shift_angst", FLOAT, "Largest move between two frames in a row.", low=0),
    Column("motion_error_angst", FLOAT, "Standard error of a frame's shift.", low=0),
    Column("odd_image_path", TEXT, "Sum of the odd frames (first, third, ...)."),
    Column("even_image_path", TEXT, "Sum of the even frames (second, fourth, ...)."),
    Column("unweighted_image_path", TEXT, "Sum of the frames without dose weights."),
    Column("motion_picture_path", TEXT, "Picture of the path of the frames."),
    Column("motion_spectrum_path", TEXT, "Power spectrum before and after alignment, half each."),
    Column(
        "local_motion_angst",
        FLOAT,
        "Distance between the motion of places and that of the whole frame, at its last, RMS.",
        low=0,
    ),
    Column("motion_points", TEXT, "Control points of the local motion along x, y and time."),
    Column("n_defects", INT, "Pixels of a frame that were replaced by neighbours.", low=0),
    Column("gain_picture_path", TEXT, "Picture of gain, reference and what they differ by."),
    Column(
        "true_motion_path",
        TEXT,
        "Displacements of a simulated movie: those of a grid of places in every frame, as npz.",
    ),
    Column(
        "contamination_path",
        TEXT,
        "Mask of what covers the image: 0 clean, 1 carbon, 2 crystal, 3 aggregate, 4 no ice.",
    ),
)
