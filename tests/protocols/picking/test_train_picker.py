import numpy as np
import polars as pl
import pytest

from tests.protocols.fields_project import DIAMETER, PIXEL, make_fields, micrographs_of
from verglas.core.errors import UserError
from verglas.model import COORDINATES, make_dataset
from verglas.protocols.picking import pick_network
from verglas.protocols.picking.train_picker import Inputs, TrainParams, run
from verglas.sdk.testing import LocalContext, check_protocol

PARAMS = TrainParams(diameter_angst=DIAMETER, n_epochs=1)


def _coordinates(root, truth, *, share=1.0):
    rng = np.random.default_rng(0)
    rows = []
    for item_id, points in enumerate(truth):
        chosen = points[rng.permutation(len(points))[: round(share * len(points))]] * PIXEL
        rows += [
            {
                "micrograph_id": item_id,
                "source_id": item_id,
                "optics_group": 1,
                "micrograph_path": f"data/field_{item_id:02d}.mrc",
                "coord_x_angst": float(x),
                "coord_y_angst": float(y),
            }
            for x, y in chosen
        ]
    return make_dataset(COORDINATES, pl.DataFrame(rows), root=root)


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.train_picker"


def test_a_model_is_made_and_can_be_used(tmp_path):
    truth = make_fields(tmp_path, 3)
    micrographs = micrographs_of(tmp_path, 3)
    ctx = LocalContext(tmp_path, job="train")
    picks = _coordinates(tmp_path, truth, share=0.8)
    model = run(ctx, PARAMS, Inputs(micrographs=micrographs, coordinates=picks)).model
    row = model.rows().row(0, named=True)
    assert row["n_trained"] + row["n_held_out"] == picks.n_items
    assert row["n_held_out"] > 0
    assert row["held_out_loss"] <= row["start_loss"]
    assert row["diameter_angst"] == DIAMETER
    assert ctx.metrics["held_out_recall"] == pytest.approx(row["held_out_recall"], abs=1e-4)
    found = pick_network.run(
        LocalContext(tmp_path, job="pick"),
        pick_network.NetworkParams(diameter_angst=DIAMETER),
        pick_network.Inputs(micrographs=micrographs, model=model),
    )
    assert found.coordinates.n_items >= 0.8 * sum(map(len, truth))


def test_three_picks_are_refused_with_advice(tmp_path):
    truth = make_fields(tmp_path, 2)
    picks = _coordinates(tmp_path, [truth[0][:2], truth[1][:1]])
    with pytest.raises(UserError, match=r"3 picks are too few.*two hundred"):
        run(
            LocalContext(tmp_path),
            PARAMS,
            Inputs(micrographs=micrographs_of(tmp_path, 2), coordinates=picks),
        )


def test_picks_in_one_micrograph_are_refused(tmp_path):
    truth = make_fields(tmp_path, 1)
    picks = _coordinates(tmp_path, [np.tile(truth[0], (4, 1))])
    with pytest.raises(UserError, match="all picks lie in one micrograph"):
        run(
            LocalContext(tmp_path),
            PARAMS,
            Inputs(micrographs=micrographs_of(tmp_path, 1), coordinates=picks),
        )


def test_unreadable_micrographs_end_the_training_with_a_reason(tmp_path):
    truth = make_fields(tmp_path, 3)
    for i in range(2):
        (tmp_path / f"data/field_{i:02d}.mrc").write_bytes(b"cut off")
    with pytest.raises(UserError, match="too few of the micrographs could be read"):
        run(
            LocalContext(tmp_path),
            PARAMS,
            Inputs(
                micrographs=micrographs_of(tmp_path, 3), coordinates=_coordinates(tmp_path, truth)
            ),
        )


def test_picks_elsewhere_are_left_out_and_told(tmp_path, caplog):
    truth = make_fields(tmp_path, 4)
    outside = [*truth[:3], truth[3]]
    outside[0] = np.vstack([outside[0], [[-50.0, 10.0], [9000.0, 20.0]]])
    picks = _coordinates(tmp_path, outside)
    ctx = LocalContext(tmp_path)
    micrographs = micrographs_of(tmp_path, 4).select([0, 1, 2])
    row = run(ctx, PARAMS, Inputs(micrographs=micrographs, coordinates=picks)).model.rows()
    assert any("not given" in text for text in ctx.warnings)
    assert "2 picks lie outside micrograph 0" in caplog.text
    assert row["n_trained"][0] + row["n_held_out"][0] == sum(map(len, truth[:3]))
