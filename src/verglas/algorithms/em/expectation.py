"""One pass over views: score, choose, and add up what the maximisation step needs."""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from verglas.algorithms.batching import block_size, budget_gb
from verglas.algorithms.em.bank import Bank
from verglas.algorithms.em.dense_pass import dense_profiles, expect_densely
from verglas.algorithms.em.descent import descend, expect_on_ladder
from verglas.algorithms.em.levels import Level, Search
from verglas.algorithms.em.local import Starts, top_starts
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow, noise_window
from verglas.algorithms.em.polish import polish
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.em.search import Profile
from verglas.algorithms.views import Views
from verglas.kernels.fused import is_fused
from verglas.kernels.products import coarse_products
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

_LADDER_GB = 0.5
_BLOCK = 256  # views in the continuous stage at a time
_BLOCK_ON_GPU = 2048
_FUSED_BYTES, _PLAIN_BYTES = 40, 400  # of a coefficient at one pose, with and without Triton
_TOP_ROWS = 8  # for each start wanted; neighbours of better ones are passed over


def expect(
    views: Views,
    references: References,
    search: Search,
    *,
    n_groups: int,
    shifts_angst: Tensor | None = None,
    known: Starts | None = None,
    into: Sums | None = None,
) -> tuple[Poses, Sums]:
    """Score all views against the references and add up the expectations.

    Args:
        views: the images of one half set.
        references: what to compare with.
        search: grids and priors.
        n_groups: number of noise groups in the whole data set.
        shifts_angst: `[b, 2]`, present centres; zero if not given.
        known: further poses for the continuous stage to start from.
        into: sums to go on with; new ones by default.

    Returns:
        The best pose of each view and the sums.
    """
    sums = _empty_sums(references, n_groups, search.radius) if into is None else into
    window = _window(views, search)
    centre = torch.zeros(len(views), 2, dtype=torch.float64, device=views.device)
    centre = centre if shifts_angst is None else shifts_angst.double()
    disc = views.disc.prefix(search.levels[0].radius)
    bank = Bank.make(disc, references, search.rotations_ref_to_img)
    if search.polish:
        with coarse_products():
            starts = _starts(views, centre, bank, references, search, search.polish.n_starts)
        if known is not None:
            starts = Starts.join([known, starts]).by_view()
        return _polished(views, references, starts, search, sums, window), sums
    if len(search.levels) == 1:
        return expect_densely(views, centre, bank, references, search, sums, window), sums
    size = _views_at_once(search, views)
    blocks = [slice(start, start + size) for start in range(0, len(views), size)]
    parts = [
        expect_on_ladder(views.take(b), centre[b], bank, references, search, sums, window)
        for b in blocks
    ]
    return Poses.join(parts), sums


def _views_at_once(search: Search, views: Views) -> int:
    """Return how many views have room for their scores on the finer levels, and two copies."""
    n_shifts = max(len(level.shifts_angst) for level in search.levels[1:])
    per_view = 3 * 4 * 8 * search.max_cells * n_shifts
    return block_size(per_view, budget_gb=budget_gb(_LADDER_GB, views.device), most=len(views))


def expect_nearby(
    views: Views,
    references: References,
    search: Search,
    *,
    n_groups: int,
    rotations_ref_to_img: Tensor,
    shifts_angst: Tensor,
    reference: Tensor | None = None,
    into: Sums | None = None,
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
        into: sums to go on with; new ones by default.

    Returns:
        The pose of each view and the sums.
    """
    first = torch.zeros(len(views), dtype=torch.long, device=views.device)
    starts = Starts(
        view=torch.arange(len(views), device=views.device),
        reference=first if reference is None else reference,
        rotations_ref_to_img=rotations_ref_to_img.double().clone(),
        shifts_angst=shifts_angst.double().clone(),
    )
    return expect_from(views, references, search, starts, n_groups=n_groups, into=into)


def expect_from(
    views: Views,
    references: References,
    search: Search,
    starts: Starts,
    *,
    n_groups: int,
    into: Sums | None = None,
) -> tuple[Poses, Sums]:
    """Climb from given starts, without a grid, and add up the expectations.

    Args:
        views: the images.
        references: what to compare with.
        search: with a continuous stage; its grids are not used.
        starts: at least one for each view, sorted by view.
        n_groups: number of noise groups in the whole data set.
        into: sums to go on with; new ones by default.

    Returns:
        The pose of each view and the sums.
    """
    sums = _empty_sums(references, n_groups, search.radius) if into is None else into
    return _polished(views, references, starts, search, sums, _window(views, search)), sums


def _empty_sums(references: References, n_groups: int, radius: int) -> Sums:
    return Sums.zeros(
        len(references.half_volumes),
        n_groups,
        radius,
        padding=references.padding,
        planar=references.planar,
        device=references.half_volumes.device,
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
    size = _block_of_views(views, search.polish.n_starts)
    edges = torch.arange(0, len(views) + size, size, device=views.device)
    ends = torch.searchsorted(starts.view, edges).tolist()
    parts = []
    for block, (begin, end) in enumerate(pairwise(ends)):
        first = block * size
        mine = starts.take(slice(begin, end))
        parts.append(
            polish(
                views.take(slice(first, first + size)).prefix(search.radius),
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


def _block_of_views(views: Views, n_starts: int) -> int:
    """Return how many views the continuous stage takes at a time."""
    if views.device.type == "cpu":
        return _BLOCK
    of_coefficient = _FUSED_BYTES if is_fused(views.data) else _PLAIN_BYTES
    per_view = n_starts * views.disc.n_coefficients * of_coefficient
    budget = budget_gb(_LADDER_GB, views.device)
    return block_size(per_view, budget_gb=budget, most=_BLOCK_ON_GPU)


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
    sums = Sums.zeros(
        n_references, n_groups, radius, padding=padding, planar=planar, device=views.device
    )
    views = views.prefix(radius)
    signal, weight = views.whitened()
    n = len(views)
    reference = torch.randint(n_references, (n,), generator=generator).to(views.device)
    rotations = search.rotations_ref_to_img
    row = torch.randint(len(rotations), (n,), generator=generator).to(views.device)
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


def _starts(
    views: Views, centre: Tensor, bank: Bank, references: References, search: Search, n_starts: int
) -> Starts:
    """Find where to begin the continuous stage: the best few cells of the last grid."""
    last = search.levels[-1]
    if len(search.levels) > 1:
        descent = descend(views, centre, bank, references, search)
        profile = Profile.of_scores(descent.scored.loglik, search.temperature)
        row = _top_rows(profile, n_starts)
        rotation, cell = descent.rotations(
            torch.arange(len(views), device=row.device)[:, None], row
        )
        reference = descent.cells.reference[cell]
        found = top_starts(
            profile, row, rotation, reference, last.step_deg, n_starts, search.operators
        )
        return found.starts(descent.centre[found.view] + last.shifts_angst[found.shift])
    parts = []
    for block, profile in dense_profiles(views, centre, bank, search):
        row = _top_rows(profile, n_starts)
        rotation = bank.rotations_ref_to_img[bank.row_rotation[row]]
        reference = bank.row_reference[row]
        found = top_starts(
            profile, row, rotation, reference, last.step_deg, n_starts, search.operators
        )
        view = found.view + block.start
        starts = found.starts(centre[view] + last.shifts_angst[found.shift])
        parts.append(replace(starts, view=view))
    return Starts.join(parts)


def _top_rows(profile: Profile, n_starts: int) -> Tensor:
    return profile.loglik.topk(min(_TOP_ROWS * n_starts, profile.loglik.shape[1])).indices
