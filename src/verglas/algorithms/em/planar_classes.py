"""Which classes go on, how they are held back or split, and where their centres are."""

from collections.abc import Sequence

import torch
from torch import Tensor

from verglas.algorithms.em.average import RingSums, Shrinkage
from verglas.algorithms.em.planar import N_CENTRING, N_SETTLING, PlanarConfig
from verglas.kernels.fourier import fourier_shift, irfft2, rfft2

__all__ = ["follow_moves", "held_back", "kept_classes", "n_at_start", "recentre", "split_poor"]

_SPARE = 2  # classes at the start for each one wanted
_LARGEST_SHARE = 2.0  # of the mean class; beyond it a class is held back
_HELD_BACK = 6.0  # nats at most
_IDLE = 0.1  # of the mean loss: classes below are of no use
_RECENTRE_EVERY = 4


def n_at_start(config: PlanarConfig) -> int:
    """Return the number of classes that are drawn, spare ones and all."""
    return _SPARE * config.n_classes if config.n_classes > 1 else 1


def kept_classes(config: PlanarConfig, iteration: int, loss_loglik: Tensor) -> Tensor:
    """Choose the classes that go on: of the spare ones a few are left out each time.

    The evidence lost without a class is small if it is empty, and if another is like it.

    Args:
        config: of the run.
        iteration: counted from the first of all.
        loss_loglik: `[c]`, evidence that would be lost without each class.

    Returns:
        Their places, in order.
    """
    n, classified = len(loss_loglik), iteration - N_CENTRING
    if classified < 1:
        return torch.arange(n)
    left = max(0.0, 1 - classified / config.forming_iterations)
    spare = (_SPARE - 1) * config.n_classes * left
    wanted = min(n, config.n_classes + round(spare))
    return loss_loglik.topk(wanted).indices.sort().values


def split_poor(
    config: PlanarConfig,
    iteration: int,
    averages: Tensor,
    loss_loglik: Tensor,
    parts: Sequence[RingSums],
    shrinkage: Shrinkage,
) -> Tensor:
    """Let an idle class take over half of the one that would be missed most.

    Args:
        config: of the run.
        iteration: counted from the first of all.
        averages: `[h, c, m, radius]`, for each part of the particles.
        loss_loglik: `[c]`.
        parts: sums of the parts; the two averages are of every second part.
        shrinkage: of the averages.

    Returns:
        The averages, of which two may be others.
    """
    classified = iteration - N_CENTRING
    if len(loss_loglik) < 2 or len(parts) < 2:
        return averages
    if not 1 <= classified <= config.iterations - N_SETTLING:
        return averages
    poorest, richest = int(loss_loglik.argmin()), int(loss_loglik.argmax())
    if float(loss_loglik[poorest]) >= _IDLE * float(loss_loglik.mean()):
        return averages
    out = averages.clone()
    for start, place in enumerate((richest, poorest)):
        half = RingSums.join(parts[start::2]).take([richest])
        out[:, place] = shrinkage.averages(half)[0]
    return out


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
