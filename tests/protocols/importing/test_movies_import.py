import numpy as np
import pytest
import tifffile

from tests.io.eer_files import draw_events
from verglas.core.errors import ParamsError, UserError
from verglas.io.eer import write_eer
from verglas.io.movies import open_movie
from verglas.io.mrc import write_mrc
from verglas.protocols.importing.movies_import import ImportParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

SHAPE = (24, 32)
PIXEL = 1.1


def _frames(n=5, seed=0, shape=SHAPE):
    return np.random.default_rng(seed).poisson(1.5, (n, *shape)).astype(np.uint8)


@pytest.fixture
def project(tmp_path):
    for i in range(3):
        write_mrc(tmp_path / f"data/m_{i}.mrc", _frames(seed=i), PIXEL, "int8", is_stack=True)
    return tmp_path


def _import(root, **params):
    ctx = LocalContext(root)
    given = {"files": ["data"], "frame_dose_e_per_angst2": 1.2} | params
    return run(ctx, ImportParams(**given), Inputs()).movies, ctx


def _eer(path, n_raw=30, shape=SHAPE):
    path.parent.mkdir(exist_ok=True)
    write_eer(path, [draw_events(shape, 40, seed) for seed in range(n_raw)], shape, PIXEL)


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "movies.import"


@pytest.mark.parametrize("files", [["data/*.mrc"], ["data"], [f"data/m_{i}.mrc" for i in "012"]])
def test_patterns_folders_and_names_find_the_movies(project, files):
    data, ctx = _import(project, files=files, voltage_kv=200.0)
    assert {"frames", "optics", "dose"} <= data.traits
    rows = data.rows(with_optics=True)
    assert rows["image_path"].to_list() == [f"data/m_{i}.mrc" for i in range(3)]
    for name, value in {
        "n_frames": 5,
        "first_frame": 0,
        "last_frame": 4,
        "image_height_px": SHAPE[0],
        "image_width_px": SHAPE[1],
        "frame_dose_e_per_angst2": 1.2,
        "pre_exposure_e_per_angst2": 0.0,
        "pixel_size_angst": PIXEL,
        "voltage_kv": 200.0,
    }.items():
        assert rows[name].unique().to_list() == [value], name
    assert not ctx.warnings
    assert not any((project / "jobs").rglob("*.mrc"))


def test_every_format_is_taken(project):
    with tifffile.TiffWriter(project / "data/t.tif") as writer:
        for frame in _frames():
            writer.write(frame, photometric="minisblack", contiguous=False, compression="lzw")
    _eer(project / "data/e.eer", 30)
    data, ctx = _import(project, pixel_size_angst=PIXEL, eer_frames_per_fraction=6)
    rows = data.rows()
    assert rows["label"].to_list() == ["e", "m_0", "m_1", "m_2", "t"]
    assert rows["n_frames"].to_list() == [5] * 5
    assert rows["eer_frames_per_fraction"].to_list() == [6, None, None, None, None]
    assert not ctx.warnings
    row = rows.row(0, named=True)
    with open_movie(
        data.path(row["image_path"]), eer_frames_per_fraction=row["eer_frames_per_fraction"]
    ) as movie:
        assert movie.n_frames == row["n_frames"]


def test_eer_gets_about_forty_frames_and_finer_pixels(tmp_path):
    for i in range(2):
        _eer(tmp_path / f"data/{i}.eer", 130)
    data, ctx = _import(tmp_path, eer_upsampling=2)
    rows = data.rows(with_optics=True)
    assert rows["n_frames"].to_list() == [43, 43]
    assert rows["eer_frames_per_fraction"].to_list() == [3, 3]
    assert rows["pixel_size_angst"][0] == pytest.approx(PIXEL / 2)
    assert rows["image_height_px"][0] == 2 * SHAPE[0]
    assert not ctx.warnings


