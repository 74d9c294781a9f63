import numpy as np
import polars as pl
import pytest
import torch

from tests.algorithms.blobs import asymmetric_points, blob_map, with_noise
from verglas.io.mrc import read_mrc, write_mrc
from verglas.model import MASKS, VOLUMES
from verglas.protocols.volumes.postprocess import Inputs, PostprocessParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

BOX, PIXEL = 40, 2.5


def make_volumes(root, *, ratios=(0.5, 3.0)):
    """Write maps with half maps whose noise is so many times their standard deviation."""
    truth = blob_map(asymmetric_points(), box=BOX, pixel_size_angst=PIXEL, sigma_angst=3.0)
    rows = []
    for i, ratio in enumerate(ratios):
        halves = [with_noise(truth, ratio=ratio, seed=10 * i + half) for half in (1, 2)]
        names = [f"map{i}_half{half}.mrc" for half in (1, 2)]
        for name, volume in zip(names, halves, strict=True):
            write_mrc(root / name, volume.numpy(), PIXEL, is_stack=False)
        rows.append(
            {
                "image_path": names[0],
                "half_map_1_path": names[0],
                "half_map_2_path": names[1],
                "symmetry": "C1",
                "optics_group": 1,
            }
        )
    optics = pl.DataFrame({"optics_group": [1], "pixel_size_angst": [PIXEL], "box_px": [BOX]})
    return LocalContext(root).dataset(VOLUMES, pl.DataFrame(rows), optics=optics)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    context = LocalContext(root)
    return context, run(context, PostprocessParams(), Inputs(volumes=make_volumes(root)))


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "volumes.postprocess"


def test_each_map_gets_mask_resolution_and_files(finished):
    _, outputs = finished
    rows = outputs.volumes.rows()
    clean, noisy = rows["resolution_angst"]
    assert 2 * PIXEL <= clean < noisy < 20
    assert rows["symmetry"].to_list() == ["C1", "C1"]
    for row in rows.iter_rows(named=True):
        volume, pixel = read_mrc(outputs.volumes.path(row["image_path"]))
        mask, _ = read_mrc(outputs.volumes.path(row["mask_path"]))
        masked, _ = read_mrc(outputs.volumes.path(row["image_path"].replace(".mrc", "_masked.mrc")))
        assert pixel == pytest.approx(PIXEL)
        np.testing.assert_allclose(masked, volume * mask, rtol=0, atol=1e-6)
    assert outputs.masks.rows()["image_path"].to_list() == rows["mask_path"].to_list()


def test_curves_of_each_map_are_named(finished):
    _, outputs = finished
    curves = outputs.curves.rows()
    labels = {"unmasked", "masked", "random phases", "corrected", "Guinier"}
    for item in (0, 1):
        assert labels <= set(curves.filter(pl.col("source_id") == item)["label"])
    fsc = curves.row(0, named=True)
    assert len(fsc["x_per_angst"]) == len(fsc["y"]) == BOX // 2 + 1
    assert fsc["x_per_angst"][2] == pytest.approx(2 / (BOX * PIXEL))


def test_key_numbers_are_those_of_the_best_map(finished):
    context, outputs = finished
    best = outputs.volumes.rows()["resolution_angst"].min()
    assert context.metrics["resolution_angst"] == pytest.approx(best, abs=0.01)
    assert "b_factor_angst2" in context.metrics


def test_given_mask_is_used(tmp_path):
    data = make_volumes(tmp_path, ratios=(1.0,))
    write_mrc(tmp_path / "mask.mrc", np.ones((BOX,) * 3, np.float32), PIXEL, is_stack=False)
    context = LocalContext(tmp_path)
    mask = context.dataset(
        MASKS, pl.DataFrame({"image_path": ["mask.mrc"], "optics_group": [1]}), source=data
    )
    outputs = run(context, PostprocessParams(), Inputs(volumes=data, mask=mask))
    used, _ = read_mrc(outputs.masks.path(outputs.masks.rows()["image_path"][0]))
    assert (used == 1).all()
    curves = {row["label"]: row["y"] for row in outputs.curves.rows().iter_rows(named=True)}
    np.testing.assert_allclose(curves["masked"], curves["unmasked"], rtol=0, atol=1e-4)


def test_noise_has_no_resolution_and_a_warning_says_so(tmp_path):
    for half in (1, 2):
        noise = torch.randn(BOX, BOX, BOX, generator=torch.Generator().manual_seed(half))
        write_mrc(tmp_path / f"half{half}.mrc", noise.numpy(), PIXEL, is_stack=False)
    data = make_volumes(tmp_path, ratios=(1.0,))
    rows = data.rows().with_columns(
        half_map_1_path=pl.lit("half1.mrc"), half_map_2_path=pl.lit("half2.mrc")
    )
    context = LocalContext(tmp_path)
    noise_only = context.dataset(VOLUMES, rows, source=data)
    outputs = run(context, PostprocessParams(), Inputs(volumes=noise_only))
    found = outputs.volumes.rows()["resolution_angst"][0]
    assert found is None or found > 20
    assert context.warnings


def test_resumed_run_equals_an_uninterrupted_one(tmp_path):
    check_resume(
        run, lambda root: Inputs(volumes=make_volumes(root)), PostprocessParams(), tmp_path
    )
