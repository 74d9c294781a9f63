"""Score the union of several pickers' picks: agreement, their scores, and the image itself.

1. A classifier learns what the surroundings of particles look like in the image, from places
   that several pickers found and from places that nobody picked. Each place is judged by a
   classifier that has not seen its micrograph.
2. Its verdict, the agreement of the pickers and their scores are weighed together (`agreement`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.picking.agreement import Agreement, fit_agreement, normal_scores

__all__ = ["Scale", "fit_logistic", "judge_places", "scale_of"]

Floats = NDArray[np.float64]

_FOLDS = 5
_PENALTY = 1.0
_FEWEST = 40  # trusted places, for a classifier to be worth anything
_LONE = 0.1  # weight of a lone pick as an example of a false one
_CLIP_ODDS = 8.0
_CLIP = 5.0


@dataclass(frozen=True)
class Scale:
    """Middle and width of each measure."""

    centre: Floats
    width: Floats

    def apply(self, features: Floats) -> Floats:
        """Standardise, and add the squares: good particles lie in the middle of some."""
        reduced = np.clip((features - self.centre) / self.width, -_CLIP, _CLIP)
        return np.concatenate([np.ones((len(reduced), 1)), reduced, reduced**2 - 1], axis=1)


def scale_of(features: Floats) -> Scale:
    """Find the middle and width of each measure, `[n, f]`, by median and deviation."""
    centre = np.median(features, axis=0)
    width = 1.4826 * np.median(np.abs(features - centre), axis=0)
    return Scale(centre, np.maximum(width, 1e-3))


def fit_logistic(inputs: Floats, target: Floats, weight: Floats) -> Floats:
    """Logistic regression with soft targets and a ridge, by Newton's method."""
    penalty = np.full(inputs.shape[1], _PENALTY)
    penalty[0] = 1e-3
    beta = np.zeros(inputs.shape[1])
    for _ in range(30):
        probability = 1 / (1 + np.exp(-np.clip(inputs @ beta, -30, 30)))
        gradient = inputs.T @ (weight * (target - probability)) - penalty * beta
        curvature = (inputs * (weight * probability * (1 - probability))[:, None]).T @ inputs
        step = np.linalg.solve(curvature + np.diag(penalty), gradient)
        size = float(np.abs(step).max())
        beta = beta + step * min(1.0, 3.0 / max(size, 1e-12))
        if size < 1e-6:
            break
    return beta


def _image_odds(
    features: Floats, trusted: NDArray[np.bool_], background: Floats, fold: NDArray[np.int64]
) -> Floats:
    """Log-odds of each place by the image, from a classifier that has not seen its fold.

    Places that several pickers found are examples of particles, places that nobody picked of
    the rest; a lone pick counts a little as a false one, since some are.
    """
    scale = scale_of(np.concatenate([features, background]))
    places, empty = scale.apply(features), scale.apply(background)
    odds = np.zeros(len(places))
    for held_out in np.unique(fold):
        seen = fold != held_out
        if not trusted[seen].any():
            seen = np.ones_like(seen)
        inputs = np.concatenate([places[seen], empty])
        wanted = np.concatenate([trusted[seen].astype(np.float64), np.zeros(len(empty))])
        weight = np.concatenate([np.where(trusted[seen], 1.0, _LONE), np.ones(len(empty))])
        odds[fold == held_out] = places[fold == held_out] @ fit_logistic(inputs, wanted, weight)
    return np.clip(odds, -_CLIP_ODDS, _CLIP_ODDS)


def judge_places(
    found: NDArray[np.bool_],
    scores: Floats,
    *,
    features: Floats | None = None,
    background: Floats | None = None,
    group: NDArray[np.int64] | None = None,
) -> Agreement:
    """Give each place the probability that it is a particle.

    Args:
        found: `[n, p]`, which pickers found it.
        scores: `[n, p]`, of the pickers, each on a scale of its own; not a number where it
            found nothing or gave no score.
        features: `[n, f]`, of the surroundings; None judges by agreement and scores alone.
        background: `[m, f]`, of places that nobody picked.
        group: `[n]`, number of the micrograph of each place.
    """
    values = normal_scores(scores)
    trusted = found.sum(axis=1) >= 2
    few = features is None or background is None or len(background) < 5
    if few or int(trusted.sum()) < _FEWEST:
        return fit_agreement(found, values)
    assert features is not None
    assert background is not None
    numbers = np.zeros(len(found), np.int64) if group is None else group
    known = np.unique(numbers)
    fold = np.searchsorted(known, numbers) % _FOLDS
    if len(known) < 2:
        fold = np.arange(len(found)) % _FOLDS
    evidence = _image_odds(features, trusted, background, fold)
    return fit_agreement(found, values, evidence=evidence)
