"""Which classes go on, how they are held back, and where their centres are."""

import torch
from torch import Tensor

from verglas.algorithms.em.planar import N_CENTRING, N_SETTLING, PlanarConfig
from verglas.kernels.fourier import fourier_shift, irfft2, rfft2

__all__ = ["best_classes", "follow_moves", "held_back", "recentre"]

_ALL_BUT_ONE = 1e-9  # least part of the evidence that a class leaves to the others
_LARGEST_SHARE = 2.0  # of the mean class; beyond it a class is held back
_HELD_BACK = 6.0  # nats at most
_RECENTRE_EVERY = 4


def best_classes(class_mass: Tensor, wanted: int) -> Tensor:
    """Leave out classes one by one, each time the one whose loss costs the least evidence.

    Particles go to the classes that are left, so that of several that are alike one stays.

    Args:
        class_mass: `[b, c]`, probability of each class for each particle.
        wanted: number of classes that stay.

    Returns:
        Their places, in order.
    """
    mass = class_mass.double()
    left = mass.sum(1)
    loss = _loss_loglik(mass / left[:, None])
    gone: list[int] = []
    while len(gone) < mass.shape[1] - wanted:
        place = int(loss.argmin())
        # the others can wait: what is lost with a class only grows as more are gone
        loss[place] = _loss_loglik((mass[:, place] / left)[:, None])[0]
        if loss[place] <= loss.min():
            loss[place] = torch.inf
            left = (left - mass[:, place]).clamp_min(_ALL_BUT_ONE)
            gone.append(place)
    stays = torch.ones(mass.shape[1], dtype=torch.bool)
    stays[gone] = False
    return stays.nonzero().squeeze(1)


def _loss_loglik(mass: Tensor) -> Tensor:
    """Return `[c]`: the evidence lost without each class, whose parts are `[b, c]`."""
    return -(1 - mass).clamp_min(_ALL_BUT_ONE).log().sum(0)


def held_back(log_prior: Tensor, share: Tensor) -> Tensor:
    """Hold back classes that grow beyond twice the mean, and let go those that shrink.

    Args:
        log_prior: `[c]`, of the last iteration.
        share: `[c]`, parts of the particles that the classes have.

    Returns:
        `[c]`, normalised.
    """
    excess = (share * len(share) / _LARGEST_SHARE).clamp_min(1e-6).log()
    held = log_prior - log_prior.max() - 0.5 * excess.clamp_min(0)
    held = torch.where(excess < -0.7, 0.7 * held, held)
    return held.clamp(-_HELD_BACK, 0).log_softmax(0)


def recentre(config: PlanarConfig, iteration: int, images: Tensor) -> tuple[Tensor, Tensor]:
    """Move averages to their centres of mass, now and then.

    By less than a step of the first shift grid each time, all parts of a class together.

    Args:
        config: of the run.
        iteration: counted from the first of all.
        images: `[h, c, n, n]`.

    Returns:
        The averages, and `[c, 2]`, where their centres were, in Å.
    """
    h, c, n, _ = images.shape
    classified = iteration - N_CENTRING
    is_time = classified >= 1 and classified % _RECENTRE_EVERY == 0
    if not is_time or classified > config.iterations - N_SETTLING:
        return images, torch.zeros(c, 2, dtype=torch.float64)
    pixel = config.extent_angst / n
    bright = images.mean(0).clamp_min(0).double()
    axis = (torch.arange(n, dtype=torch.float64) - n // 2) * pixel
    mass = bright.sum((1, 2)).clamp_min(1e-30)
    centre = torch.stack([bright.sum(1) @ axis, bright.sum(2) @ axis], 1) / mass[:, None]
    limit = config.start_resolution_angst / 4
    centre = centre * (limit / centre.norm(dim=1, keepdim=True).clamp_min(limit))
    moved = fourier_shift(
        rfft2(images.flatten(0, 1)), -centre.repeat(h, 1), shape=(n, n), pixel_size_angst=pixel
    )
    return irfft2(moved, shape=(n, n)).view(h, c, n, n), centre


def follow_moves(
    shifts_angst: Tensor, rotations_ref_to_img: Tensor, reference: Tensor, moves_angst: Tensor
) -> Tensor:
    """Change the shifts of particles as their averages were moved.

    Args:
        shifts_angst: `[b, 2]`, before.
        rotations_ref_to_img: `[b, 3, 3]`.
        reference: `[b]`, class of each particle.
        moves_angst: `[c, 2]`, centres of mass that became the centre.

    Returns:
        `[b, 2]`.
    """
    turned = torch.einsum("bij,bj->bi", rotations_ref_to_img[:, :2, :2], moves_angst[reference])
    return shifts_angst - turned
