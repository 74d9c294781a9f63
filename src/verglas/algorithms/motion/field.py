"""The motion of a movie: a path of the whole frame, and a B-spline in x, y and time.

Convention: a displacement is where a feature of the reference lies in a frame, relative to
the reference; the shift that is stored in tables has the opposite sign. The reference is the
first frame that is used, in which nothing is displaced.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import BSpline

__all__ = ["MotionField", "MotionOrder", "space_basis", "spline_basis", "time_basis"]

Double = NDArray[np.float64]


@dataclass(frozen=True)
class MotionOrder:
    """How many control points the local motion has; none for the whole frame alone."""

    n_x: int = 0
    n_y: int = 0
    n_t: int = 0

    @property
    def is_local(self) -> bool:
        """Whether motion may differ over the frame."""
        return self.n_x > 0

    def __str__(self) -> str:
        return f"{self.n_x} x {self.n_y} x {self.n_t}" if self.is_local else "whole frame"


def spline_basis(position: Double, n_points: int) -> Double:
    """Evaluate clamped B-splines with even knots, cubic where there are points enough.

    Args:
        position: `[n]`, 0 to 1; beyond it the ends are taken.
        n_points: control points, at least 1.

    Returns:
        `[n, n_points]`; rows add to 1.
    """
    degree = min(3, n_points - 1)
    inner = np.linspace(0.0, 1.0, n_points - degree + 1)
    knots = np.concatenate([np.zeros(degree), inner, np.ones(degree)])
    inside = np.clip(position, 0.0, 1.0)
    return np.asarray(BSpline.design_matrix(inside, knots, degree).toarray(), dtype=np.float64)


@lru_cache(maxsize=64)
def time_basis(n_frames: int, n_points: int) -> Double:
    """Splines over time that vanish at the first frame: `[n_frames, n_points - 1]`.

    Their points are denser at the beginning, where specimens move fastest.
    """
    time = np.sqrt(np.arange(n_frames) / max(1, n_frames - 1))
    basis = spline_basis(time, n_points)
    rising = np.asarray((basis - basis[0])[:, 1:])
    rising.flags.writeable = False
    return rising


def space_basis(x: Double, y: Double, order: MotionOrder) -> Double:
    """Products of splines over the frame: `[n, n_y * n_x]`, x fastest.

    Args:
        x, y: `[n]`, 0 to 1 over the frame.
        order: with local motion.
    """
    along_x, along_y = spline_basis(x, order.n_x), spline_basis(y, order.n_y)
    products = along_y[:, :, None] * along_x[:, None, :]
    return np.asarray(products.reshape(len(x), -1))


@dataclass(frozen=True)
class MotionField:
    """Where features of the reference lie in each frame.

    Attributes:
        extent_angst: of the frame along x and y, between the centres of its first and last pixels.
        path_angst: `[f, 2]`, displacement of the whole frame, x and y; 0 at the first.
        order: of the local part.
        coefficients_angst: `[n_y * n_x, n_t - 1, 2]`, of the local part.
        offset: `[n_y * n_x]`, mean of the splines over the frame, which is taken away.
    """

    extent_angst: tuple[float, float]
    path_angst: Double
    order: MotionOrder
    coefficients_angst: Double
    offset: Double

    @property
    def n_frames(self) -> int:
        """Frames of the movie that are used."""
        return len(self.path_angst)

    def at(self, x_angst: Double, y_angst: Double) -> Double:
        """Displacement at places of the reference.

        Args:
            x_angst, y_angst: `[n]`, from the centre of the first pixel.

        Returns:
            `[f, n, 2]`, in Å, x and y.
        """
        whole = np.repeat(self.path_angst[:, None], len(x_angst), axis=1)
        if not self.order.is_local:
            return whole
        space = space_basis(
            x_angst / self.extent_angst[0], y_angst / self.extent_angst[1], self.order
        )
        time = time_basis(self.n_frames, self.order.n_t)
        local = np.einsum("nm,ft,mtc->fnc", space - self.offset, time, self.coefficients_angst)
        return np.asarray(whole + local)

    def on_grid(self, x_angst: Double, y_angst: Double) -> Double:
        """Displacement on a grid of places: `[f, len(y), len(x), 2]`."""
        y, x = (axis.ravel() for axis in np.meshgrid(y_angst, x_angst, indexing="ij"))
        return self.at(x, y).reshape(self.n_frames, len(y_angst), len(x_angst), 2)

    def as_arrays(self) -> dict[str, NDArray[np.float64]]:
        """Write as plain arrays, from which `from_arrays` makes it again."""
        return {
            "extent_angst": np.array(self.extent_angst),
            "path_angst": self.path_angst,
            "order": np.array([self.order.n_x, self.order.n_y, self.order.n_t], np.float64),
            "coefficients_angst": self.coefficients_angst,
            "offset": self.offset,
        }

    @classmethod
    def from_arrays(cls, arrays: dict[str, NDArray[np.float64]]) -> Self:
        """Read what `as_arrays` wrote."""
        n_x, n_y, n_t = (int(n) for n in arrays["order"])
        width, height = (float(length) for length in arrays["extent_angst"])
        return cls(
            (width, height),
            arrays["path_angst"],
            MotionOrder(n_x, n_y, n_t),
            arrays["coefficients_angst"],
            arrays["offset"],
        )

    def without_local(self) -> Self:
        """The motion of the whole frame alone."""
        return replace(
            self, order=MotionOrder(), coefficients_angst=np.zeros((0, 0, 2)), offset=np.zeros(0)
        )
