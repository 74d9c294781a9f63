"""Learn from a person's picks which of many candidates are particles."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.picking.consensus import Scale, fit_logistic, scale_of

__all__ = ["Judge", "train_judge"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Judge:
    """What was learnt: scale of the measures and weights of the logistic regression."""

    scale: Scale
    weights: Floats

    def probability(self, features: Floats) -> Floats:
        """Probability that each place, `[n, f]`, is what the person picked: `[n]`."""
        odds = self.scale.apply(features) @ self.weights
        probability: Floats = 1 / (1 + np.exp(-np.clip(odds, -30, 30)))
        return probability


def train_judge(particles: Floats, others: Floats) -> Judge:
    """Tell a person's picks from what they left.

    Args:
        particles: `[n, f]`, surroundings of the picks (`patch.describe_places`).
        others: `[m, f]`, of background and of candidates that the person took away.
    """
    inputs = np.concatenate([particles, others])
    scale = scale_of(inputs)
    target = np.concatenate([np.ones(len(particles)), np.zeros(len(others))])
    share = len(particles) / max(1, len(others))
    weight = np.concatenate([np.ones(len(particles)), np.full(len(others), share)])
    return Judge(scale, fit_logistic(scale.apply(inputs), target, weight))
