"""Import of particles from STAR files."""

import numpy as np
import polars as pl
import pytest

from verglas.core.errors import FormatError
from verglas.io.mrc import write_mrc
from verglas.io.star import write_star
from verglas.protocols.importing.particles_import import ImportParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

OPTICS = {
    "rlnOpticsGroup": [1, 2],
    "rlnOpticsGroupName": ["a", "b"],
    "rlnVoltage": [300.0, 200.0],
    "rlnSphericalAberration": [2.7, 2.0],
    "rlnAmplitudeContrast": [0.1, 0.07],
    "rlnImagePixelSize": [2.0, 2.5],
    "rlnMicrographPixelSize": [1.0, 1.25],
    "rlnImageSize": [16, 16],
}
ROWS = {
    "rlnImageName": ["000002@Extract/s1.mrcs", "000001@Extract/s1.mrcs", "000001@Extract/s2.mrcs"],
    "rlnMicrographName": ["M/b.mrc", "M/b.mrc", "M/a.mrc"],
    "rlnCoordinateX": [10.0, 20.0, 30.0],
    "rlnCoordinateY": [1.0, 2.0, 3.0],
    "rlnOpticsGroup": [1, 1, 2],
    "rlnDefocusU": [10000.0, 10000.0, 20000.0],
    "rlnDefocusV": [9000.0, 9000.0, 19000.0],
    "rlnDefocusAngle": [10.0, 10.0, 20.0],
    "rlnAngleRot": [1.0, 2.0, 3.0],
    "rlnAngleTilt": [4.0, 5.0, 6.0],
    "rlnAnglePsi": [7.0, 8.0, 9.0],
    "rlnOriginXAngst": [0.5, -0.5, 0.0],
    "rlnOriginYAngst": [0.0, 1.5, 0.0],
    "rlnClassNumber": [1, 2, 1],
    "rlnRandomSubset": [1, 2, 1],
    "rlnBeamLuck": [0.1, 0.2, 0.3],
}


def write_project(root, *, n_images=2, shape=(16, 16), rows=ROWS, optics=OPTICS):
    """Write what RELION's folder has: two stacks and a table of three particles."""
    folder = root / "relion" / "Extract"
    folder.mkdir(parents=True)
    for name in ("s1", "s2"):
        images = np.zeros((n_images, *shape), np.float32)
        write_mrc(folder / f"{name}.mrcs", images, 2.0, is_stack=True)
    star = root / "relion" / "Refine3D" / "run_data.star"
    star.parent.mkdir()
    write_star(star, {"optics": pl.DataFrame(optics), "particles": pl.DataFrame(rows)})
    return "relion/Refine3D/run_data.star"


def import_particles(root, file, **params):
    context = LocalContext(root)
    return run(context, ImportParams(file=file, **params), Inputs()).particles


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "particles.import"


def test_everything_the_table_says_is_taken_over(tmp_path):
    data = import_particles(tmp_path, write_project(tmp_path))
    rows = data.rows(with_optics=True)
    assert {"ctf", "pose3d", "half_set", "coord2d", "optics", "pixels"} <= data.traits
    assert rows["image_path"].to_list()[0] == "relion/Extract/s1.mrcs"
    assert rows["image_slice"].to_list() == [1, 0, 0]
    assert rows["coord_x_angst"].to_list() == [10.0, 20.0, 37.5]
    assert rows["micrograph_path"].to_list() == [
        "relion/M/b.mrc",
        "relion/M/b.mrc",
        "relion/M/a.mrc",
    ]
    assert rows["micrograph_id"].to_list() == [0, 0, 1]
    assert rows["class_index"].to_list() == [0, 1, 0]
    assert rows["half_set"].to_list() == [1, 2, 1]
    assert rows["shift_y_angst"].to_list() == [0.0, 1.5, 0.0]
    assert rows["x_rlnBeamLuck"].to_list() == [0.1, 0.2, 0.3]
    assert rows["voltage_kv"].to_list() == [300.0, 300.0, 200.0]
    assert rows["box_px"].to_list() == [16, 16, 16]
    assert all(data.path(path).is_file() for path in rows["image_path"])


def test_box_is_taken_from_the_images_where_the_table_is_silent(tmp_path):
    optics = {name: values for name, values in OPTICS.items() if name != "rlnImageSize"}
    data = import_particles(tmp_path, write_project(tmp_path, optics=optics, shape=(24, 24)))
    assert data.optics["box_px"].to_list() == [24, 24]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_images": 1}, "the table asks for number 2"),
        ({"shape": (16, 18)}, "must hold square images: got 16 x 18"),
        ({"shape": (18, 18)}, "are 18 to 18 px: expected 16 px"),
        ({"rows": {**ROWS, "rlnImageName": ["1@no/where.mrcs"] * 3}}, "is not there in any folder"),
        (
            {"rows": {**ROWS, "rlnImageName": [*ROWS["rlnImageName"][:2], "1@Extract/s3.mrcs"]}},
            "1 of 2 image files are not there: Extract/s3.mrcs",
        ),
        (
            {"rows": {name: v for name, v in ROWS.items() if name != "rlnImageName"}},
            "holds coordinates: expected particles",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, message):
    file = write_project(tmp_path, **change)
    with pytest.raises(FormatError, match=message):
        import_particles(tmp_path, file)


def test_folder_can_be_given(tmp_path):
    file = write_project(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / file).rename(tmp_path / "elsewhere" / "x.star")
    with pytest.raises(FormatError, match="give the folder"):
        import_particles(tmp_path, "elsewhere/x.star")
    assert import_particles(tmp_path, "elsewhere/x.star", folder="relion").n_items == 3
