"""Name the groups of columns that give a data set a property.

What a data set *has* is its traits: they follow from its columns, wherever these came
from. A column counts whether it is stored per row or per optics group.
"""

from collections.abc import Collection
from dataclasses import dataclass

__all__ = ["TRAITS", "Trait", "missing_columns", "traits_of"]


@dataclass(frozen=True)
class Trait:
    """A property of a data set.

    Attributes:
        name: what ports ask for.
        columns: all must be there.
        meaning: one sentence for people.
        made_by: ids of the protocols that add it, for advice in messages.
    """

    name: str
    columns: tuple[str, ...]
    meaning: str
    made_by: tuple[str, ...] = ()


TRAITS: dict[str, Trait] = {
    trait.name: trait
    for trait in (
        Trait(
            "image",
            ("image_path", "image_slice"),
            "Each row has a two-dimensional image.",
            ("micrographs.import", "particles.extract"),
        ),
        Trait(
            "image_file",
            ("image_path",),
            "Each row has an image file of its own, as a volume.",
            ("volumes.import", "volumes.from_atoms"),
        ),
        Trait(
            "pixels",
            ("optics_group", "pixel_size_angst"),
            "The pixel size is known.",
            ("micrographs.import", "volumes.import"),
        ),
        Trait(
            "optics",
            (
                "optics_group",
                "pixel_size_angst",
                "voltage_kv",
                "spherical_aberration_mm",
                "amplitude_contrast",
            ),
            "The constants of the microscope are known.",
            ("micrographs.import",),
        ),
        Trait(
            "frames",
            ("image_path", "n_frames", "first_frame", "last_frame"),
            "Each row is a movie.",
            ("movies.import",),
        ),
        Trait(
            "dose",
            ("frame_dose_e_per_angst2", "pre_exposure_e_per_angst2"),
            "The electron exposure of the frames is known.",
            ("movies.import",),
        ),
        Trait(
            "gain",
            ("gain_path",),
            "A gain reference belongs to the frames.",
            ("movies.import", "movies.estimate_gain"),
        ),
        Trait(
            "frame_shifts",
            ("frame_shift_x_angst", "frame_shift_y_angst", "travel_angst"),
            "The motion of the frames is known.",
            ("movies.align",),
        ),
        Trait(
            "half_images",
            ("odd_image_path", "even_image_path"),
            "Each image has two sums of independent frames.",
            ("movies.align",),
        ),
        Trait(
            "ctf",
            ("defocus_u_angst", "defocus_v_angst", "defocus_angle_deg", "phase_shift_deg"),
            "The defocus of each image is known.",
            ("micrographs.estimate_ctf",),
        ),
        Trait(
            "ctf_fit",
            ("fit_res_angst", "fit_score"),
            "The quality of the CTF fit is known.",
            ("micrographs.estimate_ctf",),
        ),
        Trait(
            "ctf_agreement",
            ("agreement_res_angst", "n_agreeing"),
            "Several estimates of the CTF were compared.",
            ("ctf.consensus",),
        ),
        Trait(
            "coord2d",
            ("coord_x_angst", "coord_y_angst", "micrograph_path", "micrograph_id"),
            "Each row has a position in a micrograph.",
            ("micrographs.pick_log", "coordinates.import"),
        ),
        Trait(
            "pose2d",
            ("class_index", "angle_psi_deg", "shift_x_angst", "shift_y_angst"),
            "Each image is aligned to a class average.",
            ("particles.classify_2d",),
        ),
        Trait(
            "pose3d",
            ("angle_rot_deg", "angle_tilt_deg", "angle_psi_deg", "shift_x_angst", "shift_y_angst"),
            "Each image is aligned to a volume.",
            ("particles.initial_volume", "particles.refine_3d"),
        ),
        Trait(
            "half_set",
            ("half_set",),
            "Each row belongs to one of two independent halves.",
            ("particles.refine_3d",),
        ),
        Trait(
            "class",
            ("class_index", "class_prob"),
            "Each row belongs to a class.",
            ("particles.classify_2d", "particles.classify_3d", "particles.initial_volume"),
        ),
        Trait(
            "score",
            ("score",),
            "Each row has a figure of merit.",
            ("micrographs.pick_log", "particles.classify_2d"),
        ),
        Trait(
            "screening",
            ("z_score", "ssnr_db", "variance_ratio"),
            "It is known how far each particle image stands out.",
            ("particles.screen",),
        ),
        Trait(
            "half_maps",
            ("half_map_1_path", "half_map_2_path"),
            "Each map has two maps from independent halves.",
            ("particles.refine_3d",),
        ),
        Trait(
            "class_map",
            ("class_index", "n_particles", "class_fraction"),
            "Each map is that of a class of particles.",
            ("particles.classify_3d",),
        ),
        Trait("mask", ("mask_path",), "Each map has a mask.", ("volumes.postprocess",)),
        Trait(
            "resolution",
            ("resolution_angst",),
            "The resolution is known.",
            ("volumes.postprocess", "particles.classify_2d"),
        ),
        Trait(
            "curve",
            ("label", "x_per_angst", "y"),
            "Each row is a curve over frequency.",
            ("volumes.postprocess", "volumes.fsc"),
        ),
        Trait(
            "weights",
            ("weights_path",),
            "Each row has the weights of a network.",
            ("micrographs.train_picker",),
        ),
        Trait("atoms", ("atoms_path",), "Each row has an atomic model.", ("volumes.from_atoms",)),
    )
}
"""Every trait by name."""


def traits_of(columns: Collection[str]) -> frozenset[str]:
    """List the traits that a set of columns gives."""
    return frozenset(
        trait.name for trait in TRAITS.values() if all(name in columns for name in trait.columns)
    )


def missing_columns(columns: Collection[str], needs: Collection[str]) -> dict[str, list[str]]:
    """List what is missing for some traits.

    Args:
        columns: that there are.
        needs: names of traits.

    Returns:
        For each trait that is not there, its missing columns.
    """
    missing = {
        need: [name for name in TRAITS[need].columns if name not in columns] for need in needs
    }
    return {need: names for need, names in missing.items() if names}
