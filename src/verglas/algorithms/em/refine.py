"""Gold-standard refinement: two half sets, each with its own reference, until nothing improves.

`initial_state -> (plan, references, expect, update) -> finished`. The halves meet only in
the FSC, which sets the prior of both, and below the resolution at which they were joined at
the start. Follows Scheres 2012 (doi:10.1016/j.jsb.2012.09.006) in the statistics.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.mstep import Sums, reconstruct, symmetrise_sums
from verglas.algorithms.em.prior import (
    fsc_threshold,
    half_map_fsc,
    inverse_snr_of_fsc,
    last_shell_above,
    smoothed_fsc,
    updated_envelope,
    updated_noise,
)
from verglas.algorithms.em.references import References
from verglas.kernels.filters import low_pass
from verglas.kernels.fourier import fourier_resize3, next_fast_size
from verglas.kernels.masks import soft_sphere
from verglas.kernels.slices import volume_to_half_volume
from verglas.kernels.so3 import pose_distance_deg
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "Learnt",
    "RefineConfig",
    "RefineState",
    "finished",
    "fit_to_box",
    "half_maps",
    "initial_state",
    "jumped_share",
    "learn",
    "references",
    "update",
]

_JUMP_DEG = 7.5
_MIN_SHIFT_PRIOR_ANGST = 1.5
_FEWEST_ITERATIONS = 5
_WHOLE = ("radius", "shell", "iteration", "stalled", "n_polished")
_NUMBERS = ("step_deg", "effective_cells", "shift_prior_angst", "jumped")


@dataclass(frozen=True)
class RefineConfig:
    """What a refinement is told.

    Attributes:
        box: of the images, in pixels.
        pixel_size_angst: of the images.
        diameter_angst: of the particle; a soft sphere of this size is kept of each map.
        symmetry: point group.
        initial_low_pass_angst: resolution at which both halves start from one map.
        shift_range_angst: largest shift searched about the present centre.
        finest_step_deg: finest angular step allowed.
        max_resolution_angst: never use data beyond; 0 for Nyquist.
        max_iterations: stop there at the latest.
        padding: oversampling of Fourier volumes.
        seed: of the random rotation of the grids.
    """

    box: int
    pixel_size_angst: float
    diameter_angst: float
    symmetry: str = "C1"
    initial_low_pass_angst: float = 30.0
    shift_range_angst: float = 12.0
    finest_step_deg: float = 0.9
    max_resolution_angst: float = 0.0
    max_iterations: int = 20
    padding: int = 2
    seed: int = 0

    @property
    def extent_angst(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size_angst

    @property
    def max_radius(self) -> int:
        """Largest shell that may be used."""
        nyquist = (self.box - 1) // 2
        if self.max_resolution_angst <= 0:
            return nyquist
        return max(4, min(nyquist, int(self.extent_angst / self.max_resolution_angst)))

    @property
    def mask_radius_angst(self) -> float:
        """Radius of the soft sphere, with a margin for wrong diameters."""
        return min(0.55 * self.diameter_angst, 0.45 * self.extent_angst)

    @property
    def first_shell(self) -> int:
        """Shell up to which both halves start from one map."""
        shell = max(4, round(self.extent_angst / self.initial_low_pass_angst))
        return min(shell, self.max_radius)

    @property
    def leaking_shells(self) -> int:
        """Number of shells that the sphere, and averages over shells, carry correlation."""
        return math.ceil(self.extent_angst / self.mask_radius_angst / 1.5) + 1


@dataclass(frozen=True)
class RefineState:
    """Where a refinement stands.

    Attributes:
        half_maps: `[2, n, n, n]`, regularised, of the box's extent at a pixel that fits.
        noise_power: `[g, s]`, variance of a real component by group and shell.
        scale: `[g]`, intensity of each group.
        b_factor_angst2: `[g]`, how much faster its signal fades than the mean's.
        fsc: `[s]`, between the raw half maps inside the soft sphere.
        radius: shells used by the last iteration (0 at the start).
        shell: last shell with FSC above 0.143.
        step_deg: finest angular step of the last iteration.
        effective_cells: median number of orientations that shared a view's posterior.
        shift_prior_angst: standard deviation of shifts.
        iteration: number of iterations done.
        stalled: iterations since the resolution last improved.
        n_polished: iterations done that searched all orientations and had a continuous stage.
        jumped: share of the particles whose pose jumped in the last iteration.
    """

    half_maps: Tensor
    noise_power: Tensor
    scale: Tensor
    b_factor_angst2: Tensor
    fsc: Tensor
    radius: int
    shell: int
    step_deg: float
    effective_cells: float
    shift_prior_angst: float
    iteration: int
    stalled: int
    n_polished: int
    jumped: float

    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays and plain numbers by name."""
        return {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "RefineState":
        """Rebuild from what `to_arrays` gave, numbers as arrays or not, among other things."""
        names = [field.name for field in fields(RefineState)]
        values: dict[str, Any] = {name: torch.as_tensor(arrays[name]) for name in names}
        values |= {name: int(arrays[name]) for name in _WHOLE}
        values |= {name: float(arrays[name]) for name in _NUMBERS}
        return RefineState(**values)

    def resolution_angst(self, config: RefineConfig) -> float:
        """Return the resolution at FSC 0.143, in the soft sphere, uncorrected."""
        return config.extent_angst / max(self.shell, 1)


def fit_to_box(volume: Tensor, *, pixel_size_angst: float, config: RefineConfig) -> Tensor:
    """Bring a map of any box and pixel size onto the box of the images.

    Args:
        volume: `[n, n, n]`.
        pixel_size_angst: of the map.
        config: of the run.

    Returns:
        `[box, box, box]`, about the same centre.
    """
    n = volume.shape[-1]
    if len(set(volume.shape)) != 1:
        raise ValueError(f"volume must be cubic: got shape {tuple(volume.shape)}")
    extent = max(n * pixel_size_angst, config.extent_angst)
    padded, wanted = _matching_sizes(
        max(n, math.ceil(extent / pixel_size_angst)), pixel_size_angst / config.pixel_size_angst
    )
    grown = _about_centre(volume.float(), padded)
    resized = fourier_resize3(grown[None], shape=(wanted,) * 3)[0]
    return _about_centre(resized, config.box)


def _matching_sizes(least: int, ratio: float) -> tuple[int, int]:
    """Find a padded size that becomes, times the ratio, nearly a whole number alike in parity."""

    def target(size: int) -> int:
        whole = round(size * ratio)
        return whole + (whole - size) % 2

    sizes = range(least, least + max(16, least // 4))
    best = min(sizes, key=lambda size: abs(size * ratio / target(size) - 1) + 1e-6 * size)
    return best, target(best)


def _about_centre(volume: Tensor, size: int) -> Tensor:
    """Cut or pad a cube about voxel n // 2."""
    before = size // 2 - volume.shape[-1] // 2
    after = size - volume.shape[-1] - before
    return torch.nn.functional.pad(volume, (before, after) * 3)


def initial_state(config: RefineConfig, volume: Tensor, noise_power: Tensor) -> RefineState:
    """Start both halves from one low-passed map.

    Args:
        config: of the run.
        volume: `[n, n, n]`, of the box's extent, on the scale of the images.
        noise_power: `[g, s]`.

    Returns:
        The state before the first iteration.
    """
    shell = config.first_shell
    box = _box_of(shell)
    low = fourier_resize3(volume[None].float(), shape=(box,) * 3)[0]
    low = low * (volume.shape[-1] / box) ** 3
    pixel = config.extent_angst / box
    limit = config.extent_angst / shell
    low = low_pass(low[None], resolution_angst=limit, pixel_size_angst=pixel)[0]
    low = low * _sphere(box, config)
    return RefineState(
        half_maps=torch.stack([low, low]),
        noise_power=noise_power,
        scale=torch.ones(len(noise_power)),
        b_factor_angst2=torch.zeros(len(noise_power)),
        fsc=torch.ones(shell + 1, dtype=torch.float64),
        radius=0,
        shell=shell,
        step_deg=360.0,
        effective_cells=1e9,
        shift_prior_angst=config.shift_range_angst / 2,
        iteration=0,
        stalled=0,
        n_polished=0,
        jumped=1.0,
    )


def _resized(mask: Tensor, box: int) -> Tensor:
    return fourier_resize3(mask[None].float(), shape=(box,) * 3)[0].clamp(0, 1)


def _box_of(radius: int) -> int:
    return next_fast_size(2 * radius + 6 + (2 * radius) % 2)


def _sphere(box: int, config: RefineConfig) -> Tensor:
    pixel = config.extent_angst / box
    edge = max(4 * pixel, 10.0) / pixel
    return soft_sphere(box, config.mask_radius_angst / pixel, edge)


def jumped_share(config: RefineConfig, before: Tensor, after: Tensor) -> float:
    """Return the share of particles whose orientation changed by more than a coarse step.

    Args:
        config: of the run.
        before, after: `[n, 3, 3]`, rotations of the same particles.
    """
    distance = pose_distance_deg(before, after, symmetry_operators(config.symmetry))
    return float((distance > _JUMP_DEG).double().mean())


def references(config: RefineConfig, state: RefineState, half: int, radius: int) -> References:
    """Prepare one half map for slicing.

    Args:
        config: of the run.
        state: where it stands.
        half: 0 or 1.
        radius: of the search's last level.

    Returns:
        One reference.
    """
    volume = state.half_maps[half][None]
    return References(
        half_volumes=volume_to_half_volume(volume, radius=radius, padding=config.padding),
        log_prior=torch.zeros(1),
        padding=config.padding,
        planar=False,
    )


def _raw_halves(
    config: RefineConfig, sums: Mapping[int, Sums]
) -> tuple[list[tuple[Tensor, Tensor]], int]:
    operators = symmetry_operators(config.symmetry)
    pairs = [
        symmetrise_sums(
            torch.as_tensor(sums[h].numerator[0]).to(torch.complex64),
            torch.as_tensor(sums[h].denominator[0]).float(),
            operators,
        )
        for h in sorted(sums)
    ]
    return pairs, sums[min(sums)].residual_power.shape[1] - 1


def update(
    config: RefineConfig,
    state: RefineState,
    sums: Mapping[int, Sums],
    *,
    step_deg: float,
    effective_cells: float,
    searched: bool = False,
    jumped: float = 1.0,
    solvent: Tensor | None = None,
) -> RefineState:
    """Reconstruct both halves, measure their FSC and learn noise, scale and shifts.

    Args:
        config: of the run.
        state: before the expectation step.
        sums: of the two half sets.
        step_deg: finest step of the search.
        effective_cells: median over views of the orientations in their posterior.
        searched: all orientations were searched, with a continuous stage.
        jumped: share of the particles whose pose jumped.
        solvent: `[box, box, box]` in [0, 1]: density is kept here only; the FSC does not see it.

    Returns:
        The next state.
    """
    pairs, radius = _raw_halves(config, sums)
    box = _box_of(radius)
    mask = _sphere(box, config)
    raw = [reconstruct(n, d, radius=radius, box=box, padding=config.padding) for n, d in pairs]
    fsc = half_map_fsc(torch.stack(raw), mask, n_shells=radius + 1)
    shell, inverse_snr = _believed(config, fsc, mask)
    maps = [
        reconstruct(n, d, radius=radius, box=box, padding=config.padding, inverse_snr=inverse_snr)
        for n, d in pairs
    ]
    learnt = learn(
        list(sums.values()),
        noise_power=state.noise_power,
        scale=state.scale,
        b_factor_angst2=state.b_factor_angst2,
        extent_angst=config.extent_angst,
        shell=shell,
    )
    improved = shell > state.shell or state.iteration == 0
    return RefineState(
        half_maps=torch.stack(maps) * (mask if solvent is None else mask * _resized(solvent, box)),
        noise_power=learnt.noise_power,
        scale=learnt.scale,
        b_factor_angst2=learnt.b_factor_angst2,
        fsc=fsc,
        radius=radius,
        shell=shell,
        step_deg=step_deg,
        effective_cells=effective_cells,
        shift_prior_angst=learnt.shift_prior_angst,
        iteration=state.iteration + 1,
        stalled=0 if improved or step_deg < state.step_deg else state.stalled + 1,
        n_polished=state.n_polished + int(searched),
        jumped=jumped,
    )


@dataclass(frozen=True)
class Learnt:
    """What an iteration teaches about the images.

    Attributes:
        noise_power: `[g, s]`.
        scale, b_factor_angst2: `[g]`.
        shift_prior_angst: standard deviation of shifts.
    """

    noise_power: Tensor
    scale: Tensor
    b_factor_angst2: Tensor
    shift_prior_angst: float


def learn(
    sums: Sequence[Sums],
    *,
    noise_power: Tensor,
    scale: Tensor,
    b_factor_angst2: Tensor,
    extent_angst: float,
    shell: int,
) -> Learnt:
    """Learn noise, envelopes and shifts from the sums of all views.

    Args:
        sums: of both halves.
        noise_power, scale, b_factor_angst2: used when they were made.
        extent_angst: side of the box.
        shell: last shell with signal.
    """
    residual, count, cross, power, shifts = (
        torch.stack([torch.as_tensor(getattr(s, name)) for s in sums]).sum(0)
        for name in (
            "residual_power",
            "residual_count",
            "scale_cross",
            "scale_power",
            "shift_square_angst2",
        )
    )
    square, n_views = shifts
    measured = math.sqrt(float(square) / max(float(n_views), 1.0))
    new_scale, b_factor = updated_envelope(
        scale, b_factor_angst2, cross, power, extent_angst=extent_angst
    )
    return Learnt(
        noise_power=updated_noise(residual, count, noise_power),
        scale=new_scale,
        b_factor_angst2=b_factor,
        shift_prior_angst=max(
            math.hypot(measured, extent_angst / shell / 8), _MIN_SHIFT_PRIOR_ANGST
        ),
    )


def _believed(config: RefineConfig, fsc: Tensor, mask: Tensor) -> tuple[int, Tensor]:
    """Return the last shell with signal and the 1 / SNR of each half, by shell.

    What the halves share from the start, or what leaks from there by the mask, proves
    nothing: without correlation farther out the resolution stays where they were joined.
    """
    n_operators = len(symmetry_operators(config.symmetry))
    mean, deviation = smoothed_fsc(fsc, mask=mask, n_operators=n_operators)
    shell = last_shell_above(mean, fsc_threshold(deviation))
    if shell <= config.first_shell + config.leaking_shells:
        shell = min(shell, config.first_shell)
    shell = max(2, shell)
    inverse_snr = inverse_snr_of_fsc(mean, radius=len(fsc) - 1)
    inverse_snr[shell + 1 :] = torch.inf
    return shell, inverse_snr


def finished(config: RefineConfig, state: RefineState) -> bool:
    """Tell whether the refinement should stop: no gain, or too many iterations."""
    settled = state.stalled >= 1 and state.iteration >= _FEWEST_ITERATIONS
    return settled or state.iteration >= config.max_iterations


def half_maps(config: RefineConfig, sums: Mapping[int, Sums]) -> Tensor:
    """Reconstruct the final, unregularised half maps at the images' own pixel.

    Args:
        config: of the run.
        sums: of the two half sets.

    Returns:
        `[2, box, box, box]`, not masked.
    """
    pairs, radius = _raw_halves(config, sums)
    return torch.stack(
        [reconstruct(n, d, radius=radius, box=config.box, padding=config.padding) for n, d in pairs]
    )
