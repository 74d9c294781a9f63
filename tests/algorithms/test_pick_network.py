"""The picking network: targets, peaks, losses, weights, and picks of shapes made elsewhere."""

import math

import numpy as np
import pytest
import torch

from tests.algorithms.fields import field, n_matched
from verglas.algorithms.picking.network.find import (
    NetworkPickConfig,
    find_centres,
    pick_with_network,
)
from verglas.algorithms.picking.network.image import level_images, reduce_micrograph
from verglas.algorithms.picking.network.model import Answer, PickNetwork
from verglas.algorithms.picking.network.training import (
    cells_per_particle,
    draw_targets,
    positive_unlabelled_loss,
    supervised_loss,
    turn_maps,
    turn_targets,
)
from verglas.algorithms.picking.network.weights import (
    DEFAULT_WEIGHTS,
    Calibration,
    Picker,
    load_picker,
    save_picker,
)

CENTRES = torch.tensor([[30.3, 41.7], [60.0, 60.9], [76.2, 20.4]])


@pytest.fixture(scope="module")
def picker():
    return load_picker()


def _picks(picker, image, diameter_angst, **config):
    return pick_with_network(
        torch.from_numpy(np.ascontiguousarray(image)),
        picker,
        pixel_size_angst=2.0,
        config=NetworkPickConfig(diameter_angst, **config),
    )


def _answer(targets):
    logit = torch.logit(targets.particle.clamp(1e-4, 1 - 1e-4))
    return Answer(logit, torch.full_like(logit, -5.0), targets.offset_px.clamp(-8, 8))


def test_centres_are_read_back_from_their_targets():
    targets = draw_targets([CENTRES], torch.zeros(1, 96, 96))
    found = find_centres(_answer(targets), min_distance_px=10.0).position_px
    away = torch.cdist(CENTRES, found)
    assert len(found) == 3
    assert float(away.min(dim=1).values.max()) < 1e-3


def test_a_lone_centre_fills_the_stated_number_of_cells():
    targets = draw_targets([CENTRES[:1]], torch.zeros(1, 96, 96))
    assert float(targets.particle.sum()) == pytest.approx(cells_per_particle(), rel=1e-3)


def test_an_image_without_centres_has_empty_targets():
    targets = draw_targets([torch.zeros(0, 2)], torch.zeros(1, 32, 40))
    assert targets.particle.shape == (1, 16, 20)
    assert float(targets.particle.max()) == 0.0
    assert float(targets.is_near.max()) == 0.0


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
@pytest.mark.parametrize("is_mirrored", [False, True])
def test_turned_targets_are_those_of_turned_centres(quarters, is_mirrored):
    how = {"quarters": quarters, "is_mirrored": is_mirrored}
    mark = torch.zeros(1, 96, 96)
    mark[0, 20:30, 5:60] = 1.0
    turned = turn_targets(draw_targets([CENTRES], mark), **how)
    centres = CENTRES.clone()
    for _ in range(quarters):
        centres = torch.stack([centres[:, 1], 95.0 - centres[:, 0]], dim=1)
    if is_mirrored:
        centres[:, 0] = 95.0 - centres[:, 0]
    expected = draw_targets([centres], turn_maps(mark, **how))
    near = expected.is_near[:, None] > 0
    for name in ("particle", "is_near", "dirt"):
        torch.testing.assert_close(
            getattr(turned, name), getattr(expected, name), atol=1e-4, rtol=0
        )
    torch.testing.assert_close(
        turned.offset_px * near, expected.offset_px * near, atol=1e-4, rtol=0
    )


def test_positive_unlabelled_risk_is_that_of_full_labels_when_the_share_is_right():
    """Half of the picks are known; with the true share the risk is that of all, within 5 %."""
    generator = torch.Generator().manual_seed(0)
    centres = 12.0 + 20.0 * torch.cartesian_prod(torch.arange(24.0), torch.arange(24.0))
    dirt, valid = torch.zeros(1, 496, 496), torch.ones(1, 248, 248)
    full = draw_targets([centres], dirt)
    half = draw_targets([centres[torch.randperm(len(centres), generator=generator)[:288]]], dirt)
    logit = torch.logit(0.02 + 0.9 * full.particle) + torch.randn(
        full.particle.shape, generator=generator
    )
    answer = Answer(logit, torch.zeros_like(logit), full.offset_px.clamp(-8, 8))
    share = float(full.particle.mean())
    _, risk = positive_unlabelled_loss(answer, half, valid, positive_share=share)
    _, exact = positive_unlabelled_loss(answer, full, valid, positive_share=share)
    plain = torch.nn.functional.binary_cross_entropy_with_logits(logit, full.particle)
    assert float(exact) == pytest.approx(float(plain), rel=1e-4)
    assert float(risk) == pytest.approx(float(plain), rel=0.05)


