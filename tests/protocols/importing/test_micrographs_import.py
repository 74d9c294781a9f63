import numpy as np
import polars as pl
import pytest

from tests.protocols.fields_project import PIXEL, SHAPE, make_fields
from verglas.core.errors import ParamsError, UserError
from verglas.io.mrc import write_mrc
from verglas.protocols.importing.micrographs_import import ImportParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol


@pytest.fixture
def project(tmp_path):
    make_fields(tmp_path, 3, n_particles=2)
    return tmp_path


def _import(root, **params):
    ctx = LocalContext(root)
    return run(ctx, ImportParams(**params), Inputs()).micrographs, ctx


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.import"


@pytest.mark.parametrize(
    "files", [["data/*.mrc"], ["data"], [f"data/field_0{i}.mrc" for i in "012"]]
)
def test_patterns_folders_and_names_find_the_images(project, files):
    data, ctx = _import(project, files=files, voltage_kv=200.0)
    rows = data.rows(with_optics=True)
    assert rows["image_path"].to_list() == [f"data/field_0{i}.mrc" for i in range(3)]
    assert rows["label"].to_list() == [f"field_0{i}" for i in range(3)]
    assert rows["image_height_px"].unique().to_list() == [SHAPE[0]]
    assert rows["image_width_px"].unique().to_list() == [SHAPE[1]]
    assert rows["pixel_size_angst"].unique().to_list() == [PIXEL]
    assert rows["voltage_kv"].unique().to_list() == [200.0]
    assert not ctx.warnings
    assert not any((project / "jobs").rglob("*.mrc"))


def test_files_outside_the_project_are_linked_by_relative_path(project, tmp_path_factory):
    root = tmp_path_factory.mktemp("elsewhere")
    data, _ = _import(root, files=[str(project / "data/*.mrc")])
    for text in data.rows()["image_path"]:
        assert data.path(text).is_file()
        assert not text.startswith("/")


def test_unreadable_file_is_named_and_the_rest_imported(project, caplog):
    (project / "data/field_03.mrc").write_bytes(b"nonsense" * 300)
    (project / "data/field_04.mrc").write_bytes(b"")
    write_mrc(project / "data/field_05.mrc", np.zeros((4, 20, 20), np.float32), PIXEL)
    data, _ = _import(project, files=["data/*.mrc"])
    assert data.n_items == 3
    assert "field_03.mrc" in caplog.text
    assert "field_04.mrc" in caplog.text
    assert "holds 4 images, expected 1; is it a movie?" in caplog.text


def test_nothing_readable_is_an_error(tmp_path):
    (tmp_path / "a.mrc").write_bytes(b"nonsense" * 300)
    with pytest.raises(UserError, match="none of the 1 files"):
        _import(tmp_path, files=["a.mrc"])


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(ParamsError, match="nothing matches 'lost/"):
        _import(tmp_path, files=["lost/*.mrc"])


def test_contradicting_header_is_warned_of_and_the_parameter_used(project):
    data, ctx = _import(project, files=["data"], pixel_size_angst=1.5)
    assert data.optics["pixel_size_angst"].to_list() == [1.5]
    assert "3 of 3 headers give another pixel size, as 2.0000 Å" in ctx.warnings[0]


def test_pixel_sizes_of_headers_make_optics_groups(project):
    write_mrc(project / "data/other.mrc", np.ones((30, 30), np.float32), 3.0)
    data, ctx = _import(project, files=["data"])
    assert data.optics["pixel_size_angst"].to_list() == [PIXEL, 3.0]
    assert data.rows()["optics_group"].to_list() == [1, 1, 1, 2]
    assert "differ" in ctx.warnings[0]


def test_pixel_size_that_nobody_knows_is_asked_for(tmp_path):
    from verglas.io.images import write_png

    write_png(tmp_path / "a.png", np.arange(100, dtype=np.float32).reshape(10, 10))
    with pytest.raises(ParamsError, match="needs pixel_size_angst"):
        _import(tmp_path, files=["a.png"])
    assert _import(tmp_path, files=["a.png"], pixel_size_angst=1.0)[0].n_items == 1


STAR = """\
data_optics
loop_
_rlnOpticsGroup #1
_rlnOpticsGroupName #2
_rlnMicrographPixelSize #3
_rlnVoltage #4
_rlnSphericalAberration #5
1 one 2.0 300 2.7

data_micrographs
loop_
_rlnMicrographName #1
_rlnOpticsGroup #2
_rlnDefocusU #3
_rlnDefocusV #4
_rlnDefocusAngle #5
_rlnWonder #6
data/field_00.mrc 1 15100 14900 30 7
data/field_01.mrc 1 16100 15900 30 8
data/gone.mrc 1 17100 16900 30 9
"""


def test_star_file_brings_its_ctf(project):
    (project / "job").mkdir()
    (project / "job/micrographs.star").write_text(STAR)
    data, ctx = _import(project, files=["job/micrographs.star"])
    rows = data.rows(with_optics=True)
    assert rows["image_path"].to_list() == ["data/field_00.mrc", "data/field_01.mrc"]
    assert rows["defocus_u_angst"].to_list() == [15100.0, 16100.0]
    assert rows["amplitude_contrast"].to_list() == [0.1, 0.1]
    assert rows["x_rlnWonder"].to_list() == [7, 8]
    assert "ctf" in data.traits
    assert any("gone.mrc" in text for text in ctx.warnings)
    assert any("amplitude_contrast" in text for text in ctx.warnings)


def test_star_file_of_other_things_is_refused(project):
    text = STAR.replace("rlnMicrographName", "rlnImageName").replace(
        "MicrographPixel", "ImagePixel"
    )
    (project / "particles.star").write_text(text)
    with pytest.raises(UserError, match="holds particles, expected micrographs"):
        _import(project, files=["particles.star"])


def test_star_file_is_not_mixed_with_images(project):
    (project / "m.star").write_text(STAR)
    with pytest.raises(ParamsError, match="expected images or one STAR file"):
        _import(project, files=["m.star", "data"])


def test_paths_are_strings(project):
    assert _import(project, files=["data"])[0].rows().schema["image_path"] == pl.String
