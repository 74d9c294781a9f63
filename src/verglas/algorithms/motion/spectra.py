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

_SLOW = 0.4  # share of the fading signal that is left at the end of the movie
_STRENGTH_SPREAD = 2.0  # of the signal's power from patch to patch: carbon next to ice
_STRENGTHS = (1e-3, 50.0)
_LEAST_NOISE = 0.5  # of the median of finer shells
_LEAST_SHARE = 0.05  # of the power of fine shells that is noise
_EDGE_SHARE = 0.02  # of the signal of a patch: pixels that its edge may have gained or lost
_SHAPE_SPREAD = 1.0  # of the power of a patch in a shell
_PATCH_SMOOTHING = np.array([0.5, 1.0, 1.0, 1.0, 0.5])
_SHELL_SMOOTHING = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True)
class Spectra:
    """What is known of signal and noise.

    Attributes:
        signal, noise: `[shells]`, power of a coefficient in one frame; the signal is what all
            frames have in common.
        near_signal: `[shells]`, power of what fades from frame to frame, as moving water does.
        strength: `[p]`, power of the lasting signal in each patch, over its mean.
        weight_by_shell, weight: `[p, shells]`, `[p, r, c]`, of the power of the sum in the
            likelihood; `weight` also says what counts.
        near_weight_by_shell, near_weight: `[shells]`, `[r, c]`, of products of frames near in time.
        memory: `[r, c]`, how much of the fading signal is in the next frame.
        coupling: `[f, f]`, expected curvature of the likelihood of a patch of strength 1 by the
            displacements along one axis, a pixel, from the lasting signal; `near_coupling`
            from the fading one.
        information: `[p]`, expected curvature by the lasting signal over that of strength 1.
        near_share: part of what is known of the motion that the fading signal gives.
    """

    signal: Double
    noise: Double
    near_signal: Double
    strength: Double
    weight_by_shell: Double
    weight: Real
    near_weight_by_shell: Double
    near_weight: Real
    memory: Real
    coupling: Double
    near_coupling: Double
    information: Double
    near_share: float = 0.0


@dataclass(frozen=True)
class Evidence:
    """What one pass over the patches gives.

    Attributes:
        loglik: `[p]`.
        gradient: `[p, f, 2]`, by displacement in pixels.
        lasting: `[p, shells]`, products of different frames, summed.
        near: `[p, shells]`, the same of frames near in time, each times what is left of a
            fading signal.
    """

    loglik: Double
    gradient: Double
    lasting: Double
    near: Double


def blank_spectra(patches: PatchSpectra, memory: Double | None = None) -> Spectra:
    """Make spectra before anything is known.

    Args:
        patches: of the movie.
        memory: `[shells]`, how much of the fading signal is in the next frame; None where
            no signal fades.
    """
    shell, n_patches = patches.shell, len(patches.grid)
    zero = np.zeros(int(shell.max()) + 1)
    flat = np.zeros(shape := shell.shape, np.float32)
    kept = flat if memory is None else memory[shell].astype(np.float32)
    empty = np.zeros((patches.n_frames, patches.n_frames))
    one = np.ones(n_patches)
    none = np.zeros((n_patches, *shape), np.float32)
    by_shell = np.zeros((n_patches, len(zero)))
    return Spectra(zero, zero, zero, one, by_shell, none, zero, flat, kept, empty, empty, one)


def measure_spectra(
    patches: PatchSpectra,
    evidence: Evidence,
    known: Spectra,
    *,
    unsure_px: Double | None = None,
) -> Spectra:
    """Separate lasting signal, fading signal and noise, shell by shell.

    Products of different frames tell signal from noise; products of frames near in time and
    of all frames tell what fades from what lasts. How strong the lasting signal is in each
    of the chosen patches follows from their sums; the others keep their strengths.

    Args:
        patches: of the movie.
        evidence: of the patches.
        known: spectra that the evidence was weighted with.
        unsure_px: `[p]`, standard error of the displacement that frames were turned back by:
            finer details than that do not tell yet in which direction to go.
    """
    n_frames, shell, memory = patches.n_frames, patches.shell, known.memory
    n_shells = int(shell.max()) + 1
    counted = np.asarray(
        np.bincount(shell.ravel(), patches.multiplicity.ravel(), n_shells), dtype=np.float64
    )
    own = patches.own_by_shell
    count = np.maximum(counted * max(1, len(own)), 1e-9)
    alone = own.sum(axis=0) / count
    kept = np.bincount(shell.ravel(), memory.ravel(), n_shells) / np.bincount(shell.ravel())
    lag = np.abs(np.arange(n_frames)[:, None] - np.arange(n_frames)[None])
    fading = kept[:, None] ** np.arange(1.0, n_frames)  # [shells, lag - 1]
    pairs = np.maximum(2.0 * np.arange(n_frames - 1, 0, -1), 1e-30)
    lasting, fades = _smooth(evidence.lasting.sum(axis=0) / count), np.zeros(n_shells)
    mixed, both = fading @ pairs, fading**2 @ pairs
    signal = lasting / pairs.sum()
    mean = alone / n_frames
    # one pair of frames does not tell what fades
    if memory.any() and n_frames > 2:
        signal, fades = _two_signals(
            lasting, _smooth(evidence.near.sum(axis=0) / count), pairs.sum(), mixed, both
        )
        # what lasts almost as long as the movie cannot be told from what stays
        slow = kept**n_frames > _SLOW
        signal = np.where(slow, lasting / pairs.sum(), signal)
        fades = np.where(slow, 0.0, fades)
    spread = mean * np.sqrt(2.0 / pairs.sum() / count)
    signal = np.where(signal > spread, signal, 0.0)
    fades = np.where(fades > mean * np.sqrt(2.0 / np.maximum(both, 1e-9) / count), fades, 0.0)
    noise = _noise(mean - signal - fades, mean)
    strength = _strengths(known, evidence, (signal, noise, fades), counted, pairs.sum())
    each, noises = _of_patches(
        evidence.lasting, own, strength, (signal, noise, fades), counted, n_frames
    )
    noise = noise + _EDGE_SHARE * signal
    near = fades / (noise * (noise + fades * (1.0 + kept) / np.maximum(1.0 - kept, 1e-3)))
    radians2 = 0.5 * (2.0 * np.pi / patches.grid.size * np.arange(n_shells)) ** 2
    told = np.ones((len(strength), n_shells))
    if unsure_px is not None:
        told = np.exp(-2.0 * radians2 * unsure_px[:, None] ** 2)
    weights = told * each / (noises * (noises + n_frames * each))
    weight = signal / (noise * (noise + n_frames * signal))
    near, weight = near * told.mean(axis=0), weight * told.mean(axis=0)
    bent = 2.0 * counted * radians2
    lasting_link = float(bent @ (weight * signal))
    near_links = bent @ (
        near[:, None] * fades[:, None] * fading**2
        + (weight * fades + near * signal)[:, None] * fading
    )
    by_lag = np.concatenate([[0.0], near_links])
    links = np.where(lag > 0, lasting_link, 0.0)
    whole = (lasting_link + near_links) @ pairs
    return Spectra(
        signal,
        noise,
        fades,
        strength,
        weights,
        weights.astype(np.float32)[:, shell] * patches.multiplicity.astype(np.float32),
        near,
        (near[shell] * patches.multiplicity).astype(np.float32),
        memory,
        _laplacian(links),
        _laplacian(by_lag[lag]),
        weights * each @ bent / max(lasting_link, 1e-30),
        1.0 - lasting_link * pairs.sum() / max(float(whole), 1e-30),
    )


