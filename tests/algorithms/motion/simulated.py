"""Movies of a structured field that moves, with counting noise, and what is true of them."""

from dataclasses import dataclass

import numpy as np
import scipy.fft
from scipy.ndimage import map_coordinates, spline_filter

PAD = 24


@dataclass
class ArrayMovie:
    """Frames in memory."""

    frames: np.ndarray

    @property
    def n_frames(self):
        return len(self.frames)

    @property
    def shape(self):
        return self.frames.shape[1:]

    def frame(self, index):
        return self.frames[index].copy()


def scene(size, rng, contrast):
    """Field of unit mean, twice as fine, with power to 0.8 of Nyquist, mostly at low frequency."""
    n = size + 2 * PAD
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None])
    envelope = np.exp(-4.0 * k**2) * (k < 0.4) * (1.0 + 3.0 / (1.0 + (k * 40.0) ** 2))
    ft = scipy.fft.rfft2(rng.normal(size=(n, n))) * envelope
    ft[0, 0] = 0.0
    still = scipy.fft.irfft2(ft, s=(n, n))
    ft *= contrast / still.std()
    fine = np.zeros((2 * n, n + 1), complex)
    fine[: n // 2, : n // 2 + 1], fine[-n // 2 :, : n // 2 + 1] = ft[: n // 2], ft[-n // 2 :]
    return scipy.fft.irfft2(fine, s=(2 * n, 2 * n)) * 4.0


def moving_movie(size, path, *, local=None, counts=1.44, contrast=0.1, seed=0, gain=1.0, film=0.0):
    """Make a movie whose features lie at p + path[f] + local(u, v, f) in frame f.

    `local` gets places from -0.5 to 0.5 and returns x and y displacements in pixels. `film`
    is the contrast of a dark film with a wavy edge on the right half.
    """
    rng = np.random.default_rng(seed)
    field = scene(size, rng, contrast)
    if film:
        rows, columns = np.mgrid[: len(field), : len(field)] / len(field) - 0.5
        inside = 1.0 / (1.0 + np.exp(-(columns + 0.05 * np.sin(12.0 * rows)) * 60.0))
        field = field * (1.0 - inside) + inside * (scene(size, rng, film) - 2.0 * film)
    field = spline_filter(field, order=3)
    v, u = np.mgrid[:size, :size] / size - 0.5
    frames = np.empty((len(path), size, size), np.uint8)
    for f, (x, y) in enumerate(path):
        dx, dy = (0.0, 0.0) if local is None else local(u, v, f)
        rows = (np.arange(size)[:, None] - y - dy + PAD) * 2
        columns = (np.arange(size)[None] - x - dx + PAD) * 2
        rows, columns = np.broadcast_arrays(rows, columns)
        image = map_coordinates(field, [rows, columns], order=3, prefilter=False)
        frames[f] = rng.poisson(np.maximum(counts * (1.0 + image) / gain, 0.0))
    return ArrayMovie(frames)


def drift(n_frames, seed, travel=8.0):
    """A path that is fast at first and then slows down, with some jitter, in pixels."""
    rng = np.random.default_rng(seed)
    angle = rng.uniform(0.0, 2.0 * np.pi)
    t = np.arange(n_frames)
    path = travel * (1.0 - np.exp(-t / 4.0))[:, None] * [np.cos(angle), np.sin(angle)]
    path = path + np.cumsum(rng.normal(0.0, 0.1, (n_frames, 2)), axis=0)
    return path - path[0]


def rms(error):
    """Root mean square length of errors `[f, ..., 2]`, free of what is constant in time."""
    free = error - error.mean(axis=0)
    return float(np.sqrt((free**2).sum(axis=-1).mean()))
