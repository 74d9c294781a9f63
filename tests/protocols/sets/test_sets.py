"""Sets of any kind are combined without mixing up items, optics groups or micrographs."""

import polars as pl
import pytest

from tests.model.frames import OPTICS, micrograph_rows, micrographs, with_ctf
from verglas.core.errors import ParamsError, PortError
from verglas.model import ANY, COORDINATES, MICROGRAPHS, make_dataset
from verglas.protocols.sets import filter as sets_filter
from verglas.protocols.sets import intersect, join, split, subtract, union
from verglas.sdk.testing import LocalContext, check_protocol
from verglas.viewers.methods import MethodStep, write_methods

ALL = (union, intersect, subtract, split, sets_filter, join)


def coordinates(root, n=4, *, first_path=0, optics=OPTICS):
    rows = pl.DataFrame(
        {
            "coord_x_angst": [float(10 * i) for i in range(n)],
            "coord_y_angst": [5.0] * n,
            "micrograph_id": [i // 2 for i in range(n)],
            "micrograph_path": [f"import/{first_path + i // 2:03d}.mrc" for i in range(n)],
            "optics_group": [1] * n,
            "score": [0.1 * i for i in range(n)],
        }
    )
    return make_dataset(COORDINATES, rows, root=root, optics=optics)


def unite(ctx, *sets, micrographs=None, **params):
    inputs = union.Inputs(sets=list(sets), micrographs=micrographs)
    return union.run(ctx, union.UnionParams(**params), inputs).union


@pytest.mark.parametrize("module", ALL, ids=lambda module: module.__name__.rpartition(".")[2])
def test_protocol_declares_what_it_should(module):
    spec = check_protocol(module.run)
    assert all(port.kind is not None for port in spec.output_ports().values())
    text = write_methods([MethodStep(spec.id, spec.label)])[0][0]
    assert "The step" not in text


def test_union_takes_an_item_once_and_keeps_its_number(tmp_path):
    data = micrographs(tmp_path, 5)
    ids = data.rows()["item_id"].to_list()
    first, second = data.select(ids[:3]), data.select(ids[2:])
    ctx = LocalContext(tmp_path)
    whole = unite(ctx, first, second)
    assert whole.kind == MICROGRAPHS
    assert whole.rows()["item_id"].to_list() == ids
    assert whole.optics.height == 2
    assert ctx.metrics == {"n_items": 5, "n_duplicates": 1}


def test_union_gives_other_items_and_other_optics_free_numbers(tmp_path):
    """Ids and groups collide, constants differ in one group and agree in the other."""
    other_optics = OPTICS.with_columns(voltage_kv=pl.Series([300.0, 120.0]))
    rows = micrograph_rows(4).with_columns(image_path="other/" + pl.col("image_path"))
    other = make_dataset(MICROGRAPHS, rows, root=tmp_path, optics=other_optics)
    whole = unite(LocalContext(tmp_path), micrographs(tmp_path, 4), other)
    table = whole.rows(["item_id", "image_path", "optics_group", "voltage_kv"])
    assert table["item_id"].n_unique() == 8
    assert sorted(whole.optics["optics_group"]) == [1, 2, 3]
    second = table.filter(pl.col("image_path").str.starts_with("other"))
    assert second["optics_group"].to_list() == [1, 3, 1, 3]
    assert second["voltage_kv"].to_list() == [300.0, 120.0, 300.0, 120.0]
    assert table["voltage_kv"][1] == 200.0


def test_union_keeps_common_columns_or_all(tmp_path):
    data = micrographs(tmp_path, 4)
    ids = data.rows()["item_id"].to_list()
    first, second = with_ctf(data.select(ids[:2])), data.select(ids[2:])
    ctx = LocalContext(tmp_path)
    assert "ctf" not in unite(ctx, first, second).traits
    assert "defocus_u_angst" in ctx.warnings[0]
    whole = unite(ctx, first, second, columns="all")
    assert whole.rows()["defocus_u_angst"].null_count() == 2


def test_union_of_positions_tells_micrographs_of_one_number_apart(tmp_path):
    ctx = LocalContext(tmp_path)
    whole = unite(ctx, coordinates(tmp_path), coordinates(tmp_path, first_path=7)).rows()
    pairs = whole.select("micrograph_path", "micrograph_id").unique()
    assert pairs.height == 4
    assert pairs["micrograph_id"].n_unique() == 4
    assert "2 micrographs had a number that means another" in ctx.warnings[0]


def test_union_of_positions_takes_the_numbers_of_given_micrographs(tmp_path):
    """Micrograph 008 is not among those given: its positions are left out with a warning."""
    ctx = LocalContext(tmp_path)
    given = micrographs(tmp_path, 8)
    sets = coordinates(tmp_path), coordinates(tmp_path, first_path=7)
    whole = unite(ctx, *sets, micrographs=given).rows()
    own = dict(zip(given.rows()["image_path"], given.rows()["item_id"], strict=True))
    assert whole.height == 6
    assert all(own[row["micrograph_path"]] == row["micrograph_id"] for row in whole.to_dicts())
    assert "import/008.mrc" in ctx.warnings[0]


def test_intersection_and_difference_part_a_set(tmp_path):
    data = micrographs(tmp_path, 6)
    ids = data.rows()["item_id"].to_list()
    ctx = LocalContext(tmp_path)
    others = [data.select(ids[1:5]), data.select(ids[3:])]
    both = intersect.run(
        ctx, intersect.IntersectParams(), intersect.Inputs(data=data, others=others)
    ).intersection
    assert both.rows()["item_id"].to_list() == ids[3:5]
    left = subtract.run(
        ctx, subtract.SubtractParams(), subtract.Inputs(data=data, others=others[:1])
    ).difference
    assert left.rows()["item_id"].to_list() == [ids[0], ids[5]]


def test_sets_of_different_kinds_are_named(tmp_path):
    ctx = LocalContext(tmp_path)
    with pytest.raises(PortError, match=r"one kind: got .*micrographs.* and .*coordinates"):
        unite(ctx, micrographs(tmp_path), coordinates(tmp_path))


def test_unknown_column_that_tells_items_apart_is_named(tmp_path):
    with pytest.raises(ParamsError, match="has no column uid; its columns are"):
        unite(LocalContext(tmp_path), micrographs(tmp_path), same_by=("uid",))


@pytest.mark.parametrize(
    ("params", "sizes"),
    [
        ({"n_parts": 3}, [4, 3, 3]),
        ({"shares": (8.0, 2.0)}, [8, 2]),
        ({"n_parts": 2, "in_order": True}, [5, 5]),
        ({"by_column": "micrograph_id"}, [2, 2, 2, 2, 2]),
    ],
    ids=["equal", "shares", "in order", "by value"],
)
def test_split_deals_every_item_out_once(tmp_path, params, sizes):
    data = coordinates(tmp_path, 10)
    inputs = split.Inputs(data=data)
    parts = split.run(LocalContext(tmp_path), split.SplitParams(**params), inputs).parts
    assert sorted((part.n_items for part in parts), reverse=True) == sizes
    ids = [item for part in parts for item in part.rows()["item_id"]]
    assert sorted(ids) == list(range(10))
    again = split.run(LocalContext(tmp_path), split.SplitParams(**params), inputs).parts
    assert [p.rows()["item_id"].to_list() for p in again] == [
        p.rows()["item_id"].to_list() for p in parts
    ]


def test_split_keeps_the_particles_of_a_micrograph_together(tmp_path):
    data = coordinates(tmp_path, 20)
    params = split.SplitParams(n_parts=3, keep_together="micrograph_id")
    parts = split.run(LocalContext(tmp_path), params, split.Inputs(data=data)).parts
    seen = [set(part.rows()["micrograph_id"]) for part in parts]
    assert sum(map(len, seen)) == len(set.union(*seen)) == 10


def choose(tmp_path, data, condition, ctx=None):
    params = sets_filter.FilterParams(condition=condition)
    return sets_filter.run(ctx or LocalContext(tmp_path), params, sets_filter.Inputs(data=data))


@pytest.mark.parametrize(
    ("condition", "ids"),
    [
        ("item_id > 20 AND pixel_size_angst < 1.8", [50, 30]),
        ("image_path LIKE '%003%' OR item_id IN (10)", [20, 10]),
        ("ABS(item_id - 30) BETWEEN 10 AND 15", [40, 20]),
        ("NOT item_id < AVG(item_id)", [50, 40, 30]),
    ],
)
def test_filter_keeps_what_fulfils_the_condition(tmp_path, condition, ids):
    data = micrographs(tmp_path)
    outputs = choose(tmp_path, data, condition)
    assert outputs.accepted.rows()["item_id"].to_list() == ids
    assert outputs.rejected.n_items == 5 - len(ids)


def test_filter_rejects_what_has_no_value(tmp_path):
    data = micrographs(tmp_path)
    rows = data.rows(["item_id"]).with_columns(score=pl.Series([1.0, None, 3.0, None, 0.0]))
    ctx = LocalContext(tmp_path)
    outputs = choose(tmp_path, data.with_columns(rows), "score > 0.5", ctx)
    assert outputs.accepted.n_items == 2
    assert "2 items lack a value" in ctx.warnings[0]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("optic_group = 1", "no column 'optic_group'; did you mean optics_group"),
        ("item_id +", "cannot read 'item_id \\+'"),
        ("item_id + 1", "is not true or false: got Int64"),
        ("image_path > 3", "cannot work out .*columns are image_path \\(String\\)"),
        ("1 = 1", "names no column"),
        ("item_id IN (SELECT item_id FROM self)", "cannot"),
        ("read_csv('/etc/passwd') = item_id", "cannot read .*unsupported function"),
    ],
)
def test_bad_conditions_are_explained(tmp_path, condition, message):
    with pytest.raises(ParamsError, match=message):
        choose(tmp_path, micrographs(tmp_path), condition)


