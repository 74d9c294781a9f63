"""Train the picking network on simulated fields, and calibrate it.

    python tools/train_pick_network.py --out weights.safetensors --minutes 15

Seeded: field i of seed s is always the same. A checkpoint beside the output is resumed, so that a
training may be cut into pieces; `--steps` is the whole length, along which the learning rate
falls. No real micrograph is read. A GPU is used where there is one; half an hour of one core does.
"""

import argparse
import copy
import itertools
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment, minimize
from torch import Tensor

from verglas.algorithms.picking.network.find import find_centres
from verglas.algorithms.picking.network.image import level_images
from verglas.algorithms.picking.network.model import CELL_PX, PARTICLE_PX, PickNetwork
from verglas.algorithms.picking.network.training import (
    Targets,
    draw_targets,
    supervised_loss,
    turn_maps,
    turn_targets,
)
from verglas.algorithms.picking.network.weights import Calibration, Picker, save_picker
from verglas.simulate.training_fields import FieldConfig, TrainingField, draw_training_field

_MATCH_PX = 0.25 * PARTICLE_PX
_WARM_STEPS = 200
_CALIBRATION_SEED, _TEST_SEED = 10_001, 20_001
_SIGNALS = (0.04, 0.1, 0.2, 0.4, 0.8, 5.0)

Batch = tuple[Tensor, Targets, Tensor]


def _draw(seed: int, index: int, config: FieldConfig) -> tuple[Tensor, Tensor, TrainingField]:
    """Draw field `index`: levelled image, valid pixels, truth."""
    rng = np.random.default_rng([seed, index])
    field = draw_training_field(rng, config)
    valid = torch.ones(1, config.side_px, config.side_px)
    if rng.uniform() < 0.06:  # a blank margin
        width, side = int(rng.integers(4, 60)), int(rng.integers(4))
        torch.rot90(valid, side, (1, 2))[:, :width] = 0.0
    return level_images(torch.from_numpy(field.image)[None], valid)[0], valid[0], field


def _batch(
    seed: int, indices: range, config: FieldConfig, device: str
) -> tuple[Batch, list[tuple[Tensor, Tensor, TrainingField]]]:
    drawn = [_draw(seed, index, config) for index in indices]
    centres = [torch.from_numpy(field.centres_px).float().to(device) for _, _, field in drawn]
    dirt = torch.stack([torch.from_numpy(field.dirt).float() for _, _, field in drawn])
    valid = torch.stack([valid for _, valid, _ in drawn]).to(device)
    cells = torch.nn.functional.avg_pool2d(valid[:, None], CELL_PX)[:, 0]
    full = draw_targets(centres, dirt.to(device))
    targets = Targets(full.particle * cells, full.offset_px, full.is_near * cells, full.dirt)
    images = torch.stack([image for image, _, _ in drawn]).to(device)
    return (images, targets, (cells > 0.5).float()), drawn


def _turned(batch: Batch, step: int) -> Batch:
    """Turn and mirror a batch."""
    how: dict[str, Any] = {"quarters": 1 + step % 3, "is_mirrored": bool(step % 4 < 2)}
    return turn_maps(batch[0], **how), turn_targets(batch[1], **how), turn_maps(batch[2], **how)


