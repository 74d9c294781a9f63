import pickle

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.model.frames import OPTICS, micrograph_rows, micrographs, with_ctf
from verglas.core.errors import FormatError, PortError
from verglas.model import CURVES, MICROGRAPHS, make_dataset


def ids_of(data):
    return data.rows(["item_id"])["item_id"].to_list()


def test_traits_count_columns_of_rows_and_optics(tmp_path):
    data = micrographs(tmp_path)
    assert data.traits == {"image", "image_file", "optics", "pixels"}
    assert with_ctf(data).traits == data.traits | {"ctf"}


def test_rows_without_ids_are_numbered(tmp_path):
    data = make_dataset(
        MICROGRAPHS, micrograph_rows(3).drop("item_id"), root=tmp_path, optics=OPTICS
    )
    assert ids_of(data) == [0, 1, 2]


def test_constants_of_the_optics_group_are_joined_in_order(tmp_path):
    rows = micrographs(tmp_path, 4).rows(with_optics=True)
    assert rows["pixel_size_angst"].to_list() == [1.5, 2.0, 1.5, 2.0]
    assert rows["item_id"].to_list() == [40, 30, 20, 10]


def test_asking_for_a_constant_joins_it(tmp_path):
    rows = micrographs(tmp_path, 2).rows(["voltage_kv", "item_id"])
    assert rows.rows() == [(300.0, 20), (200.0, 10)]


def test_a_constant_stored_per_row_wins(tmp_path):
    rows = micrograph_rows(2).with_columns(voltage_kv=pl.lit(120.0))
    data = make_dataset(MICROGRAPHS, rows, root=tmp_path, optics=OPTICS)
    assert data.rows(with_optics=True)["voltage_kv"].to_list() == [120.0, 120.0]


def test_unknown_column_is_named(tmp_path):
    with pytest.raises(PortError, match="has no column angle_rot_deg"):
        micrographs(tmp_path).rows(["item_id", "angle_rot_deg"])


def test_kind_asks_for_its_traits(tmp_path):
    with pytest.raises(PortError, match=r"data set \(micrographs\) lacks image_slice, needed by"):
        make_dataset(
            MICROGRAPHS, micrograph_rows(2).drop("image_slice"), root=tmp_path, optics=OPTICS
        )


def test_optics_group_must_be_in_the_optics_table(tmp_path):
    with pytest.raises(FormatError, match=r"optics_group \[2\] that its optics table lacks"):
        make_dataset(MICROGRAPHS, micrograph_rows(2), root=tmp_path, optics=OPTICS[:1])
    twice = pl.concat([OPTICS, OPTICS])
    with pytest.raises(FormatError, match="repeats an optics_group"):
        make_dataset(MICROGRAPHS, micrograph_rows(2), root=tmp_path, optics=twice)


def test_kinds_without_optics_need_none(tmp_path):
    rows = pl.DataFrame({"label": ["half maps"], "x_per_angst": [[0.1]], "y": [[1.0]]})
    assert make_dataset(CURVES, rows, root=tmp_path).traits == {"curve"}


def test_empty_data_set_keeps_its_traits(tmp_path):
    data = make_dataset(MICROGRAPHS, micrograph_rows(0), root=tmp_path, optics=OPTICS)
    assert data.n_items == 0
    assert "optics" in data.traits
    assert data.select([]).rows().height == 0


def test_selection_keeps_the_order_of_the_data_set(tmp_path):
    data = micrographs(tmp_path)
    assert ids_of(data.select([10, 50, 30])) == [50, 30, 10]
    assert data.n_items == 5


@pytest.mark.parametrize(
    "rows",
    [
        [20, 30],
        pl.Series([30, 20]),
        pl.DataFrame({"item_id": [20, 30], "score": [1, 2]}),
        pl.LazyFrame({"item_id": [20, 30]}),
    ],
    ids=["list", "series", "frame", "lazy"],
)
def test_rows_are_named_in_many_ways(tmp_path, rows):
    assert ids_of(micrographs(tmp_path).select(rows)) == [30, 20]


def test_items_that_are_not_there_cannot_be_selected(tmp_path):
    with pytest.raises(PortError, match=r"has no items \[11\]"):
        micrographs(tmp_path).select([10, 11])


