"""The demonstration's real micrographs, from files to particles, against the reference picks."""

import csv
from pathlib import Path

import numpy as np
import pytest

from tests.algorithms.fields import n_matched
from verglas.protocols.importing import micrographs_import
from verglas.protocols.micrographs import estimate_ctf
from verglas.protocols.particles import extract
from verglas.protocols.picking import pick_log
from verglas.sdk.testing import LocalContext

_ROOT = Path(__file__).parents[2]
_REFERENCE = (
    _ROOT.parent / "shared/data/micrographs/apoferritin_EMPIAR-10146" / "reference_picks.csv"
)


@pytest.mark.data
@pytest.mark.skipif(not _REFERENCE.exists(), reason="needs the shared reference picks")
def test_real_apoferritin_becomes_particles(tmp_path):
    """Drifted image rejected; recall and precision of picks >= 0.93 within 20 px of 1.5 Å."""
    params = micrographs_import.ImportParams(
        files=[str(_ROOT / "data/apoferritin/*.tif")],
        pixel_size_angst=1.5,
        voltage_kv=300.0,
        spherical_aberration_mm=0.001,
        amplitude_contrast=0.07,
    )
    imported = micrographs_import.run(
        LocalContext(tmp_path, job="1"), params, micrographs_import.Inputs()
    )
    fitted = estimate_ctf.run(
        LocalContext(tmp_path, job="2"),
        estimate_ctf.CtfParams(),
        estimate_ctf.Inputs(micrographs=imported.micrographs),
    )
    assert fitted.rejected.rows()["label"].to_list() == ["May08_06.09.02_avg"]
    assert fitted.micrographs.n_items == 13
    picked = pick_log.run(
        LocalContext(tmp_path, job="3"),
        pick_log.PickParams(diameter_angst=130.0),
        pick_log.Inputs(micrographs=fitted.micrographs),
    )
    reference: dict[str, list[tuple[float, float]]] = {}
    with _REFERENCE.open() as file:
        for row in csv.DictReader(file):
            stem = Path(row["micrograph"]).stem
            reference.setdefault(stem, []).append((float(row["x"]), float(row["y"])))
    rows = picked.coordinates.rows()
    labels = dict(fitted.micrographs.rows(["item_id", "label"]).iter_rows())
    hits = 0
    for item_id, label in labels.items():
        own = rows.filter(micrograph_id=item_id).select("coord_x_angst", "coord_y_angst")
        hits += n_matched(own.to_numpy() / 1.5, np.array(reference[label]), 20.0)
    assert hits / rows.height >= 0.93
    assert hits / sum(map(len, reference.values())) >= 0.93
    particles = extract.run(
        LocalContext(tmp_path, job="4"),
        extract.ExtractParams(box_px=160, diameter_angst=130.0),
        extract.Inputs(coordinates=picked.coordinates, micrographs=fitted.micrographs),
    ).particles
    assert particles.n_items > 1600