def _of_patches(
    lasting: Double,
    own: Double,
    strength: Double,
    powers: tuple[Double, Double, Double],
    counted: Double,
    n_frames: int,
) -> tuple[Double, Double]:
    """Power of lasting signal and of noise in each patch and shell.

    Carbon and crystals have spectra of their own. What a patch shows itself is drawn towards
    the mean of all, times the strength of the patch, as far as noise leaves it open.
    """
    signal, noise, fades = powers
    n_pairs = n_frames * (n_frames - 1)
    fine = slice(len(noise) // 3, None)
    level = (own[:, fine].sum(axis=1) - lasting[:, fine].sum(axis=1) / (n_frames - 1)) / n_frames
    level = level / np.maximum((counted * (noise + fades))[fine].sum(), 1e-30)
    noises = noise * np.clip(level, 0.3, 3.0)[:, None]
    expected = strength[:, None] * signal
    kernel = _PATCH_SMOOTHING
    room = counted[None] * np.ones((len(own), 1))
    summed, room = _blur(lasting, kernel), _blur(room, kernel)
    found = summed / (n_pairs * np.maximum(room, 1e-9))
    error2 = (
        2.0 * (noises + fades) ** 2 / n_pairs + 4.0 * expected * noises / n_frames
    ) / np.maximum(room, 1e-9)
    prior2 = (_SHAPE_SPREAD * expected) ** 2
    drawn = (found * prior2 + expected * error2) / np.maximum(prior2 + error2, 1e-30)
    each = np.where(expected > 0, np.clip(drawn, 0.05 * expected, 20.0 * expected), 0.0)
    return each, noises + _EDGE_SHARE * each


def _blur(lines: Double, kernel: Double) -> Double:
    half = len(kernel) // 2
    wide = np.pad(lines, ((0, 0), (half, half)))
    return np.asarray(sum(k * wide[:, i : i + lines.shape[1]] for i, k in enumerate(kernel)))


def _noise(rest: Double, power: Double) -> Double:
    """Noise of each shell: what signal leaves of the power, where it is noise at all.

    Counting noise is nearly white, so that a slow shell full of signal has no less of it than
    the others; and hardly any frame is without it.
    """
    fine = slice(len(rest) // 3, None)
    level = max(float(np.median(rest[fine])), _LEAST_SHARE * float(np.median(power[fine])), 1e-30)
    return np.asarray(np.maximum(rest, _LEAST_NOISE * level))


def _laplacian(links: Double) -> Double:
    return np.diag(links.sum(axis=1)) - links


def _strengths(
    known: Spectra,
    evidence: Evidence,
    powers: tuple[Double, Double, Double],
    counted: Double,
    n_pairs: float,
) -> Double:
    """Estimate how strong the lasting signal is in each patch, 1 on average.

    A strength is drawn towards 1 as far as noise leaves it open.
    """
    signal, noise, fades = powers
    weight = known.weight_by_shell
    expected = weight @ (counted * signal) * n_pairs
    spread2 = 2.0 * n_pairs * weight**2 @ (counted * (noise + fades) ** 2)
    error2 = spread2 / np.maximum(expected, 1e-30) ** 2
    found = (weight * evidence.lasting).sum(axis=1) / np.maximum(expected, 1e-30)
    drawn = (found * _STRENGTH_SPREAD**2 + error2) / (_STRENGTH_SPREAD**2 + error2)
    drawn = np.where(expected > 0, np.clip(drawn, *_STRENGTHS), 1.0)
    return np.asarray(drawn / drawn.mean())


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
