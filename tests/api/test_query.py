from pathlib import Path

import polars as pl
import pytest

from verglas.api.query import describe_columns, query_page, select_where
from verglas.core.errors import ParamsError
from verglas.model import Kind, make_dataset

ANY = Kind("any", "Anything.", ())


@pytest.fixture
def data(tmp_path):
    rows = pl.DataFrame(
        {
            "item_id": [1, 2, 3, 4],
            "score": [0.5, None, 2.5, 1.0],
            "micrograph_path": ["a/1.mrc", "b/1.mrc", "a/2.mrc", "b/2.mrc"],
            "class_index": [0, 1, 1, 2],
            "optics_group": [1, 1, 2, 2],
        }
    )
    optics = pl.DataFrame({"optics_group": [1, 2], "voltage_kv": [200.0, 300.0]})
    return make_dataset(ANY, rows, root=Path(tmp_path), optics=optics)


def ids(page):
    return [row["item_id"] for row in page.rows]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("score < 1", [1]),
        ("score>=1", [3, 4]),
        ("class_index = 1", [2, 3]),
        ("class_index != 1", [1, 4]),
        ("class_index in 0,2", [1, 4]),
        ("micrograph_path ~ a/", [1, 3]),
        ("micrograph_path == b/1.mrc", [2]),
        ("score is null", [2]),
        ("score is not null", [1, 3, 4]),
        ("voltage_kv > 250", [3, 4]),
    ],
)
def test_filters_keep_the_right_rows(data, where, expected):
    assert ids(query_page(data, where=[where])) == expected
    assert select_where(data, [where]).rows(["item_id"])["item_id"].to_list() == expected


def test_several_filters_must_all_hold(data):
    page = query_page(data, where=["score > 0.7", "class_index = 1"])
    assert ids(page) == [3]
    assert page.total == 1


def test_pages_are_sorted_and_counted(data):
    page = query_page(data, columns=["item_id"], sort="score", is_descending=True, limit=2)
    assert (ids(page), page.total) == ([3, 4], 4)
    page = query_page(data, columns=["item_id"], sort="score", is_descending=True, offset=2)
    assert ids(page) == [1, 2], "rows without a value come last"


def test_columns_of_optics_groups_are_joined_on_when_named(data):
    page = query_page(data, columns=["item_id", "voltage_kv"], limit=1)
    assert page.rows == [{"item_id": 1, "voltage_kv": 200.0}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": ["colour = 3"]}, "no column 'colour'"),
        ({"where": ["score <"]}, "not a filter"),
        ({"where": ["score < many"]}, "'many' is not a value of Float64"),
        ({"where": ["score is 3"]}, "expected null or not null"),
        ({"sort": "colour"}, "no column 'colour'"),
        ({"columns": ["colour"]}, "no column 'colour'"),
        ({"offset": -1}, "expected >= 0"),
        ({"where": ["__import__('os').system('true')"]}, "not a filter"),
    ],
)
def test_bad_queries_are_named(data, options, message):
    with pytest.raises(ParamsError, match=message.replace("(", r"\(").replace(")", r"\)")):
        query_page(data, **options)


def test_columns_are_described(data):
    table = describe_columns(data, ["score", "micrograph_path"])
    assert table.to_dicts() == [
        {"column": "score", "low": 0.5, "mean": pytest.approx(4 / 3), "high": 2.5, "n_missing": 1}
    ]
