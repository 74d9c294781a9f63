"""What becomes of classes between iterations."""

import math
from dataclasses import replace

import pytest
import torch

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.planar import (
    N_CENTRING,
    PlanarConfig,
    families_for,
    planar_mask,
    planar_turning,
)
from verglas.algorithms.em.planar_classes import best_classes, follow_moves, recentre
from verglas.algorithms.em.planar_final import final_averages
from verglas.algorithms.em.planar_start import first_planar_state
from verglas.algorithms.em.planar_update import planar_update
from verglas.kernels.so3 import euler_to_matrix

CONFIG = PlanarConfig(
    box=36,
    pixel_size_angst=5.0,
    diameter_angst=120.0,
    n_classes=3,
    start_resolution_angst=20.0,
    max_resolution_angst=20.0,
    ramp_iterations=1,
    iterations=8,
)


def state_at(classified, n_classes, **changes):
    """A state in the middle of classification, with averages of nothing."""
    first = first_planar_state(CONFIG, torch.ones(1, CONFIG.radius_at(0) + 1))
    n = first.averages.shape[-1]
    return replace(
        first,
        averages=torch.zeros(1, n_classes, n, n),
        log_prior=torch.full((n_classes,), -math.log(n_classes)),
        iteration=N_CENTRING + classified,
        **changes,
    )


def sums_of(state, weights, seed=0):
    """Sums of one half set: each class a noisy average of its own, seen by `weights` views."""
    grid = planar_turning(CONFIG, state).grid
    generator = torch.Generator().manual_seed(seed)
    shape = len(weights), grid.n_orders, grid.radius
    weight = torch.tensor(weights)[:, None, None]
    noise = torch.view_as_complex(torch.randn(*shape, 2, generator=generator))
    own = torch.view_as_complex(torch.randn(*shape, 2, generator=torch.Generator().manual_seed(9)))
    own[:, 0] = own[:, 0].real + 3
    noise[:, 0] = noise[:, 0].real + 0j
    sums = Sums.zeros(len(weights), 1, grid.radius, padding=1, planar=True)
    return replace(
        sums,
        numerator=weight * own + weight.sqrt() * noise,
        denominator=weight[:, 0].expand(len(weights), grid.radius) * 1.0,
        class_weight=torch.tensor(weights, dtype=torch.float64),
        shift_square_angst2=torch.tensor([9.0, 1.0], dtype=torch.float64) * sum(weights),
    )


def updated(classified, weights):
    state = state_at(classified, len(weights))
    halves = {half: sums_of(state, weights, seed=half) for half in (0, 1)}
    return planar_update(CONFIG, state, halves)[0]


def alike_classes(n=400):
    """Classes A, B and C, of which A is there thrice and B twice, and one that is empty."""
    generator = torch.Generator().manual_seed(0)
    kind = torch.randint(3, (n,), generator=generator)
    alike = torch.tensor([0, 0, 1, 2, 0, 1, 3])
    likelihood = torch.where(alike == kind[:, None], 1.0, 1e-4)
    likelihood = likelihood * (0.5 + torch.rand(n, len(alike), generator=generator))
    return alike, likelihood / likelihood.sum(1, keepdim=True)


def test_of_classes_that_are_alike_one_stays():
    # the loss of each copy by itself is small, and leaving out all at once would lose the view
    alike, mass = alike_classes()
    kept = best_classes(mass, 3)
    assert sorted(alike[kept].tolist()) == [0, 1, 2]
    assert alike[best_classes(mass, 2)].unique().numel() == 2


def test_the_best_classes_are_those_of_a_search_without_shortcuts():
    _, mass = alike_classes()
    left = list(range(mass.shape[1]))
    while len(left) > 2:
        evidence = [
            float(mass[:, [c for c in left if c != gone]].double().sum(1).log().sum())
            for gone in left
        ]
        left.pop(max(range(len(left)), key=evidence.__getitem__))
        assert best_classes(mass, len(left)).tolist() == left


def test_families_form_apart_and_their_best_classes_go_on():
    config = replace(CONFIG, ramp_iterations=6, iterations=16, n_classes=5)
    first, last = N_CENTRING + 1, config.n_iterations
    apart = [config.families_at(i) for i in range(first, last + 1)]
    n_classes = [config.classes_after(i) for i in range(first - 1, last + 1)]
    assert apart == [config.n_families] * 6 + [1] * 11
    assert n_classes[:7] == [5 * config.n_families] * 7
    assert n_classes == sorted(n_classes, reverse=True)
    assert n_classes[-4:] == [5] * 4
    assert replace(config, n_classes=1).classes_after(first) == 1


def test_classes_that_are_left_out_take_their_sums_along():
    state = state_at(6, 6)
    sums = {part: sums_of(state, [50.0] * 6, seed=part) for part in (0, 1)}
    mass = torch.eye(6)[torch.tensor([0, 0, 2, 4] * 20)] + 1e-6
    new, known = planar_update(CONFIG, state, sums, mass / mass.sum(1, keepdim=True))
    assert new.averages.shape[1] == 3
    assert float(new.log_prior.exp().sum()) == pytest.approx(1)
    assert known.part_numerator.shape[:2] == (2, 3)
    assert torch.equal(known.part_numerator[1], sums[1].numerator[[0, 2, 4]])


