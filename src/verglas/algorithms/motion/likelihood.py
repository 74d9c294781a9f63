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
    "fit_motion",
    "patch_basis",
    "start_fit",
]

log = logging.getLogger(__name__)

Double = NDArray[np.float64]
Real = NDArray[np.float32]

_LOCAL_SPREAD_PX = 3.0  # first guess of how far control points lie from the whole frame
_SPREADS_PX = (0.05, 20.0)
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
        curvature: of the likelihood by the parameters of one axis: frames 1 and on, then
            coefficients.
        spectra: of the last iteration.
        roughness: `[f - 1, f - 1]`, precision of a prior of the path of frames 1 and on.
        spread_px: prior of the coefficients, learnt from themselves: where nothing tells of the
            motion, a place moves with the whole frame.
        n_free: coefficients of one axis that the data determine, rather than the prior.
    """

    order: MotionOrder
    path_px: Double
    coefficients_px: Double
    space: Double
    curvature: Double
    spectra: Spectra | None = None
    roughness: Double | None = None
    spread_px: float = _LOCAL_SPREAD_PX
    n_free: float = 0.0

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
    spectra: Spectra,
    chosen: slice,
    pool: Executor,
    threads: int,
) -> Evidence:
    """Compare frames under a motion.

    Args:
        patches: of the movie.
        displacement: `[p, f, 2]` of all patches, in pixels.
        spectra: known so far.
        chosen: patches that take part.
        pool: for threads.
        threads: how many parts to make.
    """
    first, last, _ = chosen.indices(len(patches.grid))
    count, n_frames = last - first, patches.n_frames
    lasting, loglik = np.empty(count), np.empty(count)
    gradient = np.empty((count, n_frames, 2))
    powers = np.zeros((2, threads, *spectra.memory.shape))
    left = displacement - patches.start
    bounds = np.linspace(first, last, threads + 1).astype(int)
    has_near = bool(spectra.memory.any())

    def part(i: int) -> None:
        a, b = bounds[i], bounds[i + 1]
        own = slice(a - first, b - first)
        compare_frames(
            patches.re[a:b], patches.im[a:b], left[a:b], spectra.weight[a:b], spectra.near_weight,
            spectra.memory, has_near, patches.ends, patches.grid.size,
            lasting[own], loglik[own], gradient[own], powers[0, i], powers[1, i],
        )  # fmt: skip

    list(pool.map(part, range(threads)))
    alone = (patches.own_by_shell[first:last] * spectra.weight_by_shell[first:last]).sum(axis=1)
    power, near_power = powers.sum(axis=1)
    return Evidence(loglik, gradient, lasting - alone, power, near_power)


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
    every = slice(None)
    blank = blank_spectra(patches, memory)
    evidence = evaluate(patches, fit.displacement(), blank, every, pool, threads)
    spectra = measure_spectra(patches, evidence, blank, every)
    if spectra.near_share < _LEAST_NEAR_SHARE:
        return fit
    log.debug("%.0f %% of the likelihood is of fading signal", 100 * spectra.near_share)
    return fit_motion(patches, replace(fit, spectra=spectra), every, pool, threads)


def fit_motion(
    patches: PatchSpectra,
    fit: Fit,
    chosen: slice,
    pool: Executor,
    threads: int,
    *,
    max_iterations: int = 12,
    done_px: float = 0.01,
    holds_path: bool = False,
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
        holds_path: leave the path of the whole frame as it is.
    """
    spectra = fit.spectra
    for _ in range(max_iterations):
        displacement = fit.displacement()
        if spectra is None or not spectra.coupling.any():
            spectra = blank_spectra(patches) if spectra is None else spectra
            evidence = evaluate(patches, displacement, spectra, chosen, pool, threads)
            spectra = measure_spectra(patches, evidence, spectra, chosen)
        evidence = evaluate(patches, displacement, spectra, chosen, pool, threads)
        spectra = measure_spectra(patches, evidence, spectra, chosen)
        step = _newton_step(replace(fit, spectra=spectra), evidence, chosen, holds_path=holds_path)
        far = float(np.abs(step.displacement()).max())
        if far > _LONGEST_STEP_PX:
            short = _LONGEST_STEP_PX / far
            step = replace(
                step, path_px=short * step.path_px, coefficients_px=short * step.coefficients_px
            )
        fit = replace(
            fit,
            path_px=fit.path_px + step.path_px,
            coefficients_px=fit.coefficients_px + step.coefficients_px,
            curvature=step.curvature,
            spectra=spectra,
        )
        fit = _with_spread(fit)
        moved = step.displacement()
        if float(np.sqrt((moved**2).sum(axis=2).mean())) < done_px:
            break
    return fit


