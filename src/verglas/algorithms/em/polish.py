"""The posterior about its peaks: sampled by importance, not on a grid.

Around every peak poses are drawn from the Gaussian that fits it, and weighted by their exact
likelihood over the Gaussian's density (importance sampling; Robert & Casella 2004, section
3.3). The weighted poses replace the grid in every expectation, so no step size blurs the map,
and an uncertain view is spread over as many poses as it deserves.
"""

import math
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from verglas.algorithms.em.local import Peaks, Starts, climb
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.noise import NoiseWindow
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.em.residual import add_residuals, lot
from verglas.algorithms.views import Views
from verglas.kernels.pose_likelihood import insert_at_poses, pose_scores
from verglas.kernels.slices import extract_slices
from verglas.kernels.so3 import matrix_to_quaternion, rotation_from_vector

__all__ = ["Polish", "polish"]

_WIDER = 1.15  # of the proposals, whose tails must not be thinner than the posterior's
_SAME_PEAK = 4.0  # squared distance in standard deviations
_HOPELESS = 12.0  # log units below the view's best peak
_LEAST_MASS = 1e-3  # of a view's posterior; lower peaks are not worth their draws
_NEGLIGIBLE = 0.016  # of an even share among the draws about a peak
_FEW_STEPS = 5
_FEWEST_SHAPED = 16  # points; fewer cannot have the covariance of five dimensions
_ROUNDS = 10


@dataclass(frozen=True)
class Polish:
    """How the continuous stage works.

    Attributes:
        radius: shells that are added up.
        score_radius: shells that are compared; farther out the reference is empty.
        first_radius: shells compared in the first few steps.
        n_starts: peaks followed for each view at most.
        steps: evaluations of the score in a climb at most.
        n_samples: poses drawn about each peak.
    """

    radius: int
    score_radius: int
    first_radius: int
    n_starts: int = 3
    steps: int = 8
    n_samples: int = 16


@dataclass(frozen=True)
class _Draws:
    """Poses drawn about peaks; `probability` adds up to 1 over all draws of a view."""

    rotations: Tensor
    shifts_px: Tensor
    probability: Tensor


def polish(
    views: Views,
    references: References,
    starts: Starts,
    how: Polish,
    *,
    shift_prior_angst: float,
    sums: Sums,
    window: NoiseWindow,
    operators: Tensor | None = None,
) -> Poses:
    """Climb from the starts, sample the posterior about the peaks, add up expectations.

    Args:
        views: up to the radius of the polish.
        references: the maps, in 3D.
        starts: at least one for each view.
        how: settings.
        shift_prior_angst: standard deviation of shifts about zero.
        sums: added to, in place.
        window: of the noise.
        operators: `[g, 3, 3]`, of the references' point group.

    Returns:
        The highest peak of each view.
    """
    prior = {"shift_prior_angst": shift_prior_angst}
    seen = views.prefix(how.score_radius)
    if how.first_radius < how.score_radius:
        coarse = views.prefix(how.first_radius)
        first = climb(coarse, references, starts, **prior, steps=_FEW_STEPS)
        starts = _distinct(first, len(views), views.pixel_size_angst, operators).at
    found = climb(seen, references, starts, **prior, steps=how.steps)
    peaks = _distinct(found, len(views), views.pixel_size_angst, operators)
    peaks = _worthwhile(peaks, len(views))
    draws, evidence = _draw(seen, references, peaks, how.n_samples, shift_prior_angst)
    _insert(views, references, peaks, draws, sums)
    _add_drawn(views, references, peaks, draws, sums, window)
    sums.evidence_loglik.add_(evidence.sum())
    return _poses(peaks, draws, evidence, views)


def _slots(view: Tensor) -> Tensor:
    """Return the position of each entry among those of its view; entries are sorted by view."""
    first = torch.searchsorted(view, view)
    return torch.arange(len(view), device=view.device) - first


def _table(values: Tensor, view: Tensor, n_views: int, fill: float) -> Tensor:
    """Spread `[p, ...]` over `[b, slots, ...]`."""
    slot = _slots(view)
    out = values.new_full((n_views, int(slot.max()) + 1, *values.shape[1:]), fill)
    out[view, slot] = values
    return out


