"""Declare how the built-in kinds are shown."""

from verglas.model import (
    ATOMS,
    CLASSES2D,
    COORDINATES,
    CURVES,
    MASKS,
    MICROGRAPHS,
    MODELS,
    MOVIES,
    PARTICLES,
    VOLUMES,
)
from verglas.sdk.viewer import (
    Curve,
    Gallery,
    Histogram,
    Image,
    OrientationMap,
    Picks,
    Scatter,
    Slices,
    Table,
    Volume,
    viewer,
)

__all__ = [
    "ATOMS_VIEWER",
    "CLASSES_VIEWER",
    "CLASS_MAPS_VIEWER",
    "CONSENSUS_VIEWER",
    "COORDINATES_VIEWER",
    "CTF_VIEWER",
    "CURVES_VIEWER",
    "GAIN_VIEWER",
    "MASKS_VIEWER",
    "MICROGRAPHS_VIEWER",
    "MODELS_VIEWER",
    "MOTION_VIEWER",
    "MOVIES_VIEWER",
    "PARTICLES_VIEWER",
    "POSE2D_VIEWER",
    "POSE3D_VIEWER",
    "SCREENED_VIEWER",
    "VOLUMES_VIEWER",
]

MICROGRAPHS_VIEWER = viewer("micrographs.images", MICROGRAPHS, [Gallery(caption=("label",))])

MOTION_VIEWER = viewer(
    "micrographs.motion",
    MICROGRAPHS,
    [
        Image("motion_picture_path"),
        Image("motion_spectrum_path"),
        Histogram("travel_angst"),
        Histogram("largest_frame_shift_angst"),
        Histogram("local_motion_angst"),
        Scatter("travel_angst", "motion_error_angst"),
        Gallery(caption=("travel_angst",), sort_by="travel_angst"),
    ],
    needs=("frame_shifts",),
)

MOVIES_VIEWER = viewer(
    "movies.table",
    MOVIES,
    [
        Table(
            (
                "label",
                "n_frames",
                "first_frame",
                "last_frame",
                "frame_dose_e_per_angst2",
                "image_width_px",
                "image_height_px",
                "gain_path",
            ),
        ),
        Gallery("thumbnail_path", caption=("label",)),
        Histogram("n_frames"),
        Histogram("travel_angst"),
    ],
)

GAIN_VIEWER = viewer("movies.gain", MOVIES, [Image("gain_picture_path")], needs=("gain",))

CTF_VIEWER = viewer(
    "micrographs.ctf",
    MICROGRAPHS,
    [
        Image("spectrum_path"),
        Curve("profile_per_angst", ("profile_power", "profile_ctf2", "profile_score")),
        Scatter("defocus_u_angst", "fit_res_angst"),
        Histogram("fit_res_angst"),
        Gallery("spectrum_path", caption=("fit_res_angst",), sort_by="fit_res_angst"),
    ],
    needs=("ctf", "ctf_fit"),
)

CONSENSUS_VIEWER = viewer(
    "micrographs.ctf_consensus",
    MICROGRAPHS,
    [
        Histogram("agreement_res_angst"),
        Scatter("defocus_u_angst", "agreement_res_angst"),
        Scatter("defocus_u_angst", "defocus_v_angst"),
        Histogram("n_agreeing"),
        Gallery("spectrum_path", caption=("agreement_res_angst",), sort_by="agreement_res_angst"),
    ],
    needs=("ctf", "ctf_agreement", "image"),
)

COORDINATES_VIEWER = viewer("coordinates.picks", COORDINATES, [Picks(), Histogram("score")])

PARTICLES_VIEWER = viewer("particles.images", PARTICLES, [Gallery()])

SCREENED_VIEWER = viewer(
    "particles.screened",
    PARTICLES,
    [
        Histogram("z_score"),
        Histogram("ssnr_db"),
        Histogram("variance_ratio"),
        Scatter("ssnr_db", "z_score"),
    ],
    needs=("screening", "image"),
)

POSE2D_VIEWER = viewer(
    "particles.pose2d",
    PARTICLES,
    [Histogram("class_prob"), Scatter("shift_x_angst", "shift_y_angst")],
    needs=("pose2d",),
)

POSE3D_VIEWER = viewer(
    "particles.pose3d",
    PARTICLES,
    [
        OrientationMap(),
        Scatter("shift_x_angst", "shift_y_angst"),
        Histogram("n_significant"),
        Histogram("class_prob"),
        Histogram("angle_sd_deg"),
    ],
    needs=("pose3d", "image"),
)

CLASSES_VIEWER = viewer(
    "classes2d.averages",
    CLASSES2D,
    [Gallery(caption=("n_particles", "resolution_angst"), sort_by="n_particles")],
)

VOLUMES_VIEWER = viewer("volumes.map", VOLUMES, [Volume(), Slices()])

CLASS_MAPS_VIEWER = viewer(
    "volumes.classes",
    VOLUMES,
    [
        Table(("class_index", "n_particles", "class_fraction", "resolution_angst")),
        Volume(),
        Slices(),
    ],
    needs=("class_map",),
)

MASKS_VIEWER = viewer("masks.slices", MASKS, [Slices()])

CURVES_VIEWER = viewer("curves.lines", CURVES, [Curve("x_per_angst", ("y",), is_line_per_row=True)])

ATOMS_VIEWER = viewer("atoms.table", ATOMS, [Table(("label", "atoms_path"))])

MODELS_VIEWER = viewer(
    "models.table",
    MODELS,
    [
        Table(
            ("label", "n_trained", "n_held_out", "n_epochs", "start_recall", "held_out_recall"),
        )
    ],
)