def test_each_part_of_the_particles_meets_averages_without_it():
    state = state_at(5, 3)
    sums = {part: sums_of(state, [50.0] * 3, seed=part) for part in (0, 1)}
    new, _ = planar_update(CONFIG, state, sums)
    swapped, _ = planar_update(CONFIG, state, {0: sums[1], 1: sums[0]})
    assert new.averages.shape[0] == 2
    torch.testing.assert_close(new.averages[0], swapped.averages[1], rtol=1e-4, atol=1e-5)
    assert not torch.equal(new.averages[0], new.averages[1])


def test_scores_are_softened_while_classes_form_and_honest_at_the_end():
    for ramp, iterations, hottest in ((8, 14, 1.3125), (50, 40, 1.5), (4, 8, 1.0625), (3, 6, 1.0)):
        config = replace(CONFIG, ramp_iterations=ramp, iterations=iterations)
        first, last = N_CENTRING + 1, config.n_iterations
        heat = [config.temperature_at(i) for i in range(first, last + 1)]
        assert config.temperature_at(first - 1) == 1.0
        assert heat[0] == hottest
        assert heat == sorted(heat, reverse=True)
        assert heat[-3:] == [1.0] * 3


def test_centring_takes_all_particles_for_one_average():
    state = state_at(-2, 1)
    sums = {part: sums_of(state, [50.0], seed=part) for part in (0, 1)}
    new, known = planar_update(CONFIG, state, sums)
    assert new.averages.shape[:2] == (1, 1)
    assert known is None


def test_parts_take_turns_but_after_averages_were_moved():
    # centres of mass become the centre in the fourth pass
    for classified, goes_on in ((5, True), (4, False)):
        state = state_at(classified, 3)
        sums = {part: sums_of(state, [50.0] * 3, seed=part) for part in (0, 1)}
        _, known = planar_update(CONFIG, state, sums)
        assert (known is not None) == goes_on


def test_averages_off_centre_are_brought_back_with_their_particles():
    # a blob 6 A to the right, moved by at most 5 A at a time
    n = 24
    axis = torch.arange(n) - n // 2
    pixel = CONFIG.extent_angst / n
    blob = torch.exp(-((axis - 6 / pixel) ** 2 + axis[:, None] ** 2) / 8)
    images, centres = recentre(CONFIG, N_CENTRING + 4, blob[None, None].repeat(2, 1, 1, 1))
    assert centres[0, 0] == pytest.approx(5.0, abs=0.1)
    assert centres[0, 1] == pytest.approx(0.0, abs=0.1)
    after = float((images[0, 0].clamp_min(0) * axis).sum() / images[0, 0].clamp_min(0).sum())
    assert after * pixel == pytest.approx(1.0, abs=0.3)
    same, none = recentre(CONFIG, N_CENTRING + 3, images)
    assert torch.equal(same, images)
    assert not none.any()


def test_an_empty_class_ends_as_the_radial_average_and_finite():
    state = state_at(CONFIG.iterations, 3)
    sums = {part: sums_of(state, [50.0, 1e-9, 40.0], seed=part) for part in (0, 1)}
    final = final_averages(CONFIG, sums)
    assert final.images.isfinite().all()
    disc = planar_mask(CONFIG, CONFIG.box) > 0.9
    ring = final.images[1, 18, 18:26]
    across = final.images[1, 18:26, 18]
    torch.testing.assert_close(ring, across, rtol=0.02, atol=0.02 * float(ring.abs().max()))
    assert float(final.images[0][disc].std()) > 0


def test_a_class_beyond_twice_its_share_is_held_back():
    new = updated(3, [90.0, 5.0, 5.0])
    assert new.log_prior[0] < new.log_prior[1]


def test_shifts_follow_averages_that_were_moved():
    rotations = euler_to_matrix(torch.tensor([[0.0, 0.0, 90.0]]).double())
    move = torch.tensor([[3.0, 0.0]]).double()
    zero = torch.zeros(1, 2, dtype=torch.float64)
    found = follow_moves(zero, rotations, torch.zeros(1, dtype=torch.long), move)
    expected = -(rotations[0, :2, :2] @ move[0])
    torch.testing.assert_close(found[0], expected)


def test_a_state_survives_its_arrays():
    state = updated(3, [50.0, 40.0, 30.0])
    again = type(state).from_arrays(state.to_arrays())
    for name, value in vars(state).items():
        torch.testing.assert_close(getattr(again, name), value)


def test_weak_particles_form_more_sets_of_classes_within_limits():
    strong, usual, weak = (families_for(evidence, 16) for evidence in (40.0, 6.0, 0.1))
    assert strong == 3
    assert 3 < usual < weak == 8
    # a hundred classes cost enough as they are
    assert families_for(0.1, 100) == 3
