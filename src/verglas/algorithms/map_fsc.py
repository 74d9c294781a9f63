"""Fourier shell correlation of two maps in one frame, with the mask's part taken out.

A mask raises the correlation of whatever it cuts out. Every masked curve therefore comes with
a control in which the phases beyond a shell are random: what correlation is left there is the
mask's, and the corrected curve has it taken out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.kernels.fourier import irfft3, rfft3
from verglas.kernels.fsc import fourier_shell_correlation, resolution_at, shell_index
from verglas.kernels.masks import auto_mask

__all__ = [
    "FscConfig",
    "MaskConfig",
    "MaskedFsc",
    "expected_truth_fsc",
    "masked_fsc",
    "randomise_phases",
    "shell_curve",
    "without_offset",
]

# Shells beyond the first random one that still leak into it through the mask.
_LEAKING_SHELLS = 2


@dataclass(frozen=True)
class MaskConfig:
    """How a soft mask is made; see `kernels.masks.auto_mask`.

    Attributes:
        low_pass_angst: resolution at which the map is thresholded.
        dilate_angst: distance by which the outline is moved out.
        edge_angst: width of the cosine edge outside that.
        threshold: on the low-passed map; default Otsu's.
    """

    low_pass_angst: float = 15.0
    dilate_angst: float = 6.0
    edge_angst: float = 10.0
    threshold: float | None = None

    def build(self, volume: Tensor, *, pixel_size_angst: float) -> Tensor:
        """Make the mask of one `[n, n, n]` map."""
        masks: Tensor = auto_mask(
            volume[None],
            pixel_size_angst=pixel_size_angst,
            low_pass_angst=max(self.low_pass_angst, 2.5 * pixel_size_angst),
            dilate_angst=self.dilate_angst,
            edge_angst=self.edge_angst,
            threshold=self.threshold,
        )
        return masks[0]


@dataclass(frozen=True)
class FscConfig:
    """How curves are corrected for the mask.

    Attributes:
        randomise_below: phases are random from the first shell where the uncorrected curve
            falls below this.
        n_random: repeats of the random phases, averaged.
    """

    randomise_below: float = 0.8
    n_random: int = 3


@dataclass(frozen=True)
class MaskedFsc:
    """Correlation of two maps, with and without a mask, and with the mask's own part.

    Attributes:
        frequencies_per_angst: `[n]`, of shell 0 and up.
        unmasked: `[n]` float64, whole boxes.
        masked: `[n]`, both maps times the mask.
        randomised: `[n]`, as `masked`, with random phases from `random_from_shell` on.
        corrected: `[n]`, `(masked - randomised) / (1 - randomised)` from two shells further.
        random_from_shell: first shell of random phases; n where no shell is.
        box: of the maps.
        pixel_size_angst: of the maps.
    """

    frequencies_per_angst: Tensor
    unmasked: Tensor
    masked: Tensor
    randomised: Tensor
    corrected: Tensor
    random_from_shell: int
    box: int
    pixel_size_angst: float

    def resolution_angst(self, curve: Tensor, threshold: float) -> float:
        """Where a curve falls below a threshold and stays there for three shells."""
        found = resolution_at(
            curve[None], threshold, box=self.box, pixel_size_angst=self.pixel_size_angst
        )
        return float(found[0])


def expected_truth_fsc(half_map_fsc: Tensor) -> Tensor:
    """Return the correlation of the full map with the truth, `sqrt(2 F / (1 + F))`.

    Negative F gives 0.

    References:
        Rosenthal & Henderson 2003, doi:10.1016/j.jmb.2003.07.013, eq. 14.
    """
    kept = half_map_fsc.clamp(0, 1)
    return (2 * kept / (1 + kept)).sqrt()


def without_offset(volume: Tensor, mask: Tensor) -> Tensor:
    """Mask a map after taking off its mean over the mask's edge.

    Otherwise a grey value of the solvent other than 0 turns the mask itself into signal.
    A mask without a soft edge leaves the grey values as they are.
    """
    rim = mask * (1 - mask)
    total = rim.sum()
    level = torch.where(total > 0, (volume * rim).sum() / total.clamp(min=1e-6), 0.0)
    return (volume - level) * mask


def randomise_phases(volume: Tensor, *, from_shell: int, generator: torch.Generator) -> Tensor:
    """Replace the phases from a shell on by those of white noise, keeping amplitudes.

    Args:
        volume: `[n, n, n]`.
        from_shell: first shell that loses its phases.
        generator: of the noise, on the CPU.

    References:
        Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004.
    """
    noise_ft = rfft3(torch.randn(volume.shape, generator=generator).to(volume)[None])
    volume_ft = rfft3(volume[None])
    random_ft = noise_ft * (volume_ft.abs() / noise_ft.abs().clamp(min=1e-12))
    lost = shell_index(tuple(volume.shape), device=volume.device) >= from_shell
    return irfft3(torch.where(lost, random_ft, volume_ft), shape=volume.shape)[0]


def shell_curve(first: Tensor, second: Tensor) -> Tensor:
    """Correlate two `[n, n, n]` maps over all shells to Nyquist, `[n // 2 + 1]`."""
    n_shells = first.shape[-1] // 2 + 1
    return fourier_shell_correlation(rfft3(first[None]), rfft3(second[None]), n_shells=n_shells)[0]


def masked_fsc(
    first: Tensor,
    second: Tensor,
    mask: Tensor,
    *,
    pixel_size_angst: float,
    generator: torch.Generator,
    config: FscConfig | None = None,
) -> MaskedFsc:
    """Correlate two maps in the same frame, with and without a mask and with its control.

    The phases of both maps are made random, independently of each other.

    Args:
        first, second: `[n, n, n]`, as two half maps.
        mask: `[n, n, n]` in [0, 1].
        pixel_size_angst: of the maps.
        generator: of the random phases, on the CPU.
        config: settings of the control.

    References:
        Chen et al. 2013, doi:10.1016/j.ultramic.2013.06.004.
    """
    config = config or FscConfig()
    if not first.shape == second.shape == mask.shape:
        raise ValueError(
            "maps and mask must have one shape: "
            f"got {tuple(first.shape)}, {tuple(second.shape)} and {tuple(mask.shape)}"
        )
    box = int(first.shape[-1])
    unmasked = shell_curve(first, second)
    masked = shell_curve(without_offset(first, mask), without_offset(second, mask))
    random_from = _first_below(unmasked, config.randomise_below)
    randomised = masked
    if random_from < len(unmasked):
        controls = [
            _control(first, second, mask, from_shell=random_from, generator=generator)
            for _ in range(config.n_random)
        ]
        randomised = torch.stack(controls).mean(0)
    return MaskedFsc(
        frequencies_per_angst=torch.arange(len(unmasked), dtype=torch.float64)
        / (box * pixel_size_angst),
        unmasked=unmasked.cpu(),
        masked=masked.cpu(),
        randomised=randomised.cpu(),
        corrected=_corrected(masked, randomised, random_from + _LEAKING_SHELLS).cpu(),
        random_from_shell=random_from,
        box=box,
        pixel_size_angst=pixel_size_angst,
    )


def _control(
    first: Tensor, second: Tensor, mask: Tensor, *, from_shell: int, generator: torch.Generator
) -> Tensor:
    """Correlate what the mask makes of two maps without common phases."""
    random = [
        randomise_phases(volume, from_shell=from_shell, generator=generator)
        for volume in (first, second)
    ]
    return shell_curve(*(without_offset(volume, mask) for volume in random))


def _first_below(curve: Tensor, threshold: float) -> int:
    below = torch.nonzero(curve[1:] < threshold)
    return int(below[0, 0]) + 1 if below.numel() else int(curve.numel())


def _corrected(masked: Tensor, randomised: Tensor, from_shell: int) -> Tensor:
    """Take the mask's part out; a shell whose control is perfect carries no evidence."""
    true = (masked - randomised) / (1 - randomised).clamp(min=1e-3)
    shell = torch.arange(len(masked), device=masked.device)
    return torch.where(shell < from_shell, masked, true).clamp(-1, 1)
