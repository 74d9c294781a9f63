"""The network picker on real micrographs that it was not trained on."""

import csv
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.algorithms.fields import n_matched
from verglas.io.images import open_images
from verglas.model import MICROGRAPHS, make_dataset
from verglas.protocols.picking.pick_network import Inputs, NetworkParams, run
from verglas.sdk.testing import LocalContext

_DATA = Path(__file__).parents[3] / "shared/data/micrographs"
_APOFERRITIN = _DATA / "apoferritin_EMPIAR-10146"
_GALACTOSIDASE = _DATA / "betagal_EMPIAR-10017"


def _micrographs(tmp_path, paths, pixel_size_angst):
    for path in paths:
        (tmp_path / path.name).symlink_to(path)
    rows = pl.DataFrame(
        {
            "optics_group": [1] * len(paths),
            "image_path": [path.name for path in paths],
            "image_slice": [0] * len(paths),
        }
    )
    optics = pl.DataFrame(
        {
            "optics_group": [1],
            "pixel_size_angst": [pixel_size_angst],
            "voltage_kv": [300.0],
            "spherical_aberration_mm": [2.0],
            "amplitude_contrast": [0.1],
        }
    )
    return make_dataset(MICROGRAPHS, rows, root=tmp_path, optics=optics)


def _f1(rows, truth, pixel_size_angst, radius_px):
    hits = 0
    for item_id, points in enumerate(truth):
        own = rows.filter(micrograph_id=item_id).select("coord_x_angst", "coord_y_angst")
        hits += n_matched(own.to_numpy() / pixel_size_angst, points, radius_px)
    return 2 * hits / (rows.height + sum(map(len, truth)))


@pytest.mark.data
@pytest.mark.skipif(not _APOFERRITIN.exists(), reason="needs the shared micrographs")
def test_real_apoferritin_is_picked(tmp_path):
    """13 crowded micrographs of 1.5 Å; within 20 px of the reference picks, F1 >= 0.9."""
    reference: dict[str, list[tuple[float, float]]] = {}
    with (_APOFERRITIN / "reference_picks.csv").open() as file:
        for row in csv.DictReader(file):
            reference.setdefault(row["micrograph"], []).append((float(row["x"]), float(row["y"])))
    names = sorted(reference)
    micrographs = _micrographs(tmp_path, [_APOFERRITIN / name for name in names], 1.5)
    found = run(
        LocalContext(tmp_path), NetworkParams(diameter_angst=130.0), Inputs(micrographs=micrographs)
    )
    truth = [np.array(reference[name]) for name in names]
    assert _f1(found.coordinates.rows(), truth, 1.5, 20.0) >= 0.9


@pytest.mark.data
@pytest.mark.skipif(not _GALACTOSIDASE.exists(), reason="needs the shared micrographs")
def test_real_galactosidase_is_picked(tmp_path):
    """An 8-bit denoised picture of 1.77 Å; within 0.3 D of the experts' picks, F1 >= 0.75."""
    name = "Falcon_2012_06_12-14_33_35_0"
    height = open_images(_GALACTOSIDASE / f"{name}.jpg").shape[1]
    with (_GALACTOSIDASE / f"{name}.csv").open() as file:
        rows = [[float(value) for value in row.values()] for row in csv.DictReader(file)]
    points, diameter_px = np.array(rows)[:, :2], rows[0][2]
    points[:, 1] = height - 1 - points[:, 1]  # the table counts from the top
    micrographs = _micrographs(tmp_path, [_GALACTOSIDASE / f"{name}.jpg"], 1.77)
    params = NetworkParams(diameter_angst=1.77 * diameter_px)
    found = run(LocalContext(tmp_path), params, Inputs(micrographs=micrographs))
    assert _f1(found.coordinates.rows(), [points], 1.77, 0.3 * diameter_px) >= 0.75
