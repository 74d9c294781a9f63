"""The network of the cleaner takes any size, and marks what is not ice."""

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from verglas.algorithms.picking.dirt import (
    DEFAULT_DIRT_WEIGHTS,
    find_dirt,
    load_dirt_network,
    place_dirt,
)
from verglas.algorithms.picking.dirt_features import (
    N_DIRT_FEATURES,
    N_DIRT_PIXELS,
    N_DIRT_SUMMARY,
    measure_dirt_features,
    mirror_measures,
)
from verglas.algorithms.picking.dirt_network import DirtNetwork
from verglas.algorithms.picking.dirt_spread import N_DIRT_CLUES, gather_clues, spread
from verglas.io.mrc import read_mrc
from verglas.simulate.contamination import ContaminationConfig, contaminate, draw_contamination
from verglas.simulate.particles import Optics


@pytest.mark.parametrize("shape", [(16, 16), (33, 50), (61, 29)])
def test_every_cell_gets_an_answer(shape):
    torch.manual_seed(0)
    network = DirtNetwork()
    measures = torch.randn(2, N_DIRT_FEATURES, *shape)
    summary = torch.randn(2, N_DIRT_SUMMARY)
    logit = network(measures, summary)
    assert logit.shape == (2, *shape)
    alone = network(measures[1:], summary[1:])[0]
    torch.testing.assert_close(alone, logit[1], atol=1e-5, rtol=1e-5)
    clues = gather_clues(logit[0], measures[0, 0], cells_per_diameter=8.0)
    assert clues.shape == (N_DIRT_CLUES, *shape)
    assert network.judge(clues).shape == shape


def test_a_mirrored_micrograph_gets_the_mirrored_answer():
    torch.manual_seed(1)
    network = DirtNetwork()
    measures, summary = torch.randn(N_DIRT_FEATURES, 32, 64), torch.randn(N_DIRT_SUMMARY)
    for dims in ((-1,), (-2,), (-2, -1)):
        mirrored = mirror_measures(measures, dims)
        torch.testing.assert_close(mirror_measures(mirrored, dims), measures)
        torch.testing.assert_close(
            network.answer(mirrored, summary),
            network.answer(measures, summary).flip(dims),
            atol=1e-5,
            rtol=1e-5,
        )


def test_pixels_of_cells_are_mirrored_with_them():
    image = torch.arange(80.0).reshape(1, 8, 10)
    rest = torch.zeros(N_DIRT_FEATURES - N_DIRT_PIXELS, 4, 5)
    cells = torch.cat([rest, torch.nn.functional.pixel_unshuffle(image, 2)])
    for dims in ((-1,), (-2,), (-2, -1)):
        expected = torch.nn.functional.pixel_unshuffle(image.flip(dims), 2)
        torch.testing.assert_close(mirror_measures(cells, dims)[-N_DIRT_PIXELS:], expected)


def test_measures_do_not_depend_on_grey_scale_and_size():
    rng = np.random.default_rng(0)
    image = torch.from_numpy(rng.standard_normal((300, 341)).astype(np.float32))
    sizes = {"pixel_size_angst": 2.0, "diameter_angst": 130.0}
    plain = measure_dirt_features(image, **sizes)
    other = measure_dirt_features(500 + 30 * image, **sizes)
    assert plain.values.shape[-1] == N_DIRT_FEATURES
    assert plain.valid.shape == plain.values.shape[:2]
    torch.testing.assert_close(plain.values, other.values, atol=2e-2, rtol=1e-2)
    torch.testing.assert_close(plain.summary, other.summary, atol=2e-2, rtol=1e-2)


def test_a_rough_dark_patch_is_dirt_and_plain_ice_is_not():
    """White noise with a disc of radius 90 px, 1.5 deviations darker and twice as rough."""
    rng = np.random.default_rng(1)
    image = rng.standard_normal((600, 640)).astype(np.float32)
    y, x = np.mgrid[:600, :640]
    disc = np.hypot(x - 430, y - 250) < 90
    rough = np.kron(rng.standard_normal((100, 107)), np.ones((6, 6)))[:600, :640]
    image[disc] += (1.5 * rough - 1.5)[disc]
    dirt = find_dirt(torch.from_numpy(image), pixel_size_angst=2.0, diameter_angst=130.0)
    places = torch.tensor([[430.0, 250.0], [470.0, 280.0], [120.0, 120.0], [150.0, 480.0]])
    value = place_dirt(dirt, places)
    assert (value[:2] > 0.5).all()
    assert (value[2:] < 0.5).all()


