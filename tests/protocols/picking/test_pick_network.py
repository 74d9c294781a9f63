import numpy as np
import polars as pl
import pytest

from tests.algorithms.fields import n_matched
from tests.protocols.fields_project import (
    DIAMETER,
    PIXEL,
    make_fields,
    micrographs_of,
    true_ctf,
)
from verglas.core.errors import FormatError, UserError
from verglas.io.images import write_png
from verglas.io.mrc import read_mrc, write_mrc
from verglas.model import MODELS, make_dataset
from verglas.protocols.picking.pick_network import Inputs, NetworkParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

N = 5
PARAMS = NetworkParams(diameter_angst=DIAMETER)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("network")
    truth = make_fields(root, N)
    ctx = LocalContext(root)
    outputs = run(ctx, PARAMS, Inputs(micrographs=micrographs_of(root, N, **true_ctf(N))))
    return outputs, ctx, truth


def _model(root, path, diameter=DIAMETER, n=1):
    rows = {"weights_path": [path] * n, "diameter_angst": [diameter] * n, "label": ["picker"] * n}
    return make_dataset(MODELS, pl.DataFrame(rows), root=root)


def _positions(outputs, item_id):
    own = outputs.coordinates.rows().filter(micrograph_id=item_id)
    return own.select("coord_x_angst", "coord_y_angst").to_numpy() / PIXEL


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.pick_network"


def test_particles_are_found(done):
    """Match within 0.3 diameters, F1 of all micrographs at least 0.93."""
    outputs, ctx, truth = done
    hits = sum(
        n_matched(_positions(outputs, i), points, 0.3 * DIAMETER / PIXEL)
        for i, points in enumerate(truth)
    )
    n_found = outputs.coordinates.n_items
    assert 2 * hits / (n_found + sum(map(len, truth))) >= 0.93
    assert ctx.metrics["n_picked"] == n_found


def test_coordinates_carry_probability_and_micrograph(done):
    rows = done[0].coordinates.rows()
    assert {"ctf", "optics", "score"} <= done[0].coordinates.traits
    assert rows["score"].is_between(PARAMS.threshold, 1.0).all()
    first = rows.filter(micrograph_id=2).row(0, named=True)
    assert first["micrograph_path"] == "data/field_02.mrc"
    assert first["diameter_angst"] == DIAMETER
    assert first["defocus_u_angst"] == 17150.0


def test_micrographs_come_back_with_picture_and_count(done):
    outputs, _, _ = done
    rows = outputs.micrographs.rows()
    counts = outputs.coordinates.rows().group_by("micrograph_id").len().sort("micrograph_id")
    assert rows["n_particles"].to_list() == counts["len"].to_list()
    for path in rows["thumbnail_path"]:
        assert outputs.micrographs.path(path).read_bytes()[:2] == b"\xff\xd8"


def test_pictures_of_8_bit_and_inverted_micrographs_do(tmp_path):
    truth = make_fields(tmp_path, 1)
    image = read_mrc(tmp_path / "data/field_00.mrc")[0][0]
    (tmp_path / "data/field_00.mrc").unlink()
    write_png(tmp_path / "data/field_00.png", -image)
    micrographs = micrographs_of(tmp_path, 1, image_path=["data/field_00.png"])
    params = PARAMS.model_copy(update={"bright_particles": True})
    outputs = run(LocalContext(tmp_path), params, Inputs(micrographs=micrographs))
    assert n_matched(_positions(outputs, 0), truth[0], 18.0) >= 0.9 * len(truth[0])


def test_nothing_found_is_an_error_with_advice(tmp_path):
    (tmp_path / "data").mkdir()
    write_mrc(tmp_path / "data/field_00.mrc", np.zeros((480, 520), np.float32), PIXEL)
    with pytest.raises(UserError, match=r"check diameter_angst|train_picker"):
        run(LocalContext(tmp_path), PARAMS, Inputs(micrographs=micrographs_of(tmp_path, 1)))


def test_unreadable_and_empty_micrographs_are_named(tmp_path, caplog):
    make_fields(tmp_path, 3)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    write_mrc(tmp_path / "data/field_02.mrc", np.full((480, 520), 7, np.float32), PIXEL)
    ctx = LocalContext(tmp_path)
    outputs = run(ctx, PARAMS, Inputs(micrographs=micrographs_of(tmp_path, 3)))
    assert outputs.coordinates.rows()["micrograph_id"].unique().to_list() == [0]
    assert "field_01.mrc" in caplog.text
    assert "1 of 2 micrographs have no particle" in ctx.warnings


def test_a_file_that_is_no_model_is_refused_with_advice(tmp_path):
    make_fields(tmp_path, 1)
    (tmp_path / "wrong.safetensors").write_bytes(b"not weights")
    inputs = Inputs(
        micrographs=micrographs_of(tmp_path, 1), model=_model(tmp_path, "wrong.safetensors")
    )
    with pytest.raises(FormatError, match="train the model again"):
        run(LocalContext(tmp_path), PARAMS, inputs)


def test_one_model_at_a_time_and_for_this_diameter(tmp_path):
    from verglas.algorithms.picking.network.weights import DEFAULT_WEIGHTS

    make_fields(tmp_path, 1)
    (tmp_path / "own.safetensors").write_bytes(DEFAULT_WEIGHTS.read_bytes())
    micrographs = micrographs_of(tmp_path, 1)
    ctx = LocalContext(tmp_path)
    own = _model(tmp_path, "own.safetensors", diameter=300.0)
    run(ctx, PARAMS, Inputs(micrographs=micrographs, model=own))
    assert any("trained for a diameter of 300" in text for text in ctx.warnings)
    two = _model(tmp_path, "own.safetensors", n=2)
    with pytest.raises(UserError, match="one is needed"):
        run(LocalContext(tmp_path), PARAMS, Inputs(micrographs=micrographs, model=two))


def test_resumed_run_equals_a_whole_one(tmp_path):
    def make(root):
        make_fields(root, N)
        return Inputs(micrographs=micrographs_of(root, N))

    check_resume(run, make, PARAMS, tmp_path)
