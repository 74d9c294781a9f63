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

from verglas.algorithms.picking.dirt_features import DirtFeatures, measure_dirt_features
from verglas.algorithms.picking.dirt_network import DirtNetwork

__all__ = ["DEFAULT_DIRT_WEIGHTS", "DirtMap", "find_dirt", "load_dirt_network", "place_dirt"]

DEFAULT_DIRT_WEIGHTS = Path(__file__).parent / "weights" / "cleaner.safetensors"
_DISC = 0.25  # of the diameter: over which a place is judged


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
    return DirtMap(torch.sigmoid(used(cells.values.permute(2, 0, 1)[None])[0]), cells)


def place_dirt(dirt: DirtMap, position_px: Tensor) -> Tensor:
    """Mean probability of contamination over the middle of each particle, `[n]`.

    Blank margins count as contaminated, and so does what lies outside of the image.

    Args:
        dirt: of the micrograph.
        position_px: `[n, 2]` (x, y), pixels of the micrograph.
    """
    radius = max(1.0, _DISC * dirt.cells.cells_per_diameter)
    side = int(radius) + 1
    axis = torch.arange(-side, side + 1, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    inside = torch.hypot(x, y) <= radius
    offsets = torch.stack([x[inside], y[inside]], dim=-1)
    probability = torch.where(dirt.cells.valid, dirt.probability, torch.ones_like(dirt.probability))
    height, width = probability.shape
    place = dirt.cells.to_cells(position_px.double()).float()[:, None].cpu() + offsets
    nearest = place.round().long()
    columns, rows = nearest[..., 0].clamp(0, width - 1), nearest[..., 1].clamp(0, height - 1)
    mean = probability.cpu()[rows, columns].mean(dim=1)
    centre = place.mean(dim=1)
    outside = ((centre < -0.5) | (centre > torch.tensor([width, height]) - 0.5)).any(dim=1)
    return torch.where(outside, torch.ones_like(mean), mean)