def test_what_is_known_at_a_rim_fills_what_it_encloses():
    """A darker square of 30 cells of which only the outer six are known, noise 0.02."""
    rng = np.random.default_rng(2)
    inside = np.zeros((100, 120), bool)
    inside[20:50, 30:60] = True
    level = np.where(inside, -2.0, 0.0) + 0.02 * rng.standard_normal(inside.shape)
    known = inside.copy()
    known[26:44, 36:54] = False
    logit = np.where(known, 6.0, np.where(inside, -0.4, -6.0))
    found = spread(
        torch.from_numpy(logit).float(), torch.from_numpy(level).float(), contrast=0.5
    ).numpy()
    assert found[26:44, 36:54].min() > 0.5 > torch.sigmoid(torch.tensor(-0.4))
    assert (found[~inside] < 0.1).all()


def test_places_at_the_border_are_in_and_those_beyond_are_out():
    rng = np.random.default_rng(4)
    image = torch.from_numpy(rng.standard_normal((300, 341)).astype(np.float32))
    dirt = find_dirt(image, pixel_size_angst=2.0, diameter_angst=130.0)
    places = torch.tensor([[340.0, 299.0], [0.0, 0.0], [340.0, 150.0], [360.0, 5.0], [5.0, -9.0]])
    value = place_dirt(dirt, places)
    assert (value[:3] < 1.0).all()
    assert (value[3:] == 1.0).all()


@pytest.mark.parametrize("seed", [2, 5])
def test_carbon_is_marked_to_its_inside(seed):
    """Ice without particles, 480 x 560 px of 4 Å, 640 electrons a pixel, film of about 200 Å."""
    rng = np.random.default_rng(seed)
    optics = Optics(4.0, 300.0, 2.7, 0.1)
    film = draw_contamination(
        ContaminationConfig(carbon_probability=1.0, crystals=0, aggregates=0, tears=0),
        shape=(480, 560),
        optics=optics,
        rng=rng,
    )
    values = {"u_angst": 15000.0, "v_angst": 14800.0, "angle_deg": 20.0}
    row = pl.DataFrame([{f"defocus_{k}": v for k, v in values.items()} | {"phase_shift_deg": 0.0}])
    clean = rng.poisson(640.0, (480, 560))
    image = contaminate(clean, film, micrograph=row, optics=optics, rng=rng)
    dirt = find_dirt(torch.from_numpy(image), pixel_size_angst=4.0, diameter_angst=150.0)
    places = torch.from_numpy(rng.uniform(20, 460, (500, 2)))
    is_marked = (place_dirt(dirt, places) > 0.5).numpy()
    is_carbon = film.mask[places[:, 1].long(), places[:, 0].long()] > 0
    assert 20 < is_carbon.sum() < 480
    assert is_marked[is_carbon].mean() > 0.95
    assert is_marked[~is_carbon].mean() < 0.05


@pytest.mark.data
def test_real_picks_are_kept():
    """13 micrographs of apoferritin, 1240 x 1200 px of 1.5 Å; 0.6 % of 2169 picks go."""
    folder = Path(__file__).parents[3] / "shared/data/micrographs/apoferritin_EMPIAR-10146"
    if not folder.exists():
        pytest.skip("no data")
    with (folder / "reference_picks.csv").open() as file:
        rows = list(csv.DictReader(file))
    network, lost = load_dirt_network(), 0
    for name in sorted({row["micrograph"] for row in rows}):
        places = [[float(row["x"]), float(row["y"])] for row in rows if row["micrograph"] == name]
        image = read_mrc(folder / name)[0]
        tensor = torch.from_numpy(image.reshape(image.shape[-2:]).astype(np.float32))
        dirt = find_dirt(tensor, pixel_size_angst=1.5, diameter_angst=130.0, network=network)
        lost += int((place_dirt(dirt, torch.tensor(places)) > 0.5).sum())
    assert lost <= 0.02 * len(rows)


def test_weights_are_small():
    assert DEFAULT_DIRT_WEIGHTS.stat().st_size < 5_000_000
    assert sum(p.numel() for p in load_dirt_network().parameters()) < 2_000_000
