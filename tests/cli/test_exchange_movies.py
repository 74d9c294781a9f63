"""Movies through the command line: simulated, to RELION, and back."""

from verglas.api.project import Project
from verglas.io.relion_movies import read_relion_movies

SMALL = ("--n-movies", "2", "--n-frames", "3", "--height-px", "64", "--width-px", "64")
SMALL += ("--pixel-size-angst", "8", "--particles-per-micrograph", "1", "--contamination", "0")


def test_simulated_movies_come_back_from_their_star_file(cli, tmp_path):
    answer = cli("simulate", "movies", "s", *SMALL, "--workers", "0", "--json")
    assert answer.code == 0, answer.err
    assert {"movies", "true_movies", "true_particles", "volume"} <= set(answer.json["files"])
    rows, optics = read_relion_movies(tmp_path / "s/movies.star")
    assert optics["pixel_size_angst"].to_list() == [8.0]
    assert all((tmp_path / "s" / path).is_file() for path in rows["image_path"])
    assert all((tmp_path / "s" / path).is_file() for path in rows["gain_path"])

    assert cli("new", "p").code == 0
    answer = cli("import", "s/movies.star", "-p", "p", "--workers", "0")
    assert answer.code == 0, answer.err
    with Project.open(tmp_path / "p") as project:
        data = project.dataset("d1")
        assert data.kind.id == "movies"
        back = data.rows(with_optics=True)
    assert back["n_frames"].to_list() == [3, 3]
    assert back["frame_dose_e_per_angst2"].to_list() == [2.5, 2.5]
    assert back["pixel_size_angst"].to_list() == [8.0, 8.0]
    assert data.path(back["gain_path"][0]).is_file()
