"""Climbing to the peaks: they are where, as high and as wide as the posterior's."""

import dataclasses
from itertools import pairwise

import pytest
import torch

from tests.algorithms.em.model_images import PIXEL_ANGST
from tests.algorithms.em.peaked import (
    PRIOR_ANGST,
    known_views,
    mahalanobis,
    offsets,
)
from tests.tolerance import STAT, assert_exact
from verglas.algorithms.em.local import Starts, climb, top_starts
from verglas.algorithms.em.search import Profile
from verglas.kernels.so3 import rotation_from_vector

FAR = {"turn_deg": 7.5, "move_angst": 2.0}


def climbed(known, starts, *, views=None, prior_angst=PRIOR_ANGST, steps=20):
    views = known.views if views is None else views
    return climb(views, known.references, starts, shift_prior_angst=prior_angst, steps=steps)


@pytest.fixture(scope="module")
def strong():
    """256 views of 24 pixels of 4 Å, SNR 7, at which a pose is known to 1.7 degrees."""
    return known_views(256, energy=1000.0)


@pytest.fixture(scope="module")
def strong_peaks(strong):
    return climbed(strong, strong.starts(**FAR))


def test_climb_recovers_poses_of_noise_free_views():
    known = known_views(40, energy=1e4, noise=0.0)
    peaks = climbed(known, known.starts(**FAR), prior_angst=1e3)
    apart = offsets(known.rotations, known.shifts_angst, peaks)
    # the noise that the model expects would allow 0.5 degrees and 0.04 Å; a climb stops
    # where it can gain no more than 0.05 log units, a third of that
    assert float(apart[:, :3].norm(dim=1).rad2deg().median()) < 0.02
    assert float(apart[:, :3].norm(dim=1).rad2deg().max()) < 0.2
    assert float(apart[:, 3:].norm(dim=1).max()) * PIXEL_ANGST < 0.01


def test_climb_recovers_poses_of_noisy_views_as_fisher_information_allows(strong, strong_peaks):
    assert strong.snr() == pytest.approx(7, rel=0.1)
    covariance = torch.linalg.inv(strong_peaks.precision).diagonal(dim1=1, dim2=2)
    apart = offsets(strong.rotations, strong.shifts_angst, strong_peaks)
    n = len(strong)
    for part in (slice(0, 3), slice(3, 5)):
        error = apart[:, part].square().sum(1) / covariance[:, part].sum(1)
        # a Gaussian along one axis, the worst case, has a relative variance of 2
        assert float(error.mean()) == pytest.approx(1, abs=STAT * (2 / n) ** 0.5)
    assert float(apart[:, :3].norm(dim=1).rad2deg().median()) < 2.0
    assert float(apart[:, 3:].norm(dim=1).median()) * PIXEL_ANGST < 0.2


@pytest.mark.parametrize(("factor", "calibrated"), [(1.0, True), (2.0, False), (0.5, False)])
def test_distance_of_the_truth_follows_chi_square_and_a_factor_two_is_seen(
    strong, factor, calibrated
):
    noise_power = strong.views.noise_power * factor
    views = dataclasses.replace(strong.views, noise_power=noise_power)
    peaks = climbed(strong, strong.starts(), views=views)
    square = mahalanobis(peaks, strong.rotations, strong.shifts_angst)
    error = (10 / len(strong)) ** 0.5  # of the mean of chi-square with 5 degrees of freedom
    deviation = abs(float(square.mean()) - 5) / error
    # median, and the points that 90 and 10 of 100 exceed
    shares = torch.stack([(square > x).double().mean() for x in (1.610, 4.351, 9.236)])
    expected = torch.tensor([0.9, 0.5, 0.1], dtype=torch.float64)
    worst = ((shares - expected).abs() / (expected * (1 - expected) / len(strong)).sqrt()).max()
    if calibrated:
        assert deviation < STAT
        assert float(worst) < STAT
    else:
        assert deviation > 2 * STAT
        assert float(worst) > 2 * STAT


def test_peaks_do_not_depend_on_where_the_climb_began(strong, strong_peaks):
    again = climbed(strong, strong.starts(**FAR, seed=1))
    apart = mahalanobis(again, strong_peaks.at.rotations_ref_to_img, strong_peaks.at.shifts_angst)
    # each stops within a third of a standard deviation, but for a few in a kink of the
    # interpolated map: 2 % measured
    assert float((apart < 0.4).double().mean()) > 0.95
    assert float((again.loglik - strong_peaks.loglik).abs().median()) < 0.02


def test_climb_never_goes_down_and_leaves_its_starts_alone(strong):
    starts = strong.starts(**FAR)
    before = starts.take(torch.arange(len(starts)))
    heights = [climbed(strong, starts, steps=n).loglik for n in (0, 2, 8)]
    for name, value in vars(before).items():
        assert_exact(getattr(starts, name), value)
    for low, high in pairwise(heights):
        assert (high >= low).all()
    assert float((heights[2] - heights[0]).min()) > 0


