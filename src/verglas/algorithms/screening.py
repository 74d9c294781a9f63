"""Find particle images that are unlike the others, without knowing what a particle looks like.

Families of measures, each robust and blind to how a particle is turned: shape of the histogram,
profile of rings, profile of the autocorrelation, moments of the bright part, and how energy is
spread over scales. In each family the distance of an image from the middle of all is measured in
deviations (Mahalanobis, with median and a shrunk robust covariance), and the largest counts.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import chi2, norm
from torch import Tensor

__all__ = ["FAMILIES", "Measures", "family_scores", "measure_images"]

Floats = NDArray[np.float64]

FAMILIES = ("histogram", "rings", "autocorrelation", "moments", "scales")
_SIDE_PX = 32
_N_RINGS = 10
_QUANTILES = (0.01, 0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95, 0.99)
_TRIM = 0.9  # share of the images nearest to the middle that give the covariance
_ROUNDS = 3


@dataclass(frozen=True)
class Measures:
    """What is measured of a batch of images.

    Attributes:
        families: `[n, f]` for each family.
        ssnr_db: `[n]`, power inside of the particle over that outside, signal part, in dB.
        variance_ratio: `[n]`, variance inside of the particle over that outside.
    """

    families: dict[str, Floats]
    ssnr_db: Floats
    variance_ratio: Floats


def _reduced(images: Tensor) -> Tensor:
    """Average down to at most `_SIDE_PX` pixels, mean 0 and deviation 1."""
    side = min(_SIDE_PX, images.shape[-1])
    small = torch.nn.functional.adaptive_avg_pool2d(images[:, None].float(), side)[:, 0]
    small = small - small.mean((1, 2), keepdim=True)
    return small / small.std((1, 2), keepdim=True).clamp(min=1e-6)


def _ring_means(images: Tensor, centre: int, n_rings: int) -> Tensor:
    axis = torch.arange(images.shape[-1], dtype=torch.float32) - centre
    ring = (torch.hypot(axis[:, None], axis) * n_rings / (images.shape[-1] / 2)).long().flatten()
    means = [images.flatten(1)[:, ring == i].mean(1) for i in range(n_rings)]
    return torch.stack(means, dim=1)


def _moments(small: Tensor) -> Tensor:
    """Place, spread and elongation of the bright part."""
    side = small.shape[-1]
    axis = (torch.arange(side, dtype=torch.float32) - side // 2) / side
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    smooth = torch.nn.functional.avg_pool2d(small[:, None], 5, stride=1, padding=2)[:, 0]
    weight = (smooth - smooth.mean((1, 2), keepdim=True)).clamp(min=0)
    weight = weight / weight.sum((1, 2), keepdim=True).clamp(min=1e-6)
    mean_x, mean_y = (weight * x).sum((1, 2)), (weight * y).sum((1, 2))
    dx, dy = x - mean_x[:, None, None], y - mean_y[:, None, None]
    xx, yy, xy = ((weight * a).sum((1, 2)) for a in (dx * dx, dy * dy, dx * dy))
    spread, stretch = xx + yy, torch.sqrt(((xx - yy) ** 2 + 4 * xy**2).clamp(min=1e-12))
    return torch.stack([torch.hypot(mean_x, mean_y), spread, stretch / spread.clamp(min=1e-6)], 1)


def _scales(small: Tensor) -> Tensor:
    """Logarithm of the energy between one smoothing and the next."""
    out, current = [], small[:, None]
    for width in (3, 5, 9):
        smooth = torch.nn.functional.avg_pool2d(
            current, width, stride=1, padding=width // 2, count_include_pad=False
        )
        out.append((current - smooth).square().mean((1, 2, 3)).clamp(min=1e-9).log())
        current = smooth
    return torch.stack([*out, current.square().mean((1, 2, 3)).clamp(min=1e-9).log()], dim=1)


def measure_images(images: Tensor, *, pixel_size_angst: float, diameter_angst: float) -> Measures:
    """Measure particle images.

    Args:
        images: `[n, box, box]`, particles bright; not-a-number counts as 0.
        pixel_size_angst: of the images.
        diameter_angst: of the particle.
    """
    images = torch.nan_to_num(images.float(), posinf=0.0, neginf=0.0)
    small = _reduced(images)
    n, side = small.shape[0], small.shape[-1]
    flat = small.reshape(n, -1)
    quantiles = torch.quantile(flat, torch.tensor(_QUANTILES), dim=1).T
    power = torch.fft.rfft2(small).abs().square()
    correlation = torch.fft.fftshift(torch.fft.irfft2(power, s=(side, side)), dim=(1, 2))
    correlation = correlation / correlation.amax((1, 2), keepdim=True).clamp(min=1e-6)
    families = {
        "histogram": torch.cat([quantiles, flat.pow(3).mean(1, keepdim=True)], dim=1),
        "rings": _ring_means(small, side // 2, _N_RINGS),
        "autocorrelation": _ring_means(correlation, side // 2, _N_RINGS)[:, 1:],
        "moments": _moments(small),
        "scales": _scales(small),
    }
    inside, outside = _parts(images.shape[-1], diameter_angst / pixel_size_angst)
    pixels = images.flatten(1)
    noise = pixels[:, outside].var(1).clamp(min=1e-12)
    body = pixels[:, inside]
    signal = (body - pixels[:, outside].mean(1, keepdim=True)).square().mean(1) - noise
    ssnr = 10 * torch.log10((signal / noise).clamp(min=1e-3))
    return Measures(
        {name: values.double().numpy() for name, values in families.items()},
        ssnr.double().numpy(),
        (body.var(1) / noise).double().numpy(),
    )


def _parts(box: int, diameter_px: float) -> tuple[Tensor, Tensor]:
    axis = torch.arange(box, dtype=torch.float32) - box // 2
    radius = torch.hypot(axis[:, None], axis).flatten()
    inner = min(0.5 * diameter_px, 0.42 * box)
    return radius <= inner, radius > min(1.15 * inner, 0.48 * box)


def family_scores(values: Floats) -> Floats:
    """Distance of each row from the middle of all, as the deviations of a normal number.

    The middle and the covariance are those of the rows nearest to the middle, found in a few
    rounds; the distance is turned into the deviation that is as rare, so that families of any
    number of measures compare.

    Args:
        values: `[n, f]`.

    Returns:
        `[n]`; 0 for usual rows and fewer than ten rows.

    References:
        Rousseeuw & Van Driessen 1999, doi:10.1080/00401706.1999.10485670 (concentration steps).
    """
    n, n_measures = values.shape
    centre = np.median(values, axis=0)
    width = 1.4826 * np.median(np.abs(values - centre), axis=0)
    varies = width > 1e-9
    if n < 10 or not varies.any():
        return np.zeros(n)
    reduced = np.clip((values[:, varies] - centre[varies]) / width[varies], -50, 50)
    n_measures = reduced.shape[1]
    chosen = np.argsort((reduced**2).sum(axis=1))[: max(5, int(_TRIM * n))]
    distance = np.zeros(n)
    for _ in range(_ROUNDS):
        middle = reduced[chosen].mean(axis=0)
        covariance = np.cov(reduced[chosen].T).reshape(n_measures, n_measures)
        # shrunk, so that few images cannot make a direction look certain
        share = min(1.0, 2.0 * n_measures / len(chosen))
        covariance = (1 - share) * covariance + share * np.diag(np.diag(covariance) + 1e-6)
        covariance += 1e-6 * np.eye(n_measures)
        rest = reduced - middle
        distance = (rest * np.linalg.solve(covariance, rest.T).T).sum(axis=1)
        # the median of the distances is that of chi squared
        distance *= chi2.median(n_measures) / max(float(np.median(distance)), 1e-9)
        chosen = np.argsort(distance)[: max(5, int(_TRIM * n))]
    score: Floats = np.maximum(norm.isf(np.maximum(chi2.sf(distance, n_measures), 1e-300)), 0.0)
    return score