def test_bad_movies_among_many_are_named_and_the_rest_imported(project, caplog):
    data = (project / "data/m_0.mrc").read_bytes()
    (project / "data/cut.mrc").write_bytes(data[: len(data) // 2])
    (project / "data/empty.mrc").touch()
    (project / "data/noise.tif").write_bytes(b"nonsense" * 100)
    write_mrc(project / "data/single.mrc", _frames(1)[0], PIXEL, "int8")
    movies, _ = _import(project)
    assert movies.rows()["label"].to_list() == ["m_0", "m_1", "m_2"]
    for name in ("cut.mrc", "empty.mrc", "noise.tif"):
        assert name in caplog.text
    assert "single.mrc holds 1 frame, expected a movie; is it a micrograph" in caplog.text


def test_nothing_readable_is_refused(tmp_path):
    write_mrc(tmp_path / "data/single.mrc", _frames(1)[0], PIXEL, "int8")
    with pytest.raises(UserError, match=r"none of the 1 files is a movie .* micrographs.import"):
        _import(tmp_path)
    with pytest.raises(ParamsError, match="nothing matches 'nowhere/"):
        _import(tmp_path, files=["nowhere/*.tif"])


def test_another_number_of_frames_is_named_and_kept(project):
    write_mrc(project / "data/short.mrc", _frames(3), PIXEL, "int8", is_stack=True)
    data, ctx = _import(project)
    assert dict(data.rows().select("label", "last_frame").iter_rows())["short"] == 2
    assert any(
        "1 of 4 movies have another number of frames than 5: short.mrc" in text
        for text in ctx.warnings
    )


def test_frame_ranges_are_kept_within_each_movie(project):
    write_mrc(project / "data/short.mrc", _frames(2), PIXEL, "int8", is_stack=True)
    data, ctx = _import(project, first_frame=2, last_frame=3)
    rows = data.rows()
    assert rows["label"].to_list() == ["m_0", "m_1", "m_2"]
    assert rows["first_frame"].unique().to_list() == [2]
    assert rows["last_frame"].unique().to_list() == [3]
    assert any("end before frame 2" in text and "short.mrc" in text for text in ctx.warnings)
    with pytest.raises(UserError, match="no movie has frames from 50 on"):
        _import(project, first_frame=50)
    with pytest.raises(ParamsError, match="last_frame must not be before"):
        ImportParams(files=["a"], first_frame=3, last_frame=2)


@pytest.mark.parametrize("dose", [None, 0.0])
def test_missing_exposure_is_a_warning(project, dose):
    data, ctx = _import(project, frame_dose_e_per_angst2=dose)
    assert data.rows()["frame_dose_e_per_angst2"].to_list() == [0.0] * 3
    assert any("cannot be weighted by damage" in text for text in ctx.warnings)


def test_exposure_of_a_whole_movie_is_asked_about(project):
    _, ctx = _import(project, frame_dose_e_per_angst2=50.0)
    assert any("is it that of a whole movie?" in text for text in ctx.warnings)


def test_headers_that_disagree_with_the_pixel_size_are_a_warning(project):
    data, ctx = _import(project, pixel_size_angst=1.3)
    assert data.optics["pixel_size_angst"].to_list() == [1.3]
    assert any("3 of 3 headers give another pixel size" in text for text in ctx.warnings)


def test_references_are_linked(project):
    write_mrc(project / "gain.mrc", np.ones(SHAPE, np.float32), PIXEL)
    write_mrc(project / "dark.mrc", np.zeros(SHAPE, np.float32), PIXEL)
    (project / "defects.txt").write_text("3 4 1 1\n")
    data, _ = _import(project, gain="gain.mrc", dark="dark.mrc", defects="defects.txt")
    assert "gain" in data.traits
    row = data.rows().row(0, named=True)
    assert (row["gain_path"], row["dark_path"], row["defects_path"]) == (
        "gain.mrc",
        "dark.mrc",
        "defects.txt",
    )


@pytest.mark.parametrize(
    ("shape", "advice"),
    [
        ((24, 30), "run movies.estimate_gain"),
        ((32, 24), "turned by 90 degrees; import without it and give it to movies.estimate_gain"),
    ],
)
def test_gain_of_the_wrong_size_is_refused_with_advice(project, shape, advice):
    write_mrc(project / "gain.mrc", np.ones(shape, np.float32), PIXEL)
    with pytest.raises(ParamsError, match=f"the frames of m_0.mrc 32 x 24.*{advice}"):
        _import(project, gain="gain.mrc")


def test_a_movie_is_no_gain_and_a_missing_gain_is_named(project):
    with pytest.raises(ParamsError, match="holds 5 images, expected one reference"):
        _import(project, gain="data/m_0.mrc")
    with pytest.raises(ParamsError, match=r"gain: .none\.mrc. does not exist"):
        _import(project, gain="none.mrc")


def test_gain_of_the_detector_fits_finer_eer_frames(tmp_path):
    _eer(tmp_path / "data/0.eer", 50)
    write_mrc(tmp_path / "gain.mrc", np.ones(SHAPE, np.float32), PIXEL)
    data, _ = _import(tmp_path, gain="gain.mrc", eer_upsampling=2)
    assert data.rows()["gain_path"].to_list() == ["gain.mrc"]


def test_some_movies_have_a_picture(project):
    for i in range(3, 15):
        write_mrc(project / f"data/m_{i}.mrc", _frames(seed=i), PIXEL, "int8", is_stack=True)
    data, _ = _import(project)
    pictures = data.rows()["thumbnail_path"].drop_nulls()
    assert len(pictures) == 6
    assert all(data.path(text).is_file() for text in pictures)


def test_odd_frames_are_told(project):
    frames = _frames().astype(np.float32)
    frames[2] = 7
    write_mrc(project / "data/flat.mrc", frames, PIXEL, is_stack=True)
    frames = _frames().astype(np.float32)
    path = project / "data/nan.mrc"
    write_mrc(path, frames, PIXEL, is_stack=True)
    values = np.frombuffer(path.read_bytes(), "<f4").copy()
    values[-10:] = np.nan
    path.write_bytes(values.tobytes())
    _, ctx = _import(project)
    assert any("flat.mrc" in text and "frame 2 are 7" in text for text in ctx.warnings)
    assert any("nan.mrc" in text and "10 pixels of frame 4" in text for text in ctx.warnings)


def test_damaged_pixels_of_a_movie_looked_into_are_told(project):
    path = project / "data/t.tif"
    with tifffile.TiffWriter(path) as writer:
        for frame in _frames():
            writer.write(frame, photometric="minisblack", contiguous=False, compression="zlib")
    data = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        at = file.pages[1].dataoffsets[0]
    data[at + 20 : at + 60] = b"\xff" * 40
    path.write_bytes(data)
    _, ctx = _import(project, pixel_size_angst=PIXEL)
    assert any("t.tif" in text and "cannot be decoded" in text for text in ctx.warnings)


def test_a_gain_that_is_applied_already_is_asked_about(project):
    write_mrc(project / "gain.mrc", np.ones(SHAPE, np.float32), PIXEL)
    _, ctx = _import(project, gain="gain.mrc")
    assert not ctx.warnings
    corrected = (_frames() * np.float32(1.07)).astype(np.float32)
    write_mrc(project / "data/corrected.mrc", corrected, PIXEL, is_stack=True)
    _, ctx = _import(project, gain="gain.mrc")
    assert any("is the gain applied already?" in text for text in ctx.warnings)


def test_optics_groups_follow_the_names(project):
    data, _ = _import(project, optics_group_pattern=r"m_([01])")
    rows = data.rows(with_optics=True)
    assert rows["optics_group"].to_list() == [1, 2, 3]
    assert rows["optics_name"].to_list() == ["0", "1", "other"]
    with pytest.raises(ParamsError, match="not a regular expression"):
        ImportParams(files=["a"], optics_group_pattern="(")
    with pytest.raises(ParamsError, match="no group in parentheses"):
        ImportParams(files=["a"], optics_group_pattern="abc")


STAR = """
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnMicrographOriginalPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
_rlnAmplitudeContrast #6
og1 1 1.1 300.0 0.01 0.07

data_movies

loop_
_rlnMicrographMovieName #1
_rlnOpticsGroup #2
data/m_0.mrc 1
data/m_1.mrc 1
data/gone.mrc 1
"""


def test_a_star_file_of_movies_brings_its_optics(project):
    (project / "movies.star").write_text(STAR)
    data, ctx = _import(project, files=["movies.star"], voltage_kv=120.0)
    rows = data.rows(with_optics=True)
    assert rows["label"].to_list() == ["m_0", "m_1"]
    assert rows["voltage_kv"].unique().to_list() == [300.0]
    assert rows["amplitude_contrast"].unique().to_list() == [0.07]
    assert rows["pixel_size_angst"].unique().to_list() == [1.1]
    assert rows["frame_dose_e_per_angst2"].unique().to_list() == [1.2]
    assert any("data/gone.mrc" in text and "does not exist" in text for text in ctx.warnings)


def test_a_star_file_without_optics_takes_the_parameters(project):
    text = "data_\n\nloop_\n_rlnMicrographMovieName #1\ndata/m_0.mrc\n"
    (project / "movies.star").write_text(text)
    data, ctx = _import(project, files=["movies.star"], voltage_kv=120.0)
    assert data.optics["voltage_kv"].to_list() == [120.0]
    assert data.optics["pixel_size_angst"][0] == pytest.approx(PIXEL)
    assert any("does not give voltage_kv" in text for text in ctx.warnings)


def test_a_star_file_of_something_else_is_refused(project):
    (project / "a.star").write_text("data_\n\nloop_\n_rlnMicrographName #1\na.mrc\n")
    with pytest.raises(UserError, match=r"holds no movies.*micrographs.import"):
        _import(project, files=["a.star"])


def test_files_that_changed_are_looked_at_again(project):
    _import(project)
    write_mrc(project / "data/m_0.mrc", _frames(7), PIXEL, "int8", is_stack=True)
    data, _ = _import(project)
    assert data.rows()["n_frames"].to_list() == [7, 5, 5]
