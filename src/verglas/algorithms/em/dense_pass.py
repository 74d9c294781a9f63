"""Expectation on the dense level of a search: every orientation and shift of every view."""

from collections.abc import Iterator

import torch
from torch import Tensor

from verglas.algorithms.batching import block_size, blocks_that_fit, budget_gb
from verglas.algorithms.em.bank import Bank
from verglas.algorithms.em.levels import Search
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.em.search import Posterior, Profile, posterior_of_bank, scores_of_bank
from verglas.algorithms.views import Views

__all__ = ["add_shifts", "dense_profiles", "expect_densely", "shift_log_prior"]

_MOST_VIEWS = 256  # more are no faster on a processor, nor on a GPU with a grid this long


def _block_size(bank: Bank, search: Search) -> int:
    """How many views are compared at once: as many as their scores leave room for."""
    per_view = len(bank.slices) * len(search.levels[0].shifts_angst) * 4
    budget = budget_gb(search.block_gb, bank.slices.device)
    return block_size(per_view, budget_gb=budget, most=_MOST_VIEWS)


def shift_log_prior(centre: Tensor, shifts: Tensor, prior_angst: float) -> Tensor:
    """Return `[b, t]`, log of the Gaussian about zero at shifts from each view's centre."""
    total = centre[:, None, :] + shifts
    return (-total.square().sum(-1) / (2 * prior_angst**2)).float()


def expect_densely(
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

    def compare(block: slice) -> tuple[Views, Posterior, Tensor]:
        at_level = views.take(block).prefix(search.levels[0].radius).shifted(centre[block])
        temperature = search.final_temperature
        return at_level, *_dense_posterior(at_level, centre[block], bank, search, temperature)

    parts = [
        _dense_step(compared, centre[block], bank, search, sums, row_sums, window)
        for block, compared in blocks_that_fit(len(views), _block_size(bank, search), compare)
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
        log_prior_shift=shift_log_prior(centre, level.shifts_angst, search.shift_prior_angst),
        temperature=temperature,
    )


def _dense_step(
    compared: tuple[Views, Posterior, Tensor],
    centre: Tensor,
    bank: Bank,
    search: Search,
    sums: Sums,
    row_sums: tuple[Tensor, Tensor],
    window: NoiseWindow,
) -> Poses:
    """Add what a block of views says to the sums."""
    level = search.levels[0]
    at_level, posterior, shifted = compared
    b, t, k = shifted.shape
    normed = shifted * posterior.norm[:, None, None]
    flat = torch.view_as_real(normed).reshape(b * t, 2 * k)
    row_sums[0].addmm_(posterior.likelihood.view(b * t, -1).T, flat)
    mass = posterior.row_mass
    row_sums[1].addmm_(mass.T, at_level.whitened()[1])
    by_reference = mass.view(b, -1, len(bank.rotations_ref_to_img)).sum(2)
    sums.class_weight.add_(by_reference.double().sum(0))
    row, shift = posterior.draw(lot(at_level))
    add_shifts(posterior, centre, level.shifts_angst, sums)
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


def add_shifts(posterior: Posterior, centre: Tensor, shifts: Tensor, sums: Sums) -> None:
    """Add the spread of shifts, and the evidence."""
    total = (centre[:, None, :] + shifts).square().sum(-1) / 2
    square = (total * posterior.shift_mass.double()).sum()
    sums.shift_square_angst2.add_(torch.stack([square, square.new_tensor(len(centre))]))
    sums.evidence_loglik.add_(posterior.evidence_loglik.sum())


def dense_profiles(
    views: Views, centre: Tensor, bank: Bank, search: Search
) -> Iterator[tuple[slice, Profile]]:
    """Score the dense level block by block."""
    level = search.levels[0]

    def compare(block: slice) -> Profile:
        prior = shift_log_prior(centre[block], level.shifts_angst, search.shift_prior_angst)
        scores, _ = scores_of_bank(
            views.take(block).prefix(level.radius).shifted(centre[block]),
            bank.slices,
            shifts_angst=level.shifts_angst,
            log_prior_row=bank.log_prior,
            log_prior_shift=prior,
        )
        return Profile.of_scores(scores, search.temperature)

    yield from blocks_that_fit(len(views), _block_size(bank, search), compare)
