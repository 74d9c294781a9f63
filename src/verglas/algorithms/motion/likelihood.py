"""Fit the motion field to patches by maximum likelihood, weights included.

Signal and noise are taken as Gaussian, independent from one Fourier coefficient to the next;
the signal is the same in every frame but for its motion and the fading by dose. Then the
likelihood of a motion is the power of the turned-back and added frames, weighted by
`S / (N (N + F S))`, and signal S and noise N follow from the same sums, shell by shell. While
frames are not aligned S is small where it oscillates, so that fits go from coarse to fine alone.
"""

import logging
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.motion._numba_likelihood import compare_frames
from verglas.algorithms.motion.field import MotionOrder, space_basis, time_basis
from verglas.algorithms.motion.patches import PatchSpectra
from verglas.algorithms.motion.posterior import Parabola
from verglas.algorithms.motion.spectra import (
    Evidence,
    Spectra,
    blank_spectra,
    measure_spectra,
)

__all__ = [
    "Fit",
    "add_fading_signal",
    "evaluate",
    "fit_path",
    "look",
    "moved_px",
    "patch_basis",
    "shortened",
    "start_fit",
]

log = logging.getLogger(__name__)

Double = NDArray[np.float64]
Real = NDArray[np.float32]

_LEAST_NEAR_SHARE = 0.15
_LONGEST_STEP_PX = 3.0


@dataclass(frozen=True)
class Fit:
    """A fitted motion, in pixels of the band-limited frames.

    Attributes:
        order: of the local part.
        path_px: `[f, 2]`, of the whole frame.
        coefficients_px: `[m, n_t - 1, 2]`.
        space: `[p, m]`, splines at the patches, less their mean.
        spectra: of the last iteration.
        sides: the likelihood of the black and of the white patches about the last motion.
    """

    order: MotionOrder
    path_px: Double
    coefficients_px: Double
    space: Double
    spectra: Spectra | None = None
    sides: tuple[Parabola, Parabola] | None = None

    def time(self) -> Double:
        """Splines at the frames."""
        n_frames = len(self.path_px)
        return (
            time_basis(n_frames, self.order.n_t) if self.order.is_local else np.zeros((n_frames, 0))
        )

    def displacement(self) -> Double:
        """`[p, f, 2]` at the patches."""
        n_time = self.coefficients_px.shape[1]
        flat = self.coefficients_px.reshape(self.space.shape[1], 2 * n_time)
        local = self.time() @ (self.space @ flat).reshape(len(self.space), n_time, 2)
        return np.asarray(self.path_px + local)

    def parameters(self) -> Double:
        """`[n, 2]`: frames 1 and on, then coefficients."""
        return np.concatenate([self.path_px[1:], self.coefficients_px.reshape(-1, 2)])

    def with_parameters(self, parameters: Double) -> "Fit":
        """The same with another motion."""
        path = np.zeros_like(self.path_px)
        path[1:] = parameters[: len(path) - 1]
        local = parameters[len(path) - 1 :].reshape(self.coefficients_px.shape)
        return replace(self, path_px=path, coefficients_px=local)

    @property
    def parabola(self) -> Parabola:
        """The likelihood of all patches about the last motion."""
        if self.sides is None:
            raise ValueError("the motion must be fitted before its likelihood is known")
        one, other = self.sides
        return Parabola(one.curvature + other.curvature, one.pull + other.pull, one.n_path)


def patch_basis(
    patches: PatchSpectra, shape: tuple[int, int], order: MotionOrder
) -> tuple[Double, Double]:
    """Splines at the patches, less their mean, and this mean: `[p, m]`, `[m]`."""
    if not order.is_local:
        return np.zeros((len(patches.grid), 0)), np.zeros(0)
    space = space_basis(
        patches.grid.centre_x / (shape[1] - 1), patches.grid.centre_y / (shape[0] - 1), order
    )
    mean = space.mean(axis=0)
    return space - mean, mean


def start_fit(
    patches: PatchSpectra,
    shape: tuple[int, int],
    order: MotionOrder,
    path_px: Double,
    spectra: Spectra | None = None,
) -> Fit:
    """Begin a fit with a known path of the whole frame and no local motion.

    Args:
        patches: of the movie.
        shape: of the band-limited frame.
        order: of the local motion.
        path_px: `[f, 2]`, 0 at the first frame.
        spectra: for the first iteration; None measures them.
    """
    space, _ = patch_basis(patches, shape, order)
    n_time = max(0, order.n_t - 1) if order.is_local else 0
    return Fit(order, path_px, np.zeros((space.shape[1], n_time, 2)), space, spectra)


def evaluate(
    patches: PatchSpectra,
    displacement: Double,
    spectra: Spectra,
    pool: Executor,
    threads: int,
) -> Evidence:
    """Compare frames under a motion.

    Args:
        patches: of the movie.
        displacement: `[p, f, 2]` of all patches, in pixels.
        spectra: known so far.
        pool: for threads.
        threads: how many parts to make.
    """
    count, n_frames = len(patches.grid), patches.n_frames
    gradient = np.empty((count, n_frames, 2))
    power, near_power = np.zeros((2, count, spectra.weight_by_shell.shape[1]))
    counts, shell = patches.multiplicity.astype(np.float32), patches.shell.astype(np.int32)
    left = displacement - patches.start
    bounds = np.linspace(0, count, threads + 1).astype(int)
    has_near = bool(spectra.memory.any())

    def part(i: int) -> None:
        a, b = bounds[i], bounds[i + 1]
        compare_frames(
            patches.re[a:b], patches.im[a:b], left[a:b], spectra.weight[a:b], spectra.near_weight,
            spectra.memory, has_near, patches.ends, counts, shell, patches.grid.size,
            gradient[a:b], power[a:b], near_power[a:b],
        )  # fmt: skip

    list(pool.map(part, range(threads)))
    loglik = (spectra.weight_by_shell * power).sum(axis=1)
    if has_near:
        loglik += near_power @ spectra.near_weight_by_shell
    alone = patches.own_by_shell
    return Evidence(loglik, gradient, power - alone, near_power - alone)


