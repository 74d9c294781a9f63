"""Rigid alignment of one map to another, in both hands, without a starting guess.

Coarse: every rotation of a HEALPix/Hopf grid, translation by phase correlation, on whitened
maps at a resolution that the grid step can follow. Fine: Gauss-Newton on Fourier components,
the band growing with the shell correlation until it stops growing. Boxes and pixel sizes may
differ: the moving map is read at the reference's physical frequencies.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms._map_band import (
    ReferenceBand,
    reference_band,
    shell_correlation,
)
from verglas.algorithms._map_refine import (
    information,
    place_values,
    refine_pose,
    weighted_correlation,
)
from verglas.algorithms._map_search import distinct_best, search_rotations
from verglas.algorithms.map_fsc import without_offset
from verglas.algorithms.resample import (
    FourierSampler,
    MapPose,
    fourier_sampler,
    resample_volume,
)
from verglas.kernels.masks import soft_sphere
from verglas.kernels.so3 import orientation_grid
from verglas.kernels.symmetry import symmetry_operators

__all__ = ["AlignConfig", "HandFit", "MapAlignment", "align_maps", "refine_alignment"]


_BAND_STEP = 1.6
_MIN_SHELLS = 6


@dataclass(frozen=True)
class AlignConfig:
    """How to search.

    Attributes:
        symmetry: point group of the moving map about RELION's axes; only one asymmetric
            unit of orientations is searched. C1 is always right, and slower.
        diameter_angst: of the object; default 2/3 of the smaller box.
        order: HEALPix order of the coarse grid, step 60 / 2^order degrees.
        candidates: rotations of each hand refined after the coarse search.
        max_shift_angst: default a quarter of the diameter.
        finest_angst: no component finer than this is used; default two pixels.
        fit_pixel_size: refine the moving map's pixel size too; give the cleaner map as the
            moving one, else the factor is drawn to where the other's noise is lower.
        both_hands: try the mirrored map; without it only the given hand.
        max_components: Fourier components in the last refinement.
    """

    symmetry: str = "C1"
    diameter_angst: float | None = None
    order: int = 3
    candidates: int = 8
    max_shift_angst: float | None = None
    finest_angst: float | None = None
    fit_pixel_size: bool = False
    both_hands: bool = True
    max_components: int = 300_000


@dataclass(frozen=True)
class HandFit:
    """Best pose of the moving map in one hand.

    Attributes:
        pose: of the moving map in the reference's frame.
        correlation: weighted mean of the shell correlations, same weights for both hands.
        shell_correlation: `[n]` float64, shell i at `i / length_angst`; shell 0 is 0.
        length_angst: of the reference's box.
    """

    pose: MapPose
    correlation: float
    shell_correlation: Tensor
    length_angst: float


@dataclass(frozen=True)
class MapAlignment:
    """The better hand, and the other one for comparison.

    Attributes:
        best: the hand with the higher correlation.
        other: the other hand; None when only one was tried.
    """

    best: HandFit
    other: HandFit | None

    @property
    def hand_difference(self) -> float:
        """Correlation of the chosen hand minus that of the other (0 if not tried)."""
        return self.best.correlation - self.other.correlation if self.other else 0.0


@dataclass(frozen=True)
class _Problem:
    """Masked maps and scales of one alignment."""

    reference: Tensor
    moving: Tensor
    mask: Tensor | None
    reference_pixel_angst: float
    moving_pixel_angst: float
    diameter_angst: float
    config: AlignConfig

    @property
    def coarse_angst(self) -> float:
        """Resolution at which half a grid step moves the rim by a quarter of a period."""
        step_rad = math.radians(60 / 2**self.config.order)
        return max(1.2 * step_rad * self.diameter_angst, 2.5 * self.finest_angst)

    @property
    def finest_angst(self) -> float:
        pixels = 2.05 * max(self.reference_pixel_angst, self.moving_pixel_angst)
        return max(pixels, self.config.finest_angst or 0.0)


def _sphere(volume: Tensor, *, pixel_size_angst: float, diameter_angst: float) -> Tensor:
    box = int(volume.shape[0])
    edge_px = max(3.0, 0.06 * box)
    # The moving map may lie off centre, and a hard cut would make features: stay wide.
    radius_px = min(0.65 * diameter_angst / pixel_size_angst, box / 2 - edge_px)
    return soft_sphere(box, radius_px, edge_px, device=volume.device)


def _coarse_poses(problem: _Problem, *, mirrored: bool) -> list[MapPose]:
    """Best distinct poses of one hand by exhaustive search."""
    config = problem.config
    band = _band(problem, problem.coarse_angst)
    sampler = fourier_sampler(
        problem.moving,
        pixel_size_angst=problem.moving_pixel_angst,
        resolution_angst=problem.coarse_angst * 0.85,
        order=1,
    )
    rotations = orientation_grid(config.order, symmetry=config.symmetry)
    found = search_rotations(
        band,
        sampler,
        rotations,
        mirrored=mirrored,
        max_shift_angst=config.max_shift_angst or problem.diameter_angst / 4,
    )
    operators = symmetry_operators(config.symmetry)
    best = distinct_best(
        found.score,
        rotations,
        operators,
        count=config.candidates,
        min_distance_deg=1.5 * 60 / 2**config.order,
    )
    shifts = found.shift_angst.cpu()
    return [MapPose(rotations[i], shifts[i], mirrored=mirrored) for i in best]


def _refine_candidates(problem: _Problem, poses: list[MapPose]) -> MapPose:
    """Refine all candidates at the coarse and at a finer band; return the best."""
    scored: list[tuple[float, MapPose]] = [(0.0, pose) for pose in poses]
    for sharpen, kept in ((1.0, 3), (0.6, 1)):
        resolution = max(problem.coarse_angst * sharpen, problem.finest_angst)
        band = _band(problem, resolution)
        sampler = _sampler(problem, problem.moving, resolution)
        refined = [refine_pose(band, sampler, pose, max_iterations=6) for _, pose in scored]
        weights = torch.ones(band.n_shells, dtype=torch.float64, device=band.values.device)
        scored = [
            (
                weighted_correlation(
                    shell_correlation(place_values(band, sampler, pose), band), weights, band
                ),
                pose,
            )
            for pose in refined
        ]
        scored = sorted(scored, key=lambda item: -item[0])[:kept]
    return scored[0][1]


def _band(problem: _Problem, resolution_angst: float) -> ReferenceBand:
    return reference_band(
        problem.reference,
        pixel_size_angst=problem.reference_pixel_angst,
        resolution_angst=resolution_angst,
    )


def _sampler(problem: _Problem, moving: Tensor, resolution_angst: float) -> FourierSampler:
    # A pixel size factor and the corners of the spline need a little more than the band.
    return fourier_sampler(
        moving,
        pixel_size_angst=problem.moving_pixel_angst,
        resolution_angst=resolution_angst / 1.1,
    )


def _masked_moving(problem: _Problem, pose: MapPose) -> Tensor:
    """Mask the moving map with the reference's mask, brought into its frame."""
    if problem.mask is None:
        return problem.moving
    mask = resample_volume(
        problem.mask,
        pose.inverse(),
        pixel_size_angst=problem.reference_pixel_angst,
        box=int(problem.moving.shape[0]),
        output_pixel_size_angst=problem.moving_pixel_angst,
        oversampling=1.0,
    ).clamp(0, 1)
    return without_offset(problem.moving, mask)


