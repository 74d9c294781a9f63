"""From two half maps to a mask, a resolution and a sharpened map.

The two things that can go wrong silently are guarded: the mask's own correlation is measured
with random phases and taken out, and a B factor is applied only if enough shells support it.
What was not done, and why, is said in `Postprocessed.notes`.
"""

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from verglas.algorithms.em.prior import fsc_threshold, smoothed_fsc
from verglas.algorithms.map_fsc import (
    FscConfig,
    MaskConfig,
    MaskedFsc,
    expected_truth_fsc,
    masked_fsc,
    without_offset,
)
from verglas.kernels.filters import filter_by_shell, low_pass_weights
from verglas.kernels.fourier import irfft3, rfft3, rfft_grid
from verglas.kernels.fsc import shell_average, shell_count
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "GuinierFit",
    "PostprocessConfig",
    "Postprocessed",
    "fit_b_factor",
    "postprocess",
    "sharpen",
]

# Below this correlation a shell holds nothing worth amplifying.
_NO_SIGNAL = 1e-4
_FIRST_SHELLS = 4  # have few coefficients always, and are never in doubt


@dataclass(frozen=True)
class PostprocessConfig:
    """How half maps are turned into one map.

    Attributes:
        mask: how the mask is made, when none is given.
        fsc: settings of the control with random phases.
        b_factor_angst2: applied instead of the fitted one; negative sharpens.
        fit_from_angst: coarse end of the Guinier fit, where proteins fall off smoothly.
        min_fit_shells: fewer shells than this give no fit.
        max_sharpening_angst2: strongest fitted B factor that is applied.
        low_pass_angst: of the result; default the resolution found.
        symmetry: point group of the maps; it leaves a shell fewer coefficients of its own.
    """

    mask: MaskConfig = field(default_factory=MaskConfig)
    fsc: FscConfig = field(default_factory=FscConfig)
    b_factor_angst2: float | None = None
    fit_from_angst: float = 10.0
    min_fit_shells: int = 6
    max_sharpening_angst2: float = 500.0
    low_pass_angst: float | None = None
    symmetry: str = "C1"


@dataclass(frozen=True)
class GuinierFit:
    """Straight line through the logarithm of the amplitude over squared frequency.

    Attributes:
        b_factor_angst2: to be applied for a flat line, four times the slope; negative where
            the amplitude falls off.
        error_angst2: standard error of it, from the scatter about the line.
        intercept: logarithm of the amplitude at the origin.
        n_shells: shells in the fit; 0 means that there were too few.
    """

    b_factor_angst2: float
    error_angst2: float
    intercept: float
    n_shells: int


@dataclass(frozen=True)
class Postprocessed:
    """Everything that post-processing finds.

    Attributes:
        volume: `[n, n, n]`, sharpened and low-passed, not masked.
        mask: `[n, n, n]`.
        fsc: of the half maps.
        resolution_angst: of the corrected curve at 0.143, or where it is no longer two standard
            deviations above noise if that comes first; infinity where there is no signal.
        resolution_0143_angst: of the corrected curve at 0.143 in any case.
        resolution_unmasked_angst: of the unmasked curve at 0.143.
        resolution_05_angst: of the corrected curve at 0.5.
        log_amplitude: `[n]`, of the masked mean map with the noise's part taken out;
            minus infinity in shells without signal.
        guinier: the fit; `n_shells` 0 when there is none.
        b_factor_angst2: applied.
        notes: what a user should know, as sentences without a full stop.
    """

    volume: Tensor
    mask: Tensor
    fsc: MaskedFsc
    resolution_angst: float
    resolution_0143_angst: float
    resolution_unmasked_angst: float
    resolution_05_angst: float
    log_amplitude: Tensor
    guinier: GuinierFit
    b_factor_angst2: float
    notes: tuple[str, ...]


def _log_amplitude(volume: Tensor, truth_fsc: Tensor) -> Tensor:
    """Logarithm of the root mean square signal amplitude in each shell, `[n]`."""
    power = rfft3(volume[None]).abs().square()
    shape = tuple(volume.shape)
    average = shell_average(power, shape=shape, n_shells=len(truth_fsc))[0].cpu()
    return (average.sqrt() * truth_fsc).log()


