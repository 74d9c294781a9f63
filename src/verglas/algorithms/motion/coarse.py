"""Find the path of the whole frame from nothing, at low resolution.

Each frame is correlated with the sum of the others; correlations of neighbouring frames are
averaged, at first over many, so that a peak stands out even where one frame alone shows none.
"""

from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Any

import numpy as np
import scipy.fft
from numpy.typing import NDArray

__all__ = ["coarse_path"]

Complex = NDArray[np.complex64]
Double = NDArray[np.float64]

_LOWEST = 4.0  # cycles per frame


def coarse_path(
    spectra: Sequence[Complex],
    shape: tuple[int, int],
    *,
    max_shift_px: float,
    blur_px: float,
    pool: Executor,
) -> Double:
    """Estimate where each frame lies relative to the first one.

    Args:
        spectra: `[f]` of `[h, w//2+1]`, transforms of band-limited frames.
        shape: of these frames.
        max_shift_px: largest shift that is searched, in their pixels.
        blur_px: standard deviation of a Gaussian that smoothes the first correlations.
        pool: for threads.

    Returns:
        `[f, 2]`, displacement along x and y in pixels.
    """
    n_frames = len(spectra)
    ky = np.fft.fftfreq(shape[0])[:, None]
    kx = np.fft.rfftfreq(shape[1])[None]
    radius = np.hypot(ky, kx)
    shell = np.rint(radius * min(shape)).astype(np.int64)
    white = _whitened(spectra, shell, radius * min(shape) >= _LOWEST)
    reach = max(2, min(round(max_shift_px), min(shape) // 2 - 2))
    smooth = np.exp(-2.0 * (np.pi * blur_px * radius) ** 2).astype(np.float32)
    path = np.zeros((n_frames, 2))
    # frames averaged over on either side, and how far from the present path to look
    passes = ((n_frames // 6, reach), (n_frames // 12, reach), (1, reach), (1, 6.0), (0, 5.0))
    for width, look in (*passes, (0, 3.0)):
        turned = list(pool.map(_turned, white, path, *_repeat((ky, kx), n_frames)))
        total = np.sum(turned, axis=0)
        weight = _weights(total, turned, shell) if width == 0 else smooth
        targets = [(total - own) * weight for own in turned]
        maps = _average(
            np.stack(
                list(pool.map(_correlation, white, targets, *_repeat((shape, reach), n_frames)))
            ),
            width,
        )
        path = np.stack([_peak(maps[f], reach, path[f], look) for f in range(n_frames)])
        path -= path.mean(axis=0) if look == reach else 0.0
    return np.asarray(path - path[0])


def _repeat(values: tuple[Any, ...], count: int) -> list[list[Any]]:
    return [[value] * count for value in values]


def _correlation(spectrum: Complex, target: Complex, shape: tuple[int, int], reach: int) -> Double:
    """Correlate a frame with a target, for displacements to `reach` pixels either way."""
    found = scipy.fft.irfft2(spectrum * target.conj(), s=shape)
    near = np.arange(-reach, reach + 1)
    return np.asarray(found[near[:, None], near[None]], dtype=np.float64)


def _whitened(
    spectra: Sequence[Complex], shell: NDArray[np.int64], keep: NDArray[np.bool_]
) -> list[Complex]:
    power = np.zeros(shell.shape)
    for spectrum in spectra:
        power += spectrum.real**2 + spectrum.imag**2
    count = np.bincount(shell.ravel())
    mean = np.bincount(shell.ravel(), power.ravel()) / np.maximum(count, 1) / len(spectra)
    factor = np.where(keep, 1.0 / np.sqrt(mean[shell] + 1e-30), 0.0).astype(np.float32)
    return [spectrum * factor for spectrum in spectra]


def _turned(spectrum: Complex, displacement: Double, ky: Double, kx: Double) -> Complex:
    along_y = np.exp(2j * np.pi * displacement[1] * ky).astype(np.complex64)
    along_x = np.exp(2j * np.pi * displacement[0] * kx).astype(np.complex64)
    turned: Complex = spectrum * along_y * along_x
    return turned


def _weights(
    total: Complex, turned: Sequence[Complex], shell: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Weights from how much more power the sum has than whitened frames, shell by shell."""
    n = len(turned)
    count = np.maximum(np.bincount(shell.ravel()), 1)
    together = np.bincount(shell.ravel(), (total.real**2 + total.imag**2).ravel()) / count
    signal = np.maximum((together - n) / max(1, n * (n - 1)), 0.0)
    noise = np.maximum(1.0 - signal, 1e-3)
    by_shell = signal / (noise * (noise + n * signal))
    return np.asarray(by_shell[shell], dtype=np.float32)


def _average(maps: Double, width: int) -> Double:
    """Average over frames with a triangle that reaches `width` frames to either side."""
    if width == 0 or len(maps) < 3:
        return maps
    distance = np.abs(np.arange(len(maps))[:, None] - np.arange(len(maps))[None])
    kernel = np.maximum(0.0, 1.0 - distance / (width + 1.0))
    kernel /= kernel.sum(axis=1, keepdims=True)
    return np.asarray(np.tensordot(kernel, maps, axes=(1, 0)))


def _peak(found: Double, reach: int, near: Double, look: float) -> Double:
    """Highest point of a map about a place, between pixels by parabolas."""
    y, x = np.indices(found.shape) - reach
    centre = near if look < reach else np.zeros(2)
    inside = np.hypot(x - centre[0], y - centre[1]) <= look
    if not inside.any():
        return near
    row, column = np.unravel_index(np.argmax(np.where(inside, found, -np.inf)), found.shape)
    place = np.array([column, row], dtype=np.float64)
    for axis, line in enumerate((found[row], found[:, column])):
        at = (column, row)[axis]
        if 0 < at < len(line) - 1:
            before, here, after = line[at - 1 : at + 2]
            bend = before - 2.0 * here + after
            if bend < 0:
                place[axis] += np.clip(0.5 * (before - after) / bend, -0.5, 0.5)
    return np.asarray(place - reach)
