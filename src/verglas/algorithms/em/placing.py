"""How the particles of a first map are given their poses."""

import math

from verglas.algorithms.em.candidate import Candidate
from verglas.algorithms.em.expectation import Level, References, Search
from verglas.algorithms.em.first_map_plan import COARSEST_ORDER, FirstMapConfig, settling_stages
from verglas.algorithms.em.search import shift_grid
from verglas.kernels.so3 import orientation_grid

__all__ = ["placing"]

_KEPT_CELLS = 24


def placing(config: FirstMapConfig, candidate: Candidate) -> tuple[Search, References]:
    """Return what `expectation.expect` needs to give every particle its pose.

    On the grid that the map was made with: a refinement will search again, and a finer grid
    took a third of all the time without symmetry.

    Args:
        config: of the run.
        candidate: the chosen map.
    """
    radius = config.max_radius
    grid = config.grid(radius)
    last = settling_stages(config)[-1].order
    levels = []
    for order in range(COARSEST_ORDER, last + 1):
        resolution = math.radians(60 / 2**order) * 0.5 * config.diameter_angst
        here = radius if order == last else min(radius, config.radius_of(resolution))
        step = config.extent_angst / here / 4
        reach = config.shift_range_angst if order == COARSEST_ORDER else step
        levels.append(Level(60 / 2**order, here, shift_grid(reach, step)))
    search = Search(
        rotations_ref_to_img=orientation_grid(COARSEST_ORDER, symmetry=config.symmetry),
        levels=tuple(levels),
        shift_prior_angst=config.shift_range_angst / 3,
        max_cells=_KEPT_CELLS,
        noise_radius_angst=config.noise_radius_px * config.pixel_size_angst,
    )
    references = References(
        grid.half_volumes(grid.resize(candidate.maps)),
        candidate.class_weight.log(),
        padding=grid.padding,
        planar=False,
    )
    return search, references
