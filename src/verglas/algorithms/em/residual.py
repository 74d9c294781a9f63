"""What views teach about noise and intensity: the residual at a pose drawn from the posterior.

One drawn pose estimates the expectation of the residual without bias; the best pose would
make the noise look too small.
"""

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow, windowed_power
from verglas.algorithms.views import Views
from verglas.kernels.disc import shell_sums

__all__ = ["add_residuals", "lot"]

_LOTS = 100.0  # enough for the fraction to be uniform, and above rounding


def lot(views: Views) -> Tensor:
    """Return a number in [0, 1) for each view, the same in whatever chunk and order it comes.

    Taken from the last digits of one coefficient, in units of its noise.
    """
    last = views.disc.shell[-1]
    level = views.noise_power[:, last].double().sqrt().clamp_min(1e-30)
    return (views.data[:, -1].abs().double() / level * _LOTS) % 1.0


def add_residuals(views: Views, slices: Tensor, sums: Sums, window: NoiseWindow) -> None:
    """Add noise residuals and intensity scales to the sums, in place.

    Args:
        views: moved to their drawn shifts.
        slices: `[b, k]`, of the references at the drawn rotations.
        sums: added to.
        window: for the same radius.
    """
    prediction = views.ctf * slices
    power = windowed_power(views.data - prediction, window)
    sums.residual_power.index_add_(0, views.group, power)
    count = shell_sums(torch.ones_like(views.ctf), views.disc)
    sums.residual_count.index_add_(0, views.group, count)
    inverse_noise = views.inverse_noise
    cross = (views.data * prediction.conj()).real * inverse_noise
    energy = prediction.abs().square() * inverse_noise
    sums.scale_cross.index_add_(0, views.group, shell_sums(cross, views.disc))
    sums.scale_power.index_add_(0, views.group, shell_sums(energy, views.disc))