def _last_signal_shell(correlation: Tensor, *, threshold: float = 0.3) -> int:
    """First shell after which the 3-shell mean stays below a threshold, from shell 3 on."""
    smooth = correlation.unfold(0, 3, 1).mean(-1)
    below = torch.nonzero(smooth[2:] < threshold)
    return int(below[0, 0]) + 3 if below.numel() else int(correlation.numel())


@dataclass(frozen=True)
class _Refined:
    """A refined pose, the masked map it belongs to and the band it was refined in."""

    pose: MapPose
    moving: Tensor
    resolution_angst: float


def _refine_fully(problem: _Problem, pose: MapPose) -> _Refined:
    """Widen the band until the maps stop agreeing inside it, and refine in what agrees."""
    moving = _masked_moving(problem, pose)
    resolution = problem.coarse_angst
    while True:
        resolution = max(resolution / _BAND_STEP, problem.finest_angst)
        band = _band(problem, resolution).thin(problem.config.max_components)
        sampler = _sampler(problem, moving, resolution)
        limit = 0
        for _ in range(3):
            correlation = shell_correlation(place_values(band, sampler, pose), band)
            reached = min(max(_last_signal_shell(correlation), _MIN_SHELLS), band.n_shells)
            if reached <= limit:
                break
            limit = reached
            pose = refine_pose(
                band.cut(limit), sampler, pose, fit_scale=problem.config.fit_pixel_size
            )
        if limit < band.n_shells or resolution == problem.finest_angst:
            return _Refined(pose, moving, resolution)


