import polars as pl
import pytest

from verglas.core.errors import FormatError, PortError
from verglas.model.validate import check_has, check_ids, conform


def test_numbers_are_widened_to_the_declared_types():
    frame = pl.DataFrame(
        {
            "optics_group": pl.Series([1], dtype=pl.UInt8),
            "score": pl.Series([0.5], dtype=pl.Float32),
        }
    )
    assert conform(frame, what="table").schema == {"optics_group": pl.Int64, "score": pl.Float64}


def test_column_of_nulls_gets_its_type():
    assert conform(pl.DataFrame({"score": [None]}), what="t").schema["score"] == pl.Float64


def test_foreign_columns_are_left_alone():
    frame = pl.DataFrame({"x_rlnBeamTiltClass": ["a"]})
    assert conform(frame, what="table").equals(frame)


def test_undeclared_columns_are_named():
    with pytest.raises(FormatError, match=r"table has columns .* not declared: defocus; declare"):
        conform(pl.DataFrame({"defocus": [1.0], "score": [1.0]}), what="table")


def test_wrong_type_is_a_format_error():
    with pytest.raises(FormatError, match="wrong type"):
        conform(pl.DataFrame({"score": ["high"]}), what="table")


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("voltage_kv", -300.0, "got -300.0 kV, expected 10 to 3000 kV"),
        ("half_set", 0, "got 0, expected 1 to 2"),
        ("image_slice", -1, "got -1, expected >= 0"),
        ("class_prob", float("nan"), "got nan, expected 0 to 1"),
    ],
)
def test_value_out_of_range_is_named_with_its_unit(name, value, expected):
    with pytest.raises(FormatError, match=f"table has {name} out of range: {expected}"):
        conform(pl.DataFrame({name: [value]}), what="table")


def test_null_is_in_every_range():
    conform(pl.DataFrame({"voltage_kv": [None, 300.0]}), what="table")


def test_rows_need_ids_of_their_own():
    with pytest.raises(FormatError, match=r"repeats item_id: got \[2, 5\] more than once"):
        check_ids(pl.DataFrame({"item_id": [5, 2, 2, 5, 1]}), what="table")
    with pytest.raises(FormatError, match="1 rows without item_id"):
        check_ids(pl.DataFrame({"item_id": [5, None]}), what="table")


def test_missing_trait_names_columns_and_who_makes_them():
    with pytest.raises(PortError) as caught:
        check_has(
            {"defocus_u_angst", "defocus_v_angst", "defocus_angle_deg"},
            ("ctf",),
            what="data set 'd41' (micrographs)",
            needed_by="particles.extract",
        )
    assert str(caught.value) == (
        "data set 'd41' (micrographs) lacks phase_shift_deg, needed by particles.extract; "
        "run micrographs.estimate_ctf first"
    )


def test_columns_missing_for_two_traits_are_named_once():
    with pytest.raises(PortError, match="lacks angle_rot_deg, angle_tilt_deg, class_index, "):
        check_has(
            {"angle_psi_deg", "shift_x_angst", "shift_y_angst"},
            ("pose3d", "pose2d"),
            what="it",
            needed_by="me",
        )
