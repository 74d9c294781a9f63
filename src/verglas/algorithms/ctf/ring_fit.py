"""What every estimator of a CTF returns, whatever it optimises."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RingFit"]


@dataclass(frozen=True)
class RingFit:
    """Parameters of Thon rings, and the curves they lie on.

    Attributes:
        values: by name: `defocus astigmatism_cos astigmatism_sin` in Å (mean, and half the
            difference along x and at 45 degrees), `phase_shift` in radians if it was free,
            `spherical_aberration` in mm if it was free, `motion_cos motion_sin` in Å^2.
        covariance: in the order of `values`.
        evidence: log-likelihood gained over a spectrum without rings, in nats.
        phase, background, amplitude: `[n]`, of each pixel of the spectrum: chi, power below the
            rings, height of the rings (loss by motion included).
        weight: `[n]`, independent values that a pixel counts for.
        cell: `[n]`, number of the small cell that each pixel was averaged in.
        visibility: `[n]`, factor of the oscillation (thick or tilted specimen); None for 1.
        thickness_angst, thickness_error_angst: of the ice, NaN if no node tells it.
        envelope_b_angst2: B factor of the rings' power, NaN if not fitted.
    """

    values: dict[str, float]
    covariance: Tensor
    evidence: float
    phase: Tensor
    background: Tensor
    amplitude: Tensor
    weight: Tensor
    cell: Tensor
    visibility: Tensor | None = None
    thickness_angst: float = math.nan
    thickness_error_angst: float = math.nan
    envelope_b_angst2: float = math.nan

    def error(self, name: str) -> float:
        """Standard error of one parameter."""
        index = list(self.values).index(name)
        return math.sqrt(max(float(self.covariance[index, index]), 0.0))

    @property
    def rings(self) -> Tensor:
        """Squared CTF of each pixel, its oscillation damped by the visibility: `[n]`."""
        if self.visibility is None:
            return self.phase.sin().square()
        return 0.5 - 0.5 * self.visibility * torch.cos(2.0 * self.phase)