def fit_b_factor(
    log_amplitude: Tensor,
    *,
    box: int,
    pixel_size_angst: float,
    from_angst: float,
    to_angst: float,
    min_shells: int = 6,
) -> GuinierFit:
    """Fit the fall-off of a map's amplitude between two resolutions.

    Shells are weighted by their number of components.

    Args:
        log_amplitude: `[n]`, shell 0 first; shells that are not finite are left out.
        box: of the map.
        pixel_size_angst: of the map.
        from_angst: coarse end of the range.
        to_angst: fine end.
        min_shells: fewer give a fit with `n_shells` 0 and all else 0.

    References:
        Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013, eq. 3.
    """
    n = int(log_amplitude.numel())
    k = torch.arange(n, dtype=torch.float64) / (box * pixel_size_angst)
    used = (k >= 1 / from_angst) & (k <= 1 / max(to_angst, 1e-6)) & log_amplitude.isfinite()
    if int(used.sum()) < max(min_shells, 3):
        return GuinierFit(0.0, 0.0, 0.0, 0)
    weights = shell_count((box,) * 3, n_shells=n).cpu()[used]
    x, y = k[used].square(), log_amplitude[used].double()
    mean_x, mean_y = (weights * x).sum() / weights.sum(), (weights * y).sum() / weights.sum()
    spread = (weights * (x - mean_x).square()).sum()
    slope = (weights * (x - mean_x) * (y - mean_y)).sum() / spread
    residual = y - mean_y - slope * (x - mean_x)
    variance = (weights * residual.square()).sum() / weights.sum() * len(x) / (len(x) - 2)
    effective = spread / weights.sum() * len(x)
    return GuinierFit(
        b_factor_angst2=4 * float(slope),
        error_angst2=4 * math.sqrt(float(variance / effective)),
        intercept=float(mean_y - slope * mean_x),
        n_shells=len(x),
    )


def sharpen(
    volume: Tensor,
    truth_fsc: Tensor,
    *,
    b_factor_angst2: float,
    low_pass_angst: float,
    pixel_size_angst: float,
) -> Tensor:
    """Weight the shells by what is true of them, apply a B factor and cut at a resolution.

    Args:
        volume: `[n, n, n]`.
        truth_fsc: `[m]`, expected correlation with the truth, 0 where there is no signal.
        b_factor_angst2: negative sharpens.
        low_pass_angst: middle of the cosine edge; finer than two pixels cuts nothing.
        pixel_size_angst: of the volume.

    References:
        Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013, eq. 15.
    """
    shape = tuple(volume.shape)
    weighted = filter_by_shell(volume[None], truth_fsc[None].to(volume))
    square = rfft_grid(shape, pixel_size_angst, device=volume.device).square().sum(-1)
    boost = -b_factor_angst2 / 4 * square
    if low_pass_angst > 2 * pixel_size_angst:
        cut = low_pass_weights(
            shape,
            resolution_angst=low_pass_angst,
            pixel_size_angst=pixel_size_angst,
            device=volume.device,
        )
        # in one product: beyond the cut the boost alone would drown the map in rounding errors
        weights = torch.where(cut > 0, cut * boost.exp(), 0)
    else:
        weights = boost.exp()
    return irfft3(rfft3(weighted) * weights, shape=shape)[0]


def _chosen_b_factor(
    fit: GuinierFit, config: PostprocessConfig, resolution_angst: float
) -> tuple[float, list[str]]:
    """Decide which B factor to apply, and say why if it is not the fitted one."""
    if not math.isfinite(resolution_angst):
        return 0.0, []
    if config.b_factor_angst2 is not None:
        return config.b_factor_angst2, []
    span = f"between {config.fit_from_angst:g} and {resolution_angst:.2f} Å"
    if fit.n_shells == 0:
        return 0.0, [
            f"not sharpened: fewer than {config.min_fit_shells} shells {span} for a B factor"
        ]
    found = f"B factor {fit.b_factor_angst2:.0f} +- {fit.error_angst2:.0f} Å² fitted {span}"
    if fit.b_factor_angst2 >= 0:
        return 0.0, [f"not sharpened: {found} would blur the map"]
    if fit.error_angst2 > 0.5 * abs(fit.b_factor_angst2):
        return 0.0, [f"not sharpened: {found} is too uncertain"]
    if -fit.b_factor_angst2 > config.max_sharpening_angst2:
        return -config.max_sharpening_angst2, [
            f"{found} is stronger than the largest allowed; used "
            f"{-config.max_sharpening_angst2:.0f} Å²"
        ]
    return fit.b_factor_angst2, []


def _signal_fsc(fsc: MaskedFsc, resolution_angst: float) -> Tensor:
    """Expected truth correlation, 0 from the resolution on and in shells without signal."""
    truth = expected_truth_fsc(fsc.corrected)
    kept = (fsc.frequencies_per_angst <= 1 / resolution_angst) & (fsc.corrected > _NO_SIGNAL)
    return torch.where(kept, truth, 0.0)


