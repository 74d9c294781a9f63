"""Find carbon, crystals, aggregates and tears in micrographs.

A small convolutional network says of every place how likely it is contaminated, from measures
that are relative to the ice of the same micrograph (`dirt_features`). It was trained on
simulated micrographs by `tools/train_cleaner.py`; its weights ride in the package.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from verglas.algorithms.picking.dirt_features import (
    DIRT_LEVEL,
    DirtFeatures,
    measure_dirt_features,
)
from verglas.algorithms.picking.dirt_network import DirtNetwork
from verglas.algorithms.picking.dirt_spread import gather_clues

__all__ = ["DEFAULT_DIRT_WEIGHTS", "DirtMap", "find_dirt", "load_dirt_network", "place_dirt"]

DEFAULT_DIRT_WEIGHTS = Path(__file__).parent / "weights" / "cleaner.safetensors"


@dataclass(frozen=True)
class DirtMap:
    """How likely each place of a micrograph is contaminated.

    Attributes:
        probability: `[h, w]`, on the lattice of `cells`.
        cells: the lattice.
    """

    probability: Tensor
    cells: DirtFeatures

    def masked_fraction(self, threshold: float) -> float:
        """Give the share of the valid area that is likelier than a threshold."""
        valid = self.cells.valid
        inside = (self.probability > threshold) & valid
        return float(inside.sum()) / max(1, int(valid.sum()))


def load_dirt_network(path: Path = DEFAULT_DIRT_WEIGHTS) -> DirtNetwork:
    """Read the network."""
    network = DirtNetwork()
    network.load_state_dict({name: part.float() for name, part in load_file(path).items()})
    return network.eval()


@torch.inference_mode()
def find_dirt(
    image: Tensor,
    *,
    pixel_size_angst: float,
    diameter_angst: float,
    network: DirtNetwork | None = None,
) -> DirtMap:
    """Say of every place of a micrograph how likely it is contaminated.

    Args:
        image: `[h, w]`, any grey scale, particles dark; not-a-number counts as blank.
        pixel_size_angst: of the image.
        diameter_angst: of the particle.
        network: of `load_dirt_network`; None loads that of the package.
    """
    cells = measure_dirt_features(
        image, pixel_size_angst=pixel_size_angst, diameter_angst=diameter_angst
    )
    used = (network or load_dirt_network()).to(image.device)
    measures = cells.values.permute(2, 0, 1)
    logit = used.answer(measures, cells.summary)
    clues = gather_clues(
        logit,
        torch.sinh(measures[DIRT_LEVEL]),
        cells_per_diameter=cells.cells_per_diameter,
    )
    return DirtMap(torch.sigmoid(used.judge(clues)), cells)


def place_dirt(dirt: DirtMap, position_px: Tensor) -> Tensor:
    """Probability of contamination at the middle of each particle, `[n]`.

    Blank margins count as contaminated, and so does what lies outside of the image.

    Args:
        dirt: of the micrograph.
        position_px: `[n, 2]` (x, y), pixels of the micrograph.
    """
    height, width = dirt.probability.shape
    place = dirt.cells.to_cells(position_px.double()).to(dirt.probability)
    last = torch.tensor([width - 1, height - 1]).to(place)
    value = torch.nn.functional.grid_sample(
        dirt.probability[None, None],
        (2 * place / last.clamp(min=1) - 1)[None, None],
        padding_mode="border",
        align_corners=True,
    )[0, 0, 0]
    columns, rows = (place[:, i].round().long().clamp(0, int(last[i])) for i in range(2))
    is_blank = ~dirt.cells.valid[rows, columns]
    # the last cell reaches almost a whole one beyond its first pixel
    is_blank |= ((place < -0.5) | (place > last + 1)).any(dim=1)
    return torch.where(is_blank, torch.ones_like(value), value).cpu()
