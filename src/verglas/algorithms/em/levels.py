"""The grids of a search and what goes with them."""

from dataclasses import dataclass, replace

from torch import Tensor

from verglas.algorithms.em.polish import Polish

__all__ = ["Level", "Search"]


@dataclass(frozen=True)
class Level:
    """One grid of the search.

    Attributes:
        step_deg: distance of neighbouring orientations.
        radius: shells used.
        shifts_angst: `[t, 2]`, grid of shifts, relative to the centre found before.
    """

    step_deg: float
    radius: int
    shifts_angst: Tensor


@dataclass(frozen=True)
class Search:
    """The whole search of one iteration.

    Attributes:
        rotations_ref_to_img: `[r, 3, 3]`, the grid of the first, dense level.
        levels: the dense level and the finer ones, each of half the step before it.
        shift_prior_angst: standard deviation of the true shifts about zero.
        kept_mass: posterior mass carried from one level to the next.
        min_cells, max_cells: fewest and most rotations of a view carried on. Where signal is
            strong, a coarse grid misses the peak by more log units than any temperature
            allows for, and the right cell may have no mass at all.
        temperature: of the scores at all levels but the last.
        final_temperature: of the scores at the last level; 1 is the likelihood.
        block_gb: memory for one block of scores.
        noise_radius_angst: radius of the disc in which the noise is measured.
        polish: the continuous stage that follows, if any; then the grids only find where
            it starts.
        operators: `[g, 3, 3]`, of the point group; the continuous stage follows one copy of
            a peak only.
    """

    rotations_ref_to_img: Tensor
    levels: tuple[Level, ...]
    shift_prior_angst: float
    kept_mass: float = 0.999
    min_cells: int = 8
    max_cells: int = 64
    temperature: float = 1.5
    final_temperature: float = 1.0
    block_gb: float = 0.2
    noise_radius_angst: float = 0.0
    polish: Polish | None = None
    operators: Tensor | None = None

    def widened(self, factor: int) -> "Search":
        """Return the search that carries so many times more cells on, or starts.

        Where a climb follows, starts are what is short, and cells are doubled at most.
        """
        polish = self.polish
        if polish is None:
            return replace(self, max_cells=factor * self.max_cells)
        return replace(
            self,
            max_cells=min(factor, 2) * self.max_cells,
            polish=replace(polish, n_starts=factor * polish.n_starts),
        )

    @property
    def radius(self) -> int:
        """Shells that the last stage uses, and that the sums reach."""
        return self.polish.radius if self.polish else self.levels[-1].radius
