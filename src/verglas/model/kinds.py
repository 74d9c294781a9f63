"""Name the kinds of data sets: what a row is, and which traits it must have.

A kind is a word for people and for matching ports; what a protocol can use is decided by
traits. A plugin may declare further kinds with the same class.
"""

from dataclasses import dataclass
from typing import ClassVar

__all__ = [
    "ANY",
    "ATOMS",
    "CLASSES2D",
    "COORDINATES",
    "CURVES",
    "KINDS",
    "MASKS",
    "MICROGRAPHS",
    "MODELS",
    "MOVIES",
    "PARTICLES",
    "VOLUMES",
    "Kind",
]


@dataclass(frozen=True)
class Kind:
    """A kind of data set.

    Attributes:
        id: as written in `dataset.json`, plural.
        meaning: what a row is.
        required: traits that every data set of the kind has.
        optional: traits that protocols may add.
    """

    registry_category: ClassVar[str] = "kind"

    id: str
    meaning: str
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.id if self.id != "any" else "a data set of any kind"

    def takes(self, kind_id: str) -> bool:
        """Say whether a port of this kind takes data sets of a kind."""
        return self.id in ("any", kind_id)


ANY = Kind("any", "Rows of any kind.", ())
"""Of ports that take whatever there is; no data set is of this kind."""

MOVIES = Kind(
    "movies",
    "Frames of one field after another, as the detector gave them.",
    ("frames", "optics", "dose"),
    ("gain", "frame_shifts", "score"),
)
MICROGRAPHS = Kind(
    "micrographs",
    "Images of fields of particles in ice.",
    ("image", "optics"),
    ("ctf", "ctf_fit", "ctf_agreement", "half_images", "frame_shifts", "dose", "score"),
)
COORDINATES = Kind(
    "coordinates",
    "Positions of particles in micrographs.",
    ("coord2d",),
    ("score", "optics", "ctf"),
)
PARTICLES = Kind(
    "particles",
    "Images of single particles cut from micrographs.",
    ("image", "pixels"),
    ("optics", "ctf", "coord2d", "pose2d", "pose3d", "half_set", "class", "screening", "score"),
)
CLASSES2D = Kind(
    "classes2d", "Class averages of particle images.", ("image", "pixels"), ("score", "resolution")
)
VOLUMES = Kind(
    "volumes",
    "Maps in three dimensions.",
    ("image_file", "pixels"),
    ("half_maps", "mask", "resolution", "score", "class_map"),
)
MASKS = Kind(
    "masks", "Masks in three dimensions, 0 outside and 1 inside.", ("image_file", "pixels")
)
CURVES = Kind("curves", "Curves over spatial frequency, as Fourier shell correlations.", ("curve",))
ATOMS = Kind("atoms", "Atomic models.", ("atoms",))
MODELS = Kind(
    "models", "Trained networks: their weights, and how well they did.", ("weights",), ("score",)
)

KINDS: dict[str, Kind] = {
    kind.id: kind
    for kind in (
        MOVIES,
        MICROGRAPHS,
        COORDINATES,
        PARTICLES,
        CLASSES2D,
        VOLUMES,
        MASKS,
        CURVES,
        ATOMS,
        MODELS,
    )
}
"""Every built-in kind by id."""
