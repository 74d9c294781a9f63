"""What a gold-standard refinement is told, where it stands, and whether it goes on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from verglas.kernels.fourier import next_fast_size
from verglas.kernels.masks import soft_sphere
from verglas.kernels.so3 import pose_distance_deg
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "RefineConfig",
    "RefineState",
    "finished",
    "jumped_share",
    "map_box",
    "map_sphere",
]

_JUMP_DEG = 7.5
_FEWEST_ITERATIONS = 5
_WHOLE = ("radius", "shell", "iteration", "stalled", "n_polished", "width")
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
        regularisation: "uniform", or "non_uniform" for a prior that differs from place to place.
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
    regularisation: str = "uniform"

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
        width: of the search, times that planned, as an audit found necessary.
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
    width: int = 1

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


def map_box(radius: int) -> int:
    """Return the side of a map that holds shells up to a radius, in voxels."""
    return next_fast_size(2 * radius + 6 + (2 * radius) % 2)


def map_sphere(box: int, config: RefineConfig) -> Tensor:
    """Return the soft sphere `[box, box, box]` that is kept of a map."""
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


def finished(config: RefineConfig, state: RefineState) -> bool:
    """Tell whether the refinement should stop: no gain, or too many iterations."""
    settled = state.stalled >= 1 and state.iteration >= _FEWEST_ITERATIONS
    return settled or state.iteration >= config.max_iterations
