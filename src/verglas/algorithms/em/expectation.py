"""One pass over views: score, choose, and add up what the maximisation step needs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.em.ladder import (
    Cells,
    LevelResult,
    add_expectations,
    score_cells,
    select_cells,
)
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow, noise_window, windowed_power
from verglas.algorithms.em.search import Posterior, posterior_of_bank
from verglas.algorithms.views import Views
from verglas.kernels.disc import shell_sums
from verglas.kernels.slices import extract_slices, insert_slices

__all__ = ["Level", "Poses", "References", "Search", "expect", "scatter"]

_LOTS = 100.0  # enough for the fraction to be uniform, and above rounding


@dataclass(frozen=True)
class References:
    """Maps (or class averages) to compare with, ready for slicing.

    Attributes:
        half_volumes: `[c, ...]`, one per reference.
        log_prior: `[c]`, log of each reference's share of the views.
        padding: oversampling of the half volumes.
        planar: 2D references.
    """

    half_volumes: Tensor
    log_prior: Tensor
    padding: int
    planar: bool


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


@dataclass(frozen=True)
class Poses:
    """The most probable pose of each view.

    Attributes:
        rotation_ref_to_img: `[b, 3, 3]`, float64.
        shift_angst: `[b, 2]`.
        reference: `[b]`.
        reference_weight: `[b]`, posterior probability of that reference, all poses together.
        weight: `[b]`, posterior probability of that one grid point.
        loglik: `[b]`, evidence.
        effective_cells: `[b]`, number of orientations that share the posterior.
    """

    rotation_ref_to_img: Tensor
    shift_angst: Tensor
    reference: Tensor
    reference_weight: Tensor
    weight: Tensor
    loglik: Tensor
    effective_cells: Tensor

    @staticmethod
    def join(parts: list["Poses"]) -> "Poses":
        """Concatenate the poses of blocks."""
        return Poses(*[torch.cat([vars(p)[name] for p in parts]) for name in vars(parts[0])])


def expect(
    views: Views,
    references: References,
    search: Search,
    *,
    n_groups: int,
    shifts_angst: Tensor | None = None,
) -> tuple[Poses, Sums]:
    """Score all views against the references and add up the expectations.

    Args:
        views: the images of one half set.
        references: what to compare with.
        search: grids and priors.
        n_groups: number of noise groups in the whole data set.
        shifts_angst: `[b, 2]`, present centres; zero if not given.

    Returns:
        The best pose of each view and the sums.
    """
    last = search.levels[-1].radius
    sums = Sums.zeros(
        len(references.half_volumes),
        n_groups,
        last,
        padding=references.padding,
        planar=references.planar,
    )
    centre = torch.zeros(len(views), 2, dtype=torch.float64)
    centre = centre if shifts_angst is None else shifts_angst.double()
    bank = _Bank.make(views, references, search)
    disc = views.disc.prefix(last)
    radius_px = search.noise_radius_angst / views.pixel_size_angst or disc.box / 2
    window = noise_window(disc, min(radius_px, 0.45 * disc.box))
    parts: list[Poses] = []
    if len(search.levels) == 1:
        row_signal = torch.zeros(len(bank.slices), bank.slices.shape[1] * 2)
        row_weight = torch.zeros(len(bank.slices), bank.slices.shape[1])
        for block in _blocks(len(views), bank, search):
            poses = _dense_step(
                views.take(block),
                centre[block],
                bank,
                search,
                sums,
                (row_signal, row_weight),
                window,
            )
            parts.append(poses)
        _insert_rows(bank, row_signal, row_weight, views.prefix(last), references, sums)
    else:
        parts.append(_ladder(views, centre, bank, references, search, sums, window))
    return Poses.join(parts), sums


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


@dataclass(frozen=True)
class _Bank:
    """Slices of every reference at every rotation of the dense level."""

    slices: Tensor
    rotations: Tensor
    row_rotation: Tensor
    row_reference: Tensor
    log_prior: Tensor

    @staticmethod
    def make(views: Views, references: References, search: Search) -> "_Bank":
        disc = views.disc.prefix(search.levels[0].radius)
        rotations = search.rotations_ref_to_img
        n, c = len(rotations), len(references.half_volumes)
        slices = torch.cat(
            [
                extract_slices(v, rotations, disc.frequencies_px, padding=references.padding)
                for v in references.half_volumes
            ]
        )
        row_reference = torch.arange(c).repeat_interleave(n)
        return _Bank(
            slices=slices,
            rotations=rotations.double(),
            row_rotation=torch.arange(n).repeat(c),
            row_reference=row_reference,
            log_prior=references.log_prior.float()[row_reference],
        )


def _blocks(n_views: int, bank: _Bank, search: Search) -> Iterator[slice]:
    per_view = len(bank.slices) * len(search.levels[0].shifts_angst) * 4
    size = max(1, min(256, int(search.block_gb * 2**30 / per_view)))
    for start in range(0, n_views, size):
        yield slice(start, min(n_views, start + size))


def _log_prior_shift(centre: Tensor, shifts: Tensor, prior_angst: float) -> Tensor:
    total = centre[:, None, :] + shifts
    return (-total.square().sum(-1) / (2 * prior_angst**2)).float()


def _dense_step(
    views: Views,
    centre: Tensor,
    bank: _Bank,
    search: Search,
    sums: Sums,
    rows: tuple[Tensor, Tensor],
    window: NoiseWindow,
) -> Poses:
    level = search.levels[0]
    at_level = views.prefix(level.radius).shifted(centre)
    posterior, shifted = posterior_of_bank(
        at_level,
        bank.slices,
        shifts_angst=level.shifts_angst,
        log_prior_row=bank.log_prior,
        log_prior_shift=_log_prior_shift(centre, level.shifts_angst, search.shift_prior_angst),
        temperature=search.final_temperature,
    )
    b, t, k = shifted.shape
    row_signal, row_weight = rows
    normed = shifted * posterior.norm[:, None, None]
    flat = torch.view_as_real(normed).reshape(b * t, 2 * k)
    row_signal.addmm_(posterior.likelihood.view(b * t, -1).T, flat)
    mass = posterior.row_mass
    row_weight.addmm_(mass.T, at_level.whitened()[1])
    by_reference = mass.view(b, -1, len(bank.rotations)).sum(2)
    sums.class_weight.add_(by_reference.double().sum(0))
    _add_by_view(
        posterior,
        at_level,
        centre,
        level.shifts_angst,
        lambda view, row: bank.slices[row],
        sums,
        window,
    )
    best = posterior.best_row
    reference = bank.row_reference[best]
    return Poses(
        rotation_ref_to_img=bank.rotations[bank.row_rotation[best]],
        shift_angst=centre + level.shifts_angst[posterior.best_shift],
        reference=reference,
        reference_weight=by_reference.gather(1, reference[:, None]).squeeze(1),
        weight=posterior.best_weight,
        loglik=posterior.evidence_loglik,
        effective_cells=mass.square().sum(1).reciprocal(),
    )


def _insert_rows(
    bank: _Bank,
    row_signal: Tensor,
    row_weight: Tensor,
    views: Views,
    references: References,
    sums: Sums,
) -> None:
    signal = torch.view_as_complex(row_signal.view(len(row_signal), -1, 2))
    used = row_weight.amax(1) > 0
    for c in range(len(references.half_volumes)):
        rows = (used & (bank.row_reference == c)).nonzero().squeeze(1)
        if len(rows) == 0:
            continue
        insert_slices(
            signal[rows],
            row_weight[rows],
            bank.rotations[bank.row_rotation[rows]],
            views.disc.frequencies_px,
            radius=views.disc.radius,
            padding=references.padding,
            planar=references.planar,
            into=(sums.numerator[c], sums.denominator[c]),
        )


def _ladder(
    views: Views,
    centre: Tensor,
    bank: _Bank,
    references: References,
    search: Search,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    cells, centre = _dense_cells(views, centre, bank, search)
    for depth, level in enumerate(search.levels[1:], start=1):
        final = depth == len(search.levels) - 1
        here = views.prefix(level.radius).shifted(centre)
        result = score_cells(
            here,
            references.half_volumes,
            cells,
            shifts_angst=level.shifts_angst,
            log_prior_shift=_log_prior_shift(centre, level.shifts_angst, search.shift_prior_angst),
            log_prior_reference=references.log_prior,
            padding=references.padding,
            temperature=search.final_temperature if final else search.temperature,
        )
        if final:
            add_expectations(
                result,
                cells,
                here,
                padding=references.padding,
                planar=references.planar,
                numerator=sums.numerator,
                denominator=sums.denominator,
            )
            return _finish(result, cells, here, centre, level, references, sums, window)
        child = torch.arange(8)
        finer = select_cells(
            result.posterior.row_mass,
            (_cell_table(cells)[:, :, None] * 8 + child).flatten(1),
            rotations_ref_to_img=cells.children.reshape(-1, 3, 3),
            reference=cells.reference.repeat_interleave(8),
            step_deg=level.step_deg,
            kept_mass=search.kept_mass,
            min_cells=search.min_cells,
            max_cells=search.max_cells,
        )
        centre = centre + _mean_shift(result.posterior, level.shifts_angst)
        cells = finer
    raise AssertionError("a ladder has at least two levels")


def _dense_cells(views: Views, centre: Tensor, bank: _Bank, search: Search) -> tuple[Cells, Tensor]:
    """Score the dense level block by block; return the cells kept and the new centres."""
    level = search.levels[0]
    masses, moves = [], []
    for block in _blocks(len(views), bank, search):
        posterior, _ = posterior_of_bank(
            views.take(block).prefix(level.radius).shifted(centre[block]),
            bank.slices,
            shifts_angst=level.shifts_angst,
            log_prior_row=bank.log_prior,
            log_prior_shift=_log_prior_shift(
                centre[block], level.shifts_angst, search.shift_prior_angst
            ),
            temperature=search.temperature,
        )
        masses.append(posterior.row_mass)
        moves.append(_mean_shift(posterior, level.shifts_angst))
    cells = select_cells(
        torch.cat(masses),
        torch.arange(len(bank.slices))[None],
        rotations_ref_to_img=bank.rotations[bank.row_rotation],
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


def _mean_shift(posterior: Posterior, shifts: Tensor) -> Tensor:
    return posterior.shift_mass.double() @ shifts.double()


def _finish(
    result: LevelResult,
    cells: Cells,
    views: Views,
    centre: Tensor,
    level: Level,
    references: References,
    sums: Sums,
    window: NoiseWindow,
) -> Poses:
    posterior = result.posterior
    table = _cell_table(cells)
    children = cells.children

    def slices_of(view: Tensor, row: Tensor) -> Tensor:
        cell = table[view, row // 8]
        rotations = children[cell, row % 8]
        reference = cells.reference[cell]
        out = torch.zeros(len(view), views.disc.n_coefficients, dtype=torch.complex64)
        for c in torch.unique(reference).tolist():
            chosen = reference == c
            out[chosen] = extract_slices(
                references.half_volumes[c],
                rotations[chosen],
                views.disc.frequencies_px,
                padding=references.padding,
            )
        return out

    mass = posterior.row_mass
    reference = cells.reference[table].repeat_interleave(8, dim=1)
    for c in range(len(sums.class_weight)):
        sums.class_weight[c] += mass[reference == c].double().sum()
    _add_by_view(posterior, views, centre, level.shifts_angst, slices_of, sums, window)
    best = table[torch.arange(len(views)), posterior.best_row // 8]
    return Poses(
        rotation_ref_to_img=children[best, posterior.best_row % 8],
        shift_angst=centre + level.shifts_angst[posterior.best_shift],
        reference=cells.reference[best],
        reference_weight=(mass * (reference == cells.reference[best][:, None])).sum(1),
        weight=posterior.best_weight,
        loglik=posterior.evidence_loglik,
        effective_cells=mass.square().sum(1).reciprocal(),
    )


def _add_by_view(
    posterior: Posterior,
    views: Views,
    centre: Tensor,
    shifts: Tensor,
    slices_of: Callable[[Tensor, Tensor], Tensor],
    sums: Sums,
    window: NoiseWindow,
) -> None:
    """Add noise residuals, scales and shifts.

    The residual is taken at one pose drawn from each view's posterior, which estimates its
    expectation without bias; the best pose would make the noise look too small.
    """
    b = len(views)
    at = torch.arange(b)
    row, shift = posterior.draw(_lot(views))
    prediction = views.ctf * slices_of(at, row)
    observed = views.shifted(shifts[shift]).data
    power = windowed_power(observed - prediction, window)
    sums.residual_power.index_add_(0, views.group, power)
    count = shell_sums(torch.ones_like(views.ctf), views.disc)
    sums.residual_count.index_add_(0, views.group, count)
    inverse_noise = views.inverse_noise
    cross = (observed * prediction.conj()).real * inverse_noise
    power = prediction.abs().square() * inverse_noise
    sums.scale_cross.index_add_(0, views.group, cross.double().sum(1))
    sums.scale_power.index_add_(0, views.group, power.double().sum(1))
    total = (centre[:, None, :] + shifts).square().sum(-1) / 2
    square = (total * posterior.shift_mass.double()).sum()
    sums.shift_square_angst2.add_(torch.stack([square, torch.tensor(float(b)).double()]))
    sums.evidence_loglik.add_(posterior.evidence_loglik.sum())


def _lot(views: Views) -> Tensor:
    """Return a number in [0, 1) for each view, the same in whatever chunk and order it comes.

    Taken from the last digits of one coefficient, in units of its noise.
    """
    last = views.disc.shell[-1]
    level = views.noise_power[:, last].double().sqrt().clamp_min(1e-30)
    return (views.data[:, -1].abs().double() / level * _LOTS) % 1.0
