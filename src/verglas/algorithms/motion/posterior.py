"""Join prior and likelihood of a motion, and learn the numbers of the prior from a movie.

Near a motion the log-likelihood is a parabola, `b.t - t.H.t / 2` in the parameters t of one axis:
frames 1 and on of the whole frame's path, then the control points. Then the best motion, its
errors and the probability of the frames under a prior (Laplace) are matrices of that size, and no
pass over the frames is needed to try other numbers, or to fit one half of the patches.

References: MacKay 1992, doi:10.1162/neco.1992.4.3.415 (evidence for the width of a prior).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize

from verglas.algorithms.motion.prior import (
    N_LOCAL,
    Factors,
    PriorModel,
    value_bounds,
    value_penalty,
)

__all__ = ["Parabola", "Posterior", "join", "learn_values"]

Double = NDArray[np.float64]

_LEAST_SHARE = 1e-6  # of the variance of the strongest component; weaker ones are left out


@dataclass(frozen=True)
class Parabola:
    """A log-likelihood near a motion.

    Attributes:
        curvature: `[n, n]`, minus its second derivative; the same for both axes.
        pull: `[n, 2]`, `b` above, for x and y.
        n_path: parameters that belong to the whole frame.
    """

    curvature: Double
    pull: Double
    n_path: int

    def of_path(self) -> "Parabola":
        """The same where no place moves beside the whole frame."""
        n = self.n_path
        return Parabola(self.curvature[:n, :n], self.pull[:n], n)

    def at(self, parameters: Double) -> float:
        """Log-likelihood of parameters `[n, 2]`."""
        bent = self.curvature @ parameters
        return float((self.pull * parameters).sum() - 0.5 * (parameters * bent).sum())


@dataclass(frozen=True)
class Posterior:
    """The most probable motion.

    Attributes:
        mean: `[n, 2]`.
        covariance: `[n, n]`, for each axis.
        evidence: log-probability of the frames under the prior, less a constant.
        n_free: parameters of one axis that the data determine rather than the prior.
    """

    mean: Double
    covariance: Double
    evidence: float
    n_free: float


def join(parabola: Parabola, factors: Factors) -> Posterior:
    """Combine a likelihood with a prior."""
    root = _root(factors, with_local=len(parabola.pull) > parabola.n_path)
    bent = parabola.curvature @ root
    matrix = root.T @ bent + np.eye(root.shape[1])
    factor = cho_factor(matrix, lower=True)
    pull = root.T @ parabola.pull
    solved = cho_solve(factor, pull)
    inverse = cho_solve(factor, np.eye(len(matrix)))
    evidence = 0.5 * float((pull * solved).sum()) - 2.0 * float(np.log(np.diag(factor[0])).sum())
    free = len(matrix) - float(np.trace(inverse))
    return Posterior(root @ solved, root @ inverse @ root.T, evidence, free)


def _root(factors: Factors, *, with_local: bool) -> Double:
    """Square root of the prior's covariance, without components that hardly move: `[n, k]`."""
    path = _half(factors.path)
    if not with_local:
        return path
    roots = [_half(part) for part in (factors.along_y, factors.along_x, factors.time)]
    power = [np.square(root).sum(axis=0) for root in roots]
    every = np.kron(np.kron(power[0], power[1]), power[2])
    kept = np.flatnonzero(every > _LEAST_SHARE * every.max())
    index = np.unravel_index(kept, [len(p) for p in power])
    along_y, along_x, time = (root[:, i] for root, i in zip(roots, index, strict=True))
    local = (along_y[:, None, None] * along_x[:, None] * time).reshape(-1, len(kept))
    root = np.zeros((len(path) + len(local), path.shape[1] + len(kept)))
    root[: len(path), : path.shape[1]] = path
    root[len(path) :, path.shape[1] :] = local
    return root


def _half(covariance: Double) -> Double:
    value, vector = np.linalg.eigh(covariance)
    return np.asarray(vector * np.sqrt(np.maximum(value, 0.0)))


def learn_values(
    model: PriorModel,
    values: Double,
    parabola: Parabola,
    *,
    with_local: bool = True,
    max_steps: int = 8,
) -> Double:
    """Change the numbers of a prior to those that make the frames most probable.

    Args:
        model: of the prior.
        values: logarithms to start from.
        parabola: of the likelihood.
        with_local: learn those of the local motion too.
        max_steps: at most so many steps.
    """
    free = slice(None) if with_local else slice(N_LOCAL, None)
    if not with_local:
        parabola = parabola.of_path()
    bounds = value_bounds()[free]

    def cost(part: Double) -> tuple[float, Any]:
        tried = values.copy()
        tried[free] = part
        evidence, slope = _evidence(model, tried, parabola, with_local=with_local)
        penalty, penalty_slope = value_penalty(tried)
        return penalty - evidence, (penalty_slope - slope)[free]

    found = minimize(
        cost, values[free], jac=True, method="L-BFGS-B", bounds=bounds,
        options={"maxiter": max_steps, "maxfun": 2 * max_steps},
    )  # fmt: skip
    learnt = values.copy()
    learnt[free] = found.x
    return learnt


def _evidence(
    model: PriorModel, values: Double, parabola: Parabola, *, with_local: bool
) -> tuple[float, Double]:
    """Log-probability of the frames and its derivative by the numbers.

    With `a = b - H t` and `M = H - H C H`, C the posterior's covariance, the derivative by the
    prior's covariance K is `(sum over axes of a a^T - 2 M) / 2`.
    """
    factors = model.factors(values)
    found = join(parabola, factors)
    left = parabola.pull - parabola.curvature @ found.mean
    lost = parabola.curvature - parabola.curvature @ found.covariance @ parabola.curvature
    by_prior = 0.5 * left @ left.T - lost
    n, changes = parabola.n_path, model.changes(values, factors)
    slope = np.array([(by_prior[:n, :n] * change.path).sum() for change in changes])
    if with_local:
        space = np.kron(factors.along_y, factors.along_x)
        n_space, n_time = len(space), len(factors.time)
        blocks = by_prior[n:, n:].reshape(n_space, n_time, n_space, n_time)
        local = blocks.transpose(0, 2, 1, 3).reshape(n_space**2, n_time**2)
        by_time, by_space = space.ravel() @ local, local @ factors.time.ravel()
        for i in range(N_LOCAL):
            slope[i] += by_time @ changes[i].time.ravel()
            slope[i] += by_space @ _space_change(factors, changes[i]).ravel()
    return found.evidence, slope


def _space_change(factors: Factors, change: Factors) -> Double:
    """Derivative of the covariance over the frame."""
    return np.asarray(
        np.kron(change.along_y, factors.along_x) + np.kron(factors.along_y, change.along_x)
    )
