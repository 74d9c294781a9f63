import numpy as np
import polars as pl
import pytest
import torch

from tests.algorithms.fields import n_matched
from tests.protocols.fields_project import DIAMETER, PIXEL, make_fields, micrographs_of, true_ctf
from verglas.core.errors import ParamsError, PortError
from verglas.io.mrc import write_mrc
from verglas.model import CLASSES2D, VOLUMES, make_dataset
from verglas.protocols.picking.pick_template import Inputs, TemplateParams, run
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

N = 3
PARAMS = TemplateParams(diameter_angst=DIAMETER, max_resolution_angst=25.0)


def ball(n, side, pixel, radius):
    axes = np.ogrid[tuple(slice(0, side) for _ in range(n))]
    distance = np.sqrt(sum((axis - side // 2) ** 2 for axis in axes)) * pixel
    return np.clip((radius - distance) / 8.0 + 0.5, 0, 1)


def optics(pixel):
    return pl.DataFrame({"optics_group": [1], "pixel_size_angst": [pixel]})


def a_map(root):
    """A filled ball, whose projections look like those of the simulated lumps."""
    volume = ball(3, 48, 4.0, 0.45 * DIAMETER)
    write_mrc(root / "map.mrc", volume.astype(np.float32), 4.0)
    rows = pl.DataFrame({"image_path": ["map.mrc"], "optics_group": [1], "symmetry": ["D2"]})
    return make_dataset(VOLUMES, rows, root=root, optics=optics(4.0))


def averages(root, sides=(48, 48)):
    """Two class averages: the projected ball, and nothing but noise."""
    stack = ball(3, sides[0], 4.0, 0.45 * DIAMETER).sum(axis=0)
    noise = np.random.default_rng(0).standard_normal((sides[1], sides[1]))
    write_mrc(root / "good.mrc", stack.astype(np.float32), 4.0)
    write_mrc(root / "bad.mrc", noise.astype(np.float32), 4.0)
    rows = pl.DataFrame(
        {
            "image_path": ["good.mrc", "bad.mrc"],
            "image_slice": [0, 0],
            "class_index": [0, 1],
            "n_particles": [90, 5],
            "optics_group": [1, 1],
        }
    )
    return make_dataset(CLASSES2D, rows, root=root, optics=optics(4.0))


def quality(outputs, truth):
    rows, hits = outputs.coordinates.rows(), 0
    for item_id, points in enumerate(truth):
        own = rows.filter(micrograph_id=item_id).select("coord_x_angst", "coord_y_angst")
        hits += n_matched(own.to_numpy() / PIXEL, points, 0.3 * DIAMETER / PIXEL)
    return 2 * hits / (rows.height + sum(map(len, truth)))


def test_protocol_declares_what_it_should():
    assert check_protocol(run).id == "micrographs.pick_template"


def test_particles_are_found_with_a_map(tmp_path):
    truth = make_fields(tmp_path, N)
    ctx = LocalContext(tmp_path)
    inputs = Inputs(micrographs=micrographs_of(tmp_path, N, **true_ctf(N)), volumes=a_map(tmp_path))
    outputs = run(ctx, PARAMS, inputs)
    assert quality(outputs, truth) >= 0.93
    rows = outputs.coordinates.rows()
    assert rows["diameter_angst"].unique().to_list() == [DIAMETER]
    assert rows["score"].min() >= ctx.metrics["median_threshold"] - 3
    assert {"ctf", "optics", "score"} <= outputs.coordinates.traits
    for path in outputs.micrographs.rows()["thumbnail_path"]:
        assert outputs.micrographs.path(path).read_bytes()[:2] == b"\xff\xd8"


def test_chosen_class_averages_are_used(tmp_path):
    truth = make_fields(tmp_path, 1)
    ctx = LocalContext(tmp_path)
    params = PARAMS.model_copy(update={"classes": (0,)})
    inputs = Inputs(micrographs=micrographs_of(tmp_path, 1), classes=averages(tmp_path))
    outputs = run(ctx, params, inputs)
    assert quality(outputs, truth) >= 0.9
    assert "CTF of the micrographs is not known" in ctx.warnings[0]


def test_templates_must_be_given_once(tmp_path):
    make_fields(tmp_path, 1)
    micrographs = micrographs_of(tmp_path, 1)
    with pytest.raises(PortError, match="got neither"):
        run(LocalContext(tmp_path), PARAMS, Inputs(micrographs=micrographs))
    both = Inputs(micrographs=micrographs, classes=averages(tmp_path), volumes=a_map(tmp_path))
    with pytest.raises(PortError, match="got both"):
        run(LocalContext(tmp_path), PARAMS, both)


def test_wrong_templates_are_named(tmp_path):
    make_fields(tmp_path, 1)
    micrographs = micrographs_of(tmp_path, 1)
    inputs = Inputs(micrographs=micrographs, classes=averages(tmp_path))
    with pytest.raises(ParamsError, match="there is no class 7; the classes are 0, 1"):
        run(LocalContext(tmp_path), PARAMS.model_copy(update={"classes": (7,)}), inputs)
    inputs = Inputs(micrographs=micrographs, classes=averages(tmp_path, (48, 40)))
    with pytest.raises(PortError, match="differ in size"):
        run(LocalContext(tmp_path), PARAMS, inputs)
    write_mrc(tmp_path / "map.mrc", torch.zeros(32, 32, 32).numpy(), 4.0)
    rows = pl.DataFrame({"image_path": ["map.mrc"], "optics_group": [1]})
    empty = make_dataset(VOLUMES, rows, root=tmp_path, optics=optics(4.0))
    with pytest.raises(PortError, match="templates are empty"):
        run(LocalContext(tmp_path), PARAMS, Inputs(micrographs=micrographs, volumes=empty))


def test_unreadable_and_missing_pixels_do_not_stop_the_job(tmp_path):
    make_fields(tmp_path, 3)
    (tmp_path / "data/field_01.mrc").write_bytes(b"cut off")
    pixels = np.memmap(tmp_path / "data/field_02.mrc", "<f4", "r+", offset=1024, shape=(480, 520))
    pixels[:, :200] = np.nan
    pixels.flush()
    inputs = Inputs(micrographs=micrographs_of(tmp_path, 3), volumes=a_map(tmp_path))
    outputs = run(LocalContext(tmp_path), PARAMS, inputs)
    assert outputs.micrographs.rows()["item_id"].to_list() == [0, 2]
    torn = outputs.coordinates.rows().filter(micrograph_id=2)
    assert torn["coord_x_angst"].min() >= 195 * PIXEL


def test_resumed_run_equals_a_whole_one(tmp_path):
    def make(root):
        make_fields(root, 5)
        return Inputs(micrographs=micrographs_of(root, 5), volumes=a_map(root))

    check_resume(run, make, PARAMS, tmp_path)
