import zipfile

import polars as pl
import pytest

from tests.engine.number_protocols import partial_sum
from verglas.engine.ledger import StepIdentity, describe_arguments, done_keys, explain_missing
from verglas.sdk.arrays import Bundle, write_bundle
from verglas.sdk.chunks import plan_chunks
from verglas.sdk.job_context import Work
from verglas.sdk.states import load_last_state, save_state


@pytest.fixture
def work(tmp_path):
    """Three chunks, none of them done."""
    rows = pl.DataFrame({"item_id": range(6)})
    plan = plan_chunks(partial_sum, rows, chunk=2, protocol=("a.b", 1), kwargs={})
    return Work(plan, partial_sum, {}, tmp_path, tmp_path)


def finish(work, number):
    path = work.result_path(work.plan.chunks[number])
    write_bundle(path, Bundle(rows=pl.DataFrame({"item_id": [1]}), note={"skipped": []}))
    return path


def test_chunk_is_done_when_its_result_is_in_place(work):
    assert done_keys(work) == ()
    finish(work, 1)
    assert done_keys(work) == (work.plan.chunks[1].key,)


@pytest.mark.parametrize("cut", [1, 30, 100])
def test_cut_result_is_removed(work, cut):
    path = finish(work, 0)
    path.write_bytes(path.read_bytes()[:-cut])
    assert done_keys(work) == ()
    assert not path.exists()


def test_every_flipped_byte_of_the_content_is_found_out(work):
    path = finish(work, 0)
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        rows = archive.getinfo("rows.arrow")
    start = rows.header_offset + 30 + len(rows.filename)  # the local header is before it
    for place in range(start, start + rows.file_size, 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        assert done_keys(work) == (), place


def identity(**changes):
    values = {"function": "m:f", "protocol": "a.b", "version": 1, "seed": 0, "arguments": {}}
    return StepIdentity(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, "new or changed rows, or not finished before"),
        ({"version": 2}, "version changed, 1 -> 2"),
        ({"seed": 5}, "seed changed, 0 -> 5"),
        ({"function": "m:g"}, "function changed, 'm:f' -> 'm:g'"),
        ({"arguments": describe_arguments({"power": 3})}, "argument power changed"),
    ],
)
def test_ledger_says_why_chunks_must_run(work, changes, reason):
    first = explain_missing(work, identity(), 3)
    assert first == "3 of 3 chunks of partial_sum must run: first run"
    assert explain_missing(work, identity(**changes), 2).endswith(f": {reason}")


def test_nothing_is_said_when_nothing_must_run(work):
    assert explain_missing(work, identity(), 0) == ""


def test_checkpoint_that_was_being_written_in_a_crash_is_not_taken_up(tmp_path):
    save_state(tmp_path, 1, {"n": 1})
    (tmp_path / ".000002.zip.77-ab.tmp.zip").write_bytes(b"half")
    assert load_last_state(tmp_path) == (1, {"n": 1})
