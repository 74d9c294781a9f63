"""Train the perceptron of the micrograph cleaner on simulated micrographs.

    python tools/train_cleaner.py [--micrographs 48] [--out PATH]

Specimens, dose, defocus, ice, density of particles and contamination are drawn at random from a
fixed seed; nothing is taken from real micrographs. About ten minutes on one core.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from verglas.algorithms.picking.dirt import DEFAULT_DIRT_WEIGHTS
from verglas.algorithms.picking.dirt_features import N_DIRT_FEATURES, measure_dirt_features
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

_PIXEL_ANGST = 4.0
_CELLS_PER_MICROGRAPH = 5000
_STEPS, _BATCH = 3000, 2048
_SEED = 5


def draw_field(index: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Simulate one contaminated micrograph: image, mask, diameter of the particle."""
    rng = np.random.default_rng([_SEED, index])
    atoms = make_phantom("asymmetric" if index % 2 == 0 else "apoferritin")
    diameter = 2 * radius_angst(atoms)
    optics = Optics(_PIXEL_ANGST, 300.0, 2.7, 0.1)
    config = MicrographConfig(
        1,
        544,
        608,
        optics,
        particles_per_micrograph=int(rng.uniform(0, 130)),
        dose_e_per_angst2=rng.uniform(12, 60),
        defocus_min_angst=7000,
        defocus_max_angst=28000,
        ice_thickness_angst=rng.uniform(150, 600),
        b_factor_angst2=rng.uniform(30, 150),
        gradient=rng.uniform(0, 0.25),
        seed=1000 + index,
    )
    row, particles = draw_micrograph(config, 0, diameter)
    image = render_micrograph(prepare_micrograph_renderer(atoms, config), row, particles)
    contamination = draw_contamination(
        ContaminationConfig(
            carbon_thickness_angst=rng.uniform(60, 300), crystals=1.5, aggregates=1.2, tears=0.3
        ),
        shape=(544, 608),
        optics=optics,
        rng=rng,
    )
    dirty = contaminate(image, contamination, micrograph=row, optics=optics, rng=rng)
    return dirty, contamination.mask, diameter


def sample_cells(
    image: np.ndarray, mask: np.ndarray, pixel: float, diameter: float, rng: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Draw cells of a micrograph with their truth."""
    cells = measure_dirt_features(
        torch.from_numpy(image), pixel_size_angst=pixel, diameter_angst=diameter
    )
    height, width = cells.valid.shape
    rows = np.rint(cells.origin_y_px + cells.step_y_px * np.arange(height)).astype(int)
    columns = np.rint(cells.origin_x_px + cells.step_x_px * np.arange(width)).astype(int)
    rows, columns = rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)
    truth = torch.from_numpy((mask[np.ix_(rows, columns)] > 0).astype(np.float32)).flatten()
    chosen = torch.from_numpy(rng.permutation(height * width)[:_CELLS_PER_MICROGRAPH])
    return cells.values.flatten(0, 1)[chosen], truth[chosen]


def train(features: torch.Tensor, truth: torch.Tensor) -> dict[str, torch.Tensor]:
    """Fit the perceptron; clean and contaminated places count alike."""
    torch.manual_seed(_SEED)
    centre, width = features.mean(0), features.std(0).clamp(min=1e-3)
    network = torch.nn.Sequential(
        torch.nn.Linear(N_DIRT_FEATURES, 48),
        torch.nn.ReLU(),
        torch.nn.Linear(48, 24),
        torch.nn.ReLU(),
        torch.nn.Linear(24, 1),
    )
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, _STEPS)
    rarity = ((1 - truth).sum() / truth.sum()).sqrt()
    for _ in range(_STEPS):
        index = torch.randint(len(truth), (_BATCH,))
        # a little noise on the measures keeps the answer from leaning on any one of them
        inputs = (features[index] - centre) / width
        logit = network(inputs + 0.1 * torch.randn_like(inputs))[:, 0]
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logit, truth[index], pos_weight=rarity
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    parts = {"centre": centre, "width": width}
    for i, layer in enumerate(network[::2]):
        parts |= {f"matrix_{i}": layer.weight.detach(), f"offset_{i}": layer.bias.detach()}
    return {name: part.contiguous().clone() for name, part in parts.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--micrographs", type=int, default=48)
    parser.add_argument("--out", type=Path, default=DEFAULT_DIRT_WEIGHTS)
    given = parser.parse_args()
    rng = np.random.default_rng(_SEED)
    parts = []
    for index in range(given.micrographs):
        image, mask, diameter = draw_field(index)
        # a diameter that is not quite known is what users have
        guessed = diameter * rng.uniform(0.85, 1.2)
        parts.append(sample_cells(image, mask, _PIXEL_ANGST, guessed, rng))
    features, truth = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    save_file(train(features, truth), given.out)


if __name__ == "__main__":
    main()