def test_derivations_refer_to_the_first_base(tmp_path):
    data = micrographs(tmp_path)
    last = with_ctf(data.select([50, 30, 10])).select([30, 10])
    last = last.with_columns(pl.DataFrame({"item_id": [10, 30], "score": [1.0, 3.0]}))
    assert last.base is data
    assert ids_of(last) == [30, 10]
    assert last.rows(["score", "defocus_u_angst"]).rows() == [(3.0, 300.0), (1.0, 100.0)]


def test_replaced_column_has_its_new_values(tmp_path):
    data = with_ctf(micrographs(tmp_path, 2))
    new = data.with_columns(pl.DataFrame({"item_id": [10, 20], "defocus_u_angst": [5.0, 6.0]}))
    assert new.rows(["item_id", "defocus_u_angst", "defocus_v_angst"]).rows() == [
        (20, 6.0, 200.0),
        (10, 5.0, 100.0),
    ]
    assert sorted(new.columns) == sorted(data.columns)


def test_new_columns_must_cover_every_item(tmp_path):
    data = micrographs(tmp_path, 2)
    with pytest.raises(FormatError, match="one row per item: got 1 rows of which 1 match, expec"):
        data.with_columns(pl.DataFrame({"item_id": [10], "score": [1.0]}))
    with pytest.raises(FormatError, match="got 3 rows"):
        data.with_columns(pl.DataFrame({"item_id": [10, 20, 30], "score": [1.0, 2.0, 3.0]}))
    with pytest.raises(FormatError, match="out of range"):
        data.with_columns(pl.DataFrame({"item_id": [10, 20], "half_set": [1, 3]}))


def test_rows_without_ids_name_nothing(tmp_path):
    frame = pl.DataFrame({"score": [1.0, 2.0]})
    with pytest.raises(FormatError, match="has no column item_id"):
        micrographs(tmp_path, 2).with_columns(frame)
    for rows in (frame, frame.lazy()):
        with pytest.raises(FormatError, match="has no column item_id"):
            micrographs(tmp_path, 2).select(rows)


def test_content_is_equal_for_equal_work(tmp_path):
    a, b = micrographs(tmp_path), micrographs(tmp_path)
    assert a.content == b.content
    assert a.select([10]).content == b.select([10]).content
    assert a.select([10]).content != a.select([20]).content
    assert with_ctf(a).content != a.content


def test_content_depends_on_the_optics(tmp_path):
    other = OPTICS.with_columns(voltage_kv=pl.lit(200.0))
    b = make_dataset(MICROGRAPHS, micrograph_rows(5), root=tmp_path, optics=other)
    assert micrographs(tmp_path).content != b.content


def test_data_set_in_memory_can_travel(tmp_path):
    data = with_ctf(micrographs(tmp_path)).select([30])
    again = pickle.loads(pickle.dumps(data))
    assert again.rows().equals(data.rows())
    assert again.content == data.content


def test_message_names_the_data_set(tmp_path):
    with pytest.raises(PortError, match=r"data set \(micrographs\) lacks score, needed by me"):
        micrographs(tmp_path).require(("score",), needed_by="me")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_chains_of_derivations_equal_the_same_work_on_a_table(tmp_path_factory, data):
    """A selection or new column on a data set equals the join or filter on a plain table."""
    made = micrographs(tmp_path_factory.getbasetemp(), 6)
    expected = made.rows()
    for step in range(data.draw(st.integers(1, 5))):
        ids = expected["item_id"].to_list()
        if data.draw(st.booleans()):
            kept = data.draw(st.lists(st.sampled_from(ids), unique=True) if ids else st.just([]))
            made = made.select(kept)
            expected = expected.filter(pl.col("item_id").is_in(kept))
        else:
            name = data.draw(st.sampled_from(["score", "defocus_u_angst", "image_slice"]))
            new = expected.select("item_id", (pl.col("item_id") + step).alias(name)).reverse()
            made = made.with_columns(new)
            joined = new.with_columns(
                pl.col(name).cast(pl.Int64 if "slice" in name else pl.Float64)
            )
            expected = expected.drop(name, strict=False).join(
                joined, on="item_id", how="left", maintain_order="left"
            )
        assert made.n_items == expected.height
        assert (
            made.rows()
            .select(sorted(expected.columns))
            .equals(expected.select(sorted(expected.columns)))
        )
