"""Cut band-limited frames into patches and keep their transforms."""

import math
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.fft
from numpy.typing import NDArray

from verglas.algorithms.motion._numba_likelihood import frame_powers

__all__ = ["PatchGrid", "PatchSpectra", "cut_patches", "plan_patches"]

Real = NDArray[np.float32]
Double = NDArray[np.float64]

_LOWEST = 1.5  # cycles per patch: below, patches differ by their background
_LEAST_COMMON = 0.7  # of a side; where frames share less, patches reach beyond their borders
_PATCH_SIZES = (32, 36, 40, 48, 54, 60, 64, 72, 80, 90, 96, 108, 120, 128, 144, 160, 180, 192, 216,
                240, 256)  # fmt: skip


@dataclass(frozen=True)
class PatchGrid:
    """Where patches lie in the reference.

    Attributes:
        size: pixels along a side.
        first_x, first_y: `[p]`, first pixels, in the pixels of the band-limited frame.
        n_even: patches 0 to `n_even - 1` are the black fields of a chess board, the others
            the white ones.
    """

    size: int
    first_x: NDArray[np.int64]
    first_y: NDArray[np.int64]
    n_even: int

    def __len__(self) -> int:
        return len(self.first_x)

    @property
    def centre_x(self) -> Double:
        """`[p]`, in pixels of the band-limited frame."""
        return np.asarray(self.first_x + self.size / 2 - 0.5)

    @property
    def centre_y(self) -> Double:
        """`[p]`, in pixels of the band-limited frame."""
        return np.asarray(self.first_y + self.size / 2 - 0.5)

    def unshared(self) -> float:
        """Pixels that the patches cover, over the sum of their sizes: overlaps tell nothing new."""
        width, height = int(self.first_x.max()) + self.size, int(self.first_y.max()) + self.size
        covered = np.zeros((height, width), bool)
        for x, y in zip(self.first_x, self.first_y, strict=True):
            covered[y : y + self.size, x : x + self.size] = True
        return float(covered.sum()) / (len(self) * self.size**2)