def _places(peaks: Peaks, n_views: int, fill: int) -> Tensor:
    """Return `[b, slots]`, the places of each view's peaks."""
    view = peaks.at.view
    return _table(torch.arange(len(view), device=view.device), view, n_views, fill)


def _take(peaks: Peaks, index: Tensor) -> Peaks:
    return Peaks(peaks.at.take(index), peaks.loglik[index], peaks.precision[index])


def _distinct(
    peaks: Peaks, n_views: int, pixel_size_angst: float, operators: Tensor | None = None
) -> Peaks:
    """Sort peaks by view and height; drop those that are the same, or hopeless."""
    if operators is None:
        operators = torch.eye(3, dtype=torch.float64, device=peaks.loglik.device)[None]
    order = torch.argsort(peaks.loglik, descending=True)
    order = order[torch.argsort(peaks.at.view[order], stable=True)]
    peaks = _take(peaks, order)
    index = _places(peaks, n_views, -1)
    best = peaks.loglik[index[:, 0]]
    keep = peaks.loglik > best[peaks.at.view] - _HOPELESS
    for later in range(1, index.shape[1]):
        for earlier in range(later):
            rows = index[:, later] >= 0
            low, high = index[rows, later], index[rows, earlier]
            same = _distance(peaks, low, high, pixel_size_angst, operators) < _SAME_PEAK
            same &= peaks.at.reference[low] == peaks.at.reference[high]
            keep[low[same & keep[high]]] = False
    return _take(peaks, keep.nonzero().squeeze(1))


def _worthwhile(peaks: Peaks, n_views: int) -> Peaks:
    """Drop peaks that hold next to nothing of a view's posterior, by Laplace's approximation."""
    factor = torch.linalg.cholesky(peaks.precision)
    volume = factor.diagonal(dim1=1, dim2=2).log().sum(1)
    mass = _table(peaks.loglik - volume, peaks.at.view, n_views, -torch.inf).softmax(1)
    share = mass[peaks.at.view, _slots(peaks.at.view)]
    return _take(peaks, (share > _LEAST_MASS).nonzero().squeeze(1))


def _distance(
    peaks: Peaks, low: Tensor, high: Tensor, pixel_size_angst: float, operators: Tensor
) -> Tensor:
    """Squared distance of pairs of peaks, in standard deviations of the higher one.

    To the nearest copy of the higher one under the point group.
    """
    copies = peaks.at.rotations_ref_to_img[high, None] @ operators.double()
    turns = peaks.at.rotations_ref_to_img[low, None] @ copies.mT
    nearest = turns.diagonal(dim1=2, dim2=3).sum(2).argmax(1)
    turn = turns[torch.arange(len(low), device=low.device), nearest]
    shift = (peaks.at.shifts_angst[low] - peaks.at.shifts_angst[high]) / pixel_size_angst
    apart = torch.cat([_turn_vector(turn), shift], 1)
    return torch.einsum("pi,pij,pj->p", apart, peaks.precision[high], apart)


def _turn_vector(rotations: Tensor) -> Tensor:
    """Return rotation vectors `[.., 3]` in radians: what `rotation_from_vector` undoes."""
    quaternion = matrix_to_quaternion(rotations)
    axis = quaternion[..., 1:]
    sine = axis.norm(dim=-1, keepdim=True)
    angle = 2 * torch.atan2(sine, quaternion[..., :1])
    return axis * torch.where(sine > 1e-9, angle / sine.clamp_min(1e-9), 2.0)


