"""Teach the picking network a new particle from some hundred picks.

Picks need not be complete: what was not picked is unlabelled, not empty (positive-unlabelled
learning). Whole micrographs, turned and mirrored, are the samples; normalisation statistics stay
those of the general network, so that one micrograph at a time is enough. Micrographs held out of
the training decide which epoch is kept; if none is better than the start, the start is kept.
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.algorithms.picking.network.find import Centres, find_centres
from verglas.algorithms.picking.network.image import LevelImage
from verglas.algorithms.picking.network.model import CELL_PX, PARTICLE_PX, Answer, PickNetwork
from verglas.algorithms.picking.network.training import (
    Targets,
    cells_per_particle,
    draw_targets,
    positive_unlabelled_loss,
    supervised_loss,
    turn_maps,
    turn_targets,
)
from verglas.algorithms.picking.network.weights import Calibration, Picker

__all__ = ["Example", "FineTuneConfig", "FineTuned", "fine_tune"]

_MATCH_PX = 0.25 * PARTICLE_PX
_MAX_SIDE_PX = 416  # a larger micrograph is shown in random parts
_LEAST_STEPS = 12
_GRADIENT_LIMIT = 1.0
_SUREST = 0.95  # mean probability of the peaks, if there are no more than particles expected
_MOST_MOVED = 3.0


@dataclass(frozen=True)
class FineTuneConfig:
    """How to train.

    Attributes:
        n_epochs: at most; an epoch shows every training micrograph once, or 12 turned copies.
        patience: epochs without a better held-out loss after which training ends.
        learning_rate: at the start; it falls to a tenth.
        expected_per_micrograph: particles that are really there; 0 takes the larger of the picks
            and of what the network finds at the start.
        is_complete: every particle is picked, so that the rest is known to be empty.
    """

    n_epochs: int = 20
    patience: int = 6
    learning_rate: float = 5e-4
    expected_per_micrograph: float = 0.0
    is_complete: bool = False


@dataclass(frozen=True)
class Example:
    """A micrograph and its picks.

    Attributes:
        image: levelled.
        centres_px: `[n, 2]`, x and y, in pixels of the levelled image.
        is_held_out: kept back from training.
    """

    image: LevelImage
    centres_px: Tensor
    is_held_out: bool


@dataclass(frozen=True)
class FineTuned:
    """What came out.

    Attributes:
        picker: the best network, calibrated to the expected number of particles.
        n_epochs: after which it was best; 0 if the start was.
        start_loss, held_out_loss: on the held-out micrographs, before and after.
        start_recall, held_out_recall: share of the held-out picks that are found with a
            probability of one half or more.
        losses: held-out loss at the start and after each epoch.
    """

    picker: Picker
    n_epochs: int
    start_loss: float
    held_out_loss: float
    start_recall: float
    held_out_recall: float
    losses: tuple[float, ...]


@dataclass(frozen=True)
class _Lesson:
    """An example made ready."""

    values: Tensor
    valid: Tensor
    targets: Targets
    centres_px: Tensor
    expected: float

    @property
    def positive_share(self) -> float:
        """Expected mean of the target over the valid cells."""
        area = float(self.valid.sum())
        return min(0.5, self.expected * cells_per_particle() / max(area, 1.0))


def _lesson(example: Example, expected: float) -> _Lesson:
    image = example.image
    odd = (0, -image.values.shape[1] % CELL_PX, 0, -image.values.shape[0] % CELL_PX)
    valid = F.avg_pool2d(F.pad(image.valid[None, None], odd), CELL_PX)[0, 0]
    targets = draw_targets([example.centres_px], torch.zeros_like(image.values)[None])
    return _Lesson(image.values, (valid > 0.5).float(), targets, example.centres_px, expected)


def _varied(lesson: _Lesson, generator: torch.Generator) -> tuple[Tensor, Targets, Tensor]:
    """Cut a part of a large micrograph, turn and mirror it."""
    sides = lesson.values.shape
    n_cells = [min(_MAX_SIDE_PX, side) // CELL_PX for side in sides]
    corner = [
        int(torch.randint(0, side // CELL_PX - n + 1, (1,), generator=generator))
        for side, n in zip(sides, n_cells, strict=True)
    ]
    cells = [slice(low, low + n) for low, n in zip(corner, n_cells, strict=True)]
    pixels = [slice(each.start * CELL_PX, each.stop * CELL_PX) for each in cells]
    quarters = int(torch.randint(0, 4, (1,), generator=generator))
    is_mirrored = bool(torch.randint(0, 2, (1,), generator=generator))
    whole = lesson.targets
    part = Targets(
        particle=whole.particle[:, cells[0], cells[1]],
        offset_px=whole.offset_px[:, :, cells[0], cells[1]],
        is_near=whole.is_near[:, cells[0], cells[1]],
        dirt=whole.dirt[:, cells[0], cells[1]],
    )
    values, valid = (
        turn_maps(maps, quarters=quarters, is_mirrored=is_mirrored)
        for maps in (
            lesson.values[None, pixels[0], pixels[1]],
            lesson.valid[None, cells[0], cells[1]],
        )
    )
    return values, turn_targets(part, quarters=quarters, is_mirrored=is_mirrored), valid


def _loss(
    answer: Answer, targets: Targets, valid: Tensor, share: float, config: FineTuneConfig
) -> tuple[Tensor, Tensor]:
    """Give the loss to descend, and the one to compare."""
    if config.is_complete:
        known = Targets(
            targets.particle,
            targets.offset_px,
            targets.is_near,
            torch.sigmoid(answer.dirt_logit).detach(),
        )
        loss = supervised_loss(answer, known, valid)
        return loss, loss.detach()
    loss, risk = positive_unlabelled_loss(answer, targets, valid, positive_share=share)
    return loss, risk.detach()


@torch.inference_mode()
def _examine(
    network: PickNetwork, lessons: Sequence[_Lesson], config: FineTuneConfig
) -> tuple[float, list[Centres]]:
    """Mean loss, and all peaks of some micrographs."""
    losses, peaks = [], []
    for lesson in lessons:
        answer = network(lesson.values[None])
        share = lesson.positive_share
        _, loss = _loss(answer, lesson.targets, lesson.valid[None], share, config)
        losses.append(float(loss))
        peaks.append(find_centres(answer, min_distance_px=0.5 * PARTICLE_PX))
    return sum(losses) / max(1, len(losses)), peaks


def _recall(
    calibration: Calibration, peaks: Sequence[Centres], lessons: Sequence[_Lesson]
) -> float:
    """Share of the picks that have a peak of probability one half or more nearby."""
    n_found = 0
    for found, lesson in zip(peaks, lessons, strict=True):
        sure = found.position_px[calibration.slope * found.logit + calibration.intercept >= 0.0]
        if len(sure) and len(lesson.centres_px):
            nearest = torch.cdist(lesson.centres_px.to(sure), sure).min(dim=1).values
            n_found += int((nearest <= _MATCH_PX).sum())
    return n_found / max(1, sum(len(lesson.centres_px) for lesson in lessons))


def _calibrated(
    start: Calibration, peaks: Sequence[Centres], lessons: Sequence[_Lesson]
) -> Calibration:
    """Move the intercept until the probabilities of the peaks add up to what is expected."""
    logit = start.slope * torch.cat([each.logit for each in peaks])
    expected = min(sum(lesson.expected for lesson in lessons), _SUREST * len(logit))
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        too_many = float(torch.sigmoid(logit + middle).sum()) > expected
        low, high = (low, middle) if too_many else (middle, high)
    moved = 0.5 * (low + high)
    limit = abs(start.intercept) + _MOST_MOVED
    return Calibration(start.slope, max(-limit, min(limit, moved)))


def _expected(example: Example, picker: Picker, config: FineTuneConfig) -> float:
    if config.expected_per_micrograph:
        return config.expected_per_micrograph
    n_picks = float(len(example.centres_px))
    if config.is_complete:
        return n_picks
    with torch.inference_mode():
        answer = picker.network(example.image.values[None])
        logit = find_centres(answer, min_distance_px=0.5 * PARTICLE_PX).logit
    odds = picker.calibration.slope * logit + picker.calibration.intercept
    return max(n_picks, float((odds > 0.0).sum()))


def fine_tune(
    picker: Picker,
    examples: Sequence[Example],
    config: FineTuneConfig,
    *,
    generator: torch.Generator,
    progress: Callable[[int, int], None] | None = None,
) -> FineTuned:
    """Train a copy of a network on picks.

    Args:
        picker: to start from; it is not changed.
        examples: micrographs with picks, at least one of them held out and one not.
        config: how to train.
        generator: draws the order, turns and parts.
        progress: called with the epochs done and their number.

    References:
        Kiryo et al. 2017, arXiv:1703.00593; Bepler et al. 2019, doi:10.1038/s41592-019-0575-8.
    """
    lessons = [_lesson(each, _expected(each, picker, config)) for each in examples]
    held = [one for one, each in zip(lessons, examples, strict=True) if each.is_held_out]
    train = [one for one, each in zip(lessons, examples, strict=True) if not each.is_held_out]
    if not held or not train:
        raise ValueError("examples must hold at least one to train on and one held out")
    network = copy.deepcopy(picker.network).eval()
    start_loss, peaks = _examine(network, held, config)
    start_recall = _recall(picker.calibration, peaks, held)
    best = (start_loss, 0, copy.deepcopy(network.state_dict()))
    losses = [start_loss]
    optimiser = torch.optim.AdamW(network.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    for epoch in range(1, config.n_epochs + 1):
        fall = 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * (epoch - 1) / config.n_epochs))
        for group in optimiser.param_groups:
            group["lr"] = config.learning_rate * fall
        _epoch(network, train, optimiser, config, generator)
        loss = _examine(network, held, config)[0]
        losses.append(loss)
        if loss < best[0]:
            best = (loss, epoch, copy.deepcopy(network.state_dict()))
        if progress is not None:
            progress(epoch, config.n_epochs)
        if epoch - best[1] >= config.patience:
            break
    network.load_state_dict(best[2])
    _, peaks = _examine(network, held, config)
    calibration = picker.calibration
    if best[1]:
        calibration = _calibrated(calibration, peaks, held)
    return FineTuned(
        picker=Picker(network, calibration, picker.notes),
        n_epochs=best[1],
        start_loss=start_loss,
        held_out_loss=best[0],
        start_recall=start_recall,
        held_out_recall=_recall(calibration, peaks, held),
        losses=tuple(losses),
    )


def _epoch(
    network: PickNetwork,
    lessons: Sequence[_Lesson],
    optimiser: torch.optim.Optimizer,
    config: FineTuneConfig,
    generator: torch.Generator,
) -> None:
    """Show every micrograph once, and the set again until there were enough steps."""
    n_steps = max(_LEAST_STEPS, len(lessons))
    order = torch.cat(
        [
            torch.randperm(len(lessons), generator=generator)
            for _ in range(-(-n_steps // len(lessons)))
        ]
    )
    for index in order[:n_steps].tolist():
        lesson = lessons[index]
        values, targets, valid = _varied(lesson, generator)
        loss, _ = _loss(network(values), targets, valid, lesson.positive_share, config)
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), _GRADIENT_LIMIT)
        optimiser.step()
