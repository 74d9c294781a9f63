import dataclasses
import os
import subprocess
import sys
from enum import Enum
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.model.frames import micrographs
from tests.sdk.examples import CountParams
from verglas.core.errors import FormatError
from verglas.sdk.arrays import ArrayRef
from verglas.sdk.chunks import (
    chunk_rng,
    execute_chunk,
    function_path,
    has_result,
    plan_chunks,
    read_result,
    result_path,
)
from verglas.sdk.task import Skipped, Task

PROTOCOL = ("micrographs.count_electrons", 3)


def double(rows, task, *, offset=0):
    return rows.select("item_id", score=2.0 * pl.col("item_id") + offset)


def treble(rows, task, *, offset=0):
    return rows.select("item_id", score=3.0 * pl.col("item_id") + offset)


def plan(data, fn=double, **changes):
    options = {"chunk": 2, "protocol": PROTOCOL, "kwargs": {}, **changes}
    return plan_chunks(fn, data, **options)


def keys(*arguments, **changes):
    return [chunk.key for chunk in plan(*arguments, **changes).chunks]


def table(n, **columns):
    return pl.DataFrame({"item_id": range(n), **columns}, schema_overrides={"item_id": pl.Int64})


def make_task(folder, key="0" * 32):
    return Task(key=key, root=folder, folder=folder / "files", rng=chunk_rng(key, 0))


@dataclasses.dataclass(frozen=True)
class Config:
    n_shells: int = 3
    limits: tuple[float, ...] = (1.0, 2.0)


class Colour(Enum):
    RED = "red"


@given(st.lists(st.integers(0, 4), max_size=60), st.integers(1, 7))
def test_chunks_cover_every_row_once_and_never_mix_groups(groups, size):
    data = table(len(groups), g=pl.Series(groups, dtype=pl.Int64))
    made = plan(data, chunk=size, by="g")
    rows = [made.rows(chunk) for chunk in made.chunks]
    assert sorted(i for part in rows for i in part["item_id"]) == list(range(len(groups)))
    for chunk, part in zip(made.chunks, rows, strict=True):
        assert 1 <= part.height <= size
        assert part["g"].unique().to_list() == [chunk.group]
    values = [chunk.group for chunk in made.chunks]
    assert values == sorted(values)
    # no more chunks than needed
    counts = [groups.count(value) for value in set(groups)]
    assert len(rows) == sum(-(-count // size) for count in counts)


@given(st.integers(0, 50), st.integers(1, 60))
def test_chunks_without_groups_keep_the_order(n, size):
    made = plan(table(n), chunk=size)
    assert [chunk.offset for chunk in made.chunks] == list(range(0, n, size))
    assert {chunk.group for chunk in made.chunks} <= {None}


def test_group_of_nulls_is_a_group():
    made = plan(table(3, g=[None, 1, None]), by="g")
    assert [(chunk.group, chunk.n_rows) for chunk in made.chunks] == [(None, 2), (1, 1)]


def test_rows_of_a_data_set_come_with_their_optics(tmp_path):
    rows = plan(micrographs(tmp_path)).table
    assert rows["pixel_size_angst"].to_list() == [1.5, 2.0, 1.5, 2.0, 1.5]


def test_equal_work_has_equal_keys(tmp_path):
    assert keys(micrographs(tmp_path)) == keys(micrographs(tmp_path))


@pytest.mark.parametrize(
    "change",
    [
        {"fn": treble},
        {"protocol": ("micrographs.count_electrons", 4)},
        {"protocol": ("micrographs.other_count", 3)},
        {"kwargs": {"offset": 1}},
        {"seed": 1},
    ],
    ids=["function", "version", "protocol", "argument", "seed"],
)
def test_whatever_changes_the_result_changes_every_key(tmp_path, change):
    data = micrographs(tmp_path)
    assert not set(keys(data)) & set(keys(data, **change))


def test_changed_row_changes_the_key_of_its_chunk_only(tmp_path):
    data = micrographs(tmp_path)
    scores = data.rows(["item_id"]).with_columns(score=pl.lit(1.0))
    other = scores.with_columns(score=pl.when(pl.col("item_id") == 30).then(2.0).otherwise(1.0))
    before, after = keys(data.with_columns(scores)), keys(data.with_columns(other))
    assert [a == b for a, b in zip(before, after, strict=True)] == [True, False, True]


def test_column_that_is_not_used_changes_no_key(tmp_path):
    data = micrographs(tmp_path)
    scored = data.with_columns(data.rows(["item_id"]).with_columns(score=pl.lit(1.0)))
    columns = ("item_id", "pixel_size_angst")
    assert keys(data) != keys(scored)
    assert keys(data, columns=columns) == keys(scored, columns=columns)


def test_new_rows_at_the_end_leave_whole_chunks_alone():
    assert keys(table(4)) == keys(table(7))[:2]


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (1, 2),
        (1, True),
        (1.0, 1.0000000001),
        ("1", 1),
        (None, "None"),
        ((1, 2), (2, 1)),
        ({"a": 1}, {"a": 2}),
        (Path("a"), "a"),
        (ArrayRef("a", "d1"), ArrayRef("a", "d2")),
        (Config(), Config(n_shells=4)),
        (Colour.RED, "red"),
        (CountParams(), CountParams(n_rounds=3)),
        (table(2), table(3)),
    ],
)
def test_different_arguments_have_different_keys(a, b):
    assert keys(table(1), kwargs={"offset": a}) != keys(table(1), kwargs={"offset": b})


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((1, 2), [1, 2]),
        (np.float64(0.5), 0.5),
        (np.int32(3), 3),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        (ArrayRef("jobs/1/a.zip", "d1"), ArrayRef("jobs/2/a.zip", "d1")),
        (Config(), Config()),
        (CountParams(), CountParams()),
    ],
)
def test_equal_arguments_have_equal_keys(a, b):
    assert keys(table(1), kwargs={"offset": a}) == keys(table(1), kwargs={"offset": b})