@cache
def _normal_points(n: int) -> Tensor:
    """Return `[n, 5]` points about a peak, evenly spread, in opposite pairs.

    They are nearly those of a standard normal; so few would fill some directions twice as
    wide as others, so they are turned and stretched until, about a Gaussian peak, their
    weighted covariance is the peak's own.
    """
    engine = torch.quasirandom.SobolEngine(5, scramble=True, seed=3)  # type: ignore[no-untyped-call]
    uniform = engine.draw((n + 1) // 2).double().clamp(1e-6, 1 - 1e-6)
    half = torch.erfinv(2 * uniform - 1) * 2**0.5
    weight = torch.ones(len(half), dtype=torch.float64)
    for _ in range(_ROUNDS if n >= _FEWEST_SHAPED else 0):
        covariance = half.mT @ (half * (weight / weight.sum())[:, None])
        value, axis = torch.linalg.eigh(covariance)
        half = half @ (axis * value.rsqrt()) @ axis.mT / _WIDER
        weight = (0.5 * (1 - _WIDER**2) * half.square().sum(1)).exp()
    return torch.cat([half, -half])[:n]


def _draw(
    views: Views, references: References, peaks: Peaks, n: int, shift_prior_angst: float
) -> tuple[_Draws, Tensor]:
    """Draw poses about the peaks; return them with the evidence of each view."""
    at = peaks.at
    normal = _normal_points(n).to(views.device)
    factor = torch.linalg.cholesky(peaks.precision)
    offsets = torch.linalg.solve_triangular(factor.mT, normal.T * _WIDER, upper=True).mT
    rotations = rotation_from_vector(offsets[..., :3]) @ at.rotations_ref_to_img[:, None]
    shifts_px = at.shifts_angst[:, None] / views.pixel_size_angst + offsets[..., 3:]
    signal, weight = views.whitened()
    loglik = torch.empty(len(at), n, dtype=torch.float64, device=views.device)
    for c in range(len(references.half_volumes)):
        chosen = (at.reference == c).nonzero().squeeze(1)
        if len(chosen):
            loglik[chosen] = pose_scores(
                references.half_volumes[c],
                signal[at.view[chosen]],
                weight[at.view[chosen]],
                rotations[chosen],
                shifts_px[chosen],
                views.disc.frequencies_px,
                box=views.disc.box,
                padding=references.padding,
            )
    loglik += references.log_prior.double()[at.reference][:, None]
    loglik -= 0.5 * (shifts_px * views.pixel_size_angst / shift_prior_angst).square().sum(-1)
    density = _log_density(peaks, factor, normal, rotations, shifts_px, views)
    weighted = loglik - density - math.log(n)
    by_view = _table(weighted, at.view, len(views), -torch.inf).flatten(1)
    evidence = by_view.logsumexp(1)
    return _Draws(rotations, shifts_px, (weighted - evidence[at.view, None]).exp()), evidence


def _log_density(
    peaks: Peaks,
    factor: Tensor,
    normal: Tensor,
    rotations: Tensor,
    shifts_px: Tensor,
    views: Views,
) -> Tensor:
    """Return `[p, n]`, log of the summed density of all peaks of a view at its draws.

    All, and not only the peak that was drawn from: where two overlap, both draw the same
    poses, which count once (the balance heuristic of Veach & Guibas 1995,
    doi:10.1145/218380.218498).
    """
    log_peak = (
        factor.diagonal(dim1=1, dim2=2).log().sum(1)
        - 5 * math.log(_WIDER)
        - 2.5 * math.log(2 * math.pi)
    )
    own = log_peak[:, None] - 0.5 * normal.square().sum(1)
    slot, view = _slots(peaks.at.view), peaks.at.view
    index = _places(peaks, len(views), -1)[view]
    other = (index >= 0) & (torch.arange(index.shape[1], device=slot.device) != slot[:, None])
    other &= peaks.at.reference[index] == peaks.at.reference[:, None]
    draw, column = other.nonzero(as_tuple=True)
    if not len(draw):
        return own
    peak = index[draw, column]
    turn = rotations[draw] @ peaks.at.rotations_ref_to_img[peak, None].mT
    shift = shifts_px[draw] - peaks.at.shifts_angst[peak, None] / views.pixel_size_angst
    apart = torch.cat([_turn_vector(turn), shift], -1) @ factor[peak] / _WIDER
    table = own.new_full((*index.shape, own.shape[1]), -torch.inf)
    table[torch.arange(len(view), device=view.device), slot] = own
    table[draw, column] = log_peak[peak, None] - 0.5 * apart.square().sum(-1)
    return table.logsumexp(1)


def _insert(views: Views, references: References, peaks: Peaks, draws: _Draws, sums: Sums) -> None:
    signal, weight = views.whitened()
    probability = draws.probability
    least = _NEGLIGIBLE / probability.shape[1]
    probability = torch.where(probability > least, probability, 0.0)
    for c in range(len(references.half_volumes)):
        chosen = (peaks.at.reference == c).nonzero().squeeze(1)
        sums.class_weight[c] += draws.probability[chosen].sum()
        if len(chosen):
            insert_at_poses(
                signal[peaks.at.view[chosen]],
                weight[peaks.at.view[chosen]],
                draws.rotations[chosen],
                draws.shifts_px[chosen],
                probability[chosen],
                views.disc.frequencies_px,
                box=views.disc.box,
                radius=views.disc.radius,
                padding=references.padding,
                into=(sums.numerator[c], sums.denominator[c]),
            )
    square = (draws.shifts_px * views.pixel_size_angst).square().sum(-1) / 2
    total = (square * draws.probability).sum()
    sums.shift_square_angst2.add_(torch.stack([total, total.new_tensor(len(views))]))


def _add_drawn(
    views: Views,
    references: References,
    peaks: Peaks,
    draws: _Draws,
    sums: Sums,
    window: NoiseWindow,
) -> None:
    """Add the residual of every view at one of its draws."""
    n = draws.probability.shape[1]
    table = _table(draws.probability, peaks.at.view, len(views), 0.0).flatten(1)
    running = table.cumsum(1)
    target = lot(views)[:, None] * running[:, -1:]
    place = torch.searchsorted(running, target, right=True).squeeze(1).clamp_max(table.shape[1] - 1)
    here = torch.arange(len(views), device=views.device)
    peak = _places(peaks, len(views), 0)[here, place // n]
    rotation, shift = draws.rotations[peak, place % n], draws.shifts_px[peak, place % n]
    slices = torch.empty_like(views.data)
    for c in range(len(references.half_volumes)):
        chosen = peaks.at.reference[peak] == c
        if chosen.any():
            slices[chosen] = extract_slices(
                references.half_volumes[c],
                rotation[chosen],
                views.disc.frequencies_px,
                padding=references.padding,
            )
    moved = _moved(views, shift * views.pixel_size_angst)
    add_residuals(moved, slices, sums, window)


def _moved(views: Views, shifts_angst: Tensor) -> Views:
    """Move every view by its own shift."""
    cycles = (
        shifts_angst / (views.disc.box * views.pixel_size_angst)
    ).float() @ views.disc.frequencies_px.T
    phases = torch.polar(torch.ones_like(cycles), -2 * torch.pi * cycles)
    return replace(views, data=views.data * phases)


def _poses(peaks: Peaks, draws: _Draws, evidence: Tensor, views: Views) -> Poses:
    mass = _table(draws.probability.sum(1), peaks.at.view, len(views), 0.0)
    index = _places(peaks, len(views), 0)
    slot = mass.argmax(1)
    best = index[torch.arange(len(views), device=views.device), slot]
    reference = peaks.at.reference[best]
    same = _table(peaks.at.reference, peaks.at.view, len(views), -1) == reference[:, None]
    covariance = torch.linalg.inv(peaks.precision[best]).diagonal(dim1=1, dim2=2)
    return Poses(
        rotation_ref_to_img=peaks.at.rotations_ref_to_img[best],
        shift_angst=peaks.at.shifts_angst[best],
        reference=reference,
        reference_weight=(mass * same).sum(1).float(),
        weight=mass.amax(1).float(),
        loglik=evidence,
        effective_cells=mass.square().sum(1).reciprocal().float(),
        angle_sd_deg=torch.rad2deg(covariance[:, :3].sum(1).sqrt()).float(),
        shift_sd_angst=(covariance[:, 3:].sum(1).sqrt() * views.pixel_size_angst).float(),
    )
