"""A prior for the path of the whole frame, learnt from the path itself.

Frames move on much as they did before. How much the velocity changes from frame to frame is
measured from the fitted path, less the errors of the fit, separately early and late, since
specimens move in bursts at first. Where the fit is sharp the prior does nothing.
"""

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.motion.likelihood import Fit

__all__ = ["path_prior"]

Double = NDArray[np.float64]

_WINDOW = 7
_LEAST_SHARE = 0.2  # of the error of a fitted change of velocity: such a path is called smooth
_FEWEST_FRAMES = 8


def path_prior(fit: Fit) -> Double | None:
    """Precision of the path of frames 1 and on; None for too few frames.

    Args:
        fit: of the path of the whole frame alone, without a prior.

    Returns:
        `[f - 1, f - 1]`.
    """
    n_frames = len(fit.path_px)
    if n_frames < _FEWEST_FRAMES:
        return None
    change = np.zeros((n_frames - 2, n_frames))
    for i in range(n_frames - 2):
        change[i, i : i + 3] = (1.0, -2.0, 1.0)
    by_path = change[:, 1:]
    errors = np.einsum("if,fg,ig->i", by_path, np.linalg.inv(fit.curvature), by_path)
    seen = ((by_path @ fit.path_px[1:]) ** 2).mean(axis=1)
    half = _WINDOW // 2
    windowed = np.array(
        [(seen - errors)[max(0, i - half) : i + half + 1].mean() for i in range(len(seen))]
    )
    variance = np.maximum(windowed, _LEAST_SHARE * errors)
    return np.asarray((by_path.T / variance) @ by_path)
