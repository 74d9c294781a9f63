import polars as pl
import pytest
import starfile
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from verglas.core.errors import FormatError
from verglas.io.relion import find_relion_project, read_relion, write_relion
from verglas.io.star import read_star, write_star
from verglas.model.validate import conform

from .samples import RELION_30

PARTICLES_31 = {
    "optics": pl.DataFrame(
        {
            "rlnOpticsGroup": [1, 2],
            "rlnOpticsGroupName": ["first", "second"],
            "rlnVoltage": [300.0, 200.0],
            "rlnSphericalAberration": [2.7, 1.4],
            "rlnAmplitudeContrast": [0.1, 0.07],
            "rlnMicrographOriginalPixelSize": [0.885, 1.1],
            "rlnImagePixelSize": [1.77, 2.2],
            "rlnImageSize": [128, 96],
            "rlnImageDimensionality": [2, 2],
            "rlnBeamTiltX": [0.25, -0.5],
        }
    ),
    "particles": pl.DataFrame(
        {
            "rlnImageName": ["000001@E/a.mrcs", "000012@E/a.mrcs", "000001@E/b.mrcs"],
            "rlnMicrographName": ["M/a.mrc", "M/a.mrc", "M/b.mrc"],
            "rlnCoordinateX": [587.0, 1268.25, 3.0],
            "rlnCoordinateY": [12.0, 0.0, 77.5],
            "rlnOpticsGroup": [1, 1, 2],
            "rlnDefocusU": [15301.1, 15303.0, 9000.0],
            "rlnDefocusV": [14916.4, 14918.4, 8000.0],
            "rlnDefocusAngle": [5.28, -30.0, 175.0],
            "rlnPhaseShift": [0.0, 90.0, 45.0],
            "rlnAngleRot": [10.0, -20.0, 30.0],
            "rlnAngleTilt": [90.0, 80.0, 70.0],
            "rlnAnglePsi": [-5.0, 0.5, 180.0],
            "rlnOriginXAngst": [-3.0, 1.25, 0.0],
            "rlnOriginYAngst": [0.5, -0.25, 2.0],
            "rlnRandomSubset": [1, 2, 1],
            "rlnClassNumber": [1, 3, 2],
            "rlnGroupNumber": [7, 8, 9],
        }
    ),
}


def _assert_contains(actual, expected):
    """Every column of the expected table is there with equal values."""
    assert_frame_equal(actual.select(expected.columns), expected, check_exact=True)


def test_particles_with_optics_groups_become_our_columns(tmp_path):
    write_star(tmp_path / "a.star", PARTICLES_31)
    tables = read_relion(tmp_path / "a.star")
    assert tables.kind == "particles"
    conform(tables.rows, what="rows")
    conform(tables.optics, what="optics")
    first, second, third = tables.rows.rows(named=True)
    assert (first["image_path"], first["image_slice"]) == ("E/a.mrcs", 0)
    assert second["image_slice"] == 11
    assert first["micrograph_path"] == "M/a.mrc"
    assert first["coord_x_angst"] == pytest.approx(587.0 * 0.885)
    assert third["coord_y_angst"] == pytest.approx(77.5 * 1.1)
    assert (first["shift_x_angst"], first["shift_y_angst"]) == (-3.0, 0.5)
    assert (first["half_set"], second["class_index"]) == (1, 2)
    assert (second["phase_shift_deg"], third["defocus_angle_deg"]) == (90.0, 175.0)
    assert first["x_rlnGroupNumber"] == 7
    group = tables.optics.row(1, named=True)
    assert (group["optics_group"], group["optics_name"], group["voltage_kv"]) == (2, "second", 200)
    assert (group["pixel_size_angst"], group["micrograph_pixel_size_angst"]) == (2.2, 1.1)
    assert (group["box_px"], group["beam_tilt_x_mrad"]) == (96, -0.5)


