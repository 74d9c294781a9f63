import pytest

from tests.protocols.simulated import particles_of, simulated
from verglas.core.errors import ParamsError, PortError
from verglas.io.mrc import read_mrc
from verglas.protocols.classes2d import classify_2d, select
from verglas.sdk.testing import LocalContext, check_protocol

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
