"""The variance of the noise by group and shell, from what a model leaves of the images."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["noise_of_residuals"]

Double = NDArray[np.float64]


def noise_of_residuals(
    residual_power: Double, residual_count: Double, previous: Double, *, pooling: float = 50.0
) -> NDArray[np.float32]:
    """Estimate the noise variance; arguments as for `prior.updated_noise`."""
    n = residual_power.shape[1]
    pooled = residual_power.sum(0) / np.maximum(residual_count.sum(0), 1)
    level = residual_power.sum(1) / np.maximum((residual_count * pooled).sum(1), 1e-30)
    expected = level[:, None] * pooled
    mixed = (residual_power + pooling * expected) / (residual_count + pooling)
    out = previous.astype(np.float32)
    measured = (residual_count.sum(0) > 0) & (residual_count.sum(1) > 0)[:, None]
    out[:, :n] = np.where(measured, mixed.astype(np.float32), out[:, :n])
    out[:, 0] = out[:, 1]
    return out