def _compare(problem: _Problem, refined: list[_Refined]) -> MapAlignment:
    """Score all hands over the same shells, with the weights of the best one."""
    resolution = min(fit.resolution_angst for fit in refined)
    band = _band(problem, resolution).thin(problem.config.max_components)
    curves = [
        shell_correlation(
            place_values(band, _sampler(problem, fit.moving, resolution), fit.pose), band
        ).cpu()
        for fit in refined
    ]
    weights = torch.stack([information(curve) for curve in curves]).amax(0)
    fits = [
        HandFit(fit.pose, weighted_correlation(curve, weights, band), curve, band.length_angst)
        for fit, curve in zip(refined, curves, strict=True)
    ]
    fits.sort(key=lambda fit: -fit.correlation)
    return MapAlignment(best=fits[0], other=fits[1] if len(fits) > 1 else None)


def _problem(
    reference: Tensor,
    moving: Tensor,
    *,
    reference_pixel_size_angst: float,
    moving_pixel_size_angst: float,
    config: AlignConfig | None,
    mask: Tensor | None,
) -> _Problem:
    """Check and mask the two maps."""
    config = config or AlignConfig()
    for name, volume in (("reference", reference), ("moving map", moving)):
        if volume.ndim != 3 or len(set(volume.shape)) != 1:
            raise ValueError(f"{name} must be cubic [n, n, n]: got shape {tuple(volume.shape)}")
    if mask is not None and mask.shape != reference.shape:
        raise ValueError(
            f"mask must have the reference's shape {tuple(reference.shape)}: "
            f"got {tuple(mask.shape)}"
        )
    lengths = (
        reference.shape[0] * reference_pixel_size_angst,
        moving.shape[0] * moving_pixel_size_angst,
    )
    diameter = config.diameter_angst or min(lengths) * 2 / 3
    if mask is None:
        mask_reference = _sphere(
            reference, pixel_size_angst=reference_pixel_size_angst, diameter_angst=diameter
        )
    else:
        mask_reference = mask
    mask_moving = _sphere(moving, pixel_size_angst=moving_pixel_size_angst, diameter_angst=diameter)
    return _Problem(
        reference=without_offset(reference, mask_reference),
        moving=without_offset(moving, mask_moving),
        mask=mask,
        reference_pixel_angst=reference_pixel_size_angst,
        moving_pixel_angst=moving_pixel_size_angst,
        diameter_angst=diameter,
        config=config,
    )


def align_maps(
    reference: Tensor,
    moving: Tensor,
    *,
    reference_pixel_size_angst: float,
    moving_pixel_size_angst: float,
    config: AlignConfig | None = None,
    mask: Tensor | None = None,
) -> MapAlignment:
    """Find how a map has to be turned, moved and perhaps mirrored to lie on a reference.

    Convention: `resample_volume(moving, result.best.pose, ...)` lies on the reference.

    Args:
        reference: `[n, n, n]`.
        moving: `[m, m, m]`; box and pixel size may differ.
        reference_pixel_size_angst: of the reference.
        moving_pixel_size_angst: of the moving map.
        config: search settings.
        mask: `[n, n, n]` soft mask in the reference's frame; default a soft sphere.

    References:
        Yershova et al. 2010, doi:10.1177/0278364909352700 (grid); Rosenthal & Henderson
        2003, doi:10.1016/j.jmb.2003.07.013 (weights from the shell correlation).
    """
    problem = _problem(
        reference,
        moving,
        reference_pixel_size_angst=reference_pixel_size_angst,
        moving_pixel_size_angst=moving_pixel_size_angst,
        config=config,
        mask=mask,
    )
    hands = (False, True) if problem.config.both_hands else (False,)
    refined = [
        _refine_fully(problem, _refine_candidates(problem, _coarse_poses(problem, mirrored=hand)))
        for hand in hands
    ]
    return _compare(problem, refined)


def refine_alignment(
    reference: Tensor,
    moving: Tensor,
    pose: MapPose,
    *,
    reference_pixel_size_angst: float,
    moving_pixel_size_angst: float,
    config: AlignConfig | None = None,
    mask: Tensor | None = None,
) -> HandFit:
    """Refine a pose that is right to a few degrees; arguments as for `align_maps`.

    Args:
        reference: `[n, n, n]`.
        moving: `[m, m, m]`.
        pose: where the moving map lies now; its hand is kept.
        reference_pixel_size_angst: of the reference.
        moving_pixel_size_angst: of the moving map.
        config: search settings; `fit_pixel_size` frees the pixel size of the moving map.
        mask: `[n, n, n]` soft mask in the reference's frame.
    """
    problem = _problem(
        reference,
        moving,
        reference_pixel_size_angst=reference_pixel_size_angst,
        moving_pixel_size_angst=moving_pixel_size_angst,
        config=config,
        mask=mask,
    )
    return _compare(problem, [_refine_fully(problem, pose)]).best
