"""Picks on contamination go, picks on ice stay, and the mask is there to be looked at."""

import numpy as np
import polars as pl
import pytest
import torch

from tests.protocols.fields_project import PIXEL, SHAPE, make_fields, micrographs_of
from tests.protocols.picking.test_consensus import picks_of
from verglas.algorithms.picking.dirt import find_dirt, place_dirt
from verglas.core.errors import ParamsError, PortError
from verglas.io.mrc import read_mrc, write_mrc
from verglas.model import COORDINATES, make_dataset
from verglas.protocols.picking.clean import CleanParams, Inputs, run
from verglas.sdk.testing import LocalContext, check_protocol


def crystal(root, index, centre=(400.0, 120.0), radius=70.0):
    """Put a rough dark disc into a micrograph; its place in pixels."""
    path = root / f"data/field_{index:02d}.mrc"
    image = read_mrc(path)[0]
    image = image.reshape(image.shape[-2:]).copy()
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    inside = np.hypot(x - centre[0], y - centre[1]) < radius
    rough = np.random.default_rng(index).standard_normal((SHAPE[0] // 5, SHAPE[1] // 5))
    texture = np.kron(rough, np.ones((5, 5)))[: SHAPE[0], : SHAPE[1]]
    image[inside] += (4.0 * texture - 4.0)[inside]
    write_mrc(path, image, PIXEL)
    return np.array(centre), radius


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    root = tmp_path_factory.mktemp("clean")
    truth = make_fields(root, 2)
    centre, radius = crystal(root, 0)
    rng = np.random.default_rng(0)
    bad = centre + rng.uniform(-0.6, 0.6, (10, 2)) * radius
    good = [points[np.hypot(*(points - centre).T) > radius + 30] for points in truth[:1]]
    good.append(truth[1])
    coordinates = picks_of(root, [np.concatenate([good[0], bad]), good[1]])
    ctx = LocalContext(root)
    outputs = run(
        ctx, CleanParams(), Inputs(coordinates=coordinates, micrographs=micrographs_of(root, 2))
    )
    return outputs, ctx, coordinates, good, bad


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "coordinates.clean"


def test_picks_on_a_crystal_go_and_others_stay(done):
    outputs, ctx, coordinates, good, bad = done
    places = outputs.rejected.rows(["coord_x_angst", "coord_y_angst"]).to_numpy() / PIXEL
    assert len(places) >= len(bad)
    assert len(places) - len(bad) <= 0.1 * sum(map(len, good))
    assert ctx.metrics["n_kept"] + ctx.metrics["n_dropped"] == coordinates.n_items


def test_masks_are_kept_and_drawn(done):
    from PIL import Image

    rows = done[0].micrographs.rows()
    root = done[0].micrographs.root
    masks = [np.asarray(Image.open(root / path)) for path in rows["mask_path"]]
    assert set(np.unique(masks[0])) == {0, 255}
    assert masks[0].mean() > 5 * masks[1].mean()
    assert rows["masked_fraction"][0] > 0.03
    for path in rows["thumbnail_path"]:
        assert (root / path).read_bytes()[:2] == b"\xff\xd8"


def test_border_and_places_outside_are_dropped(tmp_path):
    make_fields(tmp_path, 1)
    places = [np.array([[10.0, 200.0], [250.0, 240.0], [-40.0, 100.0], [900.0, 100.0]])]
    inputs = Inputs(coordinates=picks_of(tmp_path, places), micrographs=micrographs_of(tmp_path, 1))
    outputs = run(LocalContext(tmp_path), CleanParams(edge_angst=60.0), inputs)
    assert outputs.coordinates.rows()["coord_x_angst"].to_list() == [250.0 * PIXEL]


def test_all_masked_micrograph_is_left_as_it_is(tmp_path):
    make_fields(tmp_path, 1)
    crystal(tmp_path, 0, (260.0, 240.0), 130.0)
    inputs = Inputs(
        coordinates=picks_of(tmp_path, [np.array([[260.0, 240.0]])]),
        micrographs=micrographs_of(tmp_path, 1),
    )
    ctx = LocalContext(tmp_path)
    outputs = run(ctx, CleanParams(max_masked_fraction=0.05), inputs)
    assert outputs.coordinates.n_items == 1
    assert "carbon everywhere" in ctx.warnings[0]


def test_one_masked_micrograph_among_clean_ones_loses_its_picks(tmp_path):
    make_fields(tmp_path, 3)
    crystal(tmp_path, 0, (260.0, 240.0), 130.0)
    inputs = Inputs(
        coordinates=picks_of(tmp_path, [np.array([[260.0, 240.0]])] * 3),
        micrographs=micrographs_of(tmp_path, 3),
    )
    ctx = LocalContext(tmp_path)
    outputs = run(ctx, CleanParams(max_masked_fraction=0.05), inputs)
    first = inputs.micrographs.rows()["image_path"][0]
    assert first not in outputs.coordinates.rows()["micrograph_path"].to_list()
    assert not ctx.warnings


def test_what_does_not_fit_is_named(tmp_path):
    truth = make_fields(tmp_path, 1)
    micrographs = micrographs_of(tmp_path, 1)
    strangers = picks_of(tmp_path, truth, first=40)
    with pytest.raises(PortError, match="no coordinate lies in one"):
        run(
            LocalContext(tmp_path),
            CleanParams(),
            Inputs(coordinates=strangers, micrographs=micrographs),
        )
    bare = picks_of(tmp_path, truth)
    bare = make_dataset(
        COORDINATES, bare.rows().drop("diameter_angst"), root=tmp_path, optics=bare.optics
    )
    with pytest.raises(ParamsError, match="needs diameter_angst"):
        run(
            LocalContext(tmp_path), CleanParams(), Inputs(coordinates=bare, micrographs=micrographs)
        )


def test_missing_pixels_count_as_dirt():
    rng = np.random.default_rng(1)
    image = rng.standard_normal((400, 400)).astype(np.float32)
    image[:, :150] = np.nan
    dirt = find_dirt(torch.from_numpy(image), pixel_size_angst=2.0, diameter_angst=120.0)
    assert torch.isfinite(dirt.probability).all()
    value = place_dirt(dirt, torch.tensor([[60.0, 200.0], [300.0, 200.0], [-90.0, 5.0]]))
    assert value[0] > 0.9
    assert value[2] == 1.0
    assert value[1] < 0.5


def test_unreadable_micrograph_is_named(tmp_path):
    truth = make_fields(tmp_path, 2)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    ctx = LocalContext(tmp_path)
    inputs = Inputs(coordinates=picks_of(tmp_path, truth), micrographs=micrographs_of(tmp_path, 2))
    outputs = run(ctx, CleanParams(), inputs)
    assert outputs.micrographs.rows()["item_id"].to_list() == [0]
    assert isinstance(outputs.coordinates.rows(), pl.DataFrame)
