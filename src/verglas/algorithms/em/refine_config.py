"""What a gold-standard refinement is told; without tensors, for commands that need none."""

import math
from dataclasses import dataclass

__all__ = ["RefineConfig"]


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
