"""The single-particle workflow from movies to class averages, as data.

Motion, then the CTF by four methods and what they agree on, then three pickers and what they
agree on: templates for the third come from a first, coarse classification. From the class
averages on the steps are those of `verglas.api.single_particle`.
"""

from verglas.api.steps import Step

__all__ = ["MOVIE_STEPS"]

_OPTICS = ("pixel_size_angst", "voltage_kv", "spherical_aberration_mm", "amplitude_contrast")
_METHODS = ("likelihood", "correlation", "equiphase", "parametric")
_DIAMETER = {"diameter_angst": "diameter_angst"}
_IMAGES = {"micrographs": "ctf.micrographs"}

_MOTION = (
    Step(
        "import",
        "movies.import",
        "take in the movies",
        takes={
            name: name for name in ("files", "frame_dose_e_per_angst2", "gain", "defects", *_OPTICS)
        },
        only=("real",),
    ),
    Step(
        "simulate",
        "movies.simulate",
        "make movies with known truth",
        takes={name: name for name in _OPTICS},
        only=("simulated",),
    ),
    Step(
        "gain",
        "movies.estimate_gain",
        "estimate the gain, and check how the reference lies",
        {"movies": "source.movies"},
    ),
    Step(
        "align",
        "movies.align",
        "align the frames, and add them by exposure",
        {"movies": "gain.movies"},
    ),
    Step(
        "screen_drift",
        "movies.screen_drift",
        "put micrographs aside that moved too far",
        {"micrographs": "align.micrographs"},
        advice="every micrograph moved too far: loosen the limits",
    ),
)

_CTF = (
    *(
        Step(
            f"ctf_{method}",
            "micrographs.estimate_ctf",
            f"fit the CTF by {method}",
            {"micrographs": "screen_drift.accepted"},
            params={"method": method},
            label=f"Estimate CTF by {method}",
        )
        for method in _METHODS
    ),
    Step(
        "ctf",
        "ctf.consensus",
        "compare the four, and put bad micrographs aside",
        {
            "micrographs": "screen_drift.accepted",
            "estimates": [f"ctf_{method}.micrographs" for method in _METHODS],
        },
        advice="every micrograph was rejected: check pixel size and voltage, or loosen the limits",
    ),
)

_PICKING = (
    Step("pick_log", "micrographs.pick_log", "find particles by their size", _IMAGES, _DIAMETER),
    Step(
        "pick_network",
        "micrographs.pick_network",
        "find particles by the network",
        _IMAGES,
        _DIAMETER,
        advice="no particles were found: check the diameter, and that protein is dark",
    ),
    Step(
        "first_extract",
        "particles.extract",
        "cut out what the network found, coarsely",
        {**_IMAGES, "coordinates": "pick_network.coordinates"},
        {**_DIAMETER, "box_angst": "box_angst", "output_px": "first_box_px"},
    ),
    Step(
        "first_classify",
        "particles.classify_2d",
        "average similar particles for templates",
        {"particles": "first_extract.particles"},
        {**_DIAMETER, "n_classes": "n_first_classes"},
    ),
    Step(
        "templates",
        "classes2d.select",
        "keep the good averages as templates",
        {"classes": "first_classify.classes", "particles": "first_classify.particles"},
        advice="no class average was good: look at them, and loosen the rule",
    ),
    Step(
        "pick_template",
        "micrographs.pick_template",
        "find particles by templates",
        {**_IMAGES, "classes": "templates.classes"},
        _DIAMETER,
    ),
    Step(
        "consensus",
        "coordinates.consensus",
        "keep what the pickers agree on",
        {
            **_IMAGES,
            "coordinates": [
                f"{name}.coordinates" for name in ("pick_log", "pick_network", "pick_template")
            ],
        },
        _DIAMETER,
    ),
    Step(
        "pick",
        "coordinates.clean",
        "take out what lies on carbon, ice and dirt",
        {**_IMAGES, "coordinates": "consensus.coordinates"},
        _DIAMETER,
        advice="everything lies on carbon or dirt: look at the masks, and loosen the limits",
    ),
)

_PARTICLES = (
    Step(
        "extract",
        "particles.extract",
        "cut the particles out",
        {**_IMAGES, "coordinates": "pick.coordinates"},
        {**_DIAMETER, "box_angst": "box_angst"},
        advice="every particle was at a border: check the diameter",
    ),
    Step(
        "screen",
        "particles.screen",
        "put images aside that stand out",
        {"particles": "extract.particles"},
        _DIAMETER,
    ),
    Step(
        "classify",
        "particles.classify_2d",
        "average similar particles",
        {"particles": "screen.particles"},
        {**_DIAMETER, "n_classes": "n_classes"},
    ),
    Step(
        "select",
        "classes2d.select",
        "keep the particles of good averages",
        {"classes": "classify.classes", "particles": "classify.particles"},
        advice="no class average was good: look at them, and loosen the rule",
    ),
)

MOVIE_STEPS = (*_MOTION, *_CTF, *_PICKING, *_PARTICLES)
"""From movies to the particles of good class averages."""