def test_positive_unlabelled_loss_never_rewards_a_negative_risk():
    targets = draw_targets([CENTRES], torch.zeros(1, 96, 96))
    logit = torch.where(targets.particle > 0.05, 8.0, -8.0).requires_grad_()
    answer = Answer(logit, torch.zeros_like(targets.particle), targets.offset_px.clamp(-8, 8))
    loss, risk = positive_unlabelled_loss(
        answer, targets, torch.ones(1, 48, 48), positive_share=0.4
    )
    assert float(risk.detach()) < 0.0
    assert float(loss.detach()) > 0.0
    loss.backward()
    assert bool(torch.isfinite(logit.grad).all())


def test_supervised_loss_is_least_at_the_truth():
    targets = draw_targets([CENTRES], torch.zeros(1, 96, 96))
    valid = torch.ones(1, 48, 48)
    right = supervised_loss(_answer(targets), targets, valid)
    wrong = supervised_loss(
        _answer(draw_targets([CENTRES + 6.0], torch.zeros(1, 96, 96))), targets, valid
    )
    assert float(right) < float(wrong)


def test_levelled_images_forget_scale_gradient_and_hot_spots():
    generator = torch.Generator().manual_seed(1)
    image = torch.randn(1, 160, 200, generator=generator)
    valid = torch.ones_like(image)
    plain = level_images(image, valid)
    slope = torch.linspace(0, 30, 200)[None, None, :]
    other = level_images(5.0 * image + slope + 700.0, valid)
    inner = (slice(None), slice(20, -20), slice(20, -20))
    assert float((plain - other)[inner].abs().max()) < 0.35  # the slope's rest: 0.15 a pixel
    assert float(plain.std()) == pytest.approx(1.0, abs=0.05)
    image[0, 80:90, 60:70] = 100.0
    marred = level_images(image, valid)
    assert float((plain - marred)[0, :, 130:].abs().max()) < 0.1
    assert float(marred.abs().max()) <= 6.0


def test_blank_parts_are_marked_and_zero():
    image = torch.randn(300, 400, generator=torch.Generator().manual_seed(2))
    image[:, :100] = 3.0
    small = reduce_micrograph(image, pixel_size_angst=2.0, diameter_angst=80.0)
    assert float(small.valid[:, :45].max()) == 0.0
    assert float(small.values[:, :45].abs().max()) == 0.0
    assert float(small.valid[:, 60:].min()) == 1.0


def test_borders_filled_by_repetition_are_blank():
    image = torch.randn(400, 400, generator=torch.Generator().manual_seed(2))
    image[:60], image[:, -80:] = image[60:61].clone(), image[:, -81:-80].clone()
    small = reduce_micrograph(image, pixel_size_angst=2.0, diameter_angst=80.0)
    assert float(small.valid[:28].max()) == 0.0
    assert float(small.valid[:, -36:].max()) == 0.0
    assert float(small.valid[40:, :150].min()) == 1.0


@pytest.mark.parametrize("value", [math.nan, 0.0, 7.0])
def test_an_image_of_nothing_has_no_picks(picker, value):
    assert not len(_picks(picker, np.full((200, 300), value, np.float32), 60.0).probability)


def test_positions_go_to_the_micrograph_and_back():
    image = torch.randn(301, 402, generator=torch.Generator().manual_seed(3))
    small = reduce_micrograph(image, pixel_size_angst=1.3, diameter_angst=111.0)
    torch.testing.assert_close(small.from_micrograph(small.to_micrograph(CENTRES)), CENTRES)


def test_any_size_of_image_is_answered_cell_by_cell():
    network = PickNetwork().eval()
    with torch.inference_mode():
        answer = network(torch.randn(2, 37, 50))
    assert answer.particle_logit.shape == (2, 19, 25)
    assert answer.offset_px.shape == (2, 2, 19, 25)


