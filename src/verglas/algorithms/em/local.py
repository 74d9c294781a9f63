"""The continuous end of the search: climb to the peak of each view's posterior.

Levenberg-Marquardt on the exact score over three angles and two shifts, from one or a few
starting poses of each view (spa-algorithms, section 3.6). What comes out is not a pose but
a peak: its place, its height and, from the normal matrix, its width.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.em import ascent
from verglas.algorithms.em.references import References
from verglas.algorithms.em.search import Profile
from verglas.algorithms.views import Views
from verglas.kernels.pose_likelihood import PoseNormals, pose_normals
from verglas.kernels.so3 import rotation_from_vector

__all__ = ["GridStarts", "Peaks", "Starts", "climb", "top_starts"]

_LEAST_SHARE = 1e-3  # of the best row, at the temperature of the grid


@dataclass(frozen=True)
class Starts:
    """Poses to start from; a view may have several.

    Attributes:
        view: `[p]`, index of the view.
        reference: `[p]`.
        rotations_ref_to_img: `[p, 3, 3]`, float64.
        shifts_angst: `[p, 2]`, float64.
    """

    view: Tensor
    reference: Tensor
    rotations_ref_to_img: Tensor
    shifts_angst: Tensor

    def __len__(self) -> int:
        return len(self.view)

    def take(self, index: Tensor | slice) -> "Starts":
        """Return some of them."""
        return Starts(*(value[index] for value in vars(self).values()))

    def by_view(self) -> "Starts":
        """Return them sorted by view."""
        return self.take(torch.argsort(self.view, stable=True))

    @staticmethod
    def join(parts: "list[Starts]") -> "Starts":
        """Concatenate."""
        return Starts(
            *(torch.cat(values) for values in zip(*(vars(p).values() for p in parts), strict=True))
        )


@dataclass(frozen=True)
class GridStarts:
    """The best rows of a grid, apart from one another; sorted by view.

    Attributes:
        view, reference, shift: `[p]`, indices.
        rotations_ref_to_img: `[p, 3, 3]`.
    """

    view: Tensor
    reference: Tensor
    shift: Tensor
    rotations_ref_to_img: Tensor

    def starts(self, shifts_angst: Tensor) -> Starts:
        """Give them their shifts, `[p, 2]`."""
        return Starts(self.view, self.reference, self.rotations_ref_to_img, shifts_angst)


def top_starts(
    profile: Profile,
    row: Tensor,
    rotations_ref_to_img: Tensor,
    reference: Tensor,
    step_deg: float,
    n_starts: int,
    operators: Tensor | None = None,
) -> GridStarts:
    """Choose the best rows of each view that are not neighbours of better ones.

    Args:
        profile: over a grid.
        row: `[b, m]`, best rows of each view, best first.
        rotations_ref_to_img: `[b, m, 3, 3]`, of these rows.
        reference: `[b, m]`.
        step_deg: of the grid; rows nearer than 1.6 steps are neighbours.
        n_starts: at most, of each view.
        operators: `[g, 3, 3]`, of the references' point group; copies of a row under it are
            its neighbours.
    """
    m = row.shape[1]
    mass = profile.row_mass.gather(1, row)
    limit = 1 + 2 * math.cos(math.radians(1.6 * step_deg))
    flat = rotations_ref_to_img.flatten(2)
    traces = flat @ flat.mT
    for operator in operators[1:] if operators is not None else ():
        copy = (rotations_ref_to_img @ operator.to(flat)).flatten(2)
        traces = torch.maximum(traces, flat @ copy.mT)
    near = (traces > limit) & (reference[:, :, None] == reference[:, None, :])
    keep = mass > _LEAST_SHARE * mass[:, :1]
    for later in range(1, m):
        shadowed = (near[:, later, :later] & keep[:, :later]).any(1)
        keep[:, later] &= ~shadowed & (keep[:, :later].sum(1) < n_starts)
    view, slot = keep.nonzero(as_tuple=True)
    chosen = row[view, slot]
    return GridStarts(
        view=view,
        reference=reference[view, slot],
        shift=profile.best_shift[view, chosen],
        rotations_ref_to_img=rotations_ref_to_img[view, slot].double(),
    )


@dataclass(frozen=True)
class Peaks:
    """Maxima of the posterior, one for each start.

    Attributes:
        at: where they are.
        loglik: `[p]`, score with the priors of shift and reference.
        precision: `[p, 5, 5]`, inverse covariance of rotation vector (radians) and shift
            (pixels) about the peak.
    """

    at: Starts
    loglik: Tensor
    precision: Tensor


def climb(
    views: Views,
    references: References,
    starts: Starts,
    *,
    shift_prior_angst: float,
    steps: int,
) -> Peaks:
    """Climb from every start to a peak of its view's posterior.

    Args:
        views: up to the radius that is to be used.
        references: the maps.
        starts: where to begin.
        shift_prior_angst: standard deviation of shifts about zero.
        steps: evaluations at most.

    Returns:
        The peaks, in the order of the starts.
    """
    signal, weight = views.whitened()
    going = torch.arange(len(starts), device=starts.view.device)
    where = starts.take(going)  # a copy, which moves
    here = _evaluate(signal, weight, views, references, where, shift_prior_angst)
    damping = torch.full_like(here.score, ascent.FIRST_DAMPING)
    for _ in range(steps):
        normals = _take(here, going)
        step, promise = _step(normals, damping[going])
        going, step = going[promise > ascent.SETTLED], step[promise > ascent.SETTLED]
        if not len(going):
            break
        tried = _moved(where.take(going), step, views.pixel_size_angst)
        there = _evaluate(signal, weight, views, references, tried, shift_prior_angst)
        better = there.score > here.score[going]
        damping[going] = damping[going] * torch.where(better, ascent.LESS, ascent.MORE)
        kept = going[better]
        for old, new in zip(vars(where).values(), vars(tried).values(), strict=True):
            old[kept] = new[better]
        for old, new in zip(vars(here).values(), vars(there).values(), strict=True):
            old[kept] = new[better]
    return Peaks(where, here.score, here.normal)


def _take(normals: PoseNormals, index: Tensor) -> PoseNormals:
    return PoseNormals(*(value[index] for value in vars(normals).values()))


def _evaluate(
    signal: Tensor,
    weight: Tensor,
    views: Views,
    references: References,
    at: Starts,
    shift_prior_angst: float,
) -> PoseNormals:
    """Score with derivatives, priors included."""
    shifts_px = at.shifts_angst / views.pixel_size_angst
    out = PoseNormals(
        shifts_px.new_empty(len(at)),
        shifts_px.new_empty(len(at), 5),
        shifts_px.new_empty(len(at), 5, 5),
    )
    for c in range(len(references.half_volumes)):
        chosen = (at.reference == c).nonzero().squeeze(1)
        if not len(chosen):
            continue
        found = pose_normals(
            references.half_volumes[c],
            signal[at.view[chosen]],
            weight[at.view[chosen]],
            at.rotations_ref_to_img[chosen],
            shifts_px[chosen],
            views.disc.frequencies_px,
            box=views.disc.box,
            padding=references.padding,
        )
        for whole, part in zip(vars(out).values(), vars(found).values(), strict=True):
            whole[chosen] = part
    precision = (views.pixel_size_angst / shift_prior_angst) ** 2
    out.score.sub_(0.5 * precision * shifts_px.square().sum(1))
    out.score.add_(references.log_prior.double()[at.reference])
    out.gradient[:, 3:] -= precision * shifts_px
    out.normal.diagonal(dim1=1, dim2=2)[:, 3:] += precision
    out.normal.diagonal(dim1=1, dim2=2)[:, :3] += ascent.WIDEST_SD**-2
    return out


def _step(normals: PoseNormals, damping: Tensor) -> tuple[Tensor, Tensor]:
    """Return the damped Newton step, not too long, and the gain that it promises."""
    diagonal = normals.normal.diagonal(dim1=1, dim2=2)
    damped = normals.normal + torch.diag_embed(damping[:, None] * diagonal)
    factor = torch.linalg.cholesky(damped)
    step = torch.cholesky_solve(normals.gradient[..., None], factor)[..., 0]
    promise = 0.5 * (step * normals.gradient).sum(1)
    turn = step[:, :3].norm(dim=1) / ascent.LONGEST_TURN
    shift = step[:, 3:].norm(dim=1) / ascent.LONGEST_SHIFT_PX
    return step / torch.maximum(turn, shift).clamp_min(1.0)[:, None], promise


def _moved(at: Starts, step: Tensor, pixel_size_angst: float) -> Starts:
    turned = rotation_from_vector(step[:, :3]) @ at.rotations_ref_to_img
    return replace(
        at,
        rotations_ref_to_img=turned,
        shifts_angst=at.shifts_angst + step[:, 3:] * pixel_size_angst,
    )
