"""Slices and scores on a GPU, by loops written in Triton; imported on a GPU only."""

from typing import Any

import torch
import triton
from torch import Tensor

from verglas.kernels import _triton_loops as loops

__all__ = ["extract", "insert", "normals", "scores"]

_BLOCK = 256  # coefficients at a time
_N_SUMS = 21  # score, gradient of five, lower triangle of the normal matrix


def _floats(values: Tensor) -> Tensor:
    """View complex numbers as floats in turn."""
    return torch.view_as_real(values) if values.is_complex() else values


def _grid(half_volume: Tensor, padding: float) -> tuple[Any, ...]:
    """Return steps of a row and a plane, the centre of y and z, and the padding."""
    _, height, width = half_volume.shape
    return width, height * width, float(height // 2), float(padding)


def extract(
    half_volume: Tensor, rotations: Tensor, frequencies_px: Tensor, padding: float
) -> Tensor:
    """Sample one central slice for each rotation.

    Args:
        half_volume: `[m, m, m // 2 + 1]`, complex64, contiguous like all that follow.
        rotations: `[r, 3, 3]`, float32.
        frequencies_px: `[k, 2]`, float32.
        padding: oversampling factor.

    Returns:
        `[r, k]`, complex64.
    """
    n, n_k = len(rotations), len(frequencies_px)
    out = half_volume.new_empty(n, n_k)
    if n:
        loops.extract[(n, triton.cdiv(n_k, _BLOCK))](
            _floats(half_volume),
            rotations,
            frequencies_px,
            _floats(out),
            n_k,
            *_grid(half_volume, padding),
            BLOCK=_BLOCK,
        )
    return out


def scores(
    half_volume: Tensor,
    signal: Tensor,
    weight: Tensor,
    rotations: Tensor,
    shifts_px: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: float,
) -> Tensor:
    """Score every view at several poses of its own.

    Args:
        half_volume, frequencies_px, padding: as for `extract`.
        signal: `[b, k]`, complex64.
        weight: `[b, k]`, float32.
        rotations: `[b, s, 3, 3]`, float32.
        shifts_px: `[b, s, 2]`, float64.
        box: side of the images.

    Returns:
        `[b, s]`, float64.
    """
    b, s = shifts_px.shape[:2]
    out = torch.empty(b, s, dtype=torch.float64, device=signal.device)
    if b * s:
        loops.scores[(b * s,)](
            _floats(half_volume),
            _floats(signal),
            weight,
            rotations,
            shifts_px,
            frequencies_px,
            out,
            s,
            signal.shape[1],
            float(box),
            *_grid(half_volume, padding),
            BLOCK=_BLOCK,
        )
    return out


def normals(
    half_volume: Tensor,
    signal: Tensor,
    weight: Tensor,
    rotations: Tensor,
    shifts_px: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Score every view at one pose, with derivatives.

    Args:
        half_volume, signal, weight, frequencies_px, box, padding: as for `scores`.
        rotations: `[b, 3, 3]`, float32.
        shifts_px: `[b, 2]`, float64.

    Returns:
        Score `[b]`, gradient `[b, 5]` and Gauss-Newton matrix `[b, 5, 5]`, float64.
    """
    b = len(signal)
    sums = torch.zeros(b, _N_SUMS, dtype=torch.float64, device=signal.device)
    if b:
        loops.normals[(b,)](
            _floats(half_volume),
            _floats(signal),
            weight,
            rotations,
            shifts_px,
            frequencies_px,
            sums,
            signal.shape[1],
            float(box),
            *_grid(half_volume, padding),
            BLOCK=_BLOCK,
        )
    row, column = torch.tril_indices(5, 5, device=signal.device)
    matrix = sums.new_empty(b, 5, 5)
    matrix[:, row, column] = sums[:, 6:]
    matrix[:, column, row] = sums[:, 6:]
    return sums[:, 0], sums[:, 1:6], matrix


def insert(
    signal: Tensor,
    weight: Tensor,
    rotations: Tensor,
    shifts_px: Tensor,
    probability: Tensor,
    frequencies_px: Tensor,
    *,
    box: int,
    padding: float,
    into: tuple[Tensor, Tensor],
) -> None:
    """Add every view at several poses of its own, each with its probability, in place.

    Args:
        signal, weight, rotations, shifts_px, frequencies_px, box, padding: as for `scores`.
        probability: `[b, s]`, float32; poses of probability zero cost nothing.
        into: numerator (complex64) and denominator (float32), `[m, m, m // 2 + 1]`.
    """
    b, s = shifts_px.shape[:2]
    n_k = signal.shape[1]
    if not b * s:
        return
    loops.insert[(b * s, triton.cdiv(n_k, _BLOCK))](
        _floats(signal),
        weight,
        rotations,
        shifts_px,
        probability,
        frequencies_px,
        _floats(into[0]),
        into[1],
        s,
        n_k,
        float(box),
        *_grid(into[0], padding),
        BLOCK=_BLOCK,
    )