def add_fading_signal(
    patches: PatchSpectra, fit: Fit, memory: Double, pool: Executor, threads: int
) -> Fit:
    """Let a fit use signal that fades from frame to frame, where there is enough of it.

    Args:
        patches: of the movie.
        fit: without such signal.
        memory: `[shells]`, how much of the signal is in the next frame.
        pool: for threads.
        threads: how many parts to make.
    """
    blank = blank_spectra(patches, memory)
    evidence = evaluate(patches, fit.displacement(), blank, pool, threads)
    spectra = measure_spectra(patches, evidence, blank)
    if spectra.near_share < _LEAST_NEAR_SHARE:
        return fit
    log.debug("%.0f %% of the likelihood is of fading signal", 100 * spectra.near_share)
    return fit_path(patches, replace(fit, spectra=spectra), pool, threads)


def fit_path(
    patches: PatchSpectra,
    fit: Fit,
    pool: Executor,
    threads: int,
    *,
    max_iterations: int = 12,
    done_px: float = 0.01,
) -> Fit:
    """Improve the path of the whole frame, of which nothing is expected.

    Args:
        patches: of the movie.
        fit: to start from.
        pool: for threads.
        threads: how many parts to make.
        max_iterations: at most so many passes.
        done_px: a smaller step ends them.
    """
    for _ in range(max_iterations):
        fit = look(patches, fit, pool, threads)
        curvature = fit.parabola.curvature
        ridge = 1e-9 * float(np.trace(curvature)) / len(curvature) + 1e-12
        matrix = curvature + ridge * np.eye(len(curvature))
        solved = np.asarray(np.linalg.solve(matrix, fit.parabola.pull))
        before, fit = fit, shortened(fit, solved)
        if moved_px(before, fit) < done_px:
            break
    return fit


def look(
    patches: PatchSpectra,
    fit: Fit,
    pool: Executor,
    threads: int,
    unsure_px: Double | None = None,
) -> Fit:
    """Measure spectra and the likelihood about a motion; `unsure_px` as in `measure_spectra`."""
    spectra, displacement = fit.spectra, fit.displacement()
    if spectra is None or not spectra.coupling.any():
        spectra = blank_spectra(patches) if spectra is None else spectra
        evidence = evaluate(patches, displacement, spectra, pool, threads)
        spectra = measure_spectra(patches, evidence, spectra, unsure_px=unsure_px)
    evidence = evaluate(patches, displacement, spectra, pool, threads)
    spectra = measure_spectra(patches, evidence, spectra, unsure_px=unsure_px)
    half, share = patches.grid.n_even, patches.grid.unshared()
    one, other = (
        _parabola(fit, spectra, evidence, chosen, share)
        for chosen in (slice(0, half), slice(half, None))
    )
    return replace(fit, spectra=spectra, sides=(one, other))


def shortened(fit: Fit, parameters: Double) -> Fit:
    """Go to other parameters, but no patch farther than is safe."""
    there = fit.with_parameters(parameters)
    far = float(np.abs(there.displacement() - fit.displacement()).max())
    if far <= _LONGEST_STEP_PX:
        return there
    start = fit.parameters()
    return fit.with_parameters(start + (_LONGEST_STEP_PX / far) * (parameters - start))


def moved_px(before: Fit, after: Fit) -> float:
    """Root mean square distance of two motions."""
    moved = after.displacement() - before.displacement()
    return float(np.sqrt((moved**2).sum(axis=2).mean()))


def _parabola(
    fit: Fit, spectra: Spectra, evidence: Evidence, chosen: slice, share: float
) -> Parabola:
    """The likelihood of some patches about a motion, with the expected curvature.

    Patches that hold more signal than others bend it more; `share` of what they tell is told
    once only.
    """
    space, time = fit.space[chosen], fit.time()
    gradient = evidence.gradient[chosen]
    n_path, n_local = len(fit.path_px) - 1, space.shape[1] * time.shape[1]
    matrix = np.zeros((n_path + n_local, n_path + n_local))
    for strength, coupling in (
        (spectra.information[chosen], spectra.coupling),
        (np.ones(len(space)), spectra.near_coupling),
    ):
        matrix[:n_path, :n_path] += strength.sum() * coupling[1:, 1:]
        matrix[:n_path, n_path:] += np.kron(strength @ space, (coupling @ time)[1:])
        matrix[n_path:, n_path:] += np.kron(
            (space * strength[:, None]).T @ space, time.T @ coupling @ time
        )
    matrix[n_path:, :n_path] = matrix[:n_path, n_path:].T
    local = np.einsum("pm,ft,pfc->mtc", space, time, gradient, optimize=True)
    slope = np.concatenate([gradient.sum(axis=0)[1:], local.reshape(n_local, 2)])
    return Parabola(share * matrix, share * (matrix @ fit.parameters() + slope), n_path)
