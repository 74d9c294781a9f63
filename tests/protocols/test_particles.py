import numpy as np
import polars as pl
import pytest
import torch

from verglas.core.errors import PortError
from verglas.io.mrc import write_mrc
from verglas.kernels.disc import half_disc
from verglas.model import PARTICLES, make_dataset
from verglas.protocols._particles import initial_noise, noise_groups, read_stack, views_of_rows
from verglas.sdk import Task
from verglas.sdk.testing import LocalContext
from verglas.simulate.particles import Optics, optics_table

BOX, PIXEL = 32, 3.0


def _particles(root, images, micrograph_id, *, path="p.mrcs", **columns):
    write_mrc(root / path, images, PIXEL, is_stack=True)
    n = len(images)
    rows = {
        "optics_group": [1] * n,
        "image_path": [path] * n,
        "image_slice": range(n),
        "micrograph_id": micrograph_id,
        "defocus_u_angst": [12000.0] * n,
        "defocus_v_angst": [11500.0] * n,
        "defocus_angle_deg": [30.0] * n,
        "phase_shift_deg": [0.0] * n,
        **columns,
    }
    optics = optics_table(Optics(PIXEL), BOX)
    return make_dataset(PARTICLES, pl.DataFrame(rows), root=root, optics=optics)


def _noise(n, seed=0, sigma=1.0):
    rng = np.random.default_rng(seed)
    return (sigma * rng.normal(size=(n, BOX, BOX))).astype(np.float32)


def _task(root):
    return Task(key="k", root=root, folder=root, rng=np.random.default_rng(0))


def test_micrographs_of_few_particles_share_a_noise_group(tmp_path):
    ids = [7] * 25 + [3] * 12 + [5] * 9 + [9] * 4
    groups = noise_groups(_particles(tmp_path, _noise(50), ids))
    by_micrograph = dict(zip(ids, groups["noise_group"], strict=True))
    assert by_micrograph == {3: 0, 5: 0, 7: 1, 9: 1}


def test_initial_noise_is_the_variance_of_one_real_component(tmp_path):
    images = np.concatenate([_noise(40), _noise(40, 1, sigma=2.0)])
    data = _particles(tmp_path, images, [0] * 40 + [1] * 40)
    stack = read_stack(data, needed_by="test")
    _, noise = initial_noise(LocalContext(tmp_path), stack, radius=10)
    expected = torch.tensor([[1.0], [4.0]]) * BOX**2 / 2
    # about 16 coefficients in the smallest shell of 40 images: 4 standard errors
    assert noise.shape == (2, 11)
    ratio = noise / expected
    assert ratio[:, 1:].sub(1).abs().max() < 4 / (2 * 40) ** 0.5


def test_images_that_cannot_be_used_are_named_and_left_out(tmp_path):
    paths = ["p.mrcs"] * 30
    paths[8] = "missing.mrcs"
    data = _particles(tmp_path, _noise(30), [0] * 30, image_path=paths)
    with (tmp_path / "p.mrcs").open("r+b") as file:
        file.seek(1024 + 4 * (4 * BOX**2 + 7))
        file.write(np.float32("nan").tobytes())
    ctx = LocalContext(tmp_path)
    stack, noise = initial_noise(ctx, read_stack(data, needed_by="test"), radius=8)
    assert stack.rows["item_id"].to_list() == [i for i in range(30) if i not in (4, 8)]
    assert noise.isfinite().all()
    assert ["item 8" in ctx.warnings[0], "item 4" in ctx.warnings[1]] == [True, True]


def test_views_agree_with_their_rows(tmp_path):
    data = _particles(tmp_path, _noise(30), [0] * 30)
    stack = read_stack(data, extra=("micrograph_id", "class_index"), needed_by="test")
    assert "micrograph_id" in stack.rows.columns
    rows, views = views_of_rows(
        stack.rows.reverse(),
        _task(tmp_path),
        disc=half_disc(stack.box_px, 9),
        noise_power=torch.ones(1, 12),
        scale=torch.tensor([2.0]),
        pixel_size_angst=stack.pixel_size_angst,
    )
    assert rows["item_id"].to_list() == list(reversed(range(30)))
    assert len(views) == 30
    assert views.noise_power.shape == (30, 10)
    assert views.ctf.abs().max() <= 2.0 + 1e-5


def test_two_pixel_sizes_are_refused(tmp_path):
    data = _particles(tmp_path, _noise(4), [0] * 4)
    two = data.optics.vstack(
        data.optics.with_columns(optics_group=pl.lit(2, pl.Int64), pixel_size_angst=pl.lit(1.0))
    )
    rows = data.rows().with_columns(optics_group=pl.Series([1, 1, 2, 2]))
    data = make_dataset(PARTICLES, rows, root=tmp_path, optics=two)
    with pytest.raises(PortError, match="2 pixel sizes, 1 to 3 Å, in pixel_size_angst"):
        read_stack(data, needed_by="test")


def test_two_box_sizes_are_refused(tmp_path):
    small = _particles(tmp_path, _noise(4), [0] * 4)
    write_mrc(tmp_path / "large.mrcs", np.zeros((2, 48, 48), np.float32), 3.0, is_stack=True)
    two = small.optics.vstack(
        small.optics.with_columns(optics_group=pl.lit(2, pl.Int64), box_px=pl.lit(48, pl.Int64))
    )
    path = small.rows()["image_path"][0]
    rows = small.rows().with_columns(
        optics_group=pl.Series([1, 1, 2, 2]),
        image_path=pl.Series([path, path, "large.mrcs", "large.mrcs"]),
        image_slice=pl.Series([0, 1, 0, 1]),
    )
    data = make_dataset(PARTICLES, rows, root=tmp_path, optics=two)
    with pytest.raises(PortError, match=r"2 box sizes, \d+ to 48 px: box_px differs .* \[1, 2\]"):
        read_stack(data, needed_by="test")


def test_magnification_that_is_not_used_is_told(tmp_path):
    data = _particles(tmp_path, _noise(20), [0] * 20)
    optics = data.optics.with_columns(magnification_00=1.01, magnification_11=0.99)
    data = make_dataset(PARTICLES, data.rows(), root=tmp_path, optics=optics)
    ctx = LocalContext(tmp_path)
    initial_noise(ctx, read_stack(data, needed_by="test"), radius=10)
    assert any("magnification" in text for text in ctx.warnings)
