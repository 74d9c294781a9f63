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
from scipy.linalg import cho_factor, cho_solve

from verglas.algorithms.motion._numba_likelihood import compare_frames
from verglas.algorithms.motion.field import MotionOrder, space_basis, time_basis
from verglas.algorithms.motion.patches import PatchSpectra

__all__ = ["Evidence", "Fit", "Spectra", "evaluate", "fit_motion", "patch_basis", "start_fit"]

log = logging.getLogger(__name__)

Double = NDArray[np.float64]

_LOWEST = 1.5  # cycles per patch: below, patches differ by their background
_LOCAL_SPREAD_PX = 20.0  # prior of a control point
_SHELL_SMOOTHING = np.array([0.25, 0.5, 0.25])


@dataclass(frozen=True)
class Spectra:
    """What is known of signal and noise.

    Attributes:
        signal, noise: `[shells]`, power of a coefficient in one frame.
        weight: `[r, c]`, of the power of the sum in the likelihood.
        multiplicity: `[r, c]`, 1 for a coefficient that counts, a half where its conjugate is
            there too, 0 where it does not count.
    """

    signal: Double
    noise: Double
    weight: NDArray[np.float32]
    multiplicity: Double


@dataclass(frozen=True)
class Evidence:
    """What one pass over the patches gives.

    Attributes:
        loglik: `[p]`.
        gradient: `[p, f, 2]`, by displacement in pixels.
        curvature: `[p]`, of the likelihood by the difference of two frames.
        power: `[r, c]`, of the sums of frames, summed over patches.
    """

    loglik: Double
    gradient: Double
    curvature: Double
    power: Double


@dataclass(frozen=True)
class Fit:
    """A fitted motion, in pixels of the band-limited frames.

    Attributes:
        order: of the local part.
        path_px: `[f, 2]`, of the whole frame.
        coefficients_px: `[m, n_t - 1, 2]`.
        space: `[p, m]`, splines at the patches, less their mean.
        curvature: of the likelihood by the parameters of one axis: frames 1 and on, then
            coefficients.
        spectra: of the last iteration.
        roughness: `[f - 1, f - 1]`, precision of a prior of the path of frames 1 and on.
    """

    order: MotionOrder
    path_px: Double
    coefficients_px: Double
    space: Double
    curvature: Double
    spectra: Spectra | None = None
    roughness: Double | None = None

    def displacement(self) -> Double:
        """`[p, f, 2]` at the patches."""
        time = time_basis(len(self.path_px), self.order.n_t) if self.order.is_local else None
        whole = np.repeat(self.path_px[None], len(self.space), axis=0)
        if time is None:
            return whole
        return np.asarray(
            whole + np.einsum("pm,ft,mtc->pfc", self.space, time, self.coefficients_px)
        )


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
    roughness: Double | None = None,
) -> Fit:
    """Begin a fit with a known path of the whole frame and no local motion.

    Args:
        patches: of the movie.
        shape: of the band-limited frame.
        order: of the local motion.
        path_px: `[f, 2]`, 0 at the first frame.
        spectra: for the first iteration; None measures them.
        roughness: prior of the path.
    """
    space, _ = patch_basis(patches, shape, order)
    n_time = max(0, order.n_t - 1) if order.is_local else 0
    n = len(path_px) - 1 + space.shape[1] * n_time
    empty = np.zeros((space.shape[1], n_time, 2))
    return Fit(order, path_px, empty, space, np.zeros((n, n)), spectra, roughness)


def evaluate(
    patches: PatchSpectra,
    displacement: Double,
    weight: NDArray[np.float32],
    chosen: slice,
    pool: Executor,
    threads: int,
) -> Evidence:
    """Compare frames under a motion.

    Args:
        patches: of the movie.
        displacement: `[p, f, 2]` of all patches, in pixels.
        weight: `[r, c]`.
        chosen: patches that take part.
        pool: for threads.
        threads: how many parts to make.
    """
    first, last, _ = chosen.indices(len(patches.grid))
    count, n_frames = last - first, patches.n_frames
    loglik, curved = np.empty(count), np.empty(count)
    gradient = np.empty((count, n_frames, 2))
    power = np.zeros((threads, *weight.shape))
    left = displacement - patches.start
    bounds = np.linspace(first, last, threads + 1).astype(int)

    def part(i: int) -> None:
        a, b = bounds[i], bounds[i + 1]
        own = slice(a - first, b - first)
        compare_frames(
            patches.re[a:b], patches.im[a:b], left[a:b], weight, patches.ends, patches.grid.size,
            loglik[own], gradient[own], curved[own], power[i],
        )  # fmt: skip

    list(pool.map(part, range(threads)))
    radians2 = 0.5 * (2.0 * np.pi / patches.grid.size * patches.radius) ** 2
    alone = np.einsum("prc,rc->p", patches.own[first:last], weight * radians2)
    pairs = max(1, n_frames * (n_frames - 1))
    return Evidence(loglik, gradient, 2.0 * (curved - alone) / pairs, power.sum(axis=0))


