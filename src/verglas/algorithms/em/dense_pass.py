"""Expectation on the dense level of a search: every orientation and shift of every view."""

from collections.abc import Iterator

import torch
from torch import Tensor

from verglas.algorithms.em.bank import Bank
from verglas.algorithms.em.levels import Search
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.em.search import Posterior, Profile, posterior_of_bank, scores_of_bank
from verglas.algorithms.views import Views

__all__ = ["add_shifts", "dense_profiles", "expect_densely", "shift_log_prior"]


def _blocks(n_views: int, bank: Bank, search: Search) -> Iterator[slice]:
    per_view = len(bank.slices) * len(search.levels[0].shifts_angst) * 4
    size = max(1, min(256, int(search.block_gb * 2**30 / per_view)))
    for start in range(0, n_views, size):
        yield slice(start, min(n_views, start + size))


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
        log_prior_shift=shift_log_prior(centre, level.shifts_angst, search.shift_prior_angst),
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
    n_views = torch.tensor(float(len(centre))).double()
    sums.shift_square_angst2.add_(torch.stack([square, n_views]))
    sums.evidence_loglik.add_(posterior.evidence_loglik.sum())


def dense_profiles(
    views: Views, centre: Tensor, bank: Bank, search: Search
) -> Iterator[tuple[slice, Profile]]:
    """Score the dense level block by block."""
    level = search.levels[0]
    for block in _blocks(len(views), bank, search):
        prior = shift_log_prior(centre[block], level.shifts_angst, search.shift_prior_angst)
        scores, _ = scores_of_bank(
            views.take(block).prefix(level.radius).shifted(centre[block]),
            bank.slices,
            shifts_angst=level.shifts_angst,
            log_prior_row=bank.log_prior,
            log_prior_shift=prior,
        )
        yield block, Profile.of_scores(scores, search.temperature)
