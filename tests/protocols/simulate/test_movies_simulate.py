import numpy as np
import pytest

from tests.protocols.simulate.conftest import PDB
from verglas.core.errors import ParamsError
from verglas.io.images import open_images
from verglas.io.movies import open_movie
from verglas.protocols.simulate.movies_simulate import Inputs, SimulateParams, _config, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume
from verglas.simulate.movie import (
    detector_of,
    draw_movie,
    prepare_movie_renderer,
    render_frames,
)

SMALL = SimulateParams(
    specimen="model.pdb",
    n_movies=2,
    n_frames=3,
    height_px=96,
    width_px=128,
    pixel_size_angst=4.0,
    particles_per_micrograph=6,
    ice_thickness_angst=75.0,
    bad_pixels=1e-3,
    contamination=1.0,
    seed=1,
)


@pytest.fixture
def outputs(project):
    return run(LocalContext(project), SMALL, Inputs())


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "movies.simulate"


@pytest.mark.parametrize("form", ["tiff", "mrc", "eer"])
def test_files_hold_the_frames_of_the_function(tmp_path, few_atoms, project, form):
    changed = {"form": form, "n_movies": 1, "eer_frames_per_fraction": 40}
    params = SMALL.model_copy(update=changed | {"frame_dose_e_per_angst2": 0.5})
    outputs = run(LocalContext(project), params, Inputs())
    row = outputs.movies.rows().row(0, named=True)
    config = _config(params)
    truth = draw_movie(config, 0, _diameter(few_atoms))
    renderer = prepare_movie_renderer(few_atoms, config)
    expected = list(render_frames(renderer, config, truth, detector_of(config)))
    with open_movie(
        outputs.movies.path(row["image_path"]),
        eer_frames_per_fraction=row.get("eer_frames_per_fraction"),
    ) as movie:
        assert movie.form == form
        assert movie.n_frames == row["n_frames"] == 3
        assert movie.pixel_size_angst == pytest.approx(4.0)
        for index in range(3):
            frame = movie.frame(index).astype(int)
            if form == "eer":  # of 7 electrons on a pixel 7 * 6 / 2 / 40 fall together
                assert frame.sum() == pytest.approx(expected[index].sum(), rel=0.15)
                assert np.corrcoef(frame.ravel(), expected[index].ravel())[0, 1] > 0.9
            else:
                np.testing.assert_array_equal(frame, expected[index])


def _diameter(atoms):
    from verglas.simulate.atoms import radius_angst

    return 2 * radius_angst(atoms)


@pytest.fixture
def few_atoms(project):
    from verglas.protocols._specimen import specimen_atoms

    return specimen_atoms(LocalContext(project), "model.pdb")[0]


def test_only_the_truth_knows_motion_and_defocus(outputs):
    assert {"frames", "dose", "gain", "optics"} <= outputs.movies.traits
    assert not {"ctf", "frame_shifts"} & outputs.movies.traits
    assert {"ctf", "frame_shifts", "gain"} <= outputs.true_movies.traits
    assert "contamination_path" not in outputs.movies.columns


def test_references_and_masks_fit_the_frames(outputs):
    row = outputs.true_movies.rows().row(0, named=True)
    gain = open_images(outputs.movies.path(row["gain_path"])).read_all()[0]
    assert gain.shape == (96, 128)
    assert (gain == 0).sum() == round(96 * 128 * 1e-3 / 3)
    mask = open_images(outputs.movies.path(row["contamination_path"])).read_all()[0]
    assert mask.shape == (96, 128)
    assert mask.max() <= 4
    lines = outputs.movies.path(row["defects_path"]).read_text().splitlines()
    assert len(lines) == 1 + round(96 * 128 * 1e-3 / 3) + round(96 * 128 * 2e-3 / 3)


def test_the_motion_file_is_what_the_table_says(outputs):
    row = outputs.true_movies.rows().row(1, named=True)
    with np.load(outputs.movies.path(row["true_motion_path"])) as truth:
        np.testing.assert_allclose(-truth["whole_angst"][:, 0], row["frame_shift_x_angst"])
        assert truth["displacement_angst"].shape == (3, 2, 16, 16)


def test_particles_point_to_their_movie(outputs):
    paths = dict(outputs.movies.rows().select("item_id", "image_path").iter_rows())
    for data in (outputs.true_particles, outputs.contaminated_particles):
        rows = data.rows()
        assert rows["item_id"].is_unique().all()
        for micrograph_id, path in rows.select("micrograph_id", "micrograph_path").iter_rows():
            assert paths[micrograph_id] == path


def test_resumed_run_equals_one_in_one_go(tmp_path):
    def make_inputs(root):
        (root / "model.pdb").write_text(PDB)
        return Inputs()

    check_resume(run, make_inputs, SMALL, tmp_path)


def test_wrong_parameters_are_refused():
    with pytest.raises(ParamsError, match="defocus_min_angst must not exceed"):
        SimulateParams(defocus_min_angst=3e4)
    with pytest.raises(ParamsError, match="multiples of 4"):
        SimulateParams(form="eer", height_px=102)