def test_join_brings_columns_by_key_and_names_the_lone(tmp_path):
    data = coordinates(tmp_path, 6)
    other = with_ctf(micrographs(tmp_path, 5))
    ids = {path: i for i, path in enumerate(other.rows()["image_path"][:2])}
    lookup = other.rows(["item_id", "image_path"]).with_columns(
        micrograph_id=pl.col("image_path").replace_strict(ids, default=None, return_dtype=pl.Int64)
    )
    other = other.with_columns(lookup.select("item_id", "micrograph_id"))
    params = join.JoinParams(
        columns=("defocus_u_angst",), key="micrograph_id", other_key="micrograph_id"
    )
    ctx = LocalContext(tmp_path)
    outputs = join.run(ctx, params, join.Inputs(data=data, other=other))
    assert outputs.joined.kind == COORDINATES
    assert outputs.joined.rows()["defocus_u_angst"].to_list() == [500.0, 500.0, 400.0, 400.0]
    assert outputs.unmatched.n_items == 2
    assert "2 of 6 items have no partner" in ctx.warnings[0]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"columns": ("scores",)}, "has no column scores"),
        ({"columns": ("optics_group",)}, "cannot bring optics_group"),
        ({"columns": ("score",), "other_key": "micrograph_id"}, "occurs more than once"),
        ({"columns": ("score",), "key": "micrograph_path"}, "of different types"),
    ],
)
def test_joins_that_make_no_sense_are_refused(tmp_path, params, message):
    data = coordinates(tmp_path)
    with pytest.raises(ParamsError, match=message):
        join.run(
            LocalContext(tmp_path), join.JoinParams(**params), join.Inputs(data=data, other=data)
        )


def test_a_port_of_any_kind_takes_every_kind():
    assert ANY.takes("volumes")
    assert MICROGRAPHS.takes("micrographs")
    assert not MICROGRAPHS.takes("volumes")