def test_particles_come_back_as_they_were(tmp_path):
    write_star(tmp_path / "a.star", PARTICLES_31)
    tables = read_relion(tmp_path / "a.star")
    write_relion(tmp_path / "b.star", tables.kind, tables.rows, tables.optics)
    back = read_star(tmp_path / "b.star")
    assert list(back) == ["optics", "particles"]
    for name, table in PARTICLES_31.items():
        _assert_contains(back[name], table)
    assert "# version 30001" in (tmp_path / "b.star").read_text()


def test_exported_particles_are_read_by_starfile(tmp_path):
    write_star(tmp_path / "a.star", PARTICLES_31)
    tables = read_relion(tmp_path / "a.star")
    write_relion(tmp_path / "b.star", tables.kind, tables.rows, tables.optics)
    back = starfile.read(tmp_path / "b.star")
    assert back["particles"]["rlnImageName"].tolist() == (
        PARTICLES_31["particles"]["rlnImageName"].to_list()
    )
    assert back["optics"]["rlnImagePixelSize"].tolist() == [1.77, 2.2]


def test_single_table_of_relion_3_is_split_into_rows_and_optics(tmp_path):
    (tmp_path / "a.star").write_text(RELION_30)
    with pytest.warns(UserWarning, match="give micrograph_pixel_size_angst otherwise"):
        tables = read_relion(tmp_path / "a.star")
    assert tables.optics["optics_group"].to_list() == [1, 2]
    assert tables.optics["pixel_size_angst"].to_list() == pytest.approx([1.3099979, 1.0])
    assert tables.optics["voltage_kv"].to_list() == [300.0, 300.0]
    first, second = tables.rows.rows(named=True)
    assert (second["image_slice"], second["micrograph_path"]) == (1, "2")
    assert (second["coord_x_angst"], second["shift_x_angst"]) == (300.0, 3.0)
    assert first["shift_x_angst"] == pytest.approx(-2 * 1.3099979)
    assert (first["defocus_v_angst"], first["defocus_angle_deg"]) == (15301.1, 0.0)
    assert first["phase_shift_deg"] == 0.0
    given = read_relion(tmp_path / "a.star", micrograph_pixel_size_angst=0.5)
    assert given.rows["coord_x_angst"].to_list() == [50.0, 150.0]


def test_micrographs_with_ctf_come_back_as_they_were(tmp_path):
    optics = {
        "rlnOpticsGroup": [1],
        "rlnOpticsGroupName": ["g"],
        "rlnMicrographPixelSize": [1.5],
        "rlnMicrographOriginalPixelSize": [0.75],
        "rlnVoltage": [300.0],
        "rlnSphericalAberration": [2.7],
        "rlnAmplitudeContrast": [0.1],
    }
    micrographs = {
        "rlnMicrographName": ["M/a.mrc", "M/b.mrc"],
        "rlnOpticsGroup": [1, 1],
        "rlnCtfImage": ["C/a.ctf:mrc", "C/b.ctf:mrc"],
        "rlnDefocusU": [15301.1, 15303.0],
        "rlnDefocusV": [14916.4, 14918.4],
        "rlnDefocusAngle": [5.28, -30.0],
        "rlnCtfFigureOfMerit": [0.2, 0.15],
        "rlnCtfMaxResolution": [4.1, 3.9],
    }
    blocks = {"optics": pl.DataFrame(optics), "micrographs": pl.DataFrame(micrographs)}
    write_star(tmp_path / "a.star", blocks)
    tables = read_relion(tmp_path / "a.star")
    assert tables.kind == "micrographs"
    assert tables.rows["image_path"].to_list() == ["M/a.mrc", "M/b.mrc"]
    assert tables.rows["image_slice"].to_list() == [0, 0]
    assert tables.rows["fit_res_angst"].to_list() == [4.1, 3.9]
    assert tables.optics["pixel_size_angst"].to_list() == [1.5]
    write_relion(tmp_path / "b.star", tables.kind, tables.rows, tables.optics)
    back = read_star(tmp_path / "b.star")
    for name, table in blocks.items():
        _assert_contains(back[name], table)


