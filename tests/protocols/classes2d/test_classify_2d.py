from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from tests.protocols.simulated import noise_like, particles_of, simulated
from verglas.core.errors import ParamsError, PortError
from verglas.io.mrc import read_mrc
from verglas.protocols.classes2d import classify_2d, select
from verglas.sdk.testing import LocalContext, check_protocol, check_resume

PARAMS = classify_2d.Classify2dParams(
    n_classes=4, diameter_angst=130, iterations=6, ramp_iterations=3, max_resolution_angst=15
)


def _classify(root, n_classes=4):
    made = simulated("asymmetric", 200, 1.0)
    params = PARAMS.model_copy(update={"n_classes": n_classes})
    inputs = classify_2d.Inputs(particles=particles_of(root, made))
    return classify_2d.run(LocalContext(root), params, inputs)


@pytest.mark.parametrize("protocol", [classify_2d.run, select.run])
def test_protocols_of_classes_keep_the_contract(protocol):
    check_protocol(protocol)


def test_classes_are_written_largest_first_and_particles_know_theirs(tmp_path):
    out = _classify(tmp_path)
    classes, particles = out.classes.rows(), out.particles.rows()
    averages, pixel = read_mrc(tmp_path / classes["image_path"][0])
    assert len(averages) == classes.height
    assert pixel == pytest.approx(5.0)
    counts = classes["n_particles"].to_list()
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == particles.height == 200
    by_class = dict(particles.group_by("class_index").len().iter_rows())
    assert by_class == dict(zip(classes["class_index"], counts, strict=True))


def test_averages_of_particles_are_resolved(tmp_path):
    # 200 asymmetric particles of 36 px of 5 A at SNR 1, 4 classes
    out = _classify(tmp_path)
    assert out.classes.rows()["resolution_angst"].min() < 25


def test_more_classes_than_particles_can_fill_are_refused(tmp_path):
    with pytest.raises(PortError, match="too few for 150 classes"):
        _classify(tmp_path, n_classes=150)


def test_selection_by_list_takes_those_classes(tmp_path):
    made = _classify(tmp_path)
    inputs = select.Inputs(classes=made.classes, particles=made.particles)
    out = select.run(LocalContext(tmp_path, job="s"), select.SelectParams(keep=(0,)), inputs)
    assert out.classes.n_items == 1
    assert set(out.particles.rows()["class_index"]) == {0}
    assert out.rejected.n_items == made.classes.n_items - 1


def test_a_class_that_is_not_there_is_named(tmp_path):
    made = _classify(tmp_path)
    inputs = select.Inputs(classes=made.classes, particles=made.particles)
    with pytest.raises(ParamsError, match=r"no classes \[77\]"):
        select.run(LocalContext(tmp_path, job="s"), select.SelectParams(keep=(77,)), inputs)


def test_a_rule_that_nothing_passes_warns(tmp_path):
    made = _classify(tmp_path)
    inputs = select.Inputs(classes=made.classes, particles=made.particles)
    ctx = LocalContext(tmp_path, job="s")
    out = select.run(ctx, select.SelectParams(max_resolution_angst=1.0), inputs)
    assert out.particles.n_items == 0
    assert any("no class passed" in text for text in ctx.warnings)


def _in_plane_errors(truth, found):
    """Differences of relative in-plane angles, for pairs of one class seen from within 15 degrees.

    Written with numpy from the definition of the angles, apart from the package's kernels.
    """
    both = truth.join(found, on="item_id", suffix="_found")
    rot, tilt, psi = (
        np.deg2rad(both[f"angle_{name}_deg"].to_numpy()) for name in ("rot", "tilt", "psi")
    )
    zero, one = np.zeros_like(rot), np.ones_like(rot)

    def about_z(a):
        c, s = np.cos(a), np.sin(a)
        rows = [[c, s, zero], [-s, c, zero], [zero, zero, one]]
        return np.moveaxis(np.array(rows), 2, 0)

    c, s = np.cos(tilt), np.sin(tilt)
    about_y = np.moveaxis(np.array([[c, zero, -s], [zero, one, zero], [s, zero, c]]), 2, 0)
    rotation = about_z(psi) @ about_y @ about_z(rot)
    first, second = np.triu_indices(len(rotation), 1)
    same = both["class_index"].to_numpy()[first] == both["class_index"].to_numpy()[second]
    relative = rotation[first] @ np.swapaxes(rotation[second], 1, 2)
    near = same & (relative[:, 2, 2] > np.cos(np.deg2rad(15)))
    turn = np.rad2deg(np.arctan2(relative[:, 0, 1], relative[:, 0, 0]))
    angle = both["angle_psi_deg_found"].to_numpy()
    off = turn - (angle[first] - angle[second])
    return np.abs((off + 180) % 360 - 180)[near]


