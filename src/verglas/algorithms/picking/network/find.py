"""Pick a micrograph with a network: peaks of its answer, refined, with honest probabilities."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from verglas.algorithms.picking.network.image import LevelImage, reduce_micrograph
from verglas.algorithms.picking.network.model import (
    CELL_PX,
    PARTICLE_PX,
    Answer,
    PickNetwork,
    cell_positions_px,
)
from verglas.algorithms.picking.network.weights import Calibration, Picker
from verglas.kernels.peaks import find_peaks

__all__ = [
    "Centres",
    "NetworkPickConfig",
    "NetworkPicks",
    "answer_image",
    "find_centres",
    "pick_with_network",
]

_LEAST_HEIGHT = 0.01
_LEAST_LOGIT = 1e-6


@dataclass(frozen=True)
class NetworkPickConfig:
    """What to look for.

    Attributes:
        diameter_angst: of the particle.
        threshold: least probability.
        min_distance_angst: between picks; 0 takes half of the diameter.
        max_dirt: places more likely contaminated than this are left out.
    """

    diameter_angst: float
    threshold: float = 0.5
    min_distance_angst: float = 0.0
    max_dirt: float = 0.5


@dataclass(frozen=True)
class NetworkPicks:
    """Particles of one micrograph, best first.

    Attributes:
        position_px: `[n, 2]` (x, y) from the centre of the first pixel.
        probability: `[n]`, that a particle is there.
        is_dirt: `[h, w]`, places of the micrograph, at a lower resolution, that are dirt.
    """

    position_px: Tensor
    probability: Tensor
    is_dirt: Tensor


@dataclass(frozen=True)
class Centres:
    """Peaks in the levelled image.

    Attributes:
        image_index: `[n]`.
        position_px: `[n, 2]`.
        logit: `[n]`, of the peak's height, before calibration.
        dirt: `[n]`, probability of dirt there.
    """

    image_index: Tensor
    position_px: Tensor
    logit: Tensor
    dirt: Tensor


def _smoothed(maps: Tensor) -> Tensor:
    """Average `[b, c, h, w]` over 3 x 3 cells, the middle counting most; borders repeated."""
    line = torch.tensor([0.25, 0.5, 0.25], dtype=maps.dtype, device=maps.device)
    n_channels = maps.shape[1]
    kernel = (line[:, None] * line[None, :]).expand(n_channels, 1, 3, 3)
    return F.conv2d(F.pad(maps, (1, 1, 1, 1), mode="replicate"), kernel, groups=n_channels)


def find_centres(
    answer: Answer, *, min_distance_px: float, least_height: float = _LEAST_HEIGHT
) -> Centres:
    """Find the peaks of the particle map; neighbours vote on where exactly the centre is.

    Args:
        answer: of a batch.
        min_distance_px: between centres, in pixels of the levelled image.
        least_height: of a peak of the smoothed map.
    """
    heat = torch.sigmoid(answer.particle_logit)
    place = cell_positions_px(heat.shape[1], heat.shape[2], heat.device)
    votes = heat[:, None] * (place + answer.offset_px)
    smooth = _smoothed(torch.cat([heat[:, None], votes], dim=1))
    height, position = smooth[:, 0], smooth[:, 1:] / smooth[:, :1].clamp(min=1e-6)
    peaks = find_peaks(height, min_distance_px=min_distance_px / CELL_PX, threshold=least_height)
    cell = peaks.position_px.round().long()
    x = cell[:, 0].clamp(0, height.shape[2] - 1)
    y = cell[:, 1].clamp(0, height.shape[1] - 1)
    dirt = _smoothed(torch.sigmoid(answer.dirt_logit)[:, None])[:, 0]
    return Centres(
        peaks.map_index,
        position[peaks.map_index, :, y, x],
        torch.logit(peaks.score.double(), eps=_LEAST_LOGIT),
        dirt[peaks.map_index, y, x],
    )


@torch.inference_mode()
def answer_image(network: PickNetwork, image: LevelImage) -> Answer:
    """Ask the network about one micrograph."""
    answer: Answer = network(image.values[None])
    return answer


def _probabilities(logit: Tensor, calibration: Calibration) -> Tensor:
    return torch.sigmoid(calibration.slope * logit + calibration.intercept)


def pick_with_network(
    image: Tensor, picker: Picker, *, pixel_size_angst: float, config: NetworkPickConfig
) -> NetworkPicks:
    """Find the particles of one micrograph.

    Convention: particles are dark; positions count from the centre of the first pixel.

    Args:
        image: `[h, w]`, any grey scale; not-a-number counts as blank.
        picker: network and calibration.
        pixel_size_angst: of the image.
        config: diameter and thresholds.
    """
    small = reduce_micrograph(
        image, pixel_size_angst=pixel_size_angst, diameter_angst=config.diameter_angst
    )
    answer = answer_image(picker.network, small)
    distance = config.min_distance_angst or 0.5 * config.diameter_angst
    centres = find_centres(answer, min_distance_px=distance / config.diameter_angst * PARTICLE_PX)
    probability = _probabilities(centres.logit, picker.calibration)
    position = small.to_micrograph(centres.position_px.double())
    limit = torch.tensor([image.shape[1] - 0.5, image.shape[0] - 0.5]).to(position)
    keep = (probability >= config.threshold) & (centres.dirt <= config.max_dirt)
    keep &= ((position > -0.5) & (position < limit)).all(dim=1)
    cell = (centres.position_px / CELL_PX).long()
    rows, columns = small.valid.shape
    x = (cell[:, 0] * CELL_PX).clamp(0, columns - 1)
    y = (cell[:, 1] * CELL_PX).clamp(0, rows - 1)
    keep &= small.valid[y, x] > 0
    is_dirt = torch.sigmoid(answer.dirt_logit) > config.max_dirt
    return NetworkPicks(position[keep], probability[keep], is_dirt[0])
