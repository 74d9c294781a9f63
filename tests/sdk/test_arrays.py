import zipfile

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.tolerance import F64
from verglas.core.errors import FormatError
from verglas.sdk.arrays import (
    FAN_IN,
    ArrayRef,
    Bundle,
    add_arrays,
    arrays_digest,
    is_bundle,
    load_arrays,
    put_arrays,
    read_bundle,
    tree_sum,
    write_bundle,
)

DTYPES = [np.float32, np.float64, np.complex64, np.complex128, np.int32, np.uint8, np.bool_]
any_array = hnp.arrays(
    dtype=st.sampled_from(DTYPES), shape=hnp.array_shapes(min_dims=0, max_dims=3, min_side=0)
)


@given(st.dictionaries(st.sampled_from(["a", "b", "sum_ft"]), any_array))
def test_bundle_is_read_as_written(tmp_path_factory, arrays):
    path = tmp_path_factory.getbasetemp() / "bundle.zip"
    rows = pl.DataFrame({"item_id": [1, 2], "y": [[1.0], []]})
    write_bundle(path, Bundle(arrays, rows, {"n": 3}))
    got = read_bundle(path)
    assert got.note == {"n": 3}
    assert got.rows.equals(rows)
    assert list(got.arrays) == list(arrays)
    for name, array in arrays.items():
        assert got.arrays[name].dtype == array.dtype
        assert got.arrays[name].shape == array.shape
        assert got.arrays[name].tobytes() == array.tobytes()


def test_arrays_can_be_left_in_the_file(tmp_path):
    write_bundle(tmp_path / "b.zip", Bundle({"a": np.ones(3)}, pl.DataFrame({"x": [1]})))
    got = read_bundle(tmp_path / "b.zip", with_arrays=False)
    assert got.arrays == {}
    assert got.rows.height == 1


def test_equal_content_gives_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_bundle(tmp_path / f"{name}.zip", Bundle({"v": np.arange(9)}, None, {"n": 1}))
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()


def test_every_changed_byte_of_an_array_is_noticed(tmp_path):
    path = tmp_path / "b.zip"
    write_bundle(path, Bundle({"v": np.zeros(100, dtype=np.uint8)}))
    whole = path.read_bytes()
    start = whole.index(bytes(100))
    for place in (start, start + 50, start + 99):
        damaged = bytearray(whole)
        damaged[place] = 1
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match=r"damaged or missing file .*b.zip'"):
            read_bundle(path)


@given(cut=st.floats(0, 1, exclude_max=True))
def test_truncated_bundle_is_not_there(tmp_path_factory, cut):
    path = tmp_path_factory.getbasetemp() / "cut.zip"
    write_bundle(path, Bundle({"v": np.arange(50)}, pl.DataFrame({"x": [1]})))
    assert is_bundle(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(cut * len(whole))])
    assert not is_bundle(path)
    with pytest.raises(FormatError):
        read_bundle(path)


def test_missing_bundle_is_a_format_error(tmp_path):
    assert not is_bundle(tmp_path / "no.zip")
    with pytest.raises(FormatError, match="damaged or missing"):
        read_bundle(tmp_path / "no.zip")


def test_pickles_are_never_read(tmp_path):
    path = tmp_path / "b.zip"
    write_bundle(path, Bundle())
    with zipfile.ZipFile(path, "a") as archive, archive.open("evil.npy", "w") as member:
        np.lib.format.write_array(member, np.array([{}]), allow_pickle=True)
    with pytest.raises(FormatError, match="allow_pickle=False"):
        read_bundle(path)


def test_objects_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="allow_pickle=False"):
        write_bundle(tmp_path / "b.zip", Bundle({"a": np.array([{}])}))
    assert list(tmp_path.iterdir()) == []


def test_digest_sees_names_types_shapes_and_values():
    a = np.arange(6, dtype=np.float32)
    digests = [
        arrays_digest(arrays)
        for arrays in (
            {"a": a},
            {"b": a},
            {"a": a.astype(np.float64)},
            {"a": a.reshape(2, 3)},
            {"a": a[::-1]},
            {"a": a, "b": a},
        )
    ]
    assert len(set(digests)) == len(digests)
    assert arrays_digest({"b": a, "a": a}) == digests[-1]
    assert arrays_digest({"a": np.asfortranarray(a.reshape(2, 3))}) == digests[3]


