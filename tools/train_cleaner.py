"""Train the network of the micrograph cleaner on simulated micrographs.

    python tools/train_cleaner.py --cache DIR [--specimens 260] [--steps 5000] [--out PATH]

Specimens of 60 to 400 Å, dose, voltage, defocus, ice and its unevenness, density of particles,
contamination, field of view and how well the diameter is known are drawn at random from a fixed
seed; fields of `simulate.training_fields`, of other shapes and other dirt, are mixed in; nothing
is taken from real micrographs. Images that are answered badly are shown more often. The last
specimens are not trained on: on them the clues of `dirt_spread` are weighed, and it is chosen
which log-odds are called even, so that 2 % of the particles on clean ice lie beyond. The fields
are kept in the cache, so that the command goes on where it was stopped. On one core about 20
minutes for the fields and 25 for the training.
"""

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from scipy.spatial.transform import Rotation
from torch import Tensor

from verglas.algorithms.picking.consensus import fit_logistic
from verglas.algorithms.picking.dirt import DEFAULT_DIRT_WEIGHTS
from verglas.algorithms.picking.dirt_features import (
    DIRT_LEVEL,
    N_DIRT_FEATURES,
    N_DIRT_PIXELS,
    measure_dirt_features,
)
from verglas.algorithms.picking.dirt_network import DirtNetwork
from verglas.algorithms.picking.dirt_spread import gather_clues
from verglas.simulate._training_dirt import smooth_field
from verglas.simulate.atoms import Atoms, centred, concatenate, radius_angst, transformed
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

_SHAPE = (544, 608)
_DIRT_PER_SPECIMEN = 4
_FIELDS_PER_SPECIMEN = 2
_SPECIMENS_TO_JUDGE = 24
_CLEAN_LOST = 0.02
_SHARE_OF_MICROGRAPHS = 0.75
_FIELD = FieldConfig(
    side_px=300, dirt_fraction=0.75, min_snr=0.04, max_snr=3.0, covered_fraction=0.6
)
_CELLS = 8.0  # a diameter
_BATCH, _SIDE, _LARGEST = 4, 144, 224  # cells
_AT_PARTICLES = 4.0  # weight of the cells at the middle of particles, where picks are
_MEASURED = N_DIRT_FEATURES - N_DIRT_PIXELS
_SEED = 7

Rng = np.random.Generator


@dataclass(frozen=True)
class Example:
    """One micrograph as the network sees it.

    Attributes:
        values: `[N_DIRT_FEATURES, h, w]` half.
        truth: `[h, w]` uint8, contaminated.
        is_middle: `[h, w]` bool, at the middle of a particle.
        summary: `[N_DIRT_SUMMARY]`.
        is_micrograph: not of the simple fields.
    """

    values: Tensor
    truth: Tensor
    is_middle: Tensor
    summary: Tensor
    is_micrograph: bool


def draw_specimen(rng: Rng) -> Atoms:
    """Draw a shell, a complex, a piece of one, or several heaped together."""
    kind, seed = rng.uniform(), int(rng.integers(1, 1000))
    if kind < 0.2:
        return make_phantom("apoferritin", seed)
    atoms = make_phantom("asymmetric", seed)
    if kind < 0.55:
        return atoms
    if kind < 0.7:  # a domain or two
        near = np.linalg.norm(atoms.positions_angst, axis=1) < rng.uniform(30, 50)
        return centred(
            replace(
                atoms,
                **{
                    name: value[near]
                    for name, value in vars(atoms).items()
                    if isinstance(value, np.ndarray) and len(value) == len(near)
                },
            )
        )
    n, reach = int(rng.integers(2, 9)), rng.uniform(60, 150)
    ratio = np.array([1.0, rng.uniform(0.4, 1), rng.uniform(0.3, 1)])
    places = rng.uniform(-1, 1, (n, 3)) * reach * ratio
    turns = Rotation.random(n, rng=rng).as_matrix()
    return centred(
        concatenate([transformed(atoms, *each) for each in zip(turns, places, strict=True)])
    )


def _contamination(rng: Rng) -> ContaminationConfig:
    amount = 0.0 if rng.uniform() < 0.08 else 1.0
    return ContaminationConfig(
        carbon_probability=0.5 * amount,
        carbon_thickness_angst=float(np.exp(rng.uniform(np.log(50), np.log(700)))),
        hole_radius_angst=rng.uniform(2500, 14000),
        crystals=2.5 * amount,
        crystal_radius_angst=(80.0, 1400.0),
        aggregates=2.5 * amount,
        aggregate_radius_angst=(100.0, 900.0),
        tears=0.5 * amount,
        tear_radius_angst=(100.0, 900.0),
    )


