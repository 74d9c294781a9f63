"""Pick particles by the matched filter: templates against whitened micrographs.

The micrograph is divided by its own power spectrum, each template multiplied by the CTF of the
micrograph. In noise of that spectrum every score is then normal with deviation 1, so that a score
is a number of sigmas, and the threshold follows from how many false picks are allowed among all
the places and templates that were tried. Where particles are many, the heights of all peaks are
also split into two populations, and the higher of both thresholds holds.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from verglas.algorithms.picking._mixture import HeightSplit, split_heights
from verglas.algorithms.picking._score_map import (
    PickingImage,
    prepare_image,
    radius_grid,
)
from verglas.algorithms.picking.template_bank import TemplateBank
from verglas.kernels.ctf import evaluate_ctf
from verglas.kernels.fourier import next_fast_size, rfft_grid
from verglas.kernels.peaks import find_peaks
from verglas.kernels.spectrum import radial_average, tile_periodograms

__all__ = ["MicrographCtf", "TemplatePickConfig", "TemplatePicks", "pick_with_templates"]

_LEAST_SEEN = 0.2
_MOST_OVER_FLOOR = 1.25
_LOCAL_SIGMA = 1.0  # of the diameter: wider than a particle, which must not even itself out
_BLOCK = 4096  # pixels scored at a time
_N_PROBES = 200
_ALIKE = 0.98  # correlation of scores
_TILE_DIAMETERS = 3.0
_SPECTRUM_FLOOR = 1e-2  # of the median power
_USUAL_POWER = (0.25, 1.5)  # of the median over tiles


@dataclass(frozen=True)
class MicrographCtf:
    """What is needed to evaluate the CTF of a micrograph; names as in the columns."""

    defocus_u_angst: float
    defocus_v_angst: float
    defocus_angle_deg: float
    phase_shift_deg: float
    voltage_kv: float
    spherical_aberration_mm: float
    amplitude_contrast: float


@dataclass(frozen=True)
class TemplatePickConfig:
    """What is a pick.

    Attributes:
        min_distance_angst: between picks; 0 takes half of the diameter.
        false_picks: allowed in a micrograph of nothing but noise.
        threshold_shift: added to the threshold, in sigmas.
        max_local_std: places whose grey values vary this much more than usual are ice or carbon.
    """

    min_distance_angst: float = 0.0
    false_picks: float = 0.5
    threshold_shift: float = 0.0
    max_local_std: float = 2.5


@dataclass(frozen=True)
class TemplatePicks:
    """Particles of one micrograph, best first.

    Attributes:
        position_px: `[n, 2]` (x, y) from the centre of the first pixel.
        score: `[n]`, sigmas of the noise.
        view: `[n]`, of the best template.
        threshold: in sigmas.
        split: noise and particles among the peak heights.
    """

    position_px: Tensor
    score: Tensor
    view: Tensor
    threshold: float
    split: HeightSplit


def _noise_power(image: PickingImage, pixel: float, frequency: Tensor) -> Tensor:
    """Power of the image at each frequency of a grid.

    The mean over the tiles of usual power: blank ones and those with a crystal or an edge of
    carbon do not count.
    """
    side = min(image.values.shape)
    tile = min(side, 2 * max(8, round(0.5 * _TILE_DIAMETERS * image.diameter_px)))
    tiles = tile_periodograms(image.values[None], tile_px=tile, step_px=tile // 2)[0].flatten(0, 1)
    rings = radial_average(tiles)
    level = rings[:, 1:].mean(dim=1)
    usual = level / level.median().clamp(min=1e-12)
    power = rings[(usual >= _USUAL_POWER[0]) & (usual <= _USUAL_POWER[1])].mean(dim=0)
    power = power.clamp(min=_SPECTRUM_FLOOR * float(power[1:].median()))
    place = (frequency * (tile * pixel)).clamp(max=len(power) - 1.001)
    low = place.long()
    share = (place - low).double()
    return (power[low] * (1 - share) + power[low + 1] * share).float()


def _transfer(
    shape: tuple[int, int], pixel: float, ctf: MicrographCtf, device: torch.device
) -> Tensor:
    parts = {
        name: torch.tensor([value], dtype=torch.float64, device=device)
        for name, value in vars(ctf).items()
        if name.startswith(("defocus", "phase"))
    }
    grid = rfft_grid(shape, pixel, device=device)
    return evaluate_ctf(
        grid,
        voltage_kv=ctf.voltage_kv,
        spherical_aberration_mm=ctf.spherical_aberration_mm,
        amplitude_contrast=ctf.amplitude_contrast,
        **parts,
    )[0]


class _Filter:
    """The matched filter of one micrograph: basis correlations, and how strong noise is in them."""

    def __init__(
        self, image: PickingImage, bank: TemplateBank, pixel: float, ctf: MicrographCtf | None
    ) -> None:
        height, width = image.values.shape
        box = bank.basis.shape[-1]
        self._image, self._bank = image, bank
        self._shape = (next_fast_size(height + box), next_fast_size(width + box))
        device = image.values.device
        frequency = torch.linalg.vector_norm(rfft_grid(self._shape, pixel, device=device), dim=-1)
        power = _noise_power(image, pixel, frequency)
        # the local mean was taken out of the image, so it must go out of the templates as well
        sigma = _LOCAL_SIGMA * image.diameter_px * pixel
        shape = 1 - torch.exp(-2 * (math.pi * sigma * frequency).square())
        if ctf is not None:
            shape = shape * _transfer(self._shape, pixel, ctf, device)
        self._shape_ft, self._power = shape, power
        self._image_ft = torch.fft.rfft2(image.values, s=self._shape)

    def _basis_ft(self) -> Tensor:
        box = self._bank.basis.shape[-1]
        padded = torch.zeros((len(self._bank.basis), *self._shape), device=self._bank.basis.device)
        padded[:, :box, :box] = self._bank.basis
        basis_ft: Tensor = torch.fft.rfft2(padded.roll((-(box // 2), -(box // 2)), (1, 2)))
        return basis_ft * self._shape_ft

    def correlate(self) -> tuple[Tensor, Tensor]:
        """Correlations of the basis with the whitened image, `[r, h, w]`, and their covariance."""
        basis_ft = self._basis_ft()
        height, width = self._image.values.shape
        whitened = self._image_ft / self._power
        found = torch.stack(
            [
                torch.fft.irfft2(whitened * part.conj(), s=self._shape)[:height, :width]
                for part in basis_ft
            ]
        )
        twice = torch.full((self._shape[1] // 2 + 1,), 2.0, device=basis_ft.device)
        twice[0] = 1.0
        if self._shape[1] % 2 == 0:
            twice[-1] = 1.0
        scaled = (basis_ft * (twice / self._power).sqrt()).flatten(1)
        parts = torch.view_as_real(scaled).flatten(1)
        covariance = parts @ parts.T / (self._shape[0] * self._shape[1])
        return found, covariance


def _best_scores(found: Tensor, covariance: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Highest score of all templates at each pixel, and which one has it."""
    strength = ((weights @ covariance) * weights).sum(1).clamp(min=1e-12).sqrt()
    scaled = weights / strength[:, None]
    flat = found.flatten(1)
    best, which = [], []
    for start in range(0, flat.shape[1], _BLOCK):
        value, index = (scaled @ flat[:, start : start + _BLOCK]).max(dim=0)
        best.append(value)
        which.append(index)
    shape = found.shape[1:]
    return torch.cat(best).reshape(shape), torch.cat(which).reshape(shape)


