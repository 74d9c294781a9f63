"""What a search for a first map does when: sizes, grids and stages."""

import math
from dataclasses import dataclass, replace

from verglas.algorithms.em.map_step import MapGrid
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "COARSEST_ORDER",
    "FirstMapConfig",
    "Stage",
    "coarse_stages",
    "opening_stages",
    "settling_stages",
]

COARSEST_ORDER = 2  # 15 degrees
_STEP_OVER_RESOLUTION = 1.25  # of the edge of the particle; the grid is turned every iteration
_HAND_GAIN = 3.0
_SHARPENED = 0.7


@dataclass(frozen=True)
class FirstMapConfig:
    """What a search for a first map is told.

    Attributes:
        box: of the images, in pixels.
        pixel_size_angst: of the images.
        diameter_angst: of the particle.
        n_classes: number of maps that share the particles.
        symmetry: point group of the maps.
        start_resolution_angst: used by the first iterations.
        max_resolution_angst: used by the last ones.
        shift_range_angst: largest shift searched.
        tau: factor on the signal-to-noise ratio that filters the maps.
        coarse_iterations, fine_iterations: of each search, on either kind of grid.
        views_per_iteration: drawn at random each time; fewer on the coarsest grid.
    """

    box: int
    pixel_size_angst: float
    diameter_angst: float
    n_classes: int = 1
    symmetry: str = "C1"
    start_resolution_angst: float = 30.0
    max_resolution_angst: float = 10.0
    shift_range_angst: float = 15.0
    tau: float = 2.0
    coarse_iterations: int = 14
    fine_iterations: int = 16
    views_per_iteration: int = 300

    @property
    def extent_angst(self) -> float:
        """Side of the box."""
        return self.box * self.pixel_size_angst

    def radius_of(self, resolution_angst: float) -> int:
        """Return the shell of a resolution, at most that of the images."""
        wanted = round(self.extent_angst / resolution_angst)
        return max(4, min((self.box - 1) // 2, wanted))

    @property
    def max_radius(self) -> int:
        """Last shell of the last iterations."""
        return self.radius_of(self.max_resolution_angst)

    @property
    def noise_radius_px(self) -> float:
        """Radius of the disc in which the noise is measured."""
        return min(0.5 * self.diameter_angst / self.pixel_size_angst, 0.45 * self.box)

    def grid(self, radius: int) -> MapGrid:
        """Return the sizes that go with a radius."""
        return MapGrid(radius, self.extent_angst, self.diameter_angst)

    def n_rotations(self, order: int) -> int:
        """Return the size of a grid of orientations."""
        return int(72 * 8**order) // len(symmetry_operators(self.symmetry))

    def order_of(self, resolution_angst: float) -> int:
        """Return the coarsest grid of orientations that can follow a resolution."""
        order = COARSEST_ORDER
        reach = 0.5 * self.diameter_angst
        while math.radians(60 / 2**order) * reach > _STEP_OVER_RESOLUTION * resolution_angst:
            order += 1
        return order


@dataclass(frozen=True)
class Stage:
    """Some iterations alike.

    Attributes:
        radius: shells used.
        order: of the grid of orientations, step 60 / 2^order degrees.
        n_views: drawn each time.
        iterations: how many.
        renewal: share of the sums that each iteration replaces.
        temperature: of the scores; below 1 a map leaves a plateau sooner.
        hand_gain: largest amplification of the odd part; 1 for none.
    """

    radius: int
    order: int
    n_views: int
    iterations: int
    renewal: float
    temperature: float = 1.0
    hand_gain: float = 1.0


def coarse_stages(config: FirstMapConfig) -> list[Stage]:
    """Return what every start goes through."""
    n, half = config.views_per_iteration, config.coarse_iterations // 2
    finer = 0.75 * config.start_resolution_angst
    return [
        Stage(
            radius=config.radius_of(config.start_resolution_angst),
            order=config.order_of(config.start_resolution_angst),
            n_views=n // 3,
            iterations=config.coarse_iterations - half,
            renewal=0.8,
        ),
        Stage(
            radius=config.radius_of(finer),
            order=config.order_of(finer),
            n_views=n // 2,
            iterations=half,
            renewal=0.6,
        ),
    ]


def opening_stages(config: FirstMapConfig) -> list[Stage]:
    """Return how finalists leave plateaus and the mean of hands, at the last resolution.

    Once or twice: two of them may agree before the second time.
    """
    stage = _fine_stage(config, config.fine_iterations // 4)
    return [replace(stage, temperature=_SHARPENED, hand_gain=_HAND_GAIN)]


def settling_stages(config: FirstMapConfig) -> list[Stage]:
    """Return how the best of them settle."""
    settle = config.fine_iterations // 4
    middle = config.fine_iterations - config.fine_iterations // 2 - settle
    return [
        replace(_fine_stage(config, middle), renewal=0.5, temperature=_SHARPENED),
        replace(_fine_stage(config, settle), renewal=0.4),
    ]


def _fine_stage(config: FirstMapConfig, iterations: int) -> Stage:
    order = max(COARSEST_ORDER + 1, config.order_of(config.max_resolution_angst))
    return Stage(config.max_radius, order, config.views_per_iteration, iterations, renewal=1.0)
