import numpy as np
import pytest

from tests.algorithms.fields import n_matched
from tests.protocols.fields_project import (
    DIAMETER,
    PIXEL,
    make_fields,
    micrographs_of,
    true_ctf,
)
from verglas.core.errors import ParamsError, UserError
from verglas.io.mrc import write_mrc
from verglas.protocols.picking.pick_log import Inputs, PickParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

N = 6
PARAMS = PickParams(diameter_angst=DIAMETER)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("picks")
    truth = make_fields(root, N)
    ctx = LocalContext(root)
    outputs = run(ctx, PARAMS, Inputs(micrographs=micrographs_of(root, N, **true_ctf(N))))
    return outputs, ctx, truth


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.pick_log"


def test_particles_are_found(done):
    """Match within 0.3 diameters, F1 of all micrographs at least 0.95."""
    outputs, ctx, truth = done
    rows = outputs.coordinates.rows()
    hits = 0
    for item_id, points in enumerate(truth):
        own = rows.filter(micrograph_id=item_id).select("coord_x_angst", "coord_y_angst")
        hits += n_matched(own.to_numpy() / PIXEL, points, 0.3 * DIAMETER / PIXEL)
    assert 2 * hits / (rows.height + sum(map(len, truth))) >= 0.95
    assert ctx.metrics["n_picked"] == rows.height


def test_coordinates_inherit_from_their_micrograph(done):
    rows = done[0].coordinates.rows()
    assert {"ctf", "optics", "score"} <= done[0].coordinates.traits
    first = rows.filter(micrograph_id=2).row(0, named=True)
    assert first["micrograph_path"] == "data/field_02.mrc"
    assert first["source_id"] == 2
    assert first["defocus_u_angst"] == 17150.0
    assert 0.5 * DIAMETER < first["diameter_angst"] <= DIAMETER


def test_micrographs_come_back_with_picture_and_count(done):
    outputs, _, _ = done
    rows = outputs.micrographs.rows()
    counts = outputs.coordinates.rows().group_by("micrograph_id").len().sort("micrograph_id")
    assert rows["n_particles"].to_list() == counts["len"].to_list()
    for path in rows["thumbnail_path"]:
        assert outputs.micrographs.path(path).read_bytes()[:2] == b"\xff\xd8"


def test_bright_particles_are_found_when_said_so(tmp_path):
    from verglas.io.mrc import read_mrc

    truth = make_fields(tmp_path, 1)
    path = tmp_path / "data/field_00.mrc"
    write_mrc(path, -read_mrc(path)[0][0], PIXEL)
    params = PARAMS.model_copy(update={"bright_particles": True})
    outputs = run(LocalContext(tmp_path), params, Inputs(micrographs=micrographs_of(tmp_path, 1)))
    found = outputs.coordinates.rows().select("coord_x_angst", "coord_y_angst").to_numpy() / PIXEL
    assert n_matched(found, truth[0], 18.0) >= 0.9 * len(truth[0])


def test_nothing_found_is_an_error_with_advice(tmp_path):
    (tmp_path / "data").mkdir()
    write_mrc(tmp_path / "data/field_00.mrc", np.zeros((480, 520), np.float32), PIXEL)
    with pytest.raises(UserError, match="check diameter_angst"):
        run(LocalContext(tmp_path), PARAMS, Inputs(micrographs=micrographs_of(tmp_path, 1)))


def test_empty_micrograph_among_others_is_warned_of(tmp_path):
    make_fields(tmp_path, 2)
    write_mrc(tmp_path / "data/field_01.mrc", np.zeros((480, 520), np.float32), PIXEL)
    ctx = LocalContext(tmp_path)
    outputs = run(ctx, PARAMS, Inputs(micrographs=micrographs_of(tmp_path, 2)))
    assert outputs.coordinates.rows()["micrograph_id"].unique().to_list() == [0]
    assert "1 of 2 micrographs have no particle" in ctx.warnings


def test_unreadable_micrograph_is_skipped(tmp_path, caplog):
    make_fields(tmp_path, 2)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    outputs = run(LocalContext(tmp_path), PARAMS, Inputs(micrographs=micrographs_of(tmp_path, 2)))
    assert outputs.micrographs.n_items == 1
    assert "field_01.mrc" in caplog.text


def test_contradicting_diameters_are_refused():
    with pytest.raises(ParamsError, match="min_diameter_angst must not exceed"):
        PickParams(diameter_angst=100.0, min_diameter_angst=120.0)


def test_resumed_run_equals_a_whole_one(tmp_path):
    def make(root):
        make_fields(root, N)
        return Inputs(micrographs=micrographs_of(root, N))

    check_resume(run, make, PARAMS, tmp_path)