def _n_distinct(covariance: Tensor, weights: Tensor) -> float:
    """How many templates differ in their scores: equal ones count as one."""
    strength = ((weights @ covariance) * weights).sum(1).clamp(min=1e-12).sqrt()
    scaled = weights / strength[:, None]
    probes = scaled[:: max(1, len(scaled) // _N_PROBES)]
    alike = (probes @ covariance @ scaled.T > _ALIKE).sum(1)
    return float((len(weights) / alike.clamp(min=1).double()).mean())


def _seen_fraction(image: PickingImage) -> Tensor:
    """Share of the template's disc that lies on valid pixels, about every pixel."""
    half = math.ceil(0.5 * image.diameter_px)
    window = (radius_grid(half, image.values.device) <= 0.5 * image.diameter_px).float()
    kernel = (window / window.sum())[None, None]
    seen: Tensor = torch.nn.functional.conv2d(image.valid[None, None], kernel, padding=half)
    return seen[0, 0]


def _false_alarm_sigma(n_trials: float, false_picks: float) -> float:
    """Height that noise passes `false_picks` times in so many independent trials."""
    return float(norm.isf(min(0.5, false_picks / max(1.0, n_trials))))


def pick_with_templates(
    image: Tensor,
    *,
    pixel_size_angst: float,
    bank: TemplateBank,
    config: TemplatePickConfig,
    ctf: MicrographCtf | None = None,
) -> TemplatePicks:
    """Find the particles of one micrograph.

    Convention: particles are dark in the micrograph and bright in the bank; positions count from
    the centre of the first pixel.

    Args:
        image: `[h, w]`, any grey scale; not-a-number counts as blank.
        pixel_size_angst: of the image.
        bank: templates, on the device of the image.
        config: thresholds.
        ctf: of the micrograph; None compares plain templates.

    References:
        Sigworth 2004, doi:10.1016/j.jsb.2003.10.025 (matched filter, pre-whitening); Rickgauer,
        Grigorieff & Denk 2017, doi:10.7554/eLife.25648 (scores in sigmas, false alarms); Roseman
        2003, doi:10.1016/S0304-3991(02)00333-9 (local normalisation).
    """
    small = prepare_image(
        image,
        pixel_size_angst=pixel_size_angst,
        diameter_angst=bank.diameter_angst,
        pixels_per_diameter=bank.diameter_angst / bank.pixel_size_angst,
        local_sigma=_LOCAL_SIGMA,
    )
    pixel = pixel_size_angst * small.step_x_px
    found, covariance = _Filter(small, bank, pixel, ctf).correlate()
    seen = _seen_fraction(small)
    score, which = _best_scores(found, covariance, bank.weights)
    score = score / seen.clamp(min=_LEAST_SEEN).sqrt()
    usable = (seen >= _LEAST_SEEN) & (small.valid > 0) & (small.local_std <= config.max_local_std)
    distance = config.min_distance_angst or 0.5 * bank.diameter_angst
    peaks = find_peaks(
        torch.where(usable, score, torch.full_like(score, -math.inf))[None],
        min_distance_px=distance / pixel,
        threshold=0.0,
    )
    # a pixel for each template, as noise fields of these bandwidths were found to behave
    n_trials = float(usable.sum()) * (1.0 + 0.5 * _n_distinct(covariance, bank.weights))
    floor = _false_alarm_sigma(n_trials, config.false_picks)
    heights = peaks.score.cpu().numpy().astype(np.float64)
    split = split_heights(heights, floor=floor)
    # contamination with its high peaks must not draw the threshold above particles
    height = min(split.threshold, _MOST_OVER_FLOOR * floor) if split.is_bimodal else floor
    threshold = height + config.threshold_shift
    keep = peaks.score >= threshold
    at = peaks.position_px[keep].round().long()
    at = torch.stack([at[:, 0].clamp(0, score.shape[1] - 1), at[:, 1].clamp(0, score.shape[0] - 1)])
    return TemplatePicks(
        position_px=small.to_micrograph(peaks.position_px[keep]),
        score=peaks.score[keep],
        view=bank.view[which[at[1], at[0]]],
        threshold=threshold,
        split=replace(split, threshold=threshold),
    )