def _significant_angst(fsc: MaskedFsc, mask: Tensor, symmetry: str) -> float:
    """Where the curve, averaged over a tenth of the frequency, drowns in the noise of few.

    Under O a shell within a tight mask has some dozens of coefficients of its own, whose noise
    alone correlates by 0.1: single shells above 0.143 prove nothing then.
    """
    n_operators = len(symmetry_operators(symmetry))
    mean, deviation = smoothed_fsc(fsc.corrected.double(), mask=mask, n_operators=n_operators)
    excess = fsc_threshold(deviation) - 0.143
    few = torch.arange(len(mean)) < _FIRST_SHELLS
    return fsc.resolution_angst(mean - torch.where(few, 0.0, excess), 0.143)


def postprocess(
    half_1: Tensor,
    half_2: Tensor,
    *,
    pixel_size_angst: float,
    generator: torch.Generator,
    config: PostprocessConfig | None = None,
    mask: Tensor | None = None,
) -> Postprocessed:
    """Mask, measure and sharpen a map from its two halves.

    Args:
        half_1, half_2: `[n, n, n]`, from independent halves of the data, unmasked.
        pixel_size_angst: of the maps.
        generator: of the random phases, on the CPU.
        config: settings.
        mask: `[n, n, n]` to use instead of one made from the sum of the halves.

    References:
        Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013; Chen et al. 2013,
        doi:10.1016/j.ultramic.2013.06.004.
    """
    config = config or PostprocessConfig()
    mean = (half_1 + half_2) / 2
    notes: list[str] = []
    if mask is None:
        mask = config.mask.build(mean, pixel_size_angst=pixel_size_angst)
    fsc = masked_fsc(
        half_1,
        half_2,
        mask,
        pixel_size_angst=pixel_size_angst,
        generator=generator,
        config=config.fsc,
    )
    plain = fsc.resolution_angst(fsc.corrected, 0.143)
    resolution = max(plain, _significant_angst(fsc, mask, config.symmetry))
    unmasked = fsc.resolution_angst(fsc.unmasked, 0.143)
    notes += _doubts(fsc, mask, resolution)
    signal = _signal_fsc(fsc, resolution)
    log_amplitude = _log_amplitude(without_offset(mean, mask), signal)
    guinier = fit_b_factor(
        log_amplitude,
        box=fsc.box,
        pixel_size_angst=pixel_size_angst,
        from_angst=config.fit_from_angst,
        to_angst=resolution,
        min_shells=config.min_fit_shells,
    )
    b_factor, why = _chosen_b_factor(guinier, config, resolution)
    volume = _filtered(mean, signal, b_factor, config, resolution, pixel_size_angst)
    return Postprocessed(
        volume=volume,
        mask=mask,
        fsc=fsc,
        resolution_angst=resolution,
        resolution_0143_angst=plain,
        resolution_unmasked_angst=unmasked,
        resolution_05_angst=fsc.resolution_angst(fsc.corrected, 0.5),
        log_amplitude=log_amplitude,
        guinier=guinier,
        b_factor_angst2=b_factor,
        notes=(*notes, *why),
    )


def _filtered(
    mean: Tensor,
    signal: Tensor,
    b_factor_angst2: float,
    config: PostprocessConfig,
    resolution_angst: float,
    pixel_size_angst: float,
) -> Tensor:
    """Sharpen; a map of noise is shown as it is, blurred, rather than as zeros."""
    has_signal = math.isfinite(resolution_angst)
    fallback = resolution_angst if has_signal else config.mask.low_pass_angst
    return sharpen(
        mean,
        signal if has_signal else torch.ones_like(signal),
        b_factor_angst2=b_factor_angst2,
        low_pass_angst=config.low_pass_angst or fallback,
        pixel_size_angst=pixel_size_angst,
    )


def _doubts(fsc: MaskedFsc, mask: Tensor, resolution_angst: float) -> list[str]:
    """List what makes the resolution doubtful."""
    doubts = []
    if not math.isfinite(resolution_angst):
        return ["the half maps do not correlate: there is no signal"]
    beyond = fsc.frequencies_per_angst > 1 / resolution_angst
    shells = torch.arange(len(fsc.masked))
    control = fsc.randomised[(shells >= fsc.random_from_shell + 2) & ~beyond]
    if control.numel() and float(control.mean()) > 0.2:
        doubts.append(
            f"the mask alone correlates by {float(control.mean()):.2f}: it is too tight or too hard"
        )
    if float(fsc.unmasked[-3:].mean()) > 0.143:
        doubts.append(
            "the half maps correlate up to Nyquist: the pixel size limits the resolution, "
            "or the halves are not independent"
        )
    if float(mask.mean()) > 0.5:
        doubts.append(
            f"the mask covers {100 * float(mask.mean()):.0f} % of the box: it may outline noise"
        )
    if float(mask.mean()) < 0.005:
        doubts.append(f"the mask covers only {100 * float(mask.mean()):.2f} % of the box")
    return doubts
