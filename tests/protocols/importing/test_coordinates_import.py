import pytest

from tests.protocols.fields_project import PIXEL, SHAPE, micrographs_of, true_ctf
from verglas.core.errors import FormatError, ParamsError, UserError
from verglas.protocols.importing.coordinates_import import CoordinatesParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol


def _import(root, files, **params):
    ctx = LocalContext(root)
    inputs = Inputs(micrographs=micrographs_of(root, 3, **true_ctf(3)))
    data = run(ctx, CoordinatesParams(files=files, **params), inputs).coordinates
    return data, ctx


def _write(root, name, text):
    (root / name).write_text(text)
    return [name]


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "coordinates.import"


def test_one_table_for_all_micrographs(tmp_path):
    files = _write(
        tmp_path,
        "picks.csv",
        "micrograph,x,y,ncc\nfield_01.mrc,10,20,0.5\nelsewhere/field_00.tif,30.5,40,0.25\n",
    )
    data, ctx = _import(tmp_path, files, diameter_angst=120.0)
    rows = data.rows()
    assert rows["micrograph_id"].to_list() == [1, 0]
    assert rows["coord_x_angst"].to_list() == [20.0, 61.0]
    assert rows["coord_y_angst"].to_list() == [40.0, 80.0]
    assert rows["score"].to_list() == [0.5, 0.25]
    assert rows["micrograph_path"].to_list() == ["data/field_01.mrc", "data/field_00.mrc"]
    assert rows["diameter_angst"].to_list() == [120.0, 120.0]
    assert rows["defocus_u_angst"].to_list() == [16150.0, 15150.0]
    assert not ctx.warnings


@pytest.mark.parametrize(
    "text",
    [
        "x,y\n10,20\n",
        "X-Coordinate,Y-Coordinate,Diameter\n10,20,99\n",
        "10 20\n",
        "# a\n10\t20\t7\n",
    ],
)
def test_one_file_for_each_micrograph(tmp_path, text):
    _write(tmp_path, "field_02_picks.txt", text)
    _write(tmp_path, "field_00.txt", text)
    data, _ = _import(tmp_path, ["field_*.txt"])
    assert data.rows()["micrograph_id"].to_list() == [0, 2]
    assert data.rows()["coord_x_angst"].to_list() == [20.0, 20.0]


def test_unit_and_pixel_size_are_taken_into_account(tmp_path):
    files = _write(tmp_path, "field_00.csv", "x,y\n10,20\n")
    assert _import(tmp_path, files, unit="angstrom")[0].rows()["coord_x_angst"][0] == 10.0
    assert _import(tmp_path, files, pixel_size_angst=4.0)[0].rows()["coord_x_angst"][0] == 40.0


def test_flipped_rows_count_from_the_other_end(tmp_path):
    files = _write(tmp_path, "field_00.csv", f"x,y\n10,0\n10,{SHAPE[0] - 1}\n")
    data, _ = _import(tmp_path, files, flip_y=True)
    assert data.rows()["coord_y_angst"].to_list() == [(SHAPE[0] - 1) * PIXEL, 0.0]


STAR = """\
data_

loop_
_rlnCoordinateX #1
_rlnCoordinateY #2
_rlnAutopickFigureOfMerit #3
100 50 1.5
120 60 2.5
"""


def test_star_file_of_one_micrograph(tmp_path):
    files = _write(tmp_path, "field_01_autopick.star", STAR)
    rows = _import(tmp_path, files)[0].rows()
    assert rows["micrograph_id"].to_list() == [1, 1]
    assert rows["coord_x_angst"].to_list() == [200.0, 240.0]
    assert rows["score"].to_list() == [1.5, 2.5]


def test_positions_without_micrograph_are_named(tmp_path):
    files = _write(tmp_path, "p.csv", "micrograph,x,y\nfield_00.mrc,1,2\nother.mrc,3,4\n")
    data, ctx = _import(tmp_path, files)
    assert data.n_items == 1
    assert (
        "1 of 2 positions belong to micrographs that are not here, as 'other.mrc'"
        in ctx.warnings[0]
    )


def test_positions_outside_are_warned_of(tmp_path):
    files = _write(tmp_path, "field_00.csv", "x,y\n10,20\n900,20\n")
    _, ctx = _import(tmp_path, files)
    assert "1 of 2 positions lie outside" in ctx.warnings[0]


def test_no_match_at_all_is_an_error(tmp_path):
    files = _write(tmp_path, "other.csv", "x,y\n1,2\n")
    with pytest.raises(UserError, match=r"expected a name like .data/field_00\.mrc"):
        _import(tmp_path, files)


@pytest.mark.parametrize("text", ["", "hello\n", "a,b\n1,2\n", "x,y\n1,two\n", "x,y\n1,2,3\n"])
def test_bad_tables_are_refused(tmp_path, text):
    files = _write(tmp_path, "field_00.csv", text)
    with pytest.raises(FormatError):
        _import(tmp_path, files)


def test_binary_file_is_refused(tmp_path):
    (tmp_path / "field_00.csv").write_bytes(bytes(range(128, 256)) * 4)
    with pytest.raises(FormatError, match="not a table of text"):
        _import(tmp_path, ["field_00.csv"])


def test_missing_file_is_an_error(tmp_path):
    with pytest.raises(ParamsError, match="nothing matches"):
        _import(tmp_path, ["lost.csv"])
