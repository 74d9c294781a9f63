"""A map on its way from a random start, and which of several go on."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Candidate", "finalists"]

_SAME = 0.9


@dataclass(frozen=True)
class Candidate:
    """A map on its way, or the maps of all classes.

    Attributes:
        maps: `[c, n, n, n]`, filtered and masked.
        numerators, denominators: `[2, c, m, m, m // 2 + 1]`, sums by half.
        class_weight: `[c]`, share of the views of each map.
        noise_factor: `[s]`, noise over that of the views, by shell.
        shift_prior_angst: standard deviation of shifts.
        loglik: evidence per view, against no signal.
        effective_rows: mean number of orientations that share a view's posterior.
    """

    maps: Tensor
    numerators: Tensor
    denominators: Tensor
    class_weight: Tensor
    noise_factor: Tensor
    shift_prior_angst: float
    loglik: float = -math.inf
    effective_rows: float = math.inf

    def to_arrays(self) -> dict[str, Any]:
        """Return what is needed to go on at a finer resolution, as numpy arrays and numbers."""
        return {
            "maps": self.maps.cpu().numpy(),
            "class_weight": self.class_weight.cpu().numpy(),
            "noise_factor": self.noise_factor.cpu().numpy(),
            "shift_prior_angst": self.shift_prior_angst,
            "loglik": self.loglik,
            "effective_rows": self.effective_rows,
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "Candidate":
        """Rebuild from what `to_arrays` gave; the sums are begun anew."""
        maps = torch.as_tensor(arrays["maps"]).float()
        empty = torch.zeros(2, len(maps), 3, 3, 2)
        return Candidate(
            maps=maps,
            numerators=empty.to(torch.complex64),
            denominators=empty,
            class_weight=torch.as_tensor(arrays["class_weight"]).float(),
            noise_factor=torch.as_tensor(arrays["noise_factor"]).float(),
            shift_prior_angst=float(arrays["shift_prior_angst"]),
            loglik=float(arrays["loglik"]),
            effective_rows=float(arrays["effective_rows"]),
        )


def finalists(candidates: Sequence[Candidate], n: int) -> list[int]:
    """Choose which searches go on: the likeliest, and then those unlike them.

    Two alike are let in, so that the winner can be confirmed; further copies would cost time
    and tell nothing. Maps are alike if they correlate, in either hand, about the same axes.

    Args:
        candidates: judged, of equal boxes.
        n: at most so many.

    Returns:
        Their positions, the likeliest first.
    """
    ranked = sorted(range(len(candidates)), key=lambda i: -candidates[i].loglik)
    chosen: list[int] = []
    for i in ranked:
        alike = sum(_alike(candidates[i].maps, candidates[j].maps) for j in chosen)
        if alike < 2 and len(chosen) < n:
            chosen.append(i)
    for i in ranked:
        if len(chosen) < n and i not in chosen:
            chosen.append(i)
    return chosen


def _alike(a: Tensor, b: Tensor) -> bool:
    mirrored = b.flip(1) if b.shape[-1] % 2 else b.flip(1).roll(1, 1)
    pairs = [
        torch.nn.functional.cosine_similarity(a.flatten(), m.flatten(), 0) for m in (b, mirrored)
    ]
    return max(float(value) for value in pairs) > _SAME
