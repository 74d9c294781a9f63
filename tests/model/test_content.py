from itertools import pairwise

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verglas.model.content import frame_digest, frame_digests

values = st.lists(
    st.tuples(
        st.one_of(st.none(), st.integers(-(2**62), 2**62)),
        st.one_of(st.none(), st.text(max_size=5)),
        st.one_of(st.none(), st.lists(st.floats(allow_nan=False), max_size=3)),
        st.one_of(st.none(), st.booleans()),
    ),
    max_size=20,
)
SCHEMA = {"a": pl.Int64, "b": pl.String, "c": pl.List(pl.Float64), "d": pl.Boolean}


def frame_of(rows):
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


@given(values, st.lists(st.integers(0, 20), max_size=4))
def test_digest_of_a_block_does_not_depend_on_its_neighbours(rows, cuts):
    frame = frame_of(rows)
    borders = sorted({0, frame.height, *(min(cut, frame.height) for cut in cuts)})
    alone = [frame_digest(frame.slice(start, stop - start)) for start, stop in pairwise(borders)]
    assert frame_digests(frame, borders) == alone


@given(values, values)
def test_digests_are_equal_just_for_equal_tables(rows, others):
    a, b = frame_of(rows), frame_of(others)
    # floats are compared by their bits: 0.0 and -0.0 differ
    same = repr(rows) == repr(others)
    assert (frame_digest(a) == frame_digest(b)) == same


def test_order_of_rows_counts_and_order_of_columns_does_not():
    frame = pl.DataFrame({"a": [1, 2], "b": ["x", "y"]})
    assert frame_digest(frame) == frame_digest(frame.select("b", "a"))
    assert frame_digest(frame) != frame_digest(frame.reverse())
    assert frame_digest(frame) != frame_digest(frame.rename({"b": "c"}))


def test_null_is_not_the_value_that_stands_for_it():
    null, zero = pl.Series([None, 1], dtype=pl.Int64), pl.Series([0, 1])
    assert frame_digest(pl.DataFrame({"a": null})) != frame_digest(pl.DataFrame({"a": zero}))
    texts = pl.DataFrame({"a": [None, "x"]}), pl.DataFrame({"a": ["", "x"]})
    assert frame_digest(texts[0]) != frame_digest(texts[1])


def test_way_a_table_was_put_together_does_not_count():
    frame = pl.DataFrame({"a": np.arange(10.0), "b": [str(i) for i in range(10)]})
    parts = pl.concat([frame[:3], frame[3:]], rechunk=False)
    assert parts.n_chunks() == 2
    assert frame_digest(parts) == frame_digest(frame)


def test_strings_and_categories_have_the_same_text():
    frame = pl.DataFrame({"a": ["x", "y", "y"]})
    kinds = {frame_digest(frame.cast(pl.Categorical)), frame_digest(frame)}
    assert len(kinds) == 2  # the type counts
    assert frame_digest(frame.cast(pl.Categorical).reverse()) not in kinds


def test_type_counts():
    frame = pl.DataFrame({"a": [1.0]})
    assert frame_digest(frame) != frame_digest(frame.cast(pl.Float32))


def test_digest_does_not_change_between_versions():
    frame = pl.DataFrame({"item_id": [3, 4], "image_path": ["a", None], "y": [[1.0], []]})
    # worked out from the rule: names sorted, head, mask of nulls, lengths, bytes
    import hashlib

    digest = hashlib.blake2b(digest_size=16)

    def add(part):
        digest.update(len(part).to_bytes(8, "little") + part)

    add(b"image_path:String")
    add(b"\0\1")
    add(np.array([1, 0], dtype="<i8").tobytes())
    add(b"a")
    add(b"item_id:Int64")
    add(np.array([3, 4], dtype="<i8").tobytes())
    add(b"y:List(Float64)")
    add(np.array([1, 0], dtype="<i8").tobytes())
    add(np.array([1.0], dtype="<f8").tobytes())
    assert frame_digest(frame) == digest.hexdigest()


def test_what_cannot_be_hashed_is_named():
    with pytest.raises(TypeError, match="column 'a' cannot be hashed: got Struct"):
        frame_digest(pl.DataFrame({"a": [{"x": 1}]}))