def draw_micrographs(index: int) -> list[Example]:
    """Simulate a specimen under several contaminations."""
    rng = np.random.default_rng([_SEED, index])
    atoms = draw_specimen(rng)
    diameter = 2 * radius_angst(atoms)
    pixel = rng.uniform(3.0, 6.0)
    optics = Optics(pixel, float(rng.choice([200.0, 300.0])), 2.7, 0.1)
    room = _SHAPE[0] * _SHAPE[1] * pixel**2 / diameter**2
    config = MicrographConfig(
        1,
        *_SHAPE,
        optics,
        particles_per_micrograph=int(min(260, room * rng.uniform(0, 0.55))),
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
    places = particles.select("coord_x_angst", "coord_y_angst").to_numpy() / pixel
    examples = []
    for _ in range(_DIRT_PER_SPECIMEN):
        contamination = draw_contamination(
            _contamination(rng), shape=_SHAPE, optics=optics, rng=rng
        )
        dirty = contaminate(image, contamination, micrograph=row, optics=optics, rng=rng)
        if rng.uniform() < 0.5:  # ice of uneven thickness
            wave = smooth_field(rng, max(_SHAPE), rng.uniform(200, 1200))
            dirty = dirty * np.exp(rng.uniform(0, 0.05) * wave[: _SHAPE[0], : _SHAPE[1]])
        guessed = diameter * np.exp(rng.uniform(np.log(0.75), np.log(1.4)))
        mask = contamination.mask > 0
        examples.append(measure(rng, dirty, mask, guessed / pixel, places, is_micrograph=True))
    return examples


def draw_fields(index: int) -> list[Example]:
    """Draw simple fields."""
    rng = np.random.default_rng([_SEED, index, 1])
    examples = []
    for _ in range(_FIELDS_PER_SPECIMEN):
        field = draw_training_field(rng, _FIELD)
        guessed = _FIELD.diameter_px * np.exp(rng.uniform(np.log(0.8), np.log(1.25)))
        examples.append(
            measure(rng, -field.image, field.dirt, guessed, field.centres_px, is_micrograph=False)
        )
    return examples


def measure(
    rng: Rng,
    image: NDArray[np.floating],
    mask: NDArray[np.bool_],
    diameter_px: float,
    places: NDArray[np.float64],
    *,
    is_micrograph: bool,
) -> Example:
    """Measure a micrograph, and keep a part of it where it is large."""
    cells = measure_dirt_features(
        torch.from_numpy(np.asarray(image, np.float32)),
        pixel_size_angst=1.0,
        diameter_angst=diameter_px,
    )
    height, width = cells.valid.shape
    rows = np.rint(cells.origin_y_px + cells.step_y_px * np.arange(height)).astype(int)
    columns = np.rint(cells.origin_x_px + cells.step_x_px * np.arange(width)).astype(int)
    rows, columns = rows.clip(0, mask.shape[0] - 1), columns.clip(0, mask.shape[1] - 1)
    truth = torch.from_numpy(mask[np.ix_(rows, columns)].astype(np.uint8))
    middle = torch.zeros(height, width)
    at = cells.to_cells(torch.from_numpy(places)).round().long()
    at = at[((at >= 0) & (at < torch.tensor([width, height]))).all(dim=1)]
    middle[at[:, 1], at[:, 0]] = 1
    middle = torch.nn.functional.max_pool2d(middle[None], 3, stride=1, padding=1)[0] > 0
    y, x = (int(rng.integers(0, max(1, side - _LARGEST + 1))) for side in truth.shape)
    part = np.s_[y : y + _LARGEST, x : x + _LARGEST]
    values = cells.values[part].permute(2, 0, 1).half().contiguous()
    return Example(values, truth[part], middle[part], cells.summary, is_micrograph)


def draw_examples(n_specimens: int, cache: Path) -> list[Example]:
    """Draw all examples, or read those that are in the cache."""
    cache.mkdir(parents=True, exist_ok=True)
    examples = []
    for index in range(n_specimens):
        path = cache / f"{index:04d}.pt"
        if not path.exists():
            drawn = draw_micrographs(index) + draw_fields(index)
            torch.save([vars(each) for each in drawn], path)
        examples += [Example(**parts) for parts in torch.load(path)]
    return examples


def cut(example: Example, rng: Rng) -> tuple[Tensor, Tensor, Tensor]:
    """Cut a square out of a micrograph and turn it at random; values, truth and weights."""
    shape = example.truth.shape
    y, x = (int(rng.integers(0, max(1, side - _SIDE + 1))) for side in shape)
    part = np.s_[..., y : y + _SIDE, x : x + _SIDE]
    quarters, is_mirrored = int(rng.integers(4)), rng.uniform() < 0.5
    missing = (0, max(0, _SIDE - shape[1]), 0, max(0, _SIDE - shape[0]))

    def turn(image: Tensor) -> Tensor:
        image = torch.rot90(image, quarters, (-2, -1))
        return image.flip(-1) if is_mirrored else image

    def piece(image: Tensor) -> Tensor:
        return turn(torch.nn.functional.pad(image[part].float(), missing))

    values = piece(example.values)
    # the pixels of a cell turn among themselves, too
    pixels = values[_MEASURED:].reshape(2, 2, _SIDE, _SIDE)
    pixels = turn(pixels.permute(2, 3, 0, 1)).permute(2, 3, 0, 1)
    values = torch.cat([values[:_MEASURED], pixels.flatten(0, 1)])
    weight = piece(torch.ones_like(example.truth)) * (
        1 + (_AT_PARTICLES - 1) * piece(example.is_middle)
    )
    return values, piece(example.truth), weight


def _standardise(network: DirtNetwork, examples: list[Example]) -> None:
    sample = torch.cat([each.values.flatten(1)[:, ::97].float() for each in examples], dim=1)
    network.centre.copy_(sample.mean(1))
    network.width.copy_(sample.std(1).clamp(min=1e-3))
    summaries = torch.stack([each.summary for each in examples])
    network.summary_centre.copy_(summaries.mean(0))
    network.summary_width.copy_(2 * summaries.std(0).clamp(min=1e-3))


def _losses(network: DirtNetwork, examples: list[Example], rng: Rng) -> Tensor:
    """Weighted cross entropy of a piece of each example."""
    parts = zip(*(cut(each, rng) for each in examples), strict=True)
    values, truth, weight = (torch.stack(each) for each in parts)
    summary = torch.stack([each.summary for each in examples])
    # a little noise keeps the answer from leaning on any one measure, or on the whole
    noise = 0.05 * network.width[:_MEASURED, None, None]
    values[:, :_MEASURED] += noise * torch.randn_like(values[:, :_MEASURED])
    hidden = torch.rand(len(examples), 1) < 0.1
    summary = torch.where(hidden, network.summary_centre, summary)
    summary = summary + 0.1 * network.summary_width * torch.randn_like(summary)
    with torch.autocast("cpu", torch.bfloat16):
        logit = network(values.to(memory_format=torch.channels_last), summary)
    each = torch.nn.functional.binary_cross_entropy_with_logits(
        logit.float(), truth, reduction="none"
    )
    return (each * weight).sum((1, 2)) / weight.sum((1, 2))


def train(examples: list[Example], steps: int) -> DirtNetwork:
    """Fit the network; what is answered badly comes up to five times as often."""
    torch.manual_seed(_SEED)
    rng = np.random.default_rng(_SEED)
    network = DirtNetwork()
    _standardise(network, examples)
    trained = network.to(memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(trained.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, 3e-3, total_steps=steps, pct_start=0.1
    )
    share = np.array([_SHARE_OF_MICROGRAPHS if e.is_micrograph else 0.0 for e in examples])
    simple = share == 0
    share[~simple] /= max(1, (~simple).sum())
    share[simple] = (1 - _SHARE_OF_MICROGRAPHS) / max(1, simple.sum())
    hardness = np.ones(len(examples))
    for _ in range(steps):
        chance = share * hardness
        chosen = rng.choice(len(examples), _BATCH, p=chance / chance.sum())
        losses = _losses(trained, [examples[i] for i in chosen], rng)
        optimiser.zero_grad()
        torch.autograd.backward(losses.mean())
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        of_batch = losses.detach().numpy()
        usual = max(float(of_batch.mean()), 1e-3)
        hardness[chosen] = 0.5 * hardness[chosen] + 0.5 * np.clip(of_batch / usual, 0.5, 2.5)
    return network.eval()


@torch.inference_mode()
def fit_judge(network: DirtNetwork, examples: list[Example]) -> None:
    """Learn how to weigh the clues at the middle of particles, and which log-odds are even."""
    clues, truth = [], []
    for each in examples:
        if not each.is_middle.any():
            continue
        logit = network.answer(each.values.float(), each.summary)
        level = torch.sinh(each.values[DIRT_LEVEL].float())
        found = gather_clues(logit, level, cells_per_diameter=_CELLS)
        clues.append(found[:, each.is_middle].T)
        truth.append(each.truth[each.is_middle] > 0)
    known, is_dirty = torch.cat(clues).double(), torch.cat(truth)
    centre, width = known.mean(0), known.std(0).clamp(min=1e-3)
    inputs = torch.cat([torch.ones(len(known), 1), (known - centre) / width], dim=1).numpy()
    beta = fit_logistic(inputs, is_dirty.double().numpy(), np.ones(len(inputs)))
    network.clue_weight.copy_(torch.from_numpy(beta[1:]) / width)
    odds = known @ network.clue_weight.double()
    even = float(np.quantile(odds[~is_dirty].numpy(), 1 - _CLEAN_LOST))
    network.clue_bias.fill_(-even)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--specimens", type=int, default=260)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=DEFAULT_DIRT_WEIGHTS)
    given = parser.parse_args()
    examples = draw_examples(given.specimens, given.cache)
    n_judged = _SPECIMENS_TO_JUDGE * (_DIRT_PER_SPECIMEN + _FIELDS_PER_SPECIMEN)
    network = train(examples[:-n_judged], given.steps)
    fit_judge(network, [each for each in examples[-n_judged:] if each.is_micrograph])
    parts = network.state_dict()
    save_file({name: part.half().contiguous() for name, part in parts.items()}, given.out)


if __name__ == "__main__":
    main()