def test_coordinates_need_a_pixel_size(tmp_path):
    table = pl.DataFrame(
        {
            "rlnMicrographName": ["a.mrc", "a.mrc"],
            "rlnCoordinateX": [10.0, 20.5],
            "rlnCoordinateY": [30.0, 40.0],
            "rlnAutopickFigureOfMerit": [0.5, 0.25],
        }
    )
    write_star(tmp_path / "a.star", {"": table})
    with pytest.raises(FormatError, match=r"pixel size of its coordinates; give pixel_size_angst"):
        read_relion(tmp_path / "a.star")
    tables = read_relion(tmp_path / "a.star", pixel_size_angst=1.5)
    assert tables.kind == "coordinates"
    assert tables.rows["coord_x_angst"].to_list() == [15.0, 30.75]
    assert tables.rows["score"].to_list() == [0.5, 0.25]
    write_relion(tmp_path / "b.star", tables.kind, tables.rows, tables.optics)
    _assert_contains(read_star(tmp_path / "b.star")["particles"], table)


def test_unassigned_classes_and_halves_are_not_known(tmp_path):
    particles = PARTICLES_31["particles"].with_columns(
        rlnClassNumber=pl.Series([0, 1, 2]), rlnRandomSubset=pl.Series([0, 1, 2])
    )
    write_star(tmp_path / "a.star", PARTICLES_31 | {"particles": particles})
    tables = read_relion(tmp_path / "a.star")
    assert tables.rows["class_index"].to_list() == [None, 0, 1]
    assert tables.rows["half_set"].to_list() == [None, 1, 2]
    write_relion(tmp_path / "b.star", tables.kind, tables.rows, tables.optics)
    _assert_contains(read_star(tmp_path / "b.star")["particles"], particles)


def test_shift_keeps_its_sign(tmp_path):
    """RELION's origin moves the image onto the reference, as ours does."""
    write_star(tmp_path / "a.star", PARTICLES_31)
    rows = read_relion(tmp_path / "a.star").rows
    assert rows["shift_x_angst"].to_list() == (
        PARTICLES_31["particles"]["rlnOriginXAngst"].to_list()
    )


_exact = st.integers(-(10**9), 10**9).map(lambda n: n / 10**4)


@st.composite
def _our_particles(draw):
    n, n_groups = draw(st.integers(1, 5)), draw(st.integers(1, 3))

    def column(values):
        return draw(st.lists(values, min_size=n, max_size=n))

    sizes = st.integers(100, 10_000).map(lambda k: k / 1000)
    groups = draw(st.permutations(range(1, n_groups + 1)))
    optics = pl.DataFrame(
        {
            "optics_group": groups,
            "optics_name": [f"g {group}" for group in groups],
            "voltage_kv": [300.0] * n_groups,
            "spherical_aberration_mm": [2.7] * n_groups,
            "amplitude_contrast": [0.1] * n_groups,
            "pixel_size_angst": draw(st.lists(sizes, min_size=n_groups, max_size=n_groups)),
            "box_px": [64] * n_groups,
            "micrograph_pixel_size_angst": draw(
                st.lists(sizes, min_size=n_groups, max_size=n_groups)
            ),
        }
    )
    floats = [
        *(f"defocus_{name}" for name in ("u_angst", "v_angst", "angle_deg")),
        *(f"angle_{name}_deg" for name in ("rot", "tilt", "psi")),
        *("phase_shift_deg", "shift_x_angst", "shift_y_angst"),
    ]
    rows = pl.DataFrame(
        {
            "optics_group": column(st.sampled_from(groups)),
            "image_path": column(st.sampled_from(["a.mrcs", "folder/two words.mrcs", "Å.mrcs"])),
            "image_slice": column(st.integers(0, 2_000_000)),
            "micrograph_path": column(st.sampled_from(["a.mrc", "b c.mrc"])),
            "coord_x_angst": column(_exact),
            "coord_y_angst": column(_exact),
            "half_set": column(st.sampled_from([1, 2])),
            "class_index": column(st.integers(0, 100)),
            **{name: column(_exact) for name in floats},
            "x_rlnGroupNumber": column(st.integers(0, 9)),
        }
    )
    return rows, optics


