import numpy as np
import polars as pl
import pytest

from tests.algorithms.fields import n_matched
from tests.protocols.fields_project import DIAMETER, PIXEL, SHAPE, make_fields, micrographs_of
from verglas.core.errors import ParamsError, PortError
from verglas.model import COORDINATES, make_dataset
from verglas.protocols.picking.consensus import ConsensusParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol

N = 4


def picks_of(root, places, *, score=None, first=0):
    """A data set of positions in pixels, one array for each micrograph."""
    rows = [
        {
            "coord_x_angst": x * PIXEL,
            "coord_y_angst": y * PIXEL,
            "micrograph_id": i,
            "micrograph_path": f"data/field_{first + i:02d}.mrc",
            "optics_group": 1,
            "diameter_angst": DIAMETER,
            "score": 0.0 if score is None else float(score[i][k]),
        }
        for i, points in enumerate(places)
        for k, (x, y) in enumerate(points)
    ]
    optics = micrographs_of(root, 1).optics
    return make_dataset(COORDINATES, pl.DataFrame(rows), root=root, optics=optics)


def pickers(root, truth, seed=0):
    """Three pickers that miss a tenth and add false picks of their own, 4 % of D off centre."""
    rng = np.random.default_rng(seed)
    sets = []
    for n_false in (4, 2, 1):
        places, scores = [], []
        for points in truth:
            kept = points[rng.uniform(size=len(points)) < 0.92]
            kept = kept + rng.normal(size=kept.shape) * 0.03 * DIAMETER / PIXEL
            false = rng.uniform(30, np.array(SHAPE[::-1]) - 30, (n_false, 2))
            places.append(np.concatenate([kept, false]))
            scores.append(
                np.concatenate([rng.normal(2, 0.5, len(kept)), rng.normal(0, 0.7, n_false)])
            )
        sets.append(picks_of(root, places, score=scores))
    return sets


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("consensus")
    truth = make_fields(root, N)
    return root, truth, pickers(root, truth)


def quality(data, truth):
    rows, hits = data.rows(), 0
    for i, points in enumerate(truth):
        own = rows.filter(micrograph_id=i).select("coord_x_angst", "coord_y_angst").to_numpy()
        hits += n_matched(own / PIXEL, points, 0.3 * DIAMETER / PIXEL)
    return 2 * hits / (rows.height + sum(map(len, truth)))


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "coordinates.consensus"


def test_consensus_is_better_than_every_picker(project):
    """F1 of three pickers 0.75-0.92; of the model at least 0.95 and above each of them."""
    root, truth, sets = project
    ctx = LocalContext(root, job="0001-model")
    inputs = Inputs(coordinates=sets, micrographs=micrographs_of(root, N))
    outputs = run(ctx, ConsensusParams(), inputs)
    best = max(quality(data, truth) for data in sets)
    assert quality(outputs.coordinates, truth) > max(best, 0.95)
    rows = outputs.coordinates.rows()
    assert rows["score"].is_between(0.5, 1).all()
    assert rows["n_pickers"].is_between(1, 3).all()
    n_all = outputs.coordinates.n_items + outputs.rejected.n_items
    assert ctx.metrics["n_union"] == n_all
    assert ctx.metrics["precision_3"] > ctx.metrics["precision_1"]
    assert outputs.pickers.rows()["label"].to_list() == ["picker 1", "picker 2", "picker 3"]


@pytest.mark.parametrize(
    ("params", "votes"), [({"mode": "and"}, 3), ({"mode": "or"}, 1), ({"mode": "vote"}, 2)]
)
def test_rules_count_votes(project, params, votes):
    root, _, sets = project
    ctx = LocalContext(root, job=f"0002-{params['mode']}")
    outputs = run(ctx, ConsensusParams(**params), Inputs(coordinates=sets))
    assert outputs.coordinates.rows()["n_pickers"].min() == votes
    assert outputs.rejected.n_items == 0 or outputs.rejected.rows()["n_pickers"].max() < votes


def test_one_set_is_refused(project):
    root, _, sets = project
    with pytest.raises(PortError, match="two or more pickers: got one"):
        run(LocalContext(root), ConsensusParams(), Inputs(coordinates=sets[:1]))


def test_sets_of_other_micrographs_are_named(project):
    root, truth, sets = project
    other = picks_of(root, truth, first=50)
    with pytest.raises(PortError, match="no micrograph in common"):
        run(LocalContext(root), ConsensusParams(), Inputs(coordinates=[sets[0], other]))


def test_unknown_size_is_asked_for(project):
    root, _, sets = project
    bare = [
        make_dataset(COORDINATES, data.rows().drop("diameter_angst"), root=root, optics=data.optics)
        for data in sets
    ]
    with pytest.raises(ParamsError, match="needs diameter_angst"):
        run(LocalContext(root), ConsensusParams(), Inputs(coordinates=bare))


def test_picks_beyond_the_image_do_not_stop_it(project):
    root, truth, sets = project
    wild = [np.concatenate([points, [[-500.0, 9000.0]]]) for points in truth]
    inputs = Inputs(coordinates=[*sets, picks_of(root, wild)], micrographs=micrographs_of(root, N))
    outputs = run(LocalContext(root, job="0004-wild"), ConsensusParams(), inputs)
    assert outputs.coordinates.rows()["coord_x_angst"].min() > 0


def test_unreadable_micrograph_is_named(project, tmp_path):
    truth = make_fields(tmp_path, 2)
    sets = pickers(tmp_path, truth)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    ctx = LocalContext(tmp_path)
    inputs = Inputs(coordinates=sets, micrographs=micrographs_of(tmp_path, 2))
    outputs = run(ctx, ConsensusParams(), inputs)
    assert outputs.coordinates.rows()["micrograph_id"].unique().to_list() == [0]
    assert any("item 1 left out" in text for text in ctx.warnings)
