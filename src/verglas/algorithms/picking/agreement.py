"""Tell particles from false picks by which pickers agree, without knowing the truth.

A place is a particle or not. Either kind is found by each picker with its own probability, and
scored by it with its own distribution; given the kind, pickers are taken as independent. These
probabilities follow from the places alone (latent classes, capture and recapture): two pickers
that agree often and err apart vouch for each other. Since pickers are not quite independent, the
fit stays near where it starts: it is improved a few times and not until it stands still.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

__all__ = ["Agreement", "fit_agreement", "normal_scores"]

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_ITERATIONS = 3
_PRIOR_SHARE = 0.02  # of the places, as weight of what is assumed beforehand
_TRUE_FOUND, _FALSE_FOUND = 0.85, 0.35  # assumed of a picker before anything is seen
_SCORE_TRUST = 0.5  # scores of one picker are a weaker and less independent witness
_LEAST_STD = 0.3
_MOST_LOG_ODDS = 12.0


@dataclass(frozen=True)
class Agreement:
    """What is known of places and pickers.

    Attributes:
        probability: `[n]`, that a place is a particle.
        precision: `[p]`, share of particles among the picks of each picker.
        recall: `[p]`, share of all particles that each picker found.
        n_particles: in all, those that no picker found included.
    """

    probability: Floats
    precision: Floats
    recall: Floats
    n_particles: float


def normal_scores(scores: Floats) -> Floats:
    """Replace scores by the normal quantiles of their ranks; what is not a number stays.

    Args:
        scores: `[n, p]`, each column on a scale of its own.
    """
    out = np.full(scores.shape, np.nan)
    for column in range(scores.shape[1]):
        there = np.isfinite(scores[:, column])
        n = int(there.sum())
        if n:
            out[there, column] = norm.ppf((rankdata(scores[there, column]) - 0.5) / n)
    return out


def _by_votes(found: Flags) -> Floats:
    """Log-odds by how many pickers found a place."""
    votes, n_pickers = found.sum(axis=1), found.shape[1]
    guess = 0.3 + 0.65 * (votes - 1) / max(1, n_pickers - 1)
    odds: Floats = np.log(guess / (1 - guess))
    return odds


def _rates(found: Flags, weight: Floats, assumed: float) -> Floats:
    prior = 2.0 + _PRIOR_SHARE * len(weight)
    rates: Floats = (weight @ found + prior * assumed) / (weight.sum() + prior)
    return rates


def _score_odds(values: Floats, weight: Floats) -> Floats:
    """Log-odds by the scores, of two normal distributions of one width for each picker."""
    total = np.zeros(len(values))
    for column in values.T:
        there = np.isfinite(column)
        if there.sum() < 10:
            continue
        x, w = column[there], weight[there] + 1e-3
        means, squares = [], []
        for share in (w, 1.002 - w):
            mean = float(share @ x / share.sum())
            means.append(mean)
            squares.append(float(share @ (x - mean) ** 2 / share.sum()))
        variance = max(*squares, _LEAST_STD**2)
        high, low = max(means[0], means[1]), means[1]
        total[there] += ((x - low) ** 2 - (x - high) ** 2) / (2 * variance)
    return total


def fit_agreement(found: Flags, values: Floats, *, evidence: Floats | None = None) -> Agreement:
    """Fit both kinds of places and say which is which.

    Args:
        found: `[n, p]`, which pickers found a place; at least one each.
        values: `[n, p]`, normal scores of the pickers; not a number where there is none.
        evidence: `[n]`, log-odds of a particle by other means, as the image; None starts from
            the number of pickers that found a place.

    References:
        Dawid & Skene 1979, doi:10.2307/2346806 (judges without truth); Chapman 1951 (capture
        and recapture).
    """
    start = _by_votes(found) if evidence is None else evidence
    probability = 1 / (1 + np.exp(-start))
    fixed = np.zeros(len(found)) if evidence is None else evidence
    rates = np.full(found.shape[1], _TRUE_FOUND)
    for _ in range(_ITERATIONS):
        rates = _rates(found, probability, _TRUE_FOUND)
        false_rates = _rates(found, 1 - probability, _FALSE_FOUND)
        odds = np.where(
            found, np.log(rates / false_rates), np.log((1 - rates) / (1 - false_rates))
        ).sum(axis=1)
        odds = odds + fixed + _SCORE_TRUST * _score_odds(values, probability)
        if evidence is None:
            share = (probability.sum() + 1.0) / (len(probability) + 2.0)
            odds = odds + np.log(share / (1 - share))
        probability = 1 / (1 + np.exp(-np.clip(odds, -_MOST_LOG_ODDS, _MOST_LOG_ODDS)))
    n_found = np.maximum(found.sum(axis=0), 1)
    hits = probability @ found
    miss = float(np.prod(1 - rates))
    n_all = float(probability.sum()) / max(1e-3, 1 - miss)
    return Agreement(probability, hits / n_found, np.clip(hits / max(n_all, 1e-9), 0, 1), n_all)