def plan_patches(shape: tuple[int, int], wanted: float, path_px: Double) -> PatchGrid:
    """Cover what all frames show with square patches that touch or overlap a little.

    Args:
        shape: of the band-limited frame.
        wanted: size of a patch in its pixels.
        path_px: `[f, 2]`, x and y displacement of the whole frame.
    """
    possible = [n for n in _PATCH_SIZES if n <= min(shape)] or [2 * (min(shape) // 2)]
    size = min(possible, key=lambda n: abs(math.log(n / wanted)))
    starts = []
    for length, moves in zip(shape, np.rint(path_px.T[::-1]), strict=True):
        low, high = max(0.0, -float(moves.min())), length - max(0.0, float(moves.max()))
        if high - low < max(size, _LEAST_COMMON * length):
            low, high = 0.0, float(length)
        count = max(1, math.ceil((high - low - 0.1 * size) / size))
        starts.append(np.rint(np.linspace(low, high - size, count)).astype(np.int64))
    iy, ix = (axis.ravel() for axis in np.indices((len(starts[0]), len(starts[1]))))
    order = np.argsort((ix + iy) % 2, kind="stable")
    return PatchGrid(
        size,
        starts[1][ix[order]],
        starts[0][iy[order]],
        int(((ix + iy) % 2 == 0).sum()),
    )


@dataclass(frozen=True)
class PatchSpectra:
    """Transforms of patches in all frames.

    Attributes:
        grid: of the patches.
        re, im: `[p, f, r, c]`; rows of frequencies 0 to `(r - 1) / 2` and their negatives.
        start: `[p, f, 2]`, x and y: displacement at which each patch was cut, in pixels.
        own: `[p, r, c]`, power, summed over frames.
    """

    grid: PatchGrid
    re: Real
    im: Real
    start: Double
    own: Double

    @property
    def n_frames(self) -> int:
        """Frames."""
        return int(self.re.shape[1])

    @cached_property
    def ends(self) -> NDArray[np.int32]:
        """`[r]`, columns of each row within the highest frequency that is kept."""
        reach = self.re.shape[3] - 1
        return np.asarray((self.radius <= reach).sum(axis=1), dtype=np.int32)

    @cached_property
    def shell(self) -> NDArray[np.int64]:
        """`[r, c]`, the nearest whole frequency in cycles per patch."""
        return np.rint(self.radius).astype(np.int64)

    @cached_property
    def multiplicity(self) -> Double:
        """`[r, c]`, 1 for a coefficient that counts, a half where its conjugate is there too.

        It is 0 where a coefficient does not count.
        """
        reach = self.re.shape[3] - 1
        counts = ((self.radius >= _LOWEST) & (self.radius <= reach)).astype(np.float64)
        counts[:, 0] *= 0.5
        return np.asarray(counts)

    @cached_property
    def own_by_shell(self) -> Double:
        """`[p, shells]`, power that counts, summed over frames and shells."""
        flat, shell = (self.own * self.multiplicity).reshape(len(self.grid), -1), self.shell.ravel()
        return np.stack([np.bincount(shell, line) for line in flat])

    @cached_property
    def radius(self) -> Double:
        """`[r, c]`, frequency of the coefficients in cycles per patch."""
        reach = (self.re.shape[2] - 1) // 2
        rows = np.concatenate([np.arange(reach + 1), np.arange(-reach, 0)])
        return np.asarray(np.hypot(rows[:, None], np.arange(self.re.shape[3])[None]))


def cut_patches(
    frames: Sequence[Real], grid: PatchGrid, path_px: Double, reach: int, pool: Executor
) -> PatchSpectra:
    """Cut patches where features of the reference lie in each frame, to a whole pixel.

    At the border of a frame a patch is cut as near as possible.

    Args:
        frames: `[f]` of `[h, w]`, band-limited.
        grid: of the patches.
        path_px: `[f, 2]`, displacement of the whole frame.
        reach: highest frequency that is kept, in cycles per patch, below half its size.
        pool: for threads.
    """
    shape = (len(grid), len(frames), 2 * reach + 1, reach + 1)
    re, im = np.empty(shape, np.float32), np.empty(shape, np.float32)
    start = np.empty((len(grid), len(frames), 2))
    window = _edge_window(grid.size)

    def cut(f: int) -> None:
        frame = frames[f]
        begin = np.stack([grid.first_x, grid.first_y], axis=1)
        moved = begin + np.rint(path_px[f]).astype(np.int64)
        moved = np.clip(moved, 0, np.array(frame.shape[::-1]) - grid.size)
        start[:, f] = moved - begin
        patches = np.empty((len(grid), grid.size, grid.size), np.float32)
        for p, (x, y) in enumerate(moved):
            patches[p] = frame[y : y + grid.size, x : x + grid.size]
        patches -= patches.mean(axis=(1, 2), keepdims=True)
        patches *= window
        ft = scipy.fft.fft(scipy.fft.rfft(patches, axis=2)[:, :, : reach + 1], axis=1)
        re[:, f, : reach + 1], im[:, f, : reach + 1] = (
            ft[:, : reach + 1].real,
            ft[:, : reach + 1].imag,
        )
        re[:, f, reach + 1 :], im[:, f, reach + 1 :] = ft[:, -reach:].real, ft[:, -reach:].imag

    list(pool.map(cut, range(len(frames))))
    own = np.empty((shape[0], *shape[2:]), np.float32)
    frame_powers(re, im, own)
    return PatchSpectra(grid, re, im, start, own.astype(np.float64))


def _edge_window(size: int) -> Real:
    """Fade the outermost pixels, so that opposite edges do not make a cross of power."""
    edge = max(2, size // 16)
    side = np.ones(size)
    ramp = np.sin(0.5 * math.pi * (np.arange(edge) + 0.5) / edge) ** 2
    side[:edge], side[-edge:] = ramp, ramp[::-1]
    return np.asarray(side[:, None] * side[None], dtype=np.float32)