def test_weights_survive_a_round_trip(tmp_path, picker):
    path = tmp_path / "copy.safetensors"
    save_picker(path, Picker(picker.network, Calibration(1.5, -0.25), {"trained": "here"}))
    copy = load_picker(path)
    assert copy.calibration == Calibration(1.5, -0.25)
    assert copy.notes["trained"] == "here"
    image = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        assert torch.equal(picker.network(image).particle_logit, copy.network(image).particle_logit)


def test_weights_in_the_package_are_small_and_say_how_they_were_made(picker):
    assert DEFAULT_WEIGHTS.stat().st_size < 5e6
    assert "simulated" in picker.notes["trained"]


@pytest.mark.parametrize("content", [b"", b"not weights", b"\x10\0\0\0\0\0\0\0{}              "])
def test_other_files_are_no_weights(tmp_path, content):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"wrong\.safetensors"):
        load_picker(path)
    with pytest.raises(ValueError, match="not a file of weights"):
        load_picker(tmp_path / "missing.safetensors")


@pytest.mark.parametrize(
    ("kind", "n", "diameter", "n_ice"),
    [
        ("ball", 40, 120.0, 0),
        ("ball", 40, 120.0, 2),
        ("shell", 40, 130.0, 0),
        ("rod", 20, 200.0, 0),
    ],
)
def test_particles_of_shapes_it_never_saw_are_found(picker, kind, n, diameter, n_ice):
    """Blobs at 0.2 of the shot noise; within 0.3 D, F1 >= 0.93, centres within 0.05 D if round."""
    image, truth = field(
        np.random.default_rng(1),
        n,
        kind=kind,
        diameter_angst=diameter,
        n_ice=n_ice,
        contrast=0.2,
        shape=(640, 700),
        pixel_size_angst=2.0,
    )
    found = _picks(picker, image, diameter).position_px.numpy()
    hits = n_matched(found, truth, 0.3 * diameter / 2.0)
    assert 2 * hits / (len(found) + len(truth)) >= 0.93
    nearest = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1)).min(axis=0)
    assert np.median(nearest) * 2.0 < (0.15 if kind == "rod" else 0.05) * diameter


def test_picks_move_and_mirror_with_the_image(picker):
    """Sure inner picks (0.8 or more) are found again within 0.05 D after a shift or a mirror."""
    image, _ = field(
        np.random.default_rng(2), 25, contrast=0.25, shape=(480, 512), pixel_size_angst=2.0
    )
    picks = _picks(picker, image, 120.0, threshold=0.8)
    plain = picks.position_px.numpy()
    moved = _picks(picker, np.roll(image, (24, 48), (0, 1)), 120.0).position_px.numpy()
    inner = plain[((plain > 60) & (plain < np.array([400, 380]))).all(axis=1)]
    assert len(inner) >= 5
    assert n_matched(moved, inner + np.array([48.0, 24.0]), 3.0) == len(inner)
    mirrored = _picks(picker, image[:, ::-1], 120.0).position_px.numpy()
    assert n_matched(mirrored, inner * [-1.0, 1.0] + np.array([511.0, 0.0]), 3.0) == len(inner)


def test_noise_gives_few_picks_and_none_that_is_sure(picker):
    """White noise with room for 178 particles: at most one place in 20, none at 0.9."""
    image = np.random.default_rng(3).standard_normal((800, 800)).astype(np.float32)
    probability = _picks(picker, image, 120.0).probability
    assert len(probability) <= 8
    assert not bool((probability >= 0.9).any())


def test_blank_margin_and_not_a_number_are_never_picked(picker):
    image, _ = field(
        np.random.default_rng(4), 30, contrast=0.25, shape=(480, 512), pixel_size_angst=2.0
    )
    image[:, :150] = image.mean()
    image[400:] = np.nan
    found = _picks(picker, image, 120.0).position_px.numpy()
    assert len(found) >= 5
    assert found[:, 0].min() >= 140
    assert found[:, 1].max() <= 410


def test_a_higher_threshold_keeps_the_surest_picks(picker):
    image, _ = field(
        np.random.default_rng(5), 25, contrast=0.15, shape=(480, 512), pixel_size_angst=2.0
    )
    loose, strict = (_picks(picker, image, 120.0, threshold=t) for t in (0.2, 0.8))
    assert len(strict.probability) <= len(loose.probability)
    assert float(strict.probability.min()) >= 0.8
    assert math.isclose(float(loose.probability.max()), float(strict.probability.max()))
