"""How a specimen moves under the beam: the whole field, and the doming of the ice.

Motion is fast at first and slows down with the exposure. The ice domes: places move apart
or together about a point near the middle, and bend further at random. All is smooth in
space, and in time but for a small jitter of the stage.

Convention: a displacement is where a feature of the first frame lies in a frame, relative to
the first. The shift that tables store moves it back and has the opposite sign.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Motion", "MotionConfig", "draw_motion"]

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class MotionConfig:
    """How much the specimen moves.

    Attributes:
        drift_angst: length of the path of the whole field, before the jitter.
        jitter_angst: standard deviation of random steps of the whole field, per frame.
        local_angst: how far places move beside the whole field, RMS over it at the end.
        decay_e_per_angst2: exposure in which the speed falls to 1/e.
    """

    drift_angst: float = 15.0
    jitter_angst: float = 0.3
    local_angst: float = 3.0
    decay_e_per_angst2: float = 5.0

    def __post_init__(self) -> None:
        if min(self.drift_angst, self.jitter_angst, self.local_angst) < 0:
            raise ValueError("lengths of motion must not be negative")
        if self.decay_e_per_angst2 <= 0:
            raise ValueError(f"decay must be positive: got {self.decay_e_per_angst2} e/Å^2")


@dataclass(frozen=True)
class Motion:
    """The true motion of one movie.

    Attributes:
        whole_angst: `[n, 2]`, x and y of the whole field; zeros in the first frame.
        bend_angst: `[n, 2, 9]`, coefficients of what places move beside it, over `u` and `v`
            from -0.5 to 0.5 across the field: u, v, u^2, v^2, uv, u^3, uv^2, v^3, u^2 v.
        size_angst: width and height of the field.
    """

    whole_angst: Floats
    bend_angst: Floats
    size_angst: tuple[float, float]

    def at(self, x_angst: Floats, y_angst: Floats) -> Floats:
        """Displacement of places in every frame.

        Args:
            x_angst, y_angst: any shape, in the first frame, from the first pixel's centre.

        Returns:
            `[n, 2, ...]`, Å.
        """
        u, v = x_angst / self.size_angst[0] - 0.5, y_angst / self.size_angst[1] - 0.5
        terms = np.stack([u, v, u * u, v * v, u * v, u**3, u * v * v, v**3, u * u * v])
        bent = np.tensordot(self.bend_angst, terms, (2, 0))
        whole = self.whole_angst.reshape(*self.whole_angst.shape, *[1] * np.ndim(x_angst))
        return np.asarray(whole + bent)

    def grid(self, n: int = 9) -> tuple[Floats, Floats, Floats]:
        """Sample the displacement at `n` by `n` places, in the middle of as many tiles.

        Returns:
            x `[n]`, y `[n]`, and the displacements `[frames, 2, n, n]`, rows along y.
        """
        x, y = ((np.arange(n) + 0.5) / n * size for size in self.size_angst)
        across, up = np.meshgrid(x, y)
        return x, y, self.at(across, up)

    def during_angst(self, frame: int) -> Floats:
        """How far the whole field moves while a frame is exposed, x and y."""
        path = self.whole_angst
        before, after = max(frame - 1, 0), min(frame + 1, len(path) - 1)
        return np.asarray((path[after] - path[before]) / max(after - before, 1))

    def travel_angst(self) -> float:
        """Length of the path of the whole field."""
        return float(np.hypot(*np.diff(self.whole_angst, axis=0).T).sum())

    def largest_step_angst(self) -> float:
        """Largest move of the whole field between two frames; 0 for one frame."""
        steps = np.hypot(*np.diff(self.whole_angst, axis=0).T)
        return float(steps.max(initial=0.0))


def draw_motion(
    config: MotionConfig,
    *,
    n_frames: int,
    frame_dose_e_per_angst2: float,
    size_angst: tuple[float, float],
    rng: np.random.Generator,
) -> Motion:
    """Draw the motion of one movie.

    Args:
        config: how much.
        n_frames: frames.
        frame_dose_e_per_angst2: exposure of each.
        size_angst: width and height of the field.
        rng: where the randomness comes from.
    """
    exposure = np.arange(n_frames, dtype=np.float64) * frame_dose_e_per_angst2
    slow = 0.1 * exposure / max(exposure[-1], 1e-9)  # what never comes to rest
    decay = config.decay_e_per_angst2 * rng.uniform(0.7, 1.4)
    path = 0.9 * _approach(exposure, decay) + slow
    angle = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.03, n_frames))
    steps = np.diff(path, prepend=0.0) * config.drift_angst
    whole = np.cumsum(steps[:, None] * np.stack([np.cos(angle), np.sin(angle)], 1), 0)
    whole = whole + np.cumsum(rng.normal(0, config.jitter_angst, (n_frames, 2)), 0)
    return Motion(whole - whole[0], _draw_bend(config, exposure, decay, rng), size_angst)


def _approach(exposure: Floats, decay: float) -> Floats:
    """Rise from 0 to 1 as motion that slows down does."""
    rise = 1 - np.exp(-exposure / decay)
    return np.asarray(rise / max(rise[-1], 1e-9))


def _draw_bend(
    config: MotionConfig, exposure: Floats, decay: float, rng: np.random.Generator
) -> Floats:
    """Draw doming and a random rest, each with its own course in time; `[n, 2, 9]`."""
    doming, rest = np.zeros((2, 9)), rng.normal(0, 1, (2, 9))
    a, b = rng.normal(0, 0.1, 2)  # the dome's top lies near the middle
    strength, stiff = rng.choice([-1.0, 1.0]), rng.uniform(0.3, 1.2)
    # (u - a, v - b) (1 - stiff ((u - a)^2 + (v - b)^2)), to first order in a and b
    doming[0, [0, 5, 6, 2, 3, 4]] = 1.0, -stiff, -stiff, 3 * stiff * a, stiff * a, 2 * stiff * b
    doming[1, [1, 7, 8, 3, 2, 4]] = 1.0, -stiff, -stiff, 3 * stiff * b, stiff * b, 2 * stiff * a
    scaled = []
    for part, share in ((strength * doming, 0.8), (rest, 0.6)):
        size = _rms(part)
        scaled.append(part * (share * config.local_angst / max(size, 1e-9)))
    courses = _approach(exposure, decay), _approach(exposure, 2.5 * decay)
    return np.asarray(sum(t[:, None, None] * c for t, c in zip(courses, scaled, strict=True)))


def _rms(coefficients: Floats) -> float:
    """Root mean square length of a field over the frame."""
    axis = (np.arange(16) + 0.5) / 16
    field = Motion(np.zeros((1, 2)), coefficients[None], (1.0, 1.0)).at(*np.meshgrid(axis, axis))
    return float(np.sqrt(np.square(field).sum(1).mean()))
