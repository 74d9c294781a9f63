"""Pick particles by Laplacian of Gaussian, then by their own average.

1. Seeds: normalised correlation with Laplacian-of-Gaussian kernels at several diameters.
2. The best seeds are averaged and the average is made round. This self-template shows what the
   particle really looks like here (filled or hollow, defocus fringes), whatever it is.
3. Correlation with the self-template gives new peaks; heights of peaks are split into noise and
   particles by a two-component fit; the particles make the next self-template.
4. What was found is moved to the centroids of its peaks, and once more in the correlation
   with the average of particles so centred: maxima lie anywhere along a long particle.
Nothing but the diameter is given. Heights are never compared between micrographs.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from verglas.algorithms.picking._mixture import HeightSplit, split_heights
from verglas.algorithms.picking._score_map import (
    PickingImage,
    TemplateMatcher,
    log_kernel,
    prepare_image,
    radius_grid,
)
from verglas.algorithms.picking.centring import centroid_of_top
from verglas.kernels.peaks import find_peaks

__all__ = ["LogPickConfig", "Picks", "pick_particles"]

_SEED_SHARE = 0.15  # of the places that an image has room for
_LEAST_SEEDS = 10
_NOISE_SIGMA = 4.5  # not reached by white noise in some 1e5 independent places
_REACH = 0.75  # of the diameter, of templates
_CENTRING_ROUNDS = 2
_FARTHEST = 0.3  # of the diameter, that a pick is moved
_LEAST_SEEN = 0.2  # a corner shows a quarter of a particle


@dataclass(frozen=True)
class LogPickConfig:
    """What to look for.

    Attributes:
        min_diameter_angst, max_diameter_angst: of the particle; equal when known well.
        min_distance_angst: between picks; 0 takes half of the largest diameter.
        threshold_shift: added to the threshold, in standard deviations of the noise peaks.
        n_rounds: of the self-template; 0 leaves plain Laplacian-of-Gaussian picking.
        max_local_std: places whose grey values vary this much more than usual are ice or carbon.
    """

    min_diameter_angst: float
    max_diameter_angst: float
    min_distance_angst: float = 0.0
    threshold_shift: float = 0.0
    n_rounds: int = 3
    max_local_std: float = 2.5


@dataclass(frozen=True)
class Picks:
    """Particles of one micrograph, best first.

    Attributes:
        position_px: `[n, 2]` (x, y) from the centre of the first pixel.
        score: `[n]`, normalised correlation, in [-1, 1].
        diameter_angst: `[n]`, diameter of the Laplacian of Gaussian that answers most.
        split: noise and particles among the peak heights.
        template: `[r]`, radial profile of the last template, at picking resolution.
        template_step_angst: distance of its samples.
    """

    position_px: Tensor
    score: Tensor
    diameter_angst: Tensor
    split: HeightSplit
    template: Tensor
    template_step_angst: float


def _seed_map(
    image: PickingImage, matcher: TemplateMatcher, diameters_px: list[float], half: int
) -> tuple[Tensor, Tensor]:
    """Best answer over scales, and the diameter that gives it."""
    kernels = [log_kernel(diameter, half, image.values.device) for diameter in diameters_px]
    answers = torch.stack([matcher.score(kernel) for kernel in kernels])
    best, which = answers.max(dim=0)
    return best, torch.tensor(diameters_px).to(best)[which]


def _radial_template(image: PickingImage, position_px: Tensor, half: int) -> Tensor:
    """Average boxes at whole pixels, make the average round: `[half + 1]`."""
    height, width = image.values.shape
    centre = position_px.round().long()
    inside = (centre >= half).all(dim=1)
    inside &= (centre[:, 0] < width - half) & (centre[:, 1] < height - half)
    centre = centre[inside]
    if not len(centre):
        return torch.zeros(half + 1, device=image.values.device)
    windows = image.values.unfold(0, 2 * half + 1, 1).unfold(1, 2 * half + 1, 1)
    average = windows[centre[:, 1] - half, centre[:, 0] - half].mean(dim=0)
    ring = radius_grid(half, average.device).round().long().flatten()
    total = torch.bincount(ring, weights=average.flatten())
    return (total / torch.bincount(ring).clamp(min=1))[: half + 1]


def _draw(profile: Tensor, half: int) -> Tensor:
    """Round picture of a radial profile by linear interpolation."""
    radius = radius_grid(half, profile.device).clamp(max=half - 1e-3)
    inner = radius.long()
    share = radius - inner
    return profile[inner] * (1.0 - share) + profile[inner + 1] * share


def _peaks(
    score: Tensor, image: PickingImage, matcher: TemplateMatcher, config: LogPickConfig
) -> tuple[Tensor, Tensor]:
    """Positions and heights of peaks where enough of the image is seen and is not ice."""
    usable = (matcher.seen_fraction >= _LEAST_SEEN) & (image.valid > 0)
    usable &= image.local_std <= config.max_local_std
    distance = config.min_distance_angst or 0.5 * config.max_diameter_angst
    distance_px = distance / config.max_diameter_angst * image.diameter_px
    masked = torch.where(usable, score, torch.full_like(score, -math.inf))
    peaks = find_peaks(masked[None], min_distance_px=distance_px, threshold=-1.0)
    return peaks.position_px, peaks.score


def _centred(
    score: Tensor,
    image: PickingImage,
    matcher: TemplateMatcher,
    position_px: Tensor,
    config: LogPickConfig,
) -> Tensor:
    """Put picks at the middle of their particles, also of long ones.

    Blank places and ice do not count; a pick that something beside it would draw far stays.
    """
    if not len(position_px):
        return position_px
    usable = image.valid * (image.local_std <= config.max_local_std)
    half = math.ceil(_REACH * image.diameter_px)
    place = centroid_of_top(score * usable, position_px, diameter_px=image.diameter_px)
    for _ in range(_CENTRING_ROUNDS):
        again = matcher.score(_draw(_radial_template(image, place, half), half))
        place = centroid_of_top(again * usable, place, diameter_px=image.diameter_px)
    moved = torch.linalg.vector_norm(place - position_px, dim=1, keepdim=True)
    return torch.where(moved <= _FARTHEST * image.diameter_px, place, position_px.to(place))


def pick_particles(image: Tensor, *, pixel_size_angst: float, config: LogPickConfig) -> Picks:
    """Find particles in one micrograph.

    Convention: particles are dark; positions count from the centre of the first pixel.

    Args:
        image: `[h, w]`, any grey scale; not-a-number counts as blank.
        pixel_size_angst: of the image.
        config: diameters and thresholds.

    References:
        Lindeberg 1998, doi:10.1023/A:1008045108935 (scale-space blobs); Roseman 2003,
        doi:10.1016/S0304-3991(02)00333-9 (local normalised correlation).
    """
    small = prepare_image(
        image, pixel_size_angst=pixel_size_angst, diameter_angst=config.max_diameter_angst
    )
    half = math.ceil(_REACH * small.diameter_px)
    matcher = TemplateMatcher(small, half)
    ratio = config.min_diameter_angst / config.max_diameter_angst
    n_scales = max(2, 1 + math.ceil(math.log(1.0 / ratio) / math.log(1.2)))
    scales = torch.linspace(math.log(min(ratio, 0.8)), 0.0, n_scales).exp()
    diameters_px = [small.diameter_px * float(scale) for scale in scales]
    score, diameter = _seed_map(small, matcher, diameters_px, half)
    position, height = _peaks(score, small, matcher, config)
    room = float(small.valid.sum()) / small.diameter_px**2
    chosen = position[: max(_LEAST_SEEDS, round(_SEED_SHARE * room))]
    floor = _NOISE_SIGMA / math.sqrt(math.pi * half * half)
    profile = log_kernel(small.diameter_px, half, score.device)[half, half:]
    split = split_heights(height.cpu().numpy(), floor=floor)
    for _ in range(config.n_rounds):
        if len(chosen) < 3:
            break
        profile = _radial_template(small, chosen, half)
        score = matcher.score(_draw(profile, half))
        position, height = _peaks(score, small, matcher, config)
        split = split_heights(height.cpu().numpy(), floor=floor)
        n_chosen = max(_LEAST_SEEDS, int(np.sum(height.cpu().numpy() >= split.threshold)))
        chosen = position[:n_chosen]
    step_angst = config.max_diameter_angst / small.diameter_px
    keep = height >= split.threshold + config.threshold_shift * split.noise_std
    pixel = position[keep].round().long()
    return Picks(
        position_px=small.to_micrograph(_centred(score, small, matcher, position[keep], config)),
        score=height[keep],
        diameter_angst=diameter[pixel[:, 1], pixel[:, 0]] * step_angst,
        split=split,
        template=profile,
        template_step_angst=step_angst,
    )
