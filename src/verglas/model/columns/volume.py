"""Declare the columns of maps, masks and models."""

from verglas.model.column import FLOAT, INT, TEXT, Column

__all__ = ["VOLUME"]

VOLUME = (
    Column("half_map_1_path", TEXT, "Map from half set 1, unfiltered."),
    Column("half_map_2_path", TEXT, "Map from half set 2, unfiltered."),
    Column("mask_path", TEXT, "Mask that belongs to the map or the image, 0 to 1."),
    Column("atoms_path", TEXT, "Atomic model, mmCIF or PDB."),
    Column(
        "symmetry",
        TEXT,
        "Point group in the orientation of RELION, as C1, D7, O.",
        relion="rlnSymmetryGroup",
    ),
    Column(
        "resolution_angst",
        FLOAT,
        "Resolution of the map or class average.",
        low=0,
        relion="rlnEstimatedResolution",
    ),
    Column("n_particles", INT, "Particles in the map or class.", low=0),
    Column("class_fraction", FLOAT, "Share of all particles that are in the class.", low=0, high=1),
    Column(
        "agreement",
        FLOAT,
        "Mean shell correlation with a map from another random start, in the better hand.",
        low=-1,
        high=1,
    ),
    Column(
        "class_fraction",
        FLOAT,
        "Fraction of the particles in the class.",
        low=0,
        high=1,
        relion="rlnClassDistribution",
    ),
    Column("threshold", FLOAT, "Grey value of the surface."),
)
