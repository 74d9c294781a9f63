"""Declare how the built-in kinds are shown."""

from verglas.model import (
    ATOMS,
    CLASSES2D,
    COORDINATES,
    CURVES,
    MASKS,
    MICROGRAPHS,
    MODELS,
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
    "COORDINATES_VIEWER",
    "CTF_VIEWER",
    "CURVES_VIEWER",
    "MASKS_VIEWER",
    "MICROGRAPHS_VIEWER",
    "MODELS_VIEWER",
    "PARTICLES_VIEWER",
    "POSE2D_VIEWER",
    "POSE3D_VIEWER",
    "VOLUMES_VIEWER",
]

MICROGRAPHS_VIEWER = viewer("micrographs.images", MICROGRAPHS, [Gallery(caption=("label",))])

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

COORDINATES_VIEWER = viewer("coordinates.picks", COORDINATES, [Picks(), Histogram("score")])

PARTICLES_VIEWER = viewer("particles.images", PARTICLES, [Gallery()])

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
    ],
    needs=("pose3d", "image"),
)

CLASSES_VIEWER = viewer(
    "classes2d.averages",
    CLASSES2D,
    [Gallery(caption=("n_particles", "resolution_angst"), sort_by="n_particles")],
)

VOLUMES_VIEWER = viewer("volumes.map", VOLUMES, [Volume(), Slices()])

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
