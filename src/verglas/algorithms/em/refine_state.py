"""Where a gold-standard refinement stands, and whether it goes on."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from verglas.algorithms.em.refine_config import RefineConfig
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
_STILL = 0.02  # share of the particles that jump
_WHOLE = ("radius", "shell", "iteration", "stalled", "n_polished", "width")
_NUMBERS = ("step_deg", "effective_cells", "shift_prior_angst", "jumped")


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
    """Tell whether the refinement should stop: no gain, or too many iterations.

    While particles still jump, one iteration without gain is not yet the end.
    """
    patience = 1 if state.jumped < _STILL else 2
    settled = state.stalled >= patience and state.iteration >= _FEWEST_ITERATIONS
    return settled or state.iteration >= config.max_iterations
