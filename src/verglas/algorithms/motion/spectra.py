"""Tell signal from noise in the frames of a movie, shell by shell.

Products of different frames hold no noise. A part of the signal is in all frames; another, the
water's, fades from frame to frame, so that frames near in time share more than far ones.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.motion.patches import PatchSpectra

__all__ = ["Evidence", "Spectra", "blank_spectra", "measure_spectra"]

Double = NDArray[np.float64]
Real = NDArray[np.float32]

_LOWEST = 1.5  # cycles per patch: below, patches differ by their background
_SLOW = 0.4  # share of the fading signal that is left at the end of the movie
_SHELL_SMOOTHING = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True)
class Spectra:
    """What is known of signal and noise.

    Attributes:
        signal, noise: `[shells]`, power of a coefficient in one frame; the signal is what all
            frames have in common.
        near_signal: `[shells]`, power of what fades from frame to frame, as moving water does.
        weight: `[r, c]`, of the power of the sum in the likelihood.
        near_weight: `[r, c]`, of products of frames near in time.
        memory: `[r, c]`, how much of the fading signal is in the next frame.
        coupling: `[f, f]`, expected curvature of the likelihood of one patch by the
            displacements along one axis, a pixel.
        near_share: part of what is known of the motion that the fading signal gives.
        multiplicity: `[r, c]`, 1 for a coefficient that counts, a half where its conjugate is
            there too, 0 where it does not count.
    """

    signal: Double
    noise: Double
    near_signal: Double
    weight: Real
    near_weight: Real
    memory: Real
    multiplicity: Double
    coupling: Double
    near_share: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What one pass over the patches gives.

    Attributes:
        loglik: `[p]`.
        gradient: `[p, f, 2]`, by displacement in pixels.
        curvature: `[p]`, of the likelihood by displacement, in arbitrary units.
        power: `[r, c]`, of the sums of frames, summed over patches.
        near_power: `[r, c]`, of products of frames near in time, summed over patches.
    """

    loglik: Double
    gradient: Double
    curvature: Double
    power: Double
    near_power: Double


def blank_spectra(patches: PatchSpectra, memory: Double | None = None) -> Spectra:
    """Make spectra before anything is known.

    Args:
        patches: of the movie.
        memory: `[shells]`, how much of the fading signal is in the next frame; None where
            no signal fades.
    """
    shell = np.rint(patches.radius).astype(int)
    zero = np.zeros(int(shell.max()) + 1)
    flat = np.zeros(shape := shell.shape, np.float32)
    kept = flat if memory is None else memory[shell].astype(np.float32)
    empty = np.zeros((patches.n_frames, patches.n_frames))
    return Spectra(zero, zero, zero, flat, flat, kept, np.zeros(shape), empty)


def measure_spectra(
    patches: PatchSpectra, evidence: Evidence, memory: Real, chosen: slice
) -> Spectra:
    """Separate lasting signal, fading signal and noise, shell by shell.

    Products of different frames tell signal from noise; products of frames near in time and
    of all frames tell what fades from what lasts.

    Args:
        patches: of the movie.
        evidence: of the chosen patches.
        memory: `[r, c]`, how much of the fading signal is in the next frame.
        chosen: patches.
    """
    n_frames = patches.n_frames
    shell = np.rint(patches.radius).astype(int)
    n_shells = int(shell.max()) + 1
    own = patches.own[chosen]
    count = np.bincount(shell.ravel(), minlength=n_shells) * max(1, len(own))

    def by_shell(values: NDArray[np.float64]) -> Double:
        return np.asarray(np.bincount(shell.ravel(), values.ravel(), n_shells) / count)

    alone = by_shell(own.sum(axis=0))
    kept = by_shell(memory.astype(np.float64) * max(1, len(own)))
    lag = np.abs(np.arange(n_frames)[:, None] - np.arange(n_frames)[None])
    fading = kept[:, None] ** np.arange(1.0, n_frames)  # [shells, lag - 1]
    pairs = np.maximum(2.0 * np.arange(n_frames - 1, 0, -1), 1e-30)
    lasting, fades = _smooth(by_shell(evidence.power) - alone), np.zeros(n_shells)
    mixed, both = fading @ pairs, fading**2 @ pairs
    signal = lasting / pairs.sum()
    mean = alone / n_frames
    if memory.any():
        signal, fades = _two_signals(
            lasting, _smooth(by_shell(evidence.near_power) - alone), pairs.sum(), mixed, both
        )
        # what lasts almost as long as the movie cannot be told from what stays
        slow = kept**n_frames > _SLOW
        signal = np.where(slow, lasting / pairs.sum(), signal)
        fades = np.where(slow, 0.0, fades)
    spread = mean * np.sqrt(2.0 / pairs.sum() / count)
    signal = np.where(signal > spread, signal, 0.0)
    fades = np.where(fades > mean * np.sqrt(2.0 / np.maximum(both, 1e-9) / count), fades, 0.0)
    noise = np.maximum(mean - signal - fades, 1e-3 * mean + 1e-30)
    weight = signal / (noise * (noise + n_frames * signal))
    near = fades / (noise * (noise + fades * (1.0 + kept) / np.maximum(1.0 - kept, 1e-3)))
    reach = patches.re.shape[3] - 1
    multiplicity = ((patches.radius >= _LOWEST) & (patches.radius <= reach)).astype(np.float64)
    multiplicity[:, 0] *= 0.5
    counted = by_shell(multiplicity) * count
    radians2 = 0.5 * (2.0 * np.pi / patches.grid.size * np.arange(n_shells)) ** 2
    known = (weight[:, None] + near[:, None] * fading) * (signal[:, None] + fades[:, None] * fading)
    by_lag = 2.0 * (counted * radians2) @ known
    lasting_alone = 2.0 * float((counted * radians2) @ (weight * signal)) * pairs.sum()
    links = np.concatenate([[0.0], by_lag])[lag]
    return Spectra(
        signal,
        noise,
        fades,
        (weight[shell] * multiplicity).astype(np.float32),
        (near[shell] * multiplicity).astype(np.float32),
        memory,
        multiplicity,
        np.diag(links.sum(axis=1)) - links,
        1.0 - lasting_alone / max(float(by_lag @ pairs), 1e-30),
    )


def _smooth(line: Double) -> Double:
    return np.asarray(np.convolve(np.pad(line, 1, "edge"), _SHELL_SMOOTHING, "valid"))


def _two_signals(
    lasting: Double, near: Double, n_pairs: float, mixed: Double, both: Double
) -> tuple[Double, Double]:
    """Solve for the powers of lasting and fading signal, neither below zero."""
    determinant = n_pairs * both - mixed**2
    safe = np.maximum(determinant, 1e-9 * n_pairs * np.maximum(both, 1e-30))
    signal = (lasting * both - near * mixed) / safe
    fades = (near * n_pairs - lasting * mixed) / safe
    signal, fades = (
        np.where(fades < 0, lasting / n_pairs, np.maximum(signal, 0.0)),
        np.where(signal < 0, near / np.maximum(both, 1e-30), np.maximum(fades, 0.0)),
    )
    return signal, fades