@settings(max_examples=30, deadline=None)
@given(_our_particles())
def test_our_particles_survive_a_round_trip(tmp_path_factory, tables):
    rows, optics = tables
    path = tmp_path_factory.mktemp("relion") / "a.star"
    write_relion(path, "particles", rows, optics)
    back = read_relion(path)
    coordinates = ["coord_x_angst", "coord_y_angst"]
    exact = [name for name in rows.columns if name not in coordinates]
    assert_frame_equal(back.rows.select(exact), rows.select(exact), check_exact=True)
    # a pixel is at most 10 Å and written to 1e-8
    assert_frame_equal(
        back.rows.select(coordinates), rows.select(coordinates), rel_tol=1e-12, abs_tol=1e-7
    )
    assert_frame_equal(back.optics.select(optics.columns), optics, check_exact=True)


def test_columns_without_a_label_are_left_out(tmp_path):
    rows = pl.DataFrame(
        {
            "item_id": [0],
            "optics_group": [1],
            "image_path": ["a.mrc"],
            "image_slice": [0],
            "profile_power": [[1.0, 2.0]],
            "x_blob/path": ["b"],
        }
    )
    optics = pl.DataFrame({"optics_group": [1], "pixel_size_angst": [1.5]})
    write_relion(tmp_path / "a.star", "micrographs", rows, optics)
    back = read_star(tmp_path / "a.star")
    assert back["micrographs"].columns == ["rlnMicrographName", "rlnOpticsGroup"]
    assert back["optics"]["rlnOpticsGroupName"].to_list() == ["opticsGroup1"]
    assert back["optics"]["rlnMicrographPixelSize"].to_list() == [1.5]


def test_whole_stack_of_a_subtomogram_has_no_slice(tmp_path):
    particles = pl.DataFrame({"rlnTomoName": ["T"], "rlnImageName": ["T/12_stack2d.mrcs"]})
    optics = pl.DataFrame({"rlnOpticsGroup": [1], "rlnImagePixelSize": [1.35]})
    write_star(tmp_path / "a.star", {"optics": optics, "particles": particles})
    tables = read_relion(tmp_path / "a.star")
    assert tables.rows["image_slice"].to_list() == [None]
    write_relion(tmp_path / "b.star", tables.kind, tables.rows, tables.optics)
    _assert_contains(read_star(tmp_path / "b.star")["particles"], particles)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"job": {"rlnX": 1}}, r"holds no micrographs, coordinates or particles: got data_job"),
        ({"particles": {"rlnX": 1}}, "its columns are rlnX; expected rlnImageName"),
        (
            {"particles": {"rlnImageName": "1@a.mrcs"}},
            "does not say the pixel size of its particles; give pixel_size_angst",
        ),
        (
            {"optics": {"rlnVoltage": 300}, "particles": {"rlnImageName": "1@a.mrcs"}},
            "optics groups without rlnOpticsGroup",
        ),
        (
            {
                "optics": {"rlnOpticsGroup": 1, "rlnImagePixelSize": 1.5},
                "particles": {"rlnImageName": "1@a.mrcs", "rlnOpticsGroup": 2},
            },
            "rows of optics group 2, which data_optics lacks",
        ),
        (
            {
                "optics": {"rlnOpticsGroup": 1, "rlnImagePixelSize": 1.5},
                "particles": {"rlnImageName": "1@a.mrcs", "rlnAngleRot": "ten"},
            },
            "values of the wrong type",
        ),
    ],
)
def test_unsuitable_files_are_explained(tmp_path, blocks, message):
    write_star(tmp_path / "a.star", blocks)
    with pytest.raises(FormatError, match=message):
        read_relion(tmp_path / "a.star")


