"""Expectation on a ladder of grids: each level looks only where the one before found mass."""

from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.bank import Bank
from verglas.algorithms.em.dense_pass import add_shifts, dense_profiles, shift_log_prior
from verglas.algorithms.em.ladder import (
    Cells,
    CellScores,
    add_expectations,
    score_cells,
    select_cells,
)
from verglas.algorithms.em.levels import Level, Search
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow
from verglas.algorithms.em.references import Poses, References, slices_of
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.em.search import Posterior, Profile
from verglas.algorithms.views import Views

__all__ = ["Descent", "descend", "expect_on_ladder"]


@dataclass(frozen=True)
class Descent:
    """The last level of the ladder: scores, cells, and views at their present centres."""

    scored: CellScores
    cells: Cells
    views: Views
    centre: Tensor
    level: Level

    def rotations(self, view: Tensor, row: Tensor) -> tuple[Tensor, Tensor]:
        """Return rotation and cell of rows in the views' own lists."""
        cell = _cell_table(self.cells)[view, row // 8]
        return self.cells.children[cell, row % 8], cell


def descend(
    views: Views, centre: Tensor, bank: Bank, references: References, search: Search
) -> Descent:
    """Go down the levels to the last one."""
    cells, centre = _dense_cells(views, centre, bank, search)
    for level in search.levels[1:]:
        here = views.prefix(level.radius).shifted(centre)
        scored = score_cells(
            here,
            references.half_volumes,
            cells,
            shifts_angst=level.shifts_angst,
            log_prior_shift=shift_log_prior(centre, level.shifts_angst, search.shift_prior_angst),
            log_prior_reference=references.log_prior,
            padding=references.padding,
        )
        if level is search.levels[-1]:
            return Descent(scored, cells, here, centre, level)
        profile = Profile.of_scores(scored.loglik, search.temperature)
        child = torch.arange(8, device=cells.cell.device)
        cells = select_cells(
            profile.row_mass,
            (_cell_table(cells)[:, :, None] * 8 + child).flatten(1),
            rotations_ref_to_img=cells.children.reshape(-1, 3, 3),
            reference=cells.reference.repeat_interleave(8),
            step_deg=level.step_deg,
            kept_mass=search.kept_mass,
            min_cells=search.min_cells,
            max_cells=search.max_cells,
        )
        centre = centre + level.shifts_angst[profile.shift_of_best]
    raise ValueError("a ladder has at least two levels")


def _dense_cells(views: Views, centre: Tensor, bank: Bank, search: Search) -> tuple[Cells, Tensor]:
    """Score the dense level; return the cells kept and the new centres."""
    level = search.levels[0]
    masses, moves = [], []
    for _, profile in dense_profiles(views, centre, bank, search):
        masses.append(profile.row_mass)
        moves.append(level.shifts_angst[profile.shift_of_best])
    cells = select_cells(
        torch.cat(masses),
        torch.arange(len(bank.slices), device=bank.slices.device)[None],
        rotations_ref_to_img=bank.rotations_ref_to_img[bank.row_rotation],
        reference=bank.row_reference,
        step_deg=level.step_deg,
        kept_mass=search.kept_mass,
        min_cells=search.min_cells,
        max_cells=search.max_cells,
    )
    return cells, centre + torch.cat(moves)


def _cell_table(cells: Cells) -> Tensor:
    """Return `[b, slots]`, the cell in each slot of each view's list, -1 for none."""
    table = cells.cell.new_full((cells.n_views, int(cells.slot.max()) + 1), -1)
    table[cells.view, cells.slot] = cells.cell
    return table


def expect_on_ladder(
    views: Views,
    centre: Tensor,
    bank: Bank,
    references: References,
    search: Search,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    """Expect on the last of several levels."""
    descent = descend(views, centre, bank, references, search)
    scores = descent.scored.loglik.contiguous()
    posterior = Posterior.of_scores(scores, search.final_temperature)
    add_expectations(
        descent.scored,
        posterior,
        descent.cells,
        descent.views,
        padding=references.padding,
        planar=references.planar,
        numerator=sums.numerator,
        denominator=sums.denominator,
    )
    return _finish(descent, posterior, references, sums, window)


def _finish(
    descent: Descent,
    posterior: Posterior,
    references: References,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    cells, views = descent.cells, descent.views
    at = torch.arange(len(views), device=views.device)
    mass = posterior.row_mass
    reference = cells.reference[_cell_table(cells)].repeat_interleave(8, dim=1)
    for c in range(len(sums.class_weight)):
        sums.class_weight[c] += mass[reference == c].double().sum()
    add_shifts(posterior, descent.centre, descent.level.shifts_angst, sums)
    row, shift = posterior.draw(lot(views))
    rotation, cell = descent.rotations(at, row)
    slices = slices_of(references, rotation, cells.reference[cell], views.disc)
    add_residuals(views.shifted(descent.level.shifts_angst[shift]), slices, sums, window)
    rotation, cell = descent.rotations(at, posterior.best_row)
    best = cells.reference[cell]
    return Poses.on_grid(
        posterior,
        rotation_ref_to_img=rotation,
        shift_angst=descent.centre + descent.level.shifts_angst[posterior.best_shift],
        reference=best,
        reference_weight=(mass * (reference == best[:, None])).sum(1),
    )
