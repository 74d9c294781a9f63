"""A prior of the motion is learnt by the evidence; formulas are checked against plain ones."""

import numpy as np
import pytest

from verglas.algorithms.motion.field import MotionOrder, space_basis, time_basis
from verglas.algorithms.motion.posterior import Parabola, _evidence, join, learn_values
from verglas.algorithms.motion.prior import N_VALUES, PriorModel, start_values

ORDER = MotionOrder(4, 5, 5)
N_FRAMES = 12


@pytest.fixture
def model():
    return PriorModel.of(
        ORDER,
        n_frames=N_FRAMES,
        frame_dose_e_per_angst2=2.5,
        extent_angst=(800.0, 900.0),
        pixel_angst=2.0,
    )


def parabola(seed=0, strength=0.3):
    """A likelihood that tells of 40 directions."""
    rng = np.random.default_rng(seed)
    n = N_FRAMES - 1 + 4 * 5 * 4
    mixed = rng.normal(size=(n, 40))
    curvature = strength * mixed @ mixed.T
    return Parabola(curvature, curvature @ rng.normal(size=(n, 2)), N_FRAMES - 1)


def whole_covariance(model, values):
    factors = model.factors(values)
    local = np.kron(np.kron(factors.along_y, factors.along_x), factors.time)
    n = len(factors.path)
    covariance = np.zeros((n + len(local),) * 2)
    covariance[:n, :n], covariance[n:, n:] = factors.path, local
    return covariance


def test_posterior_is_that_of_two_gaussians(model):
    # n^-1 = K^-1 + H, written without the inverse of K, which is nearly singular
    told, values = parabola(), start_values()
    covariance = whole_covariance(model, values)
    expected = np.linalg.solve(np.eye(len(covariance)) + covariance @ told.curvature, covariance)
    found = join(told, model.factors(values))
    np.testing.assert_allclose(found.covariance, expected, atol=2e-3 * expected.max())
    np.testing.assert_allclose(found.mean, expected @ told.pull, atol=2e-2)


def test_evidence_is_that_of_a_gaussian(model):
    told, values = parabola(), start_values()
    covariance = whole_covariance(model, values)
    joined = np.eye(len(covariance)) + covariance @ told.curvature
    inner = (told.pull * np.linalg.solve(joined, covariance @ told.pull)).sum()
    expected = 0.5 * inner - np.linalg.slogdet(joined)[1]
    assert join(told, model.factors(values)).evidence == pytest.approx(expected, rel=1e-3)


def test_slope_of_the_evidence_is_its_difference(model):
    told = parabola(1)
    values = start_values() + 0.3 * np.random.default_rng(2).normal(size=N_VALUES)
    _, slope = _evidence(model, values, told, with_local=True)
    for i in range(N_VALUES):
        step = 1e-3 * (np.arange(N_VALUES) == i)
        up, down = (join(told, model.factors(values + sign * step)).evidence for sign in (1, -1))
        # weak components are left out of the one and not of the other
        assert slope[i] == pytest.approx((up - down) / 2e-3, rel=0.03, abs=0.05)


def test_extent_of_a_motion_is_learnt(model):
    # local motion drawn from the prior with 4 times the usual extent, known to 0.1 px
    rng = np.random.default_rng(3)
    true = start_values()
    true[0] += np.log(4.0)
    value, vector = np.linalg.eigh(whole_covariance(model, true))
    drawn = (vector * np.sqrt(value.clip(0))) @ rng.normal(size=(len(value), 2))
    places = (np.arange(6) + 0.5) / 6
    x, y = (axis.ravel() for axis in np.meshgrid(places, places))
    design = np.kron(space_basis(x, y, ORDER), time_basis(N_FRAMES, ORDER.n_t)[1:])
    design = np.concatenate([np.tile(np.eye(N_FRAMES - 1), (36, 1)), design], axis=1)
    seen = design @ drawn + rng.normal(0.0, 0.1, (len(design), 2))
    told = Parabola(design.T @ design / 0.01, design.T @ seen / 0.01, N_FRAMES - 1)
    values = start_values()
    for _ in range(4):
        values = learn_values(model, values, told)
    assert values[0] == pytest.approx(true[0], abs=0.7)
    error = design @ (join(told, model.factors(values)).mean - drawn)
    assert np.sqrt(np.square(error).mean()) < 0.05


def test_path_alone_leaves_local_numbers(model):
    values = learn_values(model, start_values(), parabola(), with_local=False)
    np.testing.assert_array_equal(values[:4], start_values()[:4])


@pytest.mark.parametrize("n_frames", [2, 3, 40])
def test_prior_begins_with_no_motion_and_is_a_covariance(n_frames):
    model = PriorModel.of(
        MotionOrder(4, 4, min(n_frames, 6)),
        n_frames=n_frames,
        frame_dose_e_per_angst2=1.0,
        extent_angst=(1000.0, 1000.0),
        pixel_angst=1.0,
    )
    covariance = whole_covariance(model, start_values())
    assert np.linalg.eigvalsh(covariance).min() > -1e-6 * covariance.max()
    # 10 A at the end of the exposure, beside the steps of the stage, 0.2 A a frame
    expected = 10.0**2 + 0.2**2 * (n_frames - 1)
    assert model.factors(start_values()).path[-1, -1] == pytest.approx(expected)