def test_particles_of_a_class_are_turned_alike(tmp_path):
    # 200 asymmetric particles of 36 px of 5 A at SNR 1, 4 classes; measured 3-4 degrees
    out = _classify(tmp_path)
    truth = simulated("asymmetric", 200, 1.0).table.select("item_id", "^angle_.*$")
    found = out.particles.rows(("item_id", "class_index", "angle_psi_deg"))
    found = found.rename({"angle_psi_deg": "angle_psi_deg_found"})
    errors = _in_plane_errors(truth, found)
    assert len(errors) > 30
    assert np.median(errors) < 6


def _with_noise_boxes(root):
    """200 particles at SNR 1 and 50 boxes of noise of the same variance, whose ids follow."""
    made = simulated("asymmetric", 200, 1.0)
    images = np.asarray(made.images)
    generator = np.random.default_rng(1)
    empty = generator.normal(size=(50, *images.shape[1:])).astype(np.float32)
    last = int(made.table["item_id"].max())
    more = made.table.head(50).with_columns(item_id=pl.int_range(last + 1, last + 51))
    table = pl.concat([made.table, more.cast(dict(made.table.schema))])
    both = replace(made, images=np.concatenate([images, empty]), table=table)
    return particles_of(root, both), last


def test_boxes_of_noise_are_rejected_and_particles_kept(tmp_path):
    # a fifth of the boxes hold noise; asked for: 95 % of these rejected, 97 % of particles kept
    data, last = _with_noise_boxes(tmp_path)
    params = PARAMS.model_copy(update={"n_classes": 5})
    made = classify_2d.run(LocalContext(tmp_path), params, classify_2d.Inputs(particles=data))
    inputs = select.Inputs(classes=made.classes, particles=made.particles)
    out = select.run(LocalContext(tmp_path, job="s"), select.SelectParams(), inputs)
    kept = out.particles.rows()["item_id"]
    assert (kept > last).sum() <= 0.05 * 50
    assert (kept <= last).sum() >= 0.97 * 200


def test_no_class_of_pure_noise_is_resolved(tmp_path):
    made = noise_like(simulated("asymmetric", 200, 1.0))
    inputs = classify_2d.Inputs(particles=particles_of(tmp_path, made))
    out = classify_2d.run(LocalContext(tmp_path), PARAMS, inputs)
    assert out.classes.rows()["resolution_angst"].min() == pytest.approx(180)
    assert out.particles.rows()["score"].mean() < 0.1
    rule = select.Inputs(classes=out.classes, particles=out.particles)
    kept = select.run(LocalContext(tmp_path, job="s"), select.SelectParams(), rule)
    assert kept.particles.n_items == 0


def test_an_image_that_is_not_finite_is_named_and_left_out(tmp_path):
    made = simulated("asymmetric", 200, 1.0)
    bad = int(made.table["item_id"][7])
    inputs = classify_2d.Inputs(particles=particles_of(tmp_path, made))
    stack = np.memmap(tmp_path / "p.mrcs", dtype="<f4", mode="r+", offset=1024)
    stack[7 * 36 * 36 + 100] = np.nan
    stack.flush()
    ctx = LocalContext(tmp_path)
    out = classify_2d.run(ctx, PARAMS.model_copy(update={"iterations": 2}), inputs)
    assert out.particles.n_items == 199
    assert bad not in out.particles.rows()["item_id"].to_list()
    assert any(str(bad) in text and "not finite" in text for text in ctx.warnings)


def test_a_stopped_classification_goes_on_to_the_same_classes(tmp_path):
    def make_inputs(root):
        made = simulated("asymmetric", 200, 1.0)
        return classify_2d.Inputs(particles=particles_of(root, made))

    params = PARAMS.model_copy(update={"iterations": 2, "ramp_iterations": 1})
    check_resume(classify_2d.run, make_inputs, params, tmp_path)


def test_early_iterations_take_a_part_of_a_large_set_and_the_last_ones_all():
    from verglas.algorithms.em.planar import PlanarConfig
    from verglas.protocols.classes2d._iterate import _drawn

    config = PlanarConfig(
        box=36, pixel_size_angst=5.0, diameter_angst=130.0, n_classes=10, iterations=6
    )
    parts = [_drawn(10_000, config, i) for i in range(config.n_iterations)]
    assert len(parts[0]) == len(parts[6]) == 2000
    assert (parts[0] == parts[4]).all()
    assert not (len(parts[6]) == len(parts[7]) and (parts[6] == parts[7]).all())
    assert len(parts[-1]) == len(parts[-2]) == 10_000
