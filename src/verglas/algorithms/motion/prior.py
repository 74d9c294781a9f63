"""What is expected of a motion before it is measured: a Gaussian process in space and time.

Velocities are alike in frames and at places near each other, and fall with the exposure. How
much specimens move, over which distances and for how long motion stays alike differs from movie
to movie; these few numbers are learnt from the movie (`posterior.py`), each held within what is
physical by a wide prior of its own.

References: Zivanov 2019, doi:10.1107/S205225251801463X (motion as a Gaussian process).
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray

from verglas.algorithms.motion.field import MotionOrder, spline_basis, time_basis

__all__ = [
    "N_LOCAL",
    "N_VALUES",
    "Factors",
    "PriorModel",
    "start_values",
    "value_bounds",
    "value_penalty",
]

Double = NDArray[np.float64]

# median and spread of the logarithm of each number. Local: RMS at the end (A), distance over which
# places move alike (A), warped time over which velocities stay alike (1 is the whole exposure),
# exposure in which the speed halves (e/A^2). Whole frame: the same without a distance, and
# random steps of the stage (A a frame).
_MEDIANS = (1.5, 1500.0, 0.7, 4.0, 10.0, 0.5, 4.0, 0.2)
_SPREADS = np.array([1.2, 0.8, 0.7, 0.8, 1.0, 0.7, 0.8, 1.0])
_FARTHEST = 4.0  # spreads from the median
_STEP = 1e-4
N_LOCAL, N_VALUES = 4, 8
_SIGMA, _LENGTH, _ALIKE, _HALVES, _PATH_SIGMA, _PATH_ALIKE, _PATH_HALVES, _JITTER = range(N_VALUES)


def start_values() -> Double:
    """Logarithms of the numbers before anything is known."""
    return np.asarray(np.log(np.array(_MEDIANS)))


def value_penalty(values: Double) -> tuple[float, Double]:
    """How unlikely numbers are, as minus a log-density, and its gradient."""
    off = (values - start_values()) / _SPREADS
    return 0.5 * float(off @ off), np.asarray(off / _SPREADS)


def value_bounds() -> list[tuple[float, float]]:
    """Limits of the logarithms."""
    centre = start_values()
    return list(zip(centre - _FARTHEST * _SPREADS, centre + _FARTHEST * _SPREADS, strict=True))


@dataclass(frozen=True)
class Factors:
    """Covariances in pixels; that of the control points is the product of the last three.

    Attributes:
        path: `[f - 1, f - 1]`, of the whole frame, frames 1 and on.
        along_y, along_x: `[n_y, n_y]`, `[n_x, n_x]`, correlations.
        time: `[n_t - 1, n_t - 1]`.
    """

    path: Double
    along_y: Double
    along_x: Double
    time: Double


@dataclass(frozen=True)
class PriorModel:
    """Turns the numbers of a prior into covariances of the parameters of a motion.

    Attributes:
        exposure_e_per_angst2: `[f]`, of each frame, 0 in the first.
        extent_angst: width and height of the frame.
        pixel_angst: in which displacements are counted.
        order: of the local motion.
        time_inverse: `[n_t - 1, f - 1]`, coefficients of the splines that are nearest to a course.
    """

    exposure_e_per_angst2: Double
    extent_angst: tuple[float, float]
    pixel_angst: float
    order: MotionOrder
    time_inverse: Double

    @classmethod
    def of(
        cls,
        order: MotionOrder,
        *,
        n_frames: int,
        frame_dose_e_per_angst2: float,
        extent_angst: tuple[float, float],
        pixel_angst: float,
    ) -> Self:
        """Make the model for a movie."""
        exposure = np.arange(n_frames, dtype=np.float64) * frame_dose_e_per_angst2
        model = cls(exposure, extent_angst, pixel_angst, MotionOrder(), np.zeros((0, n_frames - 1)))
        return model.with_order(order)

    def with_order(self, order: MotionOrder) -> Self:
        """The same for another order of the local motion."""
        n_frames = len(self.exposure_e_per_angst2)
        inverse: Double = np.zeros((0, n_frames - 1))
        if order.is_local:
            inverse = np.asarray(np.linalg.pinv(time_basis(n_frames, order.n_t)[1:]))
        return replace(self, order=order, time_inverse=inverse)

    def factors(self, values: Double) -> Factors:
        """Covariances that follow from the numbers."""
        number = np.exp(values)
        path = self._path(number)
        if not self.order.is_local:
            empty = np.zeros((0, 0))
            return Factors(path, empty, empty, empty)
        return Factors(path, *self._space(number), self._time(number))

    def changes(self, values: Double, factors: Factors) -> list[Factors]:
        """Derivative of the covariances by each number.

        Args:
            values: logarithms of the numbers.
            factors: that follow from them.
        """
        number = np.exp(values)
        made = [_nothing(factors)] * N_VALUES

        def stepped(i: int) -> Double:
            return np.asarray(number * np.exp(_STEP * (np.arange(N_VALUES) == i)))

        jitter = self._jitter(number)
        made[_PATH_SIGMA] = replace(made[_PATH_SIGMA], path=2.0 * (factors.path - jitter))
        made[_JITTER] = replace(made[_JITTER], path=2.0 * jitter)
        for i in (_PATH_ALIKE, _PATH_HALVES):
            made[i] = replace(made[i], path=(self._path(stepped(i)) - factors.path) / _STEP)
        if self.order.is_local:
            made[_SIGMA] = replace(made[_SIGMA], time=2.0 * factors.time)
            for i in (_ALIKE, _HALVES):
                made[i] = replace(made[i], time=(self._time(stepped(i)) - factors.time) / _STEP)
            along_y, along_x = self._space(stepped(_LENGTH))
            made[_LENGTH] = replace(
                made[_LENGTH],
                along_y=(along_y - factors.along_y) / _STEP,
                along_x=(along_x - factors.along_x) / _STEP,
            )
        return made

    def _jitter(self, number: Double) -> Double:
        frames = np.arange(1, len(self.exposure_e_per_angst2))
        steps = (number[_JITTER] / self.pixel_angst) ** 2
        return np.asarray(steps * np.minimum.outer(frames, frames))

    def _path(self, number: Double) -> Double:
        smooth = self._course(number[_PATH_ALIKE], number[_PATH_HALVES])
        scale = (number[_PATH_SIGMA] / self.pixel_angst) ** 2
        return np.asarray(scale * smooth + self._jitter(number))

    def _time(self, number: Double) -> Double:
        course = self._course(number[_ALIKE], number[_HALVES])
        scale = (number[_SIGMA] / self.pixel_angst) ** 2
        return np.asarray(scale * self.time_inverse @ course @ self.time_inverse.T)

    def _space(self, number: Double) -> tuple[Double, Double]:
        width, height = self.extent_angst
        return (
            _along(self.order.n_y, height / number[_LENGTH]),
            _along(self.order.n_x, width / number[_LENGTH]),
        )

    def _course(self, alike: float, halves: float) -> Double:
        """Covariance of a displacement over frames 1 and on, 1 in the last.

        The speed falls as 1 / (exposure + `halves`); in the time that this warps, velocities
        have a Gaussian correlation of width `alike`.
        """
        warped = np.log1p(self.exposure_e_per_angst2 / halves)
        warped = warped / warped[-1]
        step, middle = np.diff(warped), 0.5 * (warped[1:] + warped[:-1])
        velocity = np.exp(-0.5 * ((middle[:, None] - middle) / alike) ** 2)
        moved = np.cumsum(np.cumsum(velocity * step[:, None] * step, axis=0), axis=1)
        return np.asarray(moved / moved[-1, -1])


def _nothing(factors: Factors) -> Factors:
    return Factors(
        np.zeros_like(factors.path),
        np.zeros_like(factors.along_y),
        np.zeros_like(factors.along_x),
        np.zeros_like(factors.time),
    )


@lru_cache(maxsize=16)
def _places(n_points: int) -> tuple[Double, Double]:
    """Where each control point counts most (Greville), and the inverse of the splines there."""
    degree = min(3, n_points - 1)
    inner = np.linspace(0.0, 1.0, n_points - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    places = np.array([knots[i + 1 : i + 1 + degree].mean() for i in range(n_points)])
    inverse: Double = np.asarray(np.linalg.inv(spline_basis(places, n_points)))
    places.flags.writeable = inverse.flags.writeable = False
    return places, inverse


def _along(n_points: int, lengths: float) -> Double:
    """Covariance of control points along an axis that is so many correlation lengths long."""
    places, inverse = _places(n_points)
    process = np.exp(-0.5 * ((places[:, None] - places) * lengths) ** 2)
    return np.asarray(inverse @ process @ inverse.T)