def _match(
    found: NDArray[np.float64], truth: NDArray[np.float64]
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Say for each found place whether it is a true one, one to one; and how far pairs are."""
    hit = np.zeros(len(found), bool)
    if not len(found) or not len(truth):
        return hit, np.zeros(0)
    distance = np.hypot(*(found[:, None] - truth[None]).transpose(2, 0, 1))
    row, column = linear_sum_assignment(np.where(distance <= _MATCH_PX, distance, 1e6))
    good = distance[row, column] <= _MATCH_PX
    hit[row[good]] = True
    return hit, distance[row, column][good]


@torch.inference_mode()
def _examine(
    network: PickNetwork, seed: int, n: int, config: FieldConfig, device: str
) -> list[dict[str, Any]]:
    """Peaks of fresh fields: logits, whether they are true, distances."""
    network.eval()
    rows = []
    for start in range(0, n, 8):
        batch, drawn = _batch(seed, range(start, min(n, start + 8)), config, device)
        centres = find_centres(network(batch[0]), min_distance_px=0.5 * PARTICLE_PX)
        for i, (_, valid, field) in enumerate(drawn):
            own = (centres.image_index == i).cpu()
            truth = field.centres_px
            seen = ((truth > -0.5) & (truth < config.side_px - 0.5)).all(axis=1)
            pixel = np.clip(truth.astype(int), 0, config.side_px - 1)
            seen &= valid.numpy()[pixel[:, 1], pixel[:, 0]] > 0
            hit, away = _match(centres.position_px[own].cpu().double().numpy(), truth[seen])
            logit = centres.logit[own].cpu().numpy()
            rows.append({"logit": logit, "hit": hit, "n_true": int(seen.sum()),
                         "away": away, "snr": field.snr})  # fmt: skip
    return rows


def _calibrate(rows: list[dict[str, Any]]) -> Calibration:
    """Fit the log odds of a peak being true as a line in its logit."""
    logit = np.concatenate([row["logit"] for row in rows])
    hit = np.concatenate([row["hit"] for row in rows]).astype(float)

    def loss(line: NDArray[np.float64]) -> float:
        odds = line[0] * logit + line[1]
        return float(np.mean(np.logaddexp(0.0, odds) - hit * odds))

    slope, intercept = minimize(loss, [1.0, 1.0]).x
    return Calibration(float(slope), float(intercept))


def _figures(rows: list[dict[str, Any]], line: Calibration) -> dict[str, Any]:
    """F1 at probability one half and the error of the centres by signal; and the calibration."""
    out: dict[str, Any] = {}
    for low, high in [*itertools.pairwise(_SIGNALS), (0.0, 99.0)]:
        chosen = [row for row in rows if low <= row["snr"] < high]
        kept = [row["hit"][line.slope * row["logit"] + line.intercept >= 0.0] for row in chosen]
        hits = sum(int(each.sum()) for each in kept)
        total = sum(len(each) for each in kept) + sum(row["n_true"] for row in chosen)
        away = np.concatenate([row["away"] for row in chosen] or [np.zeros(0)])
        rms = float(np.sqrt(np.mean(away**2))) / PARTICLE_PX if len(away) else math.nan
        out[f"{low}-{high}"] = {"f1": round(2 * hits / max(1, total), 3), "rms": round(rms, 4)}
    odds = line.slope * np.concatenate([row["logit"] for row in rows]) + line.intercept
    hit = np.concatenate([row["hit"] for row in rows])
    chance = 1 / (1 + np.exp(-odds))
    for low in (0.0, 0.2, 0.4, 0.6, 0.8):
        inside = (chance >= low) & (chance < low + 0.2)
        out[f"true at {low:.1f}-{low + 0.2:.1f}"] = round(float(hit[inside].mean()), 3)
    return out


class _Training:
    """Network, its running mean, optimiser, and how far they are."""

    def __init__(self, checkpoint: Path, device: str, rate: float) -> None:
        self.checkpoint, self.device, self.rate, self.step = checkpoint, device, rate, 0
        self.network = PickNetwork().to(device)
        self.mean = copy.deepcopy(self.network)
        self.optimiser = torch.optim.AdamW(self.network.parameters(), lr=rate, weight_decay=1e-4)
        if checkpoint.exists():
            saved = torch.load(checkpoint, weights_only=True, map_location=device)
            self.network.load_state_dict(saved["network"])
            self.mean.load_state_dict(saved["mean"])
            self.optimiser.load_state_dict(saved["optimiser"])
            self.step = saved["step"]

    def save(self) -> None:
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.checkpoint.with_suffix(".tmp")
        state = {"network": self.network.state_dict(), "mean": self.mean.state_dict(),
                 "optimiser": self.optimiser.state_dict(), "step": self.step}  # fmt: skip
        torch.save(state, temporary)
        temporary.replace(self.checkpoint)

    def learn(self, batch: Batch, n_steps: int) -> float:
        """Descend once."""
        rise = min(1.0, (self.step + 1) / _WARM_STEPS)
        fall = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * min(1.0, self.step / n_steps)))
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate * rise * fall
        self.network.train()
        images, targets, valid = batch
        with torch.autocast(self.device, torch.bfloat16):
            answer = self.network(images)
        loss = supervised_loss(answer, targets, valid)
        self.optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 2.0)
        self.optimiser.step()
        self.step += 1
        share = max(0.005, 1 / (self.step + 1))
        new = self.network.state_dict()
        with torch.no_grad():
            for name, old in self.mean.state_dict().items():
                old.lerp_(new[name], share) if old.is_floating_point() else old.copy_(new[name])
        return float(loss.detach())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15.0, help="stop after this long")
    parser.add_argument("--steps", type=int, default=3000, help="of the whole training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rate", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--validate", type=int, default=240, help="fields to calibrate on")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.set_flush_denormal(True)
    config = FieldConfig()
    training = _Training(args.out.with_suffix(".resume.pt"), device, args.rate)
    started, recent = time.monotonic(), []
    batch = None
    while training.step < args.steps and time.monotonic() - started < 60 * args.minutes:
        if training.step % 2 == 0 or batch is None:  # every field is shown twice
            first = training.step // 2 * args.batch
            batch, _ = _batch(args.seed, range(first, first + args.batch), config, device)
            shown = batch
        else:
            shown = _turned(batch, training.step)
        recent.append(training.learn(shown, args.steps))
        if training.step % 100 == 0:
            spent = time.monotonic() - started
            print(f"{training.step} loss {np.mean(recent):.4f} {spent:.0f} s", flush=True)
            recent.clear()
        if training.step % 200 == 0:
            training.save()
    training.save()
    line = _calibrate(_examine(training.mean, _CALIBRATION_SEED, args.validate, config, device))
    report = _figures(_examine(training.mean, _TEST_SEED, args.validate, config, device), line)
    print(line, json.dumps(report, indent=1))
    notes = {
        "trained": f"simulated fields, {training.step} steps of {args.batch}, seed {args.seed}",
        "figures": json.dumps(report),
    }
    save_picker(args.out, Picker(training.mean, line, notes))


if __name__ == "__main__":
    main()
