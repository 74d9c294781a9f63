import pytest

from verglas.viewers.methods import MethodStep, write_methods


def _text(protocol, params, **ports):
    step = MethodStep(protocol, "A step", params=params, items_out=ports)
    (text,), _ = write_methods([step])
    return text


def test_an_import_says_how_movies_were_taken():
    params = {
        "voltage_kv": 300.0,
        "spherical_aberration_mm": 2.7,
        "pixel_size_angst": 0.83,
        "frame_dose_e_per_angst2": 1.1,
        "eer_frames_per_fraction": 20,
    }
    assert _text("movies.import", params, movies=("movies", 48)).endswith(
        "48 movies were imported, recorded at 300 kV with a spherical aberration of 2.7 mm and a "
        "pixel size of 0.83 Å, with an exposure of 1.1 e/Å² in each frame; 20 raw frames were "
        "summed to a frame."
    )


def test_simulated_movies_are_called_so():
    params = {"n_frames": 16, "frame_dose_e_per_angst2": 2.5}
    assert _text("movies.simulate", params, movies=("movies", 1)).endswith(
        "1 movie of 16 frames with known motion, radiation damage and detector was simulated at "
        "2.5 e/Å² in each frame."
    )


@pytest.mark.parametrize(
    ("reject_by", "expected"),
    [
        ("either", "moved more than 10 Å between two frames or travelled more than 45 Å"),
        ("both", "moved more than 10 Å between two frames and travelled more than 45 Å"),
        ("frame", "moved more than 10 Å between two frames"),
        ("travel", "travelled more than 45 Å in all"),
    ],
)
def test_the_rule_of_a_screen_is_stated(reject_by, expected):
    params = {
        "reject_by": reject_by,
        "max_frame_shift_angst": 10.0,
        "max_travel_angst": 45.0,
    }
    text = _text(
        "movies.screen_drift",
        params,
        accepted=("micrographs", 46),
        rejected=("micrographs", 2),
    )
    assert text.endswith(f"2 micrographs that {expected} were rejected, leaving 46.")
