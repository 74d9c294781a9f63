"""Processor time of picking by size and of cutting particles out, on one thread.

The first image is worked on twice, so that what is set up once is not counted.
"""

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from verglas.algorithms.extraction import ExtractConfig, extract_boxes
from verglas.algorithms.picking.log import LogPickConfig, pick_particles
from verglas.kernels.fourier import next_fast_size

__all__ = ["cutting_rate", "timed_picks"]

_BOX_DIAMETERS = 1.8
_N_BOXES = 256  # cut from an image, at random places where they lie inside


def timed_picks(
    images: Sequence[NDArray[np.float32]], *, pixel_size_angst: float, diameter_angst: float
) -> list[tuple[NDArray[np.float64], float]]:
    """Pick particles by size.

    Args:
        images: `[h, w]` each, particles dark.
        pixel_size_angst: of the images.
        diameter_angst: of the particle.

    Returns:
        For each image `[n, 2]`, x and y in pixels, and the seconds that it took.
    """
    config = LogPickConfig(diameter_angst, diameter_angst)

    def pick(image: Tensor) -> Tensor:
        return pick_particles(image, pixel_size_angst=pixel_size_angst, config=config).position_px

    pick(torch.from_numpy(images[0]))
    found = []
    for image in images:
        start = time.process_time()
        positions = pick(torch.from_numpy(image))
        found.append((positions.double().numpy(), time.process_time() - start))
    return found


def cutting_rate(
    images: Sequence[NDArray[np.float32]], *, pixel_size_angst: float, diameter_angst: float
) -> float:
    """Return how many particles are cut out, halved in size and normalised in a second.

    Args:
        images: `[h, w]` each, of one size.
        pixel_size_angst: of the images.
        diameter_angst: of the particle; boxes are 1.8 times as wide.
    """
    diameter_px = diameter_angst / pixel_size_angst
    box = next_fast_size(math.ceil(_BOX_DIAMETERS * diameter_px))
    config = ExtractConfig(box, next_fast_size(box // 2), diameter_px / 2, diameter_px / 2)
    extent = np.array(images[0].shape[::-1])
    places = np.random.default_rng(0).uniform(box / 2, extent - box / 2, (_N_BOXES, 2))
    positions = torch.from_numpy(places)

    def cut(image: Tensor) -> int:
        generator = torch.Generator().manual_seed(0)
        return len(extract_boxes(image, positions, config=config, generator=generator).images)

    cut(torch.from_numpy(images[0]))
    start = time.process_time()
    count = sum(cut(torch.from_numpy(image)) for image in images)
    return count / (time.process_time() - start)
