import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verglas.core.errors import UserError
from verglas.core.ids import (
    check_protocol_id,
    child_item_ids,
    content_digest,
    dataset_id,
    job_folder_name,
    job_id,
    parse_id,
)


@given(st.integers(0, 10**6))
def test_ids_are_read_as_written(number):
    assert parse_id(job_id(number), prefix="j") == number
    assert parse_id(dataset_id(number), prefix="d") == number
    assert parse_id(job_folder_name(number, "movies.align_frames"), prefix="j") == number


def test_folder_is_named_after_the_verb():
    assert job_folder_name(12, "micrographs.estimate_ctf") == "0012-estimate_ctf"


@pytest.mark.parametrize("text", ["", "x3", "d3", "j", "3.5", "j-1"])
def test_what_is_no_job_id_is_refused(text):
    with pytest.raises(UserError, match="not the id of a job"):
        parse_id(text, prefix="j")


@pytest.mark.parametrize("text", ["extract", "Particles.extract", "a.b.c", "a b.c", "a."])
def test_malformed_protocol_id_is_refused(text):
    with pytest.raises(ValueError, match="protocol id"):
        check_protocol_id(text)


def test_children_of_different_parents_never_meet():
    a, b = child_item_ids(7, 1000), child_item_ids(8, 2**20)
    assert a.dtype == np.int64
    assert not set(a.tolist()) & set(b.tolist())
    np.testing.assert_array_equal(a, child_item_ids(7, 1000))


def test_children_stay_within_int64():
    assert child_item_ids(2**43 - 1, 2)[-1] > 0
    with pytest.raises(ValueError, match="source_id"):
        child_item_ids(2**43, 1)
    with pytest.raises(ValueError, match="n_children"):
        child_item_ids(0, 2**20 + 1)


def test_digest_depends_on_where_parts_end():
    assert content_digest((b"ab", b"c")) != content_digest((b"a", b"bc"))
    assert content_digest((b"ab", b"c")) == content_digest((b"ab", memoryview(b"c")))
    assert len(content_digest(())) == 32
