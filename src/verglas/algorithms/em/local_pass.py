"""One local pass: climb from known poses to the peaks of a given map's likelihood.

A map from elsewhere has another fall-off than the images. Its amplitude is fitted shell by
shell at the poses that there are; shells without signal come out at zero by themselves, and
those of a low-passed map back at their strength. A second climb then weighs all shells right.
The first goes no farther than most of what the map explains at the poses given: from poses far
off the outer shells would add noise and peaks of their own, at most of the cost.

All is numpy and kept loops: loading torch would take longer than most passes
(docs/decisions/005-reconstruction-without-torch.md). The steps are those of `local`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.em import ascent
from verglas.algorithms.image_tables import Images, Tables, ctf_phases
from verglas.kernels._machine_code import CompiledLoop
from verglas.kernels.disc_list import DiscList
from verglas.kernels.real_fft import rfftn
from verglas.kernels.rotations import turned

__all__ = [
    "Amplitudes",
    "HalfMap",
    "LocalViews",
    "PosePeaks",
    "climb_from",
    "local_views",
    "measure_amplitudes",
    "scaled_shells",
]

Real = NDArray[np.float32]
Double = NDArray[np.float64]
Whole = NDArray[np.int64]

_STRONGEST = 20.0  # times the typical amplitude
_STEPS = 8
_MOST_SIGNAL = 0.95  # of what the map explains; the first climb leaves out the rest

_whiten = CompiledLoop(
    "_numba_views", "whiten", "f4[4] f4[2] f4[3] f4[3] i8[1] f4[2] i4[2] i8[1] f4[2] f4[2] f8[2]"
)
_POSES = "f4[1] i8 i8[1] f4[2] f4[2] f4[3] f8[2] i4[2]"
_normals = CompiledLoop("_numba_views", "normals", f"{_POSES} i8 i8 i8 f4[2] f8[1] f8[2] f8[3]")
_fit_shells = CompiledLoop("_numba_views", "fit_shells", f"{_POSES} i8[1] i8 i8 f4[2] f8[1] f8[1]")


@dataclass(frozen=True)
class Amplitudes:
    """Regression of views on the predictions of a map, summed by shell, all over sigma^2.

    Attributes:
        cross: `[s]`, sum of <CTF P, X>.
        power: `[s]`, sum of |CTF P|^2.
        total: `[s]`, sum of |X|^2.
    """

    cross: Double
    power: Double
    total: Double

    def factors(self) -> Double:
        """Return `[s]`, by which the map's shells are to be multiplied; none is negative."""
        factor = np.maximum(self.cross / np.maximum(self.power, 1e-30), 0.0)
        typical = np.maximum(self.cross, 0.0).sum() / max(self.power.sum(), 1e-30)
        factor = np.minimum(factor, _STRONGEST * typical)
        factor[0] = factor[1]
        return np.asarray(factor)

    def informed_radius(self) -> int:
        """Return the shell up to which most of what the map explains lies."""
        explained = np.maximum(self.cross, 0.0) ** 2 / np.maximum(self.power, 1e-30)
        explained[0] = 0.0
        within = explained.cumsum()
        return max(2, int((within < _MOST_SIGNAL * within[-1]).sum()))

    def noise_share(self) -> Double:
        """Return `[s]`, what the fitted map leaves of the views' power."""
        explained = np.maximum(self.cross, 0.0) ** 2
        share = 1 - explained / np.maximum(self.power * self.total, 1e-30)
        share = np.clip(share, 0.02, 1.0)
        share[0] = share[1]
        return np.asarray(share)


@dataclass(frozen=True)
class LocalViews:
    """Views on the half-disc, whitened.

    Attributes:
        signal: `[b, 2 k]`, `CTF X / sigma^2`, real and imaginary parts in turn.
        weight: `[b, k]`, `CTF^2 / sigma^2`.
        total: `[b, s]`, `|X|^2 / sigma^2` by shell.
        disc: the coefficients.
        pixel_size_angst: of the images.
    """

    signal: Real
    weight: Real
    total: Double
    disc: DiscList
    pixel_size_angst: float

    def __len__(self) -> int:
        return len(self.weight)

    @staticmethod
    def join(parts: "Sequence[LocalViews]") -> "LocalViews":
        """Put blocks of views together."""
        signal, weight, total = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("signal", "weight", "total")
        )
        return LocalViews(signal, weight, total, parts[0].disc, parts[0].pixel_size_angst)


