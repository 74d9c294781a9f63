"""Train the network of the micrograph cleaner on simulated micrographs.

    python tools/train_cleaner.py [--specimens 110] [--steps 2200] [--out PATH]

Specimens, dose, voltage, defocus, ice, density of particles, contamination and how well the
diameter is known are drawn at random from a fixed seed; fields of `simulate.training_fields`, of
other shapes and other dirt, are mixed in; nothing is taken from real micrographs. The last
specimens are not trained on: with them it is chosen which log-odds are called even, so that
2 % of the clean cells lie beyond. About 20 minutes on one core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from verglas.algorithms.picking.dirt import DEFAULT_DIRT_WEIGHTS
from verglas.algorithms.picking.dirt_features import N_DIRT_FEATURES, measure_dirt_features
from verglas.algorithms.picking.dirt_network import DirtNetwork
from verglas.simulate.atoms import radius_angst
from verglas.simulate.contamination import ContaminationConfig, contaminate, draw_contamination
from verglas.simulate.micrograph import (
    MicrographConfig,
    draw_micrograph,
    prepare_micrograph_renderer,
    render_micrograph,
)
from verglas.simulate.particles import Optics
from verglas.simulate.phantom import make_phantom
from verglas.simulate.training_fields import FieldConfig, draw_training_field

_PIXEL_ANGST = 4.0
_SHAPE = (544, 608)
_DIRT_PER_SPECIMEN = 3
_SPECIMENS_TO_JUDGE = 10
_CLEAN_LOST = 0.02
_SHARE_OF_MICROGRAPHS = 0.7
_FIELD = FieldConfig(side_px=272, dirt_fraction=0.6, min_snr=0.04, max_snr=3.0)
_BATCH, _SIDE = 12, 64
_MEASURED = N_DIRT_FEATURES - 4  # the last four are the pixels of a cell
_SEED = 6

Cells = tuple[Tensor, Tensor]


def draw_micrographs(index: int) -> list[tuple[np.ndarray, np.ndarray, float]]:
    """Simulate a specimen under several contaminations: images, masks, diameter."""
    rng = np.random.default_rng([_SEED, index])
    is_complex = rng.uniform() < 0.7
    seed = int(rng.integers(1, 1000))
    atoms = make_phantom("asymmetric" if is_complex else "apoferritin", seed)
    diameter = 2 * radius_angst(atoms)
    optics = Optics(_PIXEL_ANGST, float(rng.choice([200.0, 300.0])), 2.7, 0.1)
    config = MicrographConfig(
        1,
        *_SHAPE,
        optics,
        particles_per_micrograph=int(rng.uniform(0, 130)),
        dose_e_per_angst2=float(np.exp(rng.uniform(np.log(10), np.log(70)))),
        defocus_min_angst=5000,
        defocus_max_angst=30000,
        ice_thickness_angst=rng.uniform(150, 600),
        b_factor_angst2=rng.uniform(30, 150),
        gradient=rng.uniform(0, 0.25),
        seed=1000 + index,
    )
    row, particles = draw_micrograph(config, 0, diameter)
    image = render_micrograph(prepare_micrograph_renderer(atoms, config), row, particles)
    fields = []
    for _ in range(_DIRT_PER_SPECIMEN):
        amount = 0.0 if rng.uniform() < 0.1 else 1.0
        contamination = draw_contamination(
            ContaminationConfig(
                carbon_probability=0.5 * amount,
                carbon_thickness_angst=rng.uniform(60, 300),
                hole_radius_angst=rng.uniform(4000, 12000),
                crystals=2.0 * amount,
                aggregates=2.0 * amount,
                tears=0.3 * amount,
            ),
            shape=_SHAPE,
            optics=optics,
            rng=rng,
        )
        dirty = contaminate(image, contamination, micrograph=row, optics=optics, rng=rng)
        fields.append((dirty, contamination.mask, diameter))
    return fields


def measure(image: np.ndarray, mask: np.ndarray, diameter_px: float) -> Cells:
    """Measures of all cells, channels first, and whether each is contaminated."""
    cells = measure_dirt_features(
        torch.from_numpy(image), pixel_size_angst=1.0, diameter_angst=diameter_px
    )
    height, width = cells.valid.shape
    rows = np.rint(cells.origin_y_px + cells.step_y_px * np.arange(height)).astype(int)
    columns = np.rint(cells.origin_x_px + cells.step_x_px * np.arange(width)).astype(int)
    rows, columns = rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)
    truth = torch.from_numpy((mask[np.ix_(rows, columns)] > 0).astype(np.uint8))
    return cells.values.permute(2, 0, 1).half(), truth


def cut(cells: Cells, rng: np.random.Generator) -> Cells:
    """Cut a square out of a micrograph and turn it at random."""
    values, truth = cells
    y, x = (int(rng.integers(0, max(1, side - _SIDE + 1))) for side in truth.shape)
    values = values[:, y : y + _SIDE, x : x + _SIDE].float()
    truth = truth[y : y + _SIDE, x : x + _SIDE].float()
    quarters, is_mirrored = int(rng.integers(4)), rng.uniform() < 0.5

    def turn(image: Tensor) -> Tensor:
        image = torch.rot90(image, quarters, (-2, -1))
        return image.flip(-1) if is_mirrored else image

    # the pixels of a cell turn among themselves, too
    pixels = turn(values[_MEASURED:]).reshape(2, 2, *truth.shape)
    pixels = turn(pixels.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    return torch.cat([turn(values[:_MEASURED]), pixels.flatten(0, 1)]), turn(truth)


def train(fields: list[Cells], others: list[Cells], steps: int) -> DirtNetwork:
    """Fit the network; a missed contamination costs half as much again as a lost place."""
    torch.manual_seed(_SEED)
    rng = np.random.default_rng(_SEED)
    network = DirtNetwork()
    sample = torch.cat([values.flatten(1)[:, ::37].float() for values, _ in fields], dim=1)
    network.centre.copy_(sample.mean(1))
    network.width.copy_(sample.std(1).clamp(min=1e-3))
    optimiser = torch.optim.AdamW(network.parameters(), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 4e-3, total_steps=steps, pct_start=0.15
    )
    noise = 0.05 * network.width[:_MEASURED, None, None]
    for _ in range(steps):
        batch = []
        for _ in range(_BATCH):
            chosen = fields if rng.uniform() < _SHARE_OF_MICROGRAPHS else others
            batch.append(cut(chosen[int(rng.integers(len(chosen)))], rng))
        values, truth = (torch.stack(parts) for parts in zip(*batch, strict=True))
        # a little noise on the measures keeps the answer from leaning on any one of them
        values[:, :_MEASURED] += noise * torch.randn_like(values[:, :_MEASURED])
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            network(values), truth, pos_weight=torch.tensor(1.5)
        )
        optimiser.zero_grad()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimiser.step()
        schedule.step()
    return network.eval()


@torch.inference_mode()
def even_logit(network: DirtNetwork, fields: list[Cells]) -> float:
    """Log-odds that the wanted share of clean cells reaches."""
    clean = [network(values[None].float())[0][truth == 0] for values, truth in fields]
    return float(np.quantile(torch.cat(clean).numpy(), 1 - _CLEAN_LOST))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specimens", type=int, default=110)
    parser.add_argument("--steps", type=int, default=2200)
    parser.add_argument("--out", type=Path, default=DEFAULT_DIRT_WEIGHTS)
    given = parser.parse_args()
    rng = np.random.default_rng(8)
    fields = []
    for index in range(given.specimens):
        for image, mask, diameter in draw_micrographs(index):
            # a diameter that is not well known is what users have
            guessed = diameter * np.exp(rng.uniform(np.log(0.75), np.log(1.5)))
            fields.append(measure(image, mask, guessed / _PIXEL_ANGST))
    others = []
    for _ in range(2 * given.specimens):
        field = draw_training_field(rng, _FIELD)
        guessed = _FIELD.diameter_px * np.exp(rng.uniform(np.log(0.85), np.log(1.2)))
        others.append(measure(-field.image, field.dirt, guessed))
    n_judged = _SPECIMENS_TO_JUDGE * _DIRT_PER_SPECIMEN
    network = train(fields[:-n_judged], others, given.steps)
    network.offset.fill_(even_logit(network, fields[-n_judged:]))
    parts = network.state_dict()
    save_file({name: part.half().contiguous() for name, part in parts.items()}, given.out)


if __name__ == "__main__":
    main()