def test_shift_prior_pulls_and_counts():
    known = known_views(10, energy=200.0)
    views = dataclasses.replace(known.views, data=known.views.data * 0)
    references, starts = known.references, known.starts()
    tight = climb(views, references, starts, shift_prior_angst=0.01, steps=30)
    wide = climb(known.views, references, starts, shift_prior_angst=1e3, steps=20)
    # an image of nothing has only the prior, which is centred on no shift
    assert float(tight.at.shifts_angst.abs().max()) < 0.01
    assert (tight.precision[:, 3:, 3:].diagonal(dim1=1, dim2=2) > 0.99 * 400**2).all()
    middle = climb(known.views, references, wide.at, shift_prior_angst=PRIOR_ANGST, steps=0)
    drop = wide.at.shifts_angst.square().sum(1) / (2 * PRIOR_ANGST**2)
    assert torch.allclose(middle.loglik, wide.loglik - drop, atol=1e-3)


def test_every_start_climbs_on_its_own_reference():
    known = known_views(30, energy=200.0, n_references=3)
    weights = torch.tensor([0.5, 0.3, 0.2]).log()
    references = dataclasses.replace(known.references, log_prior=weights)
    starts = known.starts(turn_deg=2.0, move_angst=0.5)
    whole = climb(known.views, references, starts, shift_prior_angst=PRIOR_ANGST, steps=10)
    assert_exact(whole.at.reference, known.reference)
    for c in range(3):
        one = dataclasses.replace(
            references, half_volumes=references.half_volumes[c : c + 1], log_prior=torch.zeros(1)
        )
        mine = (known.reference == c).nonzero().squeeze(1)
        part = dataclasses.replace(starts.take(mine), reference=torch.zeros_like(mine))
        alone = climb(known.views, one, part, shift_prior_angst=PRIOR_ANGST, steps=10)
        assert_exact(alone.at.rotations_ref_to_img, whole.at.rotations_ref_to_img[mine])
        expected = alone.loglik + float(weights[c])
        assert torch.allclose(whole.loglik[mine], expected, atol=1e-4)


def test_a_view_may_have_several_starts():
    known = known_views(5, energy=200.0)
    one, two = known.starts(**FAR), known.starts(**FAR, seed=2)
    both = climbed(known, Starts.join([one, two]))
    for part, place in ((one, slice(0, 5)), (two, slice(5, 10))):
        alone = climbed(known, part)
        assert_exact(alone.loglik, both.loglik[place])
        assert_exact(alone.precision, both.precision[place])


def rows_about(angles_deg):
    """Rotations about x by angles, `[n, 3, 3]`."""
    turn = torch.zeros(len(angles_deg), 3, dtype=torch.float64)
    turn[:, 0] = torch.tensor(angles_deg).double().deg2rad()
    return rotation_from_vector(turn)


def chosen_angles(loglik, angles_deg, reference, n_starts, operators=None):
    """Which rows of a grid along a line `top_starts` takes, with a step of 5 degrees."""
    loglik = torch.tensor([loglik])
    profile = Profile.of_scores(torch.stack([loglik - 1, loglik], 1), temperature=1.5)
    row = loglik.topk(loglik.shape[1]).indices
    rotations = rows_about(angles_deg)[row]
    reference = torch.tensor(reference)[row]
    found = top_starts(profile, row, rotations, reference, 5.0, n_starts, operators)
    assert found.view.tolist() == [0] * len(found.view)
    assert (found.shift == 1).all()
    angle = torch.atan2(found.rotations_ref_to_img[:, 2, 1], found.rotations_ref_to_img[:, 2, 2])
    return [round(a) for a in angle.rad2deg().tolist()]


def test_starts_are_the_best_rows_apart_from_one_another():
    angles = [0, 5, 10, 15, 20, 60]
    one = [0] * 6
    # 5 is a neighbour of 10, the best; so is 15; 0 and 20 are not, being 10 degrees off
    assert chosen_angles([4.0, 5.0, 6.0, 5.0, 3.0, 2.0], angles, one, 3) == [10, 0, 20]
    assert chosen_angles([4.0, 5.0, 6.0, 5.0, 3.0, 2.0], angles, one, 2) == [10, 0]
    # what lies far below the best is no start: 1e-3 at a temperature of 1.5 is 10.4 log units
    assert chosen_angles([-4.3, 0.0, 6.0, 0.0, -4.5, -9.0], angles, one, 4) == [10, 0]
    # neighbours on another reference are apart
    assert chosen_angles([4.0, 5.0, 6.0, 5.0, 3.0, 2.0], angles, [0, 1, 0, 1, 0, 0], 3) == [
        10,
        5,
        15,
    ]


def test_copies_of_a_start_under_the_point_group_are_its_neighbours():
    # a turn of the reference by half a circle about x is an operator
    half = torch.stack([torch.eye(3), torch.diag(torch.tensor([1.0, -1.0, -1.0]))])
    angles, scores = [0, 4, 90, 176, 180], [6.0, 5.0, 4.0, 5.5, 5.8]
    assert chosen_angles(scores, angles, [0] * 5, 4) == [0, 180, 90]
    assert chosen_angles(scores, angles, [0] * 5, 4, half) == [0, 90]


def test_equal_starts_give_equal_peaks(strong, strong_peaks):
    again = climbed(strong, strong.starts(**FAR))
    assert_exact(again.at.rotations_ref_to_img, strong_peaks.at.rotations_ref_to_img)
    assert_exact(again.loglik, strong_peaks.loglik)
