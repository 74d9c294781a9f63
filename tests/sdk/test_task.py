import numpy as np

from verglas.sdk.arrays import put_arrays
from verglas.sdk.chunks import chunk_rng
from verglas.sdk.task import Skipped, Task


def make_task(root):
    return Task(key="0", root=root, folder=root / "files", rng=chunk_rng("0", 0))


def test_paths_go_to_the_table_and_back(tmp_path):
    task = make_task(tmp_path)
    text = task.relative(task.files / "a.mrcs")
    assert text == "files/a.mrcs"
    assert task.path(text) == tmp_path / "files" / "a.mrcs"


def test_arrays_that_were_put_aside_are_loaded(tmp_path):
    ref = put_arrays({"mask": np.ones(2)}, tmp_path / "arrays", tmp_path)
    np.testing.assert_array_equal(make_task(tmp_path).load(ref)["mask"], [1, 1])


def test_skipped_items_are_noted_and_logged(tmp_path, caplog):
    task = make_task(tmp_path)
    task.skip(np.int64(4), "truncated file")
    assert task.skipped == [Skipped(4, "truncated file")]
    assert caplog.messages == ["item 4 left out: truncated file"]


def test_progress_may_be_reported_to_nobody(tmp_path):
    make_task(tmp_path).progress(1, 3)