def _with_spread(fit: Fit) -> Fit:
    """Learn how far control points lie from the whole frame, as they do after a step.

    References: MacKay 1992, doi:10.1162/neco.1992.4.3.415 (evidence for a prior's width).
    """
    n_local = fit.coefficients_px.shape[0] * fit.coefficients_px.shape[1]
    if not n_local:
        return fit
    variance = np.diag(np.linalg.inv(fit.curvature))[-n_local:]
    n_free = n_local - float(variance.sum()) / fit.spread_px**2
    square = float((fit.coefficients_px**2).sum()) / 2.0 + float(variance.sum())
    spread = float(np.clip(np.sqrt(square / n_local), *_SPREADS_PX))
    return replace(fit, spread_px=spread, n_free=n_free)


def _newton_step(fit: Fit, evidence: Evidence, chosen: slice, *, holds_path: bool) -> Fit:
    """Solve for the change of all parameters; both axes have the same curvature."""
    if fit.spectra is None:
        raise ValueError("spectra must be measured before a step")
    n_frames = len(fit.path_px)
    space = fit.space[chosen]
    # patches that hold more signal than others bend the likelihood more
    parts = (
        (fit.spectra.information[chosen], fit.spectra.coupling),
        (np.ones(len(space)), fit.spectra.near_coupling),
    )
    path = sum((share.sum() * coupling[1:, 1:] for share, coupling in parts), np.zeros(()))
    right = [evidence.gradient.sum(axis=0)[1:]]
    if fit.roughness is not None:
        path = path + fit.roughness
        right[0] = right[0] - fit.roughness @ fit.path_px[1:]
    matrix = path
    if fit.order.is_local:
        time = time_basis(n_frames, fit.order.n_t)
        n_local = space.shape[1] * time.shape[1]
        local = np.eye(n_local) / fit.spread_px**2
        mixed = np.zeros((n_frames - 1, n_local))
        for share, coupling in parts:
            mixed += np.kron(share @ space, (coupling @ time)[1:])
            local += np.kron((space * share[:, None]).T @ space, time.T @ coupling @ time)
        matrix = np.block([[path, mixed], [mixed.T, local]])
        pulled = np.einsum("pm,ft,pfc->mtc", space, time, evidence.gradient).reshape(n_local, 2)
        right.append(pulled - fit.coefficients_px.reshape(n_local, 2) / fit.spread_px**2)
    if holds_path:
        matrix, right = matrix[n_frames - 1 :, n_frames - 1 :], [np.zeros((0, 2)), *right[1:]]
    matrix = matrix + (1e-9 * float(np.trace(matrix)) / len(matrix) + 1e-12) * np.eye(len(matrix))
    solved = cho_solve(cho_factor(matrix), np.concatenate(right))
    path_step = np.zeros((n_frames, 2))
    if not holds_path:
        path_step[1:], solved = solved[: n_frames - 1], solved[n_frames - 1 :]
    local_step = solved.reshape(fit.coefficients_px.shape)
    return replace(fit, path_px=path_step, coefficients_px=local_step, curvature=matrix)
