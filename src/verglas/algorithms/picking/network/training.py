"""What the network is taught, and how wrong it is: supervised, and from some picks only."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.algorithms.picking.network.model import CELL_PX, Answer, cell_positions_px

__all__ = [
    "Targets",
    "cells_per_particle",
    "draw_targets",
    "positive_unlabelled_loss",
    "supervised_loss",
    "turn_maps",
    "turn_targets",
]

_SIGMA_PX = 2.4  # of the peak drawn at a centre: the cell nearest to it is at 0.84 or more
_OFFSET_REACH_PX = 6.0
_OFFSET_WEIGHT, _DIRT_WEIGHT = 0.15, 0.3


@dataclass(frozen=True)
class Targets:
    """What the network should answer, cell by cell.

    Attributes:
        particle: `[b, h, w]`, 1 at a centre, falling as a Gaussian of 0.12 diameters.
        offset_px: `[b, 2, h, w]`, to the nearest centre.
        is_near: `[b, h, w]`, 1 where that centre is within 0.3 diameters.
        dirt: `[b, h, w]`, share of the cell that is dirt.
    """

    particle: Tensor
    offset_px: Tensor
    is_near: Tensor
    dirt: Tensor


def draw_targets(centres_px: list[Tensor], dirt: Tensor) -> Targets:
    """Draw the targets of a batch.

    Args:
        centres_px: for each image `[n, 2]`, x and y.
        dirt: `[b, h, w]` at the images' pixels; zeros where nothing is known.
    """
    height, width = (-(-side // CELL_PX) for side in dirt.shape[-2:])
    cells = cell_positions_px(height, width, dirt.device).flatten(1).T
    particle, offset = [], []
    for centres in centres_px:
        if not len(centres):
            particle.append(cells.new_zeros(height, width))
            offset.append(cells.new_full((2, height, width), 1e3))
            continue
        nearest = torch.cdist(cells, centres.to(cells)).min(dim=1)
        particle.append(_height(nearest.values).reshape(height, width))
        away = centres.to(cells)[nearest.indices] - cells
        offset.append(away.T.reshape(2, height, width))
    offsets = torch.stack(offset)
    odd = (0, -dirt.shape[-1] % CELL_PX, 0, -dirt.shape[-2] % CELL_PX)
    return Targets(
        particle=torch.stack(particle),
        offset_px=offsets,
        is_near=(offsets.norm(dim=1) < _OFFSET_REACH_PX).float(),
        dirt=F.avg_pool2d(F.pad(dirt[:, None].float(), odd), CELL_PX)[:, 0],
    )


def _height(distance_px: Tensor) -> Tensor:
    return torch.exp(-0.5 * (distance_px / _SIGMA_PX).square())


def turn_maps(maps: Tensor, *, quarters: int, is_mirrored: bool) -> Tensor:
    """Turn images or maps by quarters, then mirror them left to right."""
    turned = torch.rot90(maps, quarters, (-2, -1))
    return turned.flip(-1) if is_mirrored else turned


def turn_targets(targets: Targets, *, quarters: int, is_mirrored: bool) -> Targets:
    """Turn targets as `turn_maps` does their images; sides must be whole cells."""
    offset = turn_maps(targets.offset_px, quarters=quarters, is_mirrored=is_mirrored)
    for _ in range(quarters % 4):  # a quarter takes x to -y and y to x
        offset = torch.stack([offset[:, 1], -offset[:, 0]], dim=1)
    if is_mirrored:
        offset = torch.stack([-offset[:, 0], offset[:, 1]], dim=1)
    return Targets(
        particle=turn_maps(targets.particle, quarters=quarters, is_mirrored=is_mirrored),
        offset_px=offset,
        is_near=turn_maps(targets.is_near, quarters=quarters, is_mirrored=is_mirrored),
        dirt=turn_maps(targets.dirt, quarters=quarters, is_mirrored=is_mirrored),
    )


def _offset_loss(answer: Answer, targets: Targets) -> Tensor:
    weight = targets.is_near
    error = F.smooth_l1_loss(
        answer.offset_px, targets.offset_px.clamp(-8.0, 8.0), reduction="none"
    ).sum(dim=1)
    return (error * weight).sum() / weight.sum().clamp(min=1.0)


def supervised_loss(answer: Answer, targets: Targets, valid: Tensor) -> Tensor:
    """Cross-entropy of centres and of dirt, and the error of the offsets.

    Args:
        answer: of the network.
        targets: for the same images.
        valid: `[b, h, w]` of the cells, 1 where the image has content.
    """
    area = valid.sum().clamp(min=1.0)
    particle = F.binary_cross_entropy_with_logits(
        answer.particle_logit, targets.particle, reduction="none"
    )
    dirt = F.binary_cross_entropy_with_logits(answer.dirt_logit, targets.dirt, reduction="none")
    cells = ((particle + _DIRT_WEIGHT * dirt) * valid).sum() / area
    return 10.0 * cells + _OFFSET_WEIGHT * _offset_loss(answer, targets)


def positive_unlabelled_loss(
    answer: Answer, targets: Targets, valid: Tensor, *, positive_share: float
) -> tuple[Tensor, Tensor]:
    """Risk from picked centres and unlabelled rest, which is never let below zero.

    Cells that were not picked may be particles: what the picks say of particles is taken out
    of the loss of the unlabelled cells, in the share that is expected of them.

    Args:
        answer: of the network.
        targets: drawn from the picks.
        valid: `[b, h, w]` of the cells.
        positive_share: expected sum of `particle` over all true centres, over the valid area.

    Returns:
        The loss to descend, and the plain (possibly negative) estimate of the risk.

    References:
        Kiryo, Niu, du Plessis & Sugiyama 2017, arXiv:1703.00593, eq. 6 and algorithm 1.
    """
    weight = targets.particle * valid
    total = weight.sum().clamp(min=1e-6)
    as_positive = F.softplus(-answer.particle_logit)
    as_negative = F.softplus(answer.particle_logit)
    positive = positive_share * (as_positive * weight).sum() / total
    unlabelled = (as_negative * valid).sum() / valid.sum().clamp(min=1.0)
    negative = unlabelled - positive_share * (as_negative * weight).sum() / total
    offset = _OFFSET_WEIGHT * _offset_loss(answer, targets)
    risk = positive + negative
    loss = torch.where(negative < 0.0, -negative, risk)
    return 10.0 * loss + offset, risk


def cells_per_particle() -> float:
    """Sum of the target about one lone centre, in cells."""
    return 2.0 * math.pi * (_SIGMA_PX / CELL_PX) ** 2