@dataclass(frozen=True)
class HalfMap:
    """A map that is compared with views.

    Attributes:
        half_volume: `[m, m, m // 2 + 1]`, complex64.
        padding: its oversampling.
    """

    half_volume: NDArray[np.complex64]
    padding: int


@dataclass(frozen=True)
class PosePeaks:
    """Maxima of the posterior, one for each view.

    Attributes:
        rotation_ref_to_img: `[b, 3, 3]`.
        shift_angst: `[b, 2]`.
        loglik: `[b]`, score with the prior of the shift.
        angle_sd_deg, shift_sd_angst: `[b]`, standard deviations from the Fisher information, all
            angles and both shifts together.
    """

    rotation_ref_to_img: Double
    shift_angst: Double
    loglik: Double
    angle_sd_deg: Double
    shift_sd_angst: Double


def local_views(
    pictures: Real,
    images: Images,
    tables: Tables,
    *,
    noise_power: Real,
    disc: DiscList,
    pixel_size_angst: float,
) -> LocalViews:
    """Transform images and work out their CTF and noise.

    Args:
        pictures: `[b, n, n]`, protein bright.
        images: their CTF.
        tables: aberrations of their groups.
        noise_power: `[b, s]`, variance of a real component by shell.
        disc: the coefficients, of box n.
        pixel_size_angst: of the images.
    """
    n, n_k = len(pictures), len(disc.shell)
    signal = np.empty((n, 2 * n_k), np.float32)
    weight = np.empty((n, n_k), np.float32)
    total = np.zeros((n, disc.radius + 1))
    same = np.broadcast_to(np.eye(2), (n, 2, 2))
    phases = ctf_phases(images, same, disc.box * pixel_size_angst)
    inverse_noise = (1 / noise_power).astype(np.float32)
    frequencies = np.ascontiguousarray(disc.frequencies_px.T, np.int32)
    pictures_ft = rfftn(pictures, 2)
    _whiten(
        pictures_ft.view(np.float32).reshape(*pictures_ft.shape, 2),
        phases,
        tables.odd,
        tables.even,
        images.group,
        inverse_noise,
        frequencies,
        disc.shell,
        signal,
        weight,
        total,
    )
    return LocalViews(signal, weight, total, disc, pixel_size_angst)


def measure_amplitudes(
    views: LocalViews,
    reference: HalfMap,
    rotations_ref_to_img: Double,
    shifts_angst: Double,
    *,
    every: int = 1,
) -> Amplitudes:
    """Compare views with a map at one pose each, shell by shell.

    Args:
        views: not moved.
        reference: the map.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        every: views from one that is compared to the next.
    """
    view = np.arange(0, len(views), every)
    cross, power = np.zeros((2, views.disc.radius + 1))
    _fit_shells(
        *_posed(views, reference, view, rotations_ref_to_img[view], shifts_angst[view]),
        views.disc.shell,
        views.disc.radius,
        views.disc.box,
        np.empty((4, 2 * views.disc.radius + 1), np.float32),
        cross,
        power,
    )
    return Amplitudes(cross, power, views.total[view].sum(0))


