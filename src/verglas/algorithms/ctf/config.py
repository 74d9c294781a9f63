"""What a fit of a CTF searches, and what it may start from."""

from dataclasses import dataclass
from typing import Literal

__all__ = ["CtfFitConfig", "CtfStart", "Method"]

Method = Literal["likelihood", "correlation", "equiphase", "parametric"]


@dataclass(frozen=True)
class CtfStart:
    """A CTF found before, that a fit starts from instead of searching.

    Attributes:
        defocus_u_angst, defocus_v_angst, defocus_angle_deg: as in a table.
        phase_shift_deg: of a phase plate.
    """

    defocus_u_angst: float
    defocus_v_angst: float
    defocus_angle_deg: float
    phase_shift_deg: float = 0.0


@dataclass(frozen=True)
class CtfFitConfig:
    """What to search, and how.

    Attributes:
        method: objective of the refinement.
        tile_angst: edge of the tiles of the periodogram.
        min_res_angst: low-frequency end of the fitted band.
        search_res_angst: high-frequency end for the search.
        max_res_angst: high-frequency end for the refinement; never beyond 95 % of Nyquist.
        min_defocus_angst, max_defocus_angst: range of the mean defocus.
        max_astigmatism_angst: greatest difference of the two defoci.
        min_phase_shift_deg, max_phase_shift_deg: searched if they differ.
        max_thickness_angst: thickest ice whose node is looked for, by `correlation` only; 0 for
            none.
    """

    method: Method = "likelihood"
    tile_angst: float = 768.0
    min_res_angst: float = 30.0
    search_res_angst: float = 4.0
    max_res_angst: float = 3.0
    min_defocus_angst: float = 5000.0
    max_defocus_angst: float = 50000.0
    max_astigmatism_angst: float = 2000.0
    min_phase_shift_deg: float = 0.0
    max_phase_shift_deg: float = 0.0
    max_thickness_angst: float = 0.0

    @property
    def searches_phase(self) -> bool:
        """Whether the phase shift is a free parameter."""
        return self.max_phase_shift_deg > self.min_phase_shift_deg
