"""Training on some picks tells a new shape from others, and is dropped where it does harm."""

import numpy as np
import pytest
import torch

from tests.algorithms.fields import n_matched
from verglas.algorithms.picking.network.find import answer_image, find_centres
from verglas.algorithms.picking.network.finetune import Example, FineTuneConfig, fine_tune
from verglas.algorithms.picking.network.image import reduce_micrograph
from verglas.algorithms.picking.network.weights import load_picker

SIDE, N = 128, 7


def _field(rng):
    """Noise of 1 with hollow squares, lighter than the ice, among as many filled discs.

    Returns the image and the centres of the squares, which are the particles.
    """
    image = rng.standard_normal((SIDE, SIDE)).astype(np.float32)
    places = np.zeros((0, 2))
    for candidate in rng.uniform(12, SIDE - 12, (600, 2)):
        if len(places) < 2 * N and not (np.hypot(*(places - candidate).T) < 23).any():
            places = np.vstack([places, candidate])
    y, x = np.mgrid[:SIDE, :SIDE]
    for i, centre in enumerate(places):
        reach = np.maximum(abs(x - centre[0]), abs(y - centre[1]))
        is_disc = np.hypot(x - centre[0], y - centre[1]) < 7
        image -= 1.3 * (is_disc if i % 2 else (reach < 9) & (reach > 5))
    return image, places[::2]


def _examples(n, *, share=1.0, seed=0):
    """Fields with a share of their squares picked, the first held out; and all squares."""
    rng = np.random.default_rng(seed)
    examples, truth = [], []
    for i in range(n):
        image, places = _field(rng)
        small = reduce_micrograph(
            torch.from_numpy(image), pixel_size_angst=1.0, diameter_angst=20.0
        )
        picked = places[rng.permutation(len(places))[: round(share * len(places))]]
        centres = small.from_micrograph(torch.from_numpy(picked)).float()
        examples.append(Example(small, centres, i == 0))
        truth.append(places)
    return examples, truth


def _train(examples, seed=0, **config):
    return fine_tune(
        load_picker(),
        examples,
        FineTuneConfig(**{"n_epochs": 1, "expected_per_micrograph": N, **config}),
        generator=torch.Generator().manual_seed(seed),
    )


def _odds(picker, example):
    centres = find_centres(answer_image(picker.network, example.image), min_distance_px=10.0)
    line = picker.calibration
    return centres, line.slope * centres.logit + line.intercept


def _f1(picker, examples, truth):
    hits = total = 0
    for example, places in zip(examples, truth, strict=True):
        centres, odds = _odds(picker, example)
        found = example.image.to_micrograph(centres.position_px[odds >= 0].double()).numpy()
        hits += n_matched(found, places, 5.0)
        total += len(found) + len(places)
    return 2 * hits / total


def test_some_picks_teach_a_new_shape():
    """3 fields, 4 of 7 squares picked, noise 1, 3 epochs; F1 on others from < 0.8 to >= 0.95."""
    examples, _ = _examples(4, share=0.6)
    others = _examples(3, seed=9)
    result = _train(examples, n_epochs=3, learning_rate=2e-3)
    assert _f1(load_picker(), *others) < 0.8
    assert _f1(result.picker, *others) >= 0.95
    assert result.held_out_recall >= 0.9
    assert result.held_out_loss < result.start_loss
    assert result.n_epochs >= 1


def test_the_start_is_not_changed_and_equal_seeds_give_equal_training():
    start = load_picker()
    before = {name: tensor.clone() for name, tensor in start.network.state_dict().items()}
    examples, _ = _examples(2)
    config = FineTuneConfig(n_epochs=1, expected_per_micrograph=N)
    first, second = (
        fine_tune(start, examples, config, generator=torch.Generator().manual_seed(3))
        for _ in range(2)
    )
    assert first.losses == second.losses
    for name, tensor in start.network.state_dict().items():
        assert torch.equal(before[name], tensor)


def test_steps_that_do_harm_leave_the_start():
    """A step ten thousand times too long: no epoch is better than the start."""
    examples, _ = _examples(2)
    result = _train(examples, learning_rate=5.0)
    start = load_picker()
    assert result.n_epochs == 0
    assert result.held_out_loss == result.start_loss
    assert result.picker.calibration == start.calibration
    for name, tensor in start.network.state_dict().items():
        assert torch.equal(tensor, result.picker.network.state_dict()[name])


def test_probabilities_add_up_to_about_what_is_there():
    """Complete picks: the peaks of the held-out field add up to its 7 particles within 15 %."""
    examples, _ = _examples(3)
    result = _train(examples, n_epochs=2, learning_rate=2e-3, is_complete=True)
    _, odds = _odds(result.picker, examples[0])
    assert float(torch.sigmoid(odds).sum()) == pytest.approx(N, rel=0.15)


def test_something_must_be_held_out():
    examples, _ = _examples(1)
    with pytest.raises(ValueError, match="one held out"):
        _train(examples)