def scaled_shells(
    half_volume: NDArray[np.complex64], factors: Double, padding: int
) -> NDArray[np.complex64]:
    """Multiply a half volume by a factor that is linear between shells.

    Args:
        half_volume: `[m, m, m // 2 + 1]`.
        factors: `[s]`.
        padding: oversampling of the half volume.
    """
    m = len(half_volume)
    square = (np.arange(m, dtype=np.float32) - m // 2) ** 2
    x = np.arange(half_volume.shape[2], dtype=np.float32) ** 2
    radius = np.sqrt(square[:, None, None] + square[:, None] + x) / np.float32(padding)
    last = len(factors) - 1
    known = np.asarray(factors, np.float32)
    rise = np.append(np.diff(known), np.float32(0))
    low = np.minimum(radius.astype(np.int32), last)
    at = known[low] + rise[low] * (radius - low.astype(np.float32))
    out: NDArray[np.complex64] = half_volume * at
    return out


def climb_from(
    views: LocalViews,
    reference: HalfMap,
    rotations_ref_to_img: Double,
    shifts_angst: Double,
    *,
    radius: int,
    shift_prior_angst: float,
) -> PosePeaks:
    """Climb from one pose of each view.

    Args:
        views: `b` of them.
        reference: the map.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        radius: last shell used.
        shift_prior_angst: standard deviation of shifts about zero.
    """
    pixel = views.pixel_size_angst
    how = (views, reference, radius, (pixel / shift_prior_angst) ** 2)
    rotations, shifts = rotations_ref_to_img.copy(), shifts_angst / pixel
    everyone = np.arange(len(views))
    here = _evaluate(*how, everyone, rotations, shifts)
    damping = np.full(len(views), ascent.FIRST_DAMPING)
    going = everyone
    for _ in range(_STEPS):
        step, promise = _step(here.take(going), damping[going])
        going, step = going[promise > ascent.SETTLED], step[promise > ascent.SETTLED]
        if not len(going):
            break
        tried = turned(rotations[going], step[:, :3]), shifts[going] + step[:, 3:]
        there = _evaluate(*how, going, *tried)
        better = there.score > here.score[going]
        damping[going] *= np.where(better, ascent.LESS, ascent.MORE)
        kept = going[better]
        rotations[kept], shifts[kept] = (value[better] for value in tried)
        here.put(kept, there.take(np.flatnonzero(better)))
    variance = np.linalg.inv(here.normal).diagonal(axis1=1, axis2=2)
    return PosePeaks(
        rotation_ref_to_img=rotations,
        shift_angst=shifts * pixel,
        loglik=here.score,
        angle_sd_deg=np.degrees(np.sqrt(variance[:, :3].sum(1))),
        shift_sd_angst=np.sqrt(variance[:, 3:].sum(1)) * pixel,
    )


@dataclass(frozen=True)
class _Normals:
    """Scores `[p]`, gradients `[p, 5]` and normal matrices `[p, 5, 5]`, priors included."""

    score: Double
    gradient: Double
    normal: Double

    def take(self, index: Whole) -> "_Normals":
        return _Normals(self.score[index], self.gradient[index], self.normal[index])

    def put(self, index: Whole, values: "_Normals") -> None:
        for own, new in zip(vars(self).values(), vars(values).values(), strict=True):
            own[index] = new


def _evaluate(
    views: LocalViews,
    reference: HalfMap,
    radius: int,
    precision: float,
    view: Whole,
    rotations: Double,
    shifts_px: Double,
) -> _Normals:
    """Score with derivatives, by rotation vector in radians and shift in pixels."""
    out, normal = np.empty((len(view), 6)), np.empty((len(view), 5, 5))
    _normals(
        *_posed(views, reference, view, rotations, shifts_px * views.pixel_size_angst),
        int(views.disc.ends[radius]),
        views.disc.radius,
        views.disc.box,
        np.empty((4, 2 * views.disc.radius + 1), np.float32),
        np.empty(21),
        out,
        normal,
    )
    score, gradient = out[:, 0].copy(), out[:, 1:].copy()
    score -= 0.5 * precision * (shifts_px**2).sum(1)
    gradient[:, 3:] -= precision * shifts_px
    normal[:, range(3), range(3)] += ascent.WIDEST_SD**-2
    normal[:, range(3, 5), range(3, 5)] += precision
    return _Normals(score, gradient, normal)


def _posed(
    views: LocalViews, reference: HalfMap, view: Whole, rotations: Double, shifts_angst: Double
) -> tuple[object, ...]:
    """Return what loops over views at poses begin with."""
    return (
        reference.half_volume.reshape(-1).view(np.float32),
        len(reference.half_volume),
        view.astype(np.int64),
        views.signal,
        views.weight,
        np.ascontiguousarray(rotations * reference.padding, np.float32),
        np.ascontiguousarray(shifts_angst / views.pixel_size_angst),
        np.ascontiguousarray(views.disc.frequencies_px.T, np.int32),
    )


def _step(normals: _Normals, damping: Double) -> tuple[Double, Double]:
    """Return the damped Newton step, not too long, and the gain that it promises."""
    damped = normals.normal.copy()
    damped[:, range(5), range(5)] *= 1 + damping[:, None]
    step = np.linalg.solve(damped, normals.gradient[..., None])[..., 0]
    promise = 0.5 * (step * normals.gradient).sum(1)
    turn = np.linalg.norm(step[:, :3], axis=1) / ascent.LONGEST_TURN
    shift = np.linalg.norm(step[:, 3:], axis=1) / ascent.LONGEST_SHIFT_PX
    return step / np.maximum(np.maximum(turn, shift), 1.0)[:, None], promise
