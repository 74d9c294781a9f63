"""Choose how finely motion may vary over the frame, by patches that a fit did not see."""

from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from verglas.algorithms.motion.field import MotionOrder
from verglas.algorithms.motion.likelihood import Fit, evaluate, fit_motion, start_fit
from verglas.algorithms.motion.patches import PatchSpectra

__all__ = ["ORDERS", "Trial", "choose_order"]

ORDERS = (
    MotionOrder(),
    MotionOrder(2, 2, 3),
    MotionOrder(3, 3, 4),
    MotionOrder(4, 4, 5),
    MotionOrder(5, 5, 6),
    MotionOrder(6, 6, 7),
    MotionOrder(8, 8, 8),
)
"""From the whole frame alone to the finest."""

_PATIENCE = 2  # orders without gain before any local motion was found; then one is enough
_DONE_PX = 0.05
_CLEARLY = 10.0  # log-likelihood by which a finer motion may not fall behind


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


def choose_order(
    patches: PatchSpectra,
    shape: tuple[int, int],
    start: Fit,
    orders: Sequence[MotionOrder],
    pool: Executor,
    threads: int,
) -> tuple[MotionOrder, list[Trial]]:
    """Fit to the black fields and judge by the white ones, and the other way about.

    Orders are tried from the simplest on, until one is no better than a local motion that was
    found before it, or clearly worse than the whole frame alone, or two are no better than that.

    References: Burman 1989, doi:10.1093/biomet/76.3.503 (correction of cross-validation).

    Args:
        patches: of the movie.
        shape: of the band-limited frame.
        start: motion of the whole frame, fitted.
        orders: to try; the first is the whole frame alone.
        pool: for threads.
        threads: how many parts to make.
    """
    half = patches.grid.n_even
    sides = (slice(0, half), slice(half, len(patches.grid)))
    if half == 0 or half == len(patches.grid):
        return orders[0], [Trial(orders[0], 0.0)]
    trials = [Trial(orders[0], 0.0)]
    chosen, best, best_free, n_worse = orders[0], 0.0, 0.0, 0
    whole = start_fit(patches, shape, orders[0], start.path_px)
    for order in orders[1:]:
        if order.n_x * order.n_y > half or order.n_t > patches.n_frames:
            break
        score, n_free = 0.0, 0.0
        for train, test in (sides, sides[::-1]):
            fit = start_fit(patches, shape, order, start.path_px, start.spectra, start.roughness)
            # the path is that of all patches for every order, so that none has seen more
            fit = fit_motion(
                patches, fit, train, pool, threads,
                max_iterations=3, done_px=_DONE_PX, holds_path=True,
            )  # fmt: skip
            score += _held_out(patches, fit, whole, test, pool, threads)
            n_free += fit.n_free
        # the motion that counts is fitted to twice as many patches, which halves the loss by
        # its uncertainty: half a unit of log-likelihood for each parameter (Burman 1989)
        score += 0.5 * n_free
        trials.append(Trial(order, score))
        # a finer motion must be better by more than what chance makes of the scores
        if score > best + 2.0 * np.sqrt(max(0.0, n_free - best_free)):
            best, best_free, chosen, n_worse = score, n_free, order, 0
        else:
            n_worse += 1
            if n_worse == _PATIENCE or chosen.is_local or score < best - _CLEARLY:
                break
    return chosen, trials


def _held_out(
    patches: PatchSpectra, fit: Fit, whole: Fit, test: slice, pool: Executor, threads: int
) -> float:
    """Log-likelihood ratio, in patches not fitted to, of a motion and that of the whole frame.

    Both are judged by the spectra that the finer motion was fitted with.
    """
    if fit.spectra is None:
        raise ValueError("the motion must be fitted before it is judged")
    finer, coarser = (
        evaluate(patches, motion.displacement(), fit.spectra, test, pool, threads).loglik.sum()
        for motion in (fit, whole)
    )
    return float(finer - coarser)