def test_data_sets_are_arguments_by_their_content(tmp_path):
    data = micrographs(tmp_path)
    a, b = ({"offset": other} for other in (data, data.select([10])))
    assert keys(table(1), kwargs=a) == keys(table(1), kwargs={"offset": micrographs(tmp_path)})
    assert keys(table(1), kwargs=a) != keys(table(1), kwargs=b)


def test_arrays_are_no_arguments():
    with pytest.raises(TypeError, match=r"cannot be ndarray: .* through ctx.put"):
        plan(table(1), kwargs={"offset": np.ones(3)})


def test_keys_are_the_same_in_another_process():
    code = (
        "from tests.sdk.test_chunks import *;"
        "print(*keys(table(5), kwargs={'offset': Config(), 'more': {'b': 1.5, 'a': 'x'}}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "77"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    more = {"a": "x", "b": 1.5}
    here = keys(table(5), kwargs={"more": more, "offset": Config()})
    assert done.stdout.split() == here


def test_chunk_functions_must_be_importable():
    assert function_path(double) == "tests.sdk.test_chunks:double"

    def inner(rows, task):
        return rows

    for fn in (inner, lambda rows, task: rows, Config().__init__):
        with pytest.raises(TypeError, match="must be at module level"):
            function_path(fn)


def test_chunk_of_no_rows_is_refused():
    with pytest.raises(ValueError, match="chunk must be >= 1"):
        plan(table(3), chunk=0)


def test_a_result_is_read_as_it_was_left(tmp_path):
    def work(rows, task):
        task.skip(7, "cannot read it")
        return rows, {"sum": np.ones(3, dtype=np.float32)}

    path = result_path(tmp_path, "work", "ab" * 16)
    assert not has_result(path)
    execute_chunk(work, table(2), make_task(tmp_path), {}, path)
    assert has_result(path)
    got = read_result(path)
    assert got.rows.equals(table(2))
    assert got.skipped == [Skipped(7, "cannot read it")]
    np.testing.assert_array_equal(got.sums["sum"], np.ones(3))
    assert read_result(path, with_sums=False).sums == {}


def test_failed_chunk_leaves_no_result(tmp_path):
    def fail(rows, task):
        raise RuntimeError("no")

    path = result_path(tmp_path, "fail", "ab" * 16)
    with pytest.raises(RuntimeError):
        execute_chunk(fail, table(2), make_task(tmp_path), {}, path)
    assert not path.exists()


def test_damaged_result_is_told_apart_from_a_missing_one(tmp_path):
    path = result_path(tmp_path, "double", "ab" * 16)
    execute_chunk(double, table(2), make_task(tmp_path), {}, path)
    path.write_bytes(path.read_bytes()[:-30])
    assert not has_result(path)
    with pytest.raises(FormatError):
        read_result(path)


@pytest.mark.parametrize("returned", [None, [1], (1, 2), ({}, pl.DataFrame())])
def test_wrong_kind_of_result_is_named(tmp_path, monkeypatch, returned):
    monkeypatch.setattr(sys.modules[__name__], "given_back", lambda rows, task: returned)
    monkeypatch.setattr(given_back, "__qualname__", "given_back")
    with pytest.raises(TypeError, match="test_chunks:given_back must return a polars DataFrame"):
        execute_chunk(given_back, table(1), make_task(tmp_path), {}, tmp_path / "r.zip")


def given_back(rows, task):
    return rows


def test_random_numbers_belong_to_the_chunk():
    a, b = "ab" * 16, "cd" * 16
    assert chunk_rng(a, 0).random() == chunk_rng(a, 0).random()
    draws = {chunk_rng(key, seed).random() for key in (a, b) for seed in (0, 1)}
    assert len(draws) == 4


def test_folder_for_files_is_there_and_goes_when_unused(tmp_path):
    def write(rows, task):
        (task.files / "a.txt").write_text("a")
        return rows

    execute_chunk(write, table(1), make_task(tmp_path), {}, tmp_path / "r.zip")
    assert (tmp_path / "files" / "a.txt").is_file()
    other = Task(key="0", root=tmp_path, folder=tmp_path / "other", rng=chunk_rng("0", 0))
    execute_chunk(double, table(1), other, {}, tmp_path / "s.zip")
    assert not (tmp_path / "other").exists()


def test_planning_does_not_loop_over_rows():
    """A small form of benchmarks/datasets.py: two hundred chunks of a thousand rows."""
    import time

    n = 200_000
    data = table(n, **{f"x_{i}": np.arange(n, dtype=np.float64) for i in range(10)})
    start = time.perf_counter()
    made = plan(data, chunk=1000)
    assert time.perf_counter() - start < 1.0
    assert len({chunk.key for chunk in made.chunks}) == 200
