"""What becomes of classes between iterations."""

import math
from dataclasses import replace

import pytest
import torch

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.planar import (
    N_CENTRING,
    PlanarConfig,
    first_planar_state,
    follow_moves,
    planar_turning,
    planar_update,
)
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
    shape = len(weights), grid.radius, grid.n_half
    weight = torch.tensor(weights)[:, None, None].expand(shape) * 1.0
    noise = torch.view_as_complex(torch.randn(*shape, 2, generator=generator))
    own = torch.view_as_complex(torch.randn(*shape, 2, generator=torch.Generator().manual_seed(9)))
    sums = Sums.zeros(len(weights), 1, grid.radius, padding=1, planar=True)
    return replace(
        sums,
        numerator=weight * (3 + own) + weight.sqrt() * noise,
        denominator=weight,
        class_weight=torch.tensor(weights, dtype=torch.float64),
        shift_square_angst2=torch.tensor([9.0, 1.0], dtype=torch.float64) * sum(weights),
    )


def updated(classified, weights, loss):
    state = state_at(classified, len(weights))
    halves = {half: sums_of(state, weights, seed=half) for half in (0, 1)}
    return planar_update(CONFIG, state, halves, torch.tensor(loss, dtype=torch.float64))


def test_spare_classes_whose_loss_costs_least_are_left_out():
    new = updated(1, [50.0] * 6, [9.0, 0.1, 8.0, 0.2, 7.0, 0.3])
    whole = updated(0, [50.0] * 6, [9.0, 0.1, 8.0, 0.2, 7.0, 0.3])
    assert whole.averages.shape[1] == 6
    assert new.averages.shape[1] == 3
    torch.testing.assert_close(new.averages[0], whole.averages[0][[0, 2, 4]])
    assert float(new.log_prior.exp().sum()) == pytest.approx(1)


def test_an_empty_class_takes_over_half_of_the_one_that_would_be_missed_most():
    new = updated(3, [60.0, 1e-6, 40.0], [9.0, 0.0, 5.0])
    averages = new.averages[0]
    assert averages.shape[0] == 3
    alike = torch.corrcoef(averages.flatten(1))
    assert alike[0, 1] > 0.9
    assert not torch.equal(averages[0], averages[1])
    assert alike[0, 1] > alike[0, 2]


def test_the_last_averages_of_each_half_are_those_of_the_other():
    state = state_at(CONFIG.iterations, 3)
    sums = {half: sums_of(state, [50.0] * 3, seed=half) for half in (0, 1)}
    loss = torch.ones(3, dtype=torch.float64)
    new = planar_update(CONFIG, state, sums, loss)
    swapped = planar_update(CONFIG, state, {0: sums[1], 1: sums[0]}, loss)
    assert new.averages.shape[0] == 2
    torch.testing.assert_close(new.averages[0], swapped.averages[1])
    assert not torch.equal(new.averages[0], new.averages[1])


def test_a_class_beyond_twice_its_share_is_held_back():
    new = updated(3, [90.0, 5.0, 5.0], [9.0, 5.0, 5.0])
    assert new.log_prior[0] < new.log_prior[1]


def test_shifts_follow_averages_that_were_moved():
    rotations = euler_to_matrix(torch.tensor([[0.0, 0.0, 90.0]]).double())
    move = torch.tensor([[3.0, 0.0]]).double()
    zero = torch.zeros(1, 2, dtype=torch.float64)
    found = follow_moves(zero, rotations, torch.zeros(1, dtype=torch.long), move)
    expected = -(rotations[0, :2, :2] @ move[0])
    torch.testing.assert_close(found[0], expected)


def test_a_state_survives_its_arrays():
    state = updated(3, [50.0, 40.0, 30.0], [1.0, 2.0, 3.0])
    again = type(state).from_arrays(state.to_arrays())
    for name, value in vars(state).items():
        torch.testing.assert_close(getattr(again, name), value)