def measure_spectra(patches: PatchSpectra, power: Double, chosen: slice) -> Spectra:
    """Separate signal and noise by how much more power the sum has than its frames.

    Args:
        patches: of the movie.
        power: `[r, c]`, of the sums of frames over the chosen patches.
        chosen: patches.
    """
    n_frames = patches.n_frames
    shell = np.rint(patches.radius).astype(int)
    n_shells = int(shell.max()) + 1
    own = patches.own[chosen]
    count = np.bincount(shell.ravel(), minlength=n_shells) * max(1, len(own))
    alone = np.bincount(shell.ravel(), own.sum(axis=0).ravel(), n_shells) / count
    together = np.bincount(shell.ravel(), power.ravel(), n_shells) / count
    pairs = max(1, n_frames * (n_frames - 1))
    signal = np.convolve(np.pad((together - alone) / pairs, 1, "edge"), _SHELL_SMOOTHING, "valid")
    mean = alone / n_frames
    spread = mean * np.sqrt(2.0 / pairs / count)
    signal = np.where(signal > spread, signal, 0.0)
    noise = np.maximum(mean - signal, 1e-3 * mean + 1e-30)
    by_shell = signal / (noise * (noise + n_frames * signal))
    reach = patches.re.shape[3] - 1
    multiplicity = ((patches.radius >= _LOWEST) & (patches.radius <= reach)).astype(np.float64)
    multiplicity[:, 0] *= 0.5
    weight = (by_shell[shell] * multiplicity).astype(np.float32)
    return Spectra(signal, noise, weight, multiplicity)


def fit_motion(
    patches: PatchSpectra,
    fit: Fit,
    chosen: slice,
    pool: Executor,
    threads: int,
    *,
    max_iterations: int = 12,
    done_px: float = 0.01,
) -> Fit:
    """Improve a motion by Newton steps with the expected curvature.

    Args:
        patches: of the movie.
        fit: to start from.
        chosen: patches that take part.
        pool: for threads.
        threads: how many parts to make.
        max_iterations: at most so many passes.
        done_px: a smaller step ends them.
    """
    spectra = fit.spectra
    for _ in range(max_iterations):
        displacement = fit.displacement()
        if spectra is None:
            flat = np.zeros(patches.re.shape[2:], np.float32)
            spectra = measure_spectra(
                patches, evaluate(patches, displacement, flat, chosen, pool, threads).power, chosen
            )
        evidence = evaluate(patches, displacement, spectra.weight, chosen, pool, threads)
        spectra = measure_spectra(patches, evidence.power, chosen)
        step = _newton_step(fit, evidence, chosen)
        fit = replace(
            fit,
            path_px=fit.path_px + step.path_px,
            coefficients_px=fit.coefficients_px + step.coefficients_px,
            curvature=step.curvature,
            spectra=spectra,
        )
        moved = step.displacement()
        if float(np.sqrt((moved**2).sum(axis=2).mean())) < done_px:
            break
    return fit


def _newton_step(fit: Fit, evidence: Evidence, chosen: slice) -> Fit:
    """Solve for the change of all parameters; both axes have the same curvature."""
    n_frames = len(fit.path_px)
    space = fit.space[chosen]
    typical = max(float(evidence.curvature.mean()), 1e-12)
    curvature = np.maximum(evidence.curvature, 0.2 * typical)
    coupling = n_frames * np.eye(n_frames) - 1.0
    path = coupling[1:, 1:] * curvature.sum()
    right = [evidence.gradient.sum(axis=0)[1:]]
    if fit.roughness is not None:
        path = path + fit.roughness
        right[0] = right[0] - fit.roughness @ fit.path_px[1:]
    matrix = path
    if fit.order.is_local:
        time = time_basis(n_frames, fit.order.n_t)
        n_local = space.shape[1] * time.shape[1]
        mixed = np.kron(curvature @ space, (coupling @ time)[1:])
        local = np.kron((space * curvature[:, None]).T @ space, time.T @ coupling @ time)
        local += np.eye(n_local) / _LOCAL_SPREAD_PX**2
        matrix = np.block([[path, mixed], [mixed.T, local]])
        pulled = np.einsum("pm,ft,pfc->mtc", space, time, evidence.gradient).reshape(n_local, 2)
        right.append(pulled - fit.coefficients_px.reshape(n_local, 2) / _LOCAL_SPREAD_PX**2)
    matrix = matrix + 1e-9 * typical * np.eye(len(matrix))
    solved = cho_solve(cho_factor(matrix), np.concatenate(right))
    path_step = np.concatenate([np.zeros((1, 2)), solved[: n_frames - 1]])
    local_step = solved[n_frames - 1 :].reshape(fit.coefficients_px.shape)
    return replace(fit, path_px=path_step, coefficients_px=local_step, curvature=matrix)
