"""Fit a motion that may differ over the frame, and refuse it where parts do not bear it out."""

from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.motion.field import MotionOrder
from verglas.algorithms.motion.likelihood import Fit, look, moved_px, shortened, start_fit
from verglas.algorithms.motion.patches import PatchSpectra
from verglas.algorithms.motion.posterior import Parabola, Posterior, join, learn_values
from verglas.algorithms.motion.prior import Factors, PriorModel, start_values

__all__ = ["Found", "Trial", "fit_movie", "local_order", "standard_error"]

Double = NDArray[np.float64]

_MOST_PASSES = 10
_DONE_PX = 0.01
_POINT_ANGST = 400.0  # of a frame for each further control point along a side
_FEWEST_POINTS = 3  # .. on top of these
_MANY_FRAMES = 24


@dataclass(frozen=True)
class Trial:
    """How well a motion of some order foretells patches that it was not fitted to.

    Attributes:
        order: of the motion.
        score: log-likelihood of the held-out patches, less that of the whole frame alone, and
            as it would be of a fit to all patches.
    """

    order: MotionOrder
    score: float


@dataclass(frozen=True)
class Found:
    """A motion with what is known of it.

    Attributes:
        fit: the motion.
        posterior: of its parameters.
        values: logarithms of the numbers of its prior.
        trials: of the whole frame alone and of local motion.
    """

    fit: Fit
    posterior: Posterior
    values: Double
    trials: list[Trial]


def local_order(
    extent_angst: tuple[float, float], n_frames: int, *, max_points: int
) -> MotionOrder:
    """Control points that leave it to the prior how smooth a motion is; none for 0."""
    if max_points < 2 or n_frames < 2:
        return MotionOrder()
    n_x, n_y = (
        min(max_points, _FEWEST_POINTS + max(1, round(length / _POINT_ANGST)))
        for length in extent_angst
    )
    return MotionOrder(n_x, n_y, min(n_frames, 6 if n_frames <= _MANY_FRAMES else 8))


def fit_movie(
    patches: PatchSpectra,
    shape: tuple[int, int],
    whole: Fit,
    model: PriorModel,
    pool: Executor,
    threads: int,
) -> Found:
    """Fit the motion of the whole frame and of its places together.

    The local motion is kept where its fit to the black fields of a chess board foretells the
    white ones, and the other way about.

    Args:
        patches: of the movie.
        shape: of the band-limited frame.
        whole: motion of the whole frame.
        model: of what is expected; its order is that of the local motion to try.
        pool: for threads.
        threads: how many parts to make.
    """
    n_even = patches.grid.n_even
    trials = [Trial(MotionOrder(), 0.0)]
    if model.order.is_local and 0 < n_even < len(patches.grid):
        fit = start_fit(patches, shape, model.order, whole.path_px, whole.spectra)
        found = _climb(patches, fit, model, pool, threads)
        score, n_free = _held_out(found, model)
        trials.append(Trial(model.order, score))
        # by more than chance makes of scores
        if score > 2.0 * np.sqrt(n_free):
            return replace(found, trials=trials)
    return replace(
        _climb(patches, whole, model.with_order(MotionOrder()), pool, threads), trials=trials
    )


def _climb(
    patches: PatchSpectra, fit: Fit, model: PriorModel, pool: Executor, threads: int
) -> Found:
    """Take Newton steps to the most probable motion, and learn the prior on the way.

    Details finer than the motion is known yet do not count, so that strong patches do not run
    off to a wrong place.
    """
    values, is_local = start_values(), fit.order.is_local
    unsure = _unsure(fit, _blank_posterior(fit, model.factors(values)))
    for turn in range(_MOST_PASSES):
        fit = look(patches, fit, pool, threads, unsure)
        # far from the motion a parabola tells nothing of how local motion is
        values = learn_values(model, values, fit.parabola, with_local=is_local and turn > 0)
        posterior = join(fit.parabola, model.factors(values))
        unsure = _unsure(fit, posterior)
        before, fit = fit, shortened(fit, posterior.mean)
        if turn > 0 and moved_px(before, fit) < _DONE_PX:
            break
    return Found(fit, posterior, values, [])


def _blank_posterior(fit: Fit, factors: Factors) -> Posterior:
    """What is known of a motion before a local one is looked for."""
    n_path = len(fit.path_px) - 1
    n = len(fit.parameters())
    covariance = np.zeros((n, n))
    covariance[n_path:, n_path:] = np.kron(np.kron(factors.along_y, factors.along_x), factors.time)
    return Posterior(np.zeros((n, 2)), covariance, 0.0, 0.0)


def _unsure(fit: Fit, posterior: Posterior) -> Double:
    """Standard error of the displacement of each patch against its mean in time: `[p]`."""
    n_frames, n_path = len(fit.path_px), len(fit.path_px) - 1
    centring = np.eye(n_frames) - 1.0 / n_frames
    path, time = centring[:, 1:], centring @ fit.time()
    n_time, n_space = time.shape[1], fit.space.shape[1]
    whole = posterior.covariance[:n_path, :n_path]
    mixed = posterior.covariance[:n_path, n_path:].reshape(n_path, n_space, n_time)
    local = posterior.covariance[n_path:, n_path:].reshape(n_space, n_time, n_space, n_time)
    variance = np.full(len(fit.space), float(((path.T @ path) * whole).sum()))
    if n_time:
        variance += 2.0 * fit.space @ np.einsum("it,imt->m", path.T @ time, mixed)
        bent = np.tensordot(local, time.T @ time, ((1, 3), (0, 1)))
        variance += np.einsum("pm,mn,pn->p", fit.space, bent, fit.space, optimize=True)
    return np.asarray(np.sqrt(np.maximum(variance, 0.0) / n_frames))


def standard_error(found: Found) -> float:
    """Standard error of a frame's shift against the mean of all frames, in pixels, one axis."""
    return float(np.sqrt(np.square(_unsure(found.fit, found.posterior)).mean()))


def _held_out(found: Found, model: PriorModel) -> tuple[float, float]:
    """Log-likelihood that local motion gains in patches not fitted to, and its freedom.

    Both motions have the path of the whole frame that all patches give, so that none has seen
    more.

    References: Burman 1989, doi:10.1093/biomet/76.3.503 (correction of cross-validation).
    """
    if found.fit.sides is None:
        raise ValueError("the motion must be fitted before it is judged")
    factors = model.factors(found.values)
    both, n = found.fit.parabola, len(found.fit.path_px) - 1
    path = found.posterior.mean[:n]
    alone = np.zeros_like(found.posterior.mean)
    alone[:n] = join(both.of_path(), factors).mean
    local_factors = replace(factors, path=np.zeros((0, 0)))
    score, n_free = 0.0, 0.0
    for train, test in (found.fit.sides, found.fit.sides[::-1]):
        pull = train.pull[n:] - train.curvature[n:, :n] @ path
        local = join(Parabola(train.curvature[n:, n:], pull, 0), local_factors)
        score += test.at(np.concatenate([path, local.mean])) - test.at(alone)
        n_free += local.n_free
    # the motion that counts is fitted to twice as many patches, which halves the loss by
    # its uncertainty: half a unit of log-likelihood for each parameter (Burman 1989)
    return score + 0.5 * n_free, n_free