def test_arrays_are_put_aside_once(tmp_path):
    arrays = {"volume": np.arange(8.0).reshape(2, 2, 2)}
    ref = put_arrays(arrays, tmp_path / "jobs" / "1" / "arrays", tmp_path)
    assert ref.path == f"jobs/1/arrays/{ref.digest}.zip"
    written = (tmp_path / ref.path).stat().st_mtime_ns
    assert put_arrays(arrays, tmp_path / "jobs" / "1" / "arrays", tmp_path) == ref
    assert (tmp_path / ref.path).stat().st_mtime_ns == written
    np.testing.assert_array_equal(load_arrays(ref, tmp_path)["volume"], arrays["volume"])


def test_array_files_that_changed_are_noticed(tmp_path):
    ref = put_arrays({"a": np.ones(3)}, tmp_path, tmp_path)
    write_bundle(tmp_path / ref.path, Bundle({"a": np.zeros(3)}))
    with pytest.raises(FormatError, match="has changed since it was written"):
        load_arrays(ArrayRef(ref.path, ref.digest), tmp_path)


def test_arrays_are_loaded_once(tmp_path):
    ref = put_arrays({"a": np.ones(3)}, tmp_path, tmp_path)
    assert load_arrays(ref, tmp_path)["a"] is load_arrays(ref, tmp_path)["a"]


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=600))
def test_tree_adds_every_part_once(values):
    parts = [{"s": np.array([value], dtype=np.float32)} for value in values]
    total = tree_sum([lambda part=part: part for part in parts])["s"]
    assert total.dtype == np.float64
    np.testing.assert_allclose(total[0], np.sum(np.float64(values)), rtol=1e-10, atol=1e-6)


def test_tree_adds_in_groups_of_fan_in():
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=5) * 10.0 ** rng.integers(-9, 9) for _ in range(FAN_IN**2 + 40)]
    level = parts
    while len(level) > 1:
        groups = [level[i : i + FAN_IN] for i in range(0, len(level), FAN_IN)]
        level = [add_arrays({"s": part} for part in group)["s"] for group in groups]
    total = tree_sum([lambda part=part: {"s": part} for part in parts])["s"]
    np.testing.assert_array_equal(total, level[0])


def test_a_million_small_terms_are_not_lost():
    """Added one at a time in float32 they come to 0.25 % less than they should."""
    part = {"s": np.array([0.1], dtype=np.float32)}
    total = tree_sum([lambda: part] * 100_000)["s"][0]
    np.testing.assert_allclose(total, 100_000 * np.float64(np.float32(0.1)), **F64)


@pytest.mark.parametrize(
    ("given_type", "wide"),
    [
        (np.float32, np.float64),
        (np.complex64, np.complex128),
        (np.int32, np.int64),
        (np.bool_, np.int64),
    ],
)
def test_sums_are_wide(given_type, wide):
    part = {"s": np.ones(2, dtype=given_type)}
    total = add_arrays([part, part])["s"]
    assert total.dtype == wide
    np.testing.assert_array_equal(total, [2, 2])
    assert part["s"].dtype == given_type


def test_parts_are_left_as_they_are():
    parts = [{"s": np.ones(2)}, {"s": np.ones(2)}]
    add_arrays(parts)
    np.testing.assert_array_equal(parts[0]["s"], [1, 1])


def test_sums_that_do_not_match_are_refused():
    one = {"s": np.ones(2)}
    with pytest.raises(ValueError, match=r"equal shapes: 's' has \(3,\), expected \(2,\)"):
        add_arrays([one, {"s": np.ones(3)}])
    with pytest.raises(ValueError, match="equal names"):
        add_arrays([one, {"t": np.ones(2)}])
    with pytest.raises(TypeError, match="cannot be added"):
        add_arrays([{"s": np.array(["a"])}])


def test_nothing_sums_to_nothing():
    assert tree_sum([]) == {}
