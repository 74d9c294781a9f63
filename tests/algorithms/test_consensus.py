"""Places that pickers share are particles, and how good each picker is follows from that."""

import numpy as np
import pytest

from verglas.algorithms.picking.agreement import fit_agreement, normal_scores
from verglas.algorithms.picking.consensus import judge_places
from verglas.algorithms.picking.merge import merge_picks, picker_variances, weighted_positions
from verglas.algorithms.picking.patch import background_places

RECALL = np.array([0.9, 0.95, 0.85])
N_FALSE = np.array([120, 30, 60])
N_TRUE = 1000


def judged(seed=0, n_features=6):
    """Particles found with the recalls above, false picks of one or two pickers, and features."""
    rng = np.random.default_rng(seed)
    true = rng.uniform(size=(N_TRUE, 3)) < RECALL
    false = np.repeat(np.eye(3, dtype=bool), N_FALSE, axis=0)
    false[:40, 1] = True  # an error that two pickers share
    truth = np.repeat([True, False], [N_TRUE, len(false)])
    found = np.concatenate([true, false])
    keep = found.any(axis=1)
    found, truth = found[keep], truth[keep]
    scores = rng.normal(size=found.shape) + 1.5 * truth[:, None]
    scores[~found] = np.nan
    features = rng.normal(size=(len(truth), n_features)) + 1.0 * truth[:, None]
    background = rng.normal(size=(400, n_features))
    return found, scores, truth, features, background


def test_nearest_picks_of_different_pickers_are_one_place():
    first = np.array([[10.0, 10.0], [50.0, 50.0]])
    second = np.array([[12.0, 10.0], [80.0, 20.0], [14.0, 10.0]])
    places = merge_picks([first, second], radius=5.0)
    rows = {tuple(row) for row in places.member.tolist()}
    assert rows == {(0, 0), (1, -1), (-1, 1), (-1, 2)}
    joined = places.position[(places.member == [0, 0]).all(axis=1)]
    assert np.allclose(joined, [[11.0, 10.0]])


@pytest.mark.parametrize("sizes", [(0, 0), (0, 3), (5, 0, 2)])
def test_empty_sets_of_picks_merge(sizes):
    rng = np.random.default_rng(1)
    picks = [rng.uniform(0, 1000, (n, 2)) for n in sizes]
    places = merge_picks(picks, radius=1e-6)
    assert len(places.position) == sum(sizes)
    assert (places.member >= 0).sum() == sum(sizes)


def test_a_precise_picker_counts_more():
    """Deviations 1, 4 and 4: the weighted place is nearer to the truth than the mean."""
    rng = np.random.default_rng(2)
    truth = rng.uniform(0, 100, (500, 2))
    deviation = np.array([1.0, 4.0, 4.0])
    points = truth[:, None] + rng.normal(size=(500, 3, 2)) * deviation[:, None]
    there = np.ones((500, 3), bool)
    variance = picker_variances(points - points.mean(axis=1, keepdims=True), there)
    assert variance[0] < 0.3 * variance[1]
    best = weighted_positions(points, there, variance)
    error = [np.sqrt(((p - truth) ** 2).mean()) for p in (best, points.mean(axis=1))]
    assert error[0] < 0.6 * error[1]


def test_precision_and_number_are_known_without_truth():
    """Three pickers, images looked at: precision within 0.05, number of particles within 6 %."""
    found, scores, truth, features, background = judged()
    agreement = judge_places(found, scores, features=features, background=background)
    precision = (found & truth[:, None]).sum(axis=0) / found.sum(axis=0)
    assert np.abs(agreement.precision - precision).max() < 0.05
    assert np.abs(agreement.recall - RECALL).max() < 0.05
    assert agreement.n_particles == pytest.approx(N_TRUE, rel=0.06)


def test_the_model_beats_votes():
    found, scores, truth, features, background = judged()
    agreement = judge_places(found, scores, features=features, background=background)

    def f1(kept):
        return 2 * (kept & truth).sum() / (kept.sum() + N_TRUE)

    votes = max(f1(found.sum(axis=1) >= n) for n in (1, 2, 3))
    assert f1(agreement.probability > 0.5) > max(0.97, votes)


def test_probabilities_are_calibrated():
    """In bins of 0.2, hit rates are within 0.2 of the mean probability; Brier score < 0.03."""
    found, scores, truth, features, background = judged(seed=3)
    probability = judge_places(found, scores, features=features, background=background).probability
    assert ((probability - truth) ** 2).mean() < 0.03
    for low in (0.0, 0.8):
        inside = (probability >= low) & (probability <= low + 0.2)
        assert abs(probability[inside].mean() - truth[inside].mean()) < 0.1


def test_agreement_alone_tells_lone_picks_from_shared_ones():
    found, scores, truth, _, _ = judged()
    agreement = fit_agreement(found, normal_scores(scores))
    shared = agreement.probability[found.all(axis=1)]
    assert shared.min() > 0.85
    assert agreement.probability[~truth].mean() < 0.5
    assert np.argmin(agreement.precision) == 0


def test_pickers_without_scores_are_judged_by_agreement():
    found, scores, _, _, _ = judged()
    agreement = judge_places(found, np.full_like(scores, np.nan))
    assert np.isfinite(agreement.probability).all()


def test_background_keeps_away_from_picks():
    rng = np.random.default_rng(4)
    picks = rng.uniform(0, 500, (20, 2))
    places = background_places(picks, (500, 500), diameter_px=40.0, n=30, rng=rng)
    apart = np.hypot(*(places[:, None] - picks[None]).transpose(2, 0, 1))
    assert len(places) > 10
    assert apart.min() >= 40.0
