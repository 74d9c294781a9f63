import polars as pl
import pytest

from verglas.core.errors import FormatError
from verglas.io.relion_movies import holds_movies, read_relion_movies, write_relion_movies

ROWS = pl.DataFrame(
    {
        "image_path": ["a.tif", "b.tif"],
        "optics_group": [1, 2],
        "frame_dose_e_per_angst2": [1.25, 1.5],
        "pre_exposure_e_per_angst2": [0.0, 0.5],
        "gain_path": ["gain.mrc", "gain.mrc"],
        "n_frames": [40, 40],
    }
)
OPTICS = pl.DataFrame(
    {
        "optics_group": [1, 2],
        "pixel_size_angst": [0.83, 1.1],
        "voltage_kv": [300.0, 200.0],
        "spherical_aberration_mm": [2.7, 2.0],
        "amplitude_contrast": [0.1, 0.07],
    }
)


def test_tables_survive_a_round_trip(tmp_path):
    write_relion_movies(tmp_path / "a.star", ROWS, OPTICS)
    assert holds_movies(tmp_path / "a.star")
    rows, optics = read_relion_movies(tmp_path / "a.star")
    assert rows.select(ROWS.drop("n_frames").columns).equals(ROWS.drop("n_frames"))
    assert optics.select(OPTICS.columns).equals(OPTICS)
    assert optics["optics_name"].to_list() == ["opticsGroup1", "opticsGroup2"]


def test_labels_nobody_declared_are_kept(tmp_path):
    text = "data_movies\n\nloop_\n_rlnMicrographMovieName\n_rlnMine\na.tif 3\n"
    (tmp_path / "a.star").write_text(text)
    rows, optics = read_relion_movies(tmp_path / "a.star")
    assert rows["x_rlnMine"].to_list() == [3]
    assert rows["optics_group"].to_list() == [1]
    assert optics.columns == ["optics_group"]


def test_aligned_micrographs_are_no_movies(tmp_path):
    text = "data_micrographs\n\nloop_\n_rlnMicrographName\n_rlnMicrographMovieName\na.mrc a.tif\n"
    (tmp_path / "a.star").write_text(text)
    assert not holds_movies(tmp_path / "a.star")
    with pytest.raises(FormatError, match=r"holds no movies: it lacks rlnMicrographMovieName"):
        read_relion_movies(tmp_path / "a.star")


def test_words_for_numbers_are_refused(tmp_path):
    text = "data_movies\n\nloop_\n_rlnMicrographMovieName\n_rlnOpticsGroup\na.tif one\n"
    (tmp_path / "a.star").write_text(text)
    with pytest.raises(FormatError, match="values of the wrong type"):
        read_relion_movies(tmp_path / "a.star")