def test_project_folder_is_found_above_the_star_file(tmp_path):
    (tmp_path / "Extract" / "job012").mkdir(parents=True)
    (tmp_path / "Extract" / "a.mrcs").touch()
    star_path = tmp_path / "Extract" / "job012" / "particles.star"
    assert find_relion_project(star_path, "Extract/a.mrcs") == tmp_path
    assert find_relion_project(star_path, "Extract/none.mrcs") is None


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "kind", "n_rows"),
    [
        ("metadata/relion/sta_import_4_1.star.gz", "coordinates3d", None),
        ("metadata/relion/spa/one_loop.star", "particles", 16),
        ("metadata/relion5_sta_hiv/Picks/job019/particles.star.gz", "coordinates3d", None),
        ("metadata/relion5_sta_hiv/Refine3D/job074/run_data.star.gz", "particles", 9053),
        ("particles/empiar_10076_7.star", "particles", 7),
    ],
)
def test_real_tables_come_back_as_they_were(shared_data, tmp_path, name, kind, n_rows):
    tables = read_relion(shared_data / name)
    assert tables.kind == kind
    assert n_rows is None or tables.rows.height == n_rows
    conform(tables.rows, what="rows")
    conform(tables.optics, what="optics")
    write_relion(tmp_path / "b.star", kind, tables.rows, tables.optics, tables.extra)
    before, after = read_star(shared_data / name), read_star(tmp_path / "b.star")
    for block, table in before.items():
        if block == "":
            _assert_same_3_0_rows(table, after)
            continue
        for label in table.columns:
            if label in after[block]:
                values, expected = after[block][label], table[label]
                assert values.cast(expected.dtype).to_list() == expected.to_list(), label
            else:
                assert label in after["optics"], label


def _assert_same_3_0_rows(table, after):
    """Constants have moved to the optics table, and image numbers have six digits."""
    rows = after["particles"]
    names = table["rlnImageName"].str.replace(r"^(\d)@", "00000${1}@")
    assert rows["rlnImageName"].to_list() == names.to_list()
    for label in ("rlnDefocusU", "rlnDefocusV", "rlnDefocusAngle"):
        assert rows[label].to_list() == table[label].to_list()
    for label in ("rlnVoltage", "rlnMagnification", "rlnDetectorPixelSize"):
        assert after["optics"][label].to_list() == table[label].unique().to_list()


@pytest.mark.data
def test_files_that_hold_no_items_are_refused(shared_data):
    folder = shared_data / "metadata"
    for name in (
        "relion/spa/postprocess.star",
        "relion/spa/default_pipeline.star",
        "relion5_sta_hiv/Refine3D/job074/run_model.star.gz",
        "relion5_sta_hiv/Tomograms/job006/tilt_series/TS_03.star",
    ):
        with pytest.raises(FormatError, match="holds no micrographs, coordinates or particles"):
            read_relion(folder / name)


def test_aberrations_survive_writing_and_reading(tmp_path):
    optics = pl.DataFrame(
        {
            "optics_group": [1, 2],
            "pixel_size_angst": [1.0, 1.0],
            "beam_tilt_x_mrad": [0.1, None],
            "odd_zernike": [[0.5, -2.0, 1e-7], None],
            "even_zernike": [[], [1.0]],
            "magnification_00": [1.01, 1.0],
        },
        schema_overrides={"odd_zernike": pl.List(pl.Float64), "even_zernike": pl.List(pl.Float64)},
    )
    rows = pl.DataFrame({"image_path": ["a.mrcs"], "image_slice": [0], "optics_group": [1]})
    write_relion(tmp_path / "a.star", "particles", rows, optics)
    text = (tmp_path / "a.star").read_text()
    assert "_rlnOddZernike" in text
    assert "[0.5,-2.0,1e-7]" in text
    back = read_relion(tmp_path / "a.star").optics
    assert back["odd_zernike"].to_list() == [[0.5, -2.0, 1e-7], []]
    assert back["even_zernike"].to_list() == [[], [1.0]]
    assert back["beam_tilt_x_mrad"].to_list() == [0.1, None]
    assert back["magnification_00"].to_list() == [1.01, 1.0]
