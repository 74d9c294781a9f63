"""One pass over views: score, choose, and add up what the maximisation step needs."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from verglas.algorithms.em.bank import Bank
from verglas.algorithms.em.ladder import (
    Cells,
    CellScores,
    add_expectations,
    score_cells,
    select_cells,
)
from verglas.algorithms.em.local import Starts, top_starts
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow, noise_window
from verglas.algorithms.em.polish import Polish, polish
from verglas.algorithms.em.references import Poses, References, slices_of
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.em.search import Posterior, Profile, posterior_of_bank, scores_of_bank
from verglas.algorithms.views import Views
from verglas.kernels.slices import insert_slices

__all__ = [
    "Level",
    "Poses",
    "References",
    "Search",
    "expect",
    "expect_from",
    "expect_nearby",
    "scatter",
]

_BLOCK = 256  # views in the continuous stage at a time
_TOP_ROWS = 24


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

    @property
    def radius(self) -> int:
        """Shells that the last stage uses, and that the sums reach."""
        return self.polish.radius if self.polish else self.levels[-1].radius


def expect(
    views: Views,
    references: References,
    search: Search,
    *,
    n_groups: int,
    shifts_angst: Tensor | None = None,
    known: Starts | None = None,
) -> tuple[Poses, Sums]:
    """Score all views against the references and add up the expectations.

    Args:
        views: the images of one half set.
        references: what to compare with.
        search: grids and priors.
        n_groups: number of noise groups in the whole data set.
        shifts_angst: `[b, 2]`, present centres; zero if not given.
        known: further poses for the continuous stage to start from.

    Returns:
        The best pose of each view and the sums.
    """
    sums = _empty_sums(references, n_groups, search.radius)
    window = _window(views, search)
    centre = torch.zeros(len(views), 2, dtype=torch.float64)
    centre = centre if shifts_angst is None else shifts_angst.double()
    disc = views.disc.prefix(search.levels[0].radius)
    bank = Bank.make(disc, references, search.rotations_ref_to_img)
    if search.polish:
        starts = _starts(views, centre, bank, references, search, search.polish.n_starts)
        if known is not None:
            starts = Starts.join([known, starts]).by_view()
        return _polished(views, references, starts, search, sums, window), sums
    if len(search.levels) == 1:
        return _dense(views, centre, bank, references, search, sums, window), sums
    return _ladder(views, centre, bank, references, search, sums, window), sums


def expect_nearby(
    views: Views,
    references: References,
    search: Search,
    *,
    n_groups: int,
    rotations_ref_to_img: Tensor,
    shifts_angst: Tensor,
    reference: Tensor | None = None,
) -> tuple[Poses, Sums]:
    """Climb from the poses that are known, without a grid, and add up the expectations.

    Args:
        views: the images of one half set.
        references: what to compare with.
        search: with a continuous stage; its grids are not used.
        n_groups: number of noise groups in the whole data set.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        reference: `[b]`; the first by default.

    Returns:
        The pose of each view and the sums.
    """
    b = len(views)
    starts = Starts(
        view=torch.arange(b),
        reference=torch.zeros(b, dtype=torch.long) if reference is None else reference,
        rotations_ref_to_img=rotations_ref_to_img.double().clone(),
        shifts_angst=shifts_angst.double().clone(),
    )
    return expect_from(views, references, search, starts, n_groups=n_groups)


def expect_from(
    views: Views, references: References, search: Search, starts: Starts, *, n_groups: int
) -> tuple[Poses, Sums]:
    """Climb from given starts, without a grid, and add up the expectations.

    Args:
        views: the images.
        references: what to compare with.
        search: with a continuous stage; its grids are not used.
        starts: at least one for each view, sorted by view.
        n_groups: number of noise groups in the whole data set.

    Returns:
        The pose of each view and the sums.
    """
    sums = _empty_sums(references, n_groups, search.radius)
    return _polished(views, references, starts, search, sums, _window(views, search)), sums


def _empty_sums(references: References, n_groups: int, radius: int) -> Sums:
    return Sums.zeros(
        len(references.half_volumes),
        n_groups,
        radius,
        padding=references.padding,
        planar=references.planar,
    )


def _window(views: Views, search: Search) -> NoiseWindow:
    disc = views.disc.prefix(search.radius)
    radius_px = search.noise_radius_angst / views.pixel_size_angst or disc.box / 2
    return noise_window(disc, min(radius_px, 0.45 * disc.box))


def _polished(
    views: Views,
    references: References,
    starts: Starts,
    search: Search,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    """Run the continuous stage block by block; starts are sorted by view."""
    if search.polish is None:
        raise ValueError("search has no continuous stage")
    ends = torch.searchsorted(starts.view, torch.arange(0, len(views) + _BLOCK, _BLOCK)).tolist()
    parts = []
    for block, (begin, end) in enumerate(pairwise(ends)):
        first = block * _BLOCK
        mine = starts.take(torch.arange(begin, end))
        parts.append(
            polish(
                views.take(slice(first, first + _BLOCK)).prefix(search.radius),
                references,
                replace(mine, view=mine.view - first),
                search.polish,
                shift_prior_angst=search.shift_prior_angst,
                sums=sums,
                window=window,
                operators=search.operators,
            )
        )
    return Poses.join(parts)


def scatter(
    views: Views,
    search: Search,
    *,
    n_references: int,
    n_groups: int,
    padding: int,
    planar: bool,
    generator: torch.Generator,
) -> Sums:
    """Add up views at random poses: the start of a search from nothing.

    Args:
        views: the images.
        search: its first grid is drawn from.
        n_references: views are shared out among them at random.
        n_groups: number of noise groups in the whole data set.
        padding: oversampling of the sums.
        planar: 2D references.
        generator: of the draws.

    Returns:
        Sums with numerators, denominators and class shares only.
    """
    radius = search.levels[0].radius
    sums = Sums.zeros(n_references, n_groups, radius, padding=padding, planar=planar)
    views = views.prefix(radius)
    signal, weight = views.whitened()
    n = len(views)
    reference = torch.randint(n_references, (n,), generator=generator)
    rotations = search.rotations_ref_to_img
    row = torch.randint(len(rotations), (n,), generator=generator)
    for c in range(n_references):
        chosen = reference == c
        sums.class_weight[c] = float(chosen.sum())
        if not chosen.any():
            continue
        insert_slices(
            signal[chosen],
            weight[chosen],
            rotations[row[chosen]],
            views.disc.frequencies_px,
            radius=radius,
            padding=padding,
            planar=planar,
            into=(sums.numerator[c], sums.denominator[c]),
        )
    return sums


def _blocks(n_views: int, bank: Bank, search: Search) -> Iterator[slice]:
    per_view = len(bank.slices) * len(search.levels[0].shifts_angst) * 4
    size = max(1, min(256, int(search.block_gb * 2**30 / per_view)))
    for start in range(0, n_views, size):
        yield slice(start, min(n_views, start + size))


def _log_prior_shift(centre: Tensor, shifts: Tensor, prior_angst: float) -> Tensor:
    total = centre[:, None, :] + shifts
    return (-total.square().sum(-1) / (2 * prior_angst**2)).float()


def _dense(
    views: Views,
    centre: Tensor,
    bank: Bank,
    references: References,
    search: Search,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    """Expect on the dense level alone."""
    row_sums = bank.row_sums()
    parts = [
        _dense_step(views.take(block), centre[block], bank, search, sums, row_sums, window)
        for block in _blocks(len(views), bank, search)
    ]
    bank.insert(row_sums, views.disc.prefix(search.radius), references, sums)
    return Poses.join(parts)


def _dense_posterior(
    views: Views, centre: Tensor, bank: Bank, search: Search, temperature: float
) -> tuple[Posterior, Tensor]:
    level = search.levels[0]
    return posterior_of_bank(
        views,
        bank.slices,
        shifts_angst=level.shifts_angst,
        log_prior_row=bank.log_prior,
        log_prior_shift=_log_prior_shift(centre, level.shifts_angst, search.shift_prior_angst),
        temperature=temperature,
    )


def _dense_step(
    views: Views,
    centre: Tensor,
    bank: Bank,
    search: Search,
    sums: Sums,
    row_sums: tuple[Tensor, Tensor],
    window: NoiseWindow,
) -> Poses:
    level = search.levels[0]
    at_level = views.prefix(level.radius).shifted(centre)
    posterior, shifted = _dense_posterior(at_level, centre, bank, search, search.final_temperature)
    b, t, k = shifted.shape
    normed = shifted * posterior.norm[:, None, None]
    flat = torch.view_as_real(normed).reshape(b * t, 2 * k)
    row_sums[0].addmm_(posterior.likelihood.view(b * t, -1).T, flat)
    mass = posterior.row_mass
    row_sums[1].addmm_(mass.T, at_level.whitened()[1])
    by_reference = mass.view(b, -1, len(bank.rotations_ref_to_img)).sum(2)
    sums.class_weight.add_(by_reference.double().sum(0))
    row, shift = posterior.draw(lot(at_level))
    _add_shifts(posterior, centre, level.shifts_angst, sums)
    drawn = at_level.shifted(level.shifts_angst[shift])
    add_residuals(drawn, bank.slices[row], sums, window)
    best = posterior.best_row
    reference = bank.row_reference[best]
    return Poses.on_grid(
        posterior,
        rotation_ref_to_img=bank.rotations_ref_to_img[bank.row_rotation[best]],
        shift_angst=centre + level.shifts_angst[posterior.best_shift],
        reference=reference,
        reference_weight=by_reference.gather(1, reference[:, None]).squeeze(1),
    )


def _add_shifts(posterior: Posterior, centre: Tensor, shifts: Tensor, sums: Sums) -> None:
    """Add the spread of shifts, and the evidence."""
    total = (centre[:, None, :] + shifts).square().sum(-1) / 2
    square = (total * posterior.shift_mass.double()).sum()
    n_views = torch.tensor(float(len(centre))).double()
    sums.shift_square_angst2.add_(torch.stack([square, n_views]))
    sums.evidence_loglik.add_(posterior.evidence_loglik.sum())


@dataclass(frozen=True)
class _Descent:
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


def _descend(
    views: Views, centre: Tensor, bank: Bank, references: References, search: Search
) -> _Descent:
    """Go down the levels to the last one."""
    cells, centre = _dense_cells(views, centre, bank, search)
    for level in search.levels[1:]:
        here = views.prefix(level.radius).shifted(centre)
        scored = score_cells(
            here,
            references.half_volumes,
            cells,
            shifts_angst=level.shifts_angst,
            log_prior_shift=_log_prior_shift(centre, level.shifts_angst, search.shift_prior_angst),
            log_prior_reference=references.log_prior,
            padding=references.padding,
        )
        if level is search.levels[-1]:
            return _Descent(scored, cells, here, centre, level)
        profile = Profile.of_scores(scored.loglik, search.temperature)
        child = torch.arange(8)
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


def _starts(
    views: Views, centre: Tensor, bank: Bank, references: References, search: Search, n_starts: int
) -> Starts:
    """Find where to begin the continuous stage: the best few cells of the last grid."""
    last = search.levels[-1]
    if len(search.levels) > 1:
        descent = _descend(views, centre, bank, references, search)
        profile = Profile.of_scores(descent.scored.loglik, search.temperature)
        row = _top_rows(profile)
        rotation, cell = descent.rotations(torch.arange(len(views))[:, None], row)
        reference = descent.cells.reference[cell]
        found = top_starts(
            profile, row, rotation, reference, last.step_deg, n_starts, search.operators
        )
        return found.starts(descent.centre[found.view] + last.shifts_angst[found.shift])
    parts = []
    for block, profile in _dense_profiles(views, centre, bank, search):
        row = _top_rows(profile)
        rotation = bank.rotations_ref_to_img[bank.row_rotation[row]]
        reference = bank.row_reference[row]
        found = top_starts(
            profile, row, rotation, reference, last.step_deg, n_starts, search.operators
        )
        view = found.view + block.start
        starts = found.starts(centre[view] + last.shifts_angst[found.shift])
        parts.append(replace(starts, view=view))
    return Starts.join(parts)


def _top_rows(profile: Profile) -> Tensor:
    return profile.loglik.topk(min(_TOP_ROWS, profile.loglik.shape[1])).indices


def _dense_profiles(
    views: Views, centre: Tensor, bank: Bank, search: Search
) -> Iterator[tuple[slice, Profile]]:
    """Score the dense level block by block."""
    level = search.levels[0]
    for block in _blocks(len(views), bank, search):
        prior = _log_prior_shift(centre[block], level.shifts_angst, search.shift_prior_angst)
        scores, _ = scores_of_bank(
            views.take(block).prefix(level.radius).shifted(centre[block]),
            bank.slices,
            shifts_angst=level.shifts_angst,
            log_prior_row=bank.log_prior,
            log_prior_shift=prior,
        )
        yield block, Profile.of_scores(scores, search.temperature)


def _dense_cells(views: Views, centre: Tensor, bank: Bank, search: Search) -> tuple[Cells, Tensor]:
    """Score the dense level; return the cells kept and the new centres."""
    level = search.levels[0]
    masses, moves = [], []
    for _, profile in _dense_profiles(views, centre, bank, search):
        masses.append(profile.row_mass)
        moves.append(level.shifts_angst[profile.shift_of_best])
    cells = select_cells(
        torch.cat(masses),
        torch.arange(len(bank.slices))[None],
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
    table = torch.full((cells.n_views, int(cells.slot.max()) + 1), -1)
    table[cells.view, cells.slot] = cells.cell
    return table


def _ladder(
    views: Views,
    centre: Tensor,
    bank: Bank,
    references: References,
    search: Search,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    """Expect on the last of several levels."""
    descent = _descend(views, centre, bank, references, search)
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
    descent: _Descent,
    posterior: Posterior,
    references: References,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    cells, views = descent.cells, descent.views
    at = torch.arange(len(views))
    mass = posterior.row_mass
    reference = cells.reference[_cell_table(cells)].repeat_interleave(8, dim=1)
    for c in range(len(sums.class_weight)):
        sums.class_weight[c] += mass[reference == c].double().sum()
    _add_shifts(posterior, descent.centre, descent.level.shifts_angst, sums)
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
