"""Classification of views in 3D: state, expectation and maximisation of K maps.

Both halves of the views share their references: classes must be few and well filled before
they can be kept apart, and a refinement of each class follows anyway. What the halves are for
is the prior of the differences (`class_maps.py`). Poses are kept, or followed as a refinement
does: all orientations while they are uncertain, then their vicinity (Scheres 2012,
doi:10.1016/j.jsb.2012.09.006, for the statistics of several references).
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.algorithms.em.class_maps import ClassSums, class_fsc, differences_of, mean_map
from verglas.algorithms.em.expectation import Search, expect, expect_from
from verglas.algorithms.em.known_poses import expect_known
from verglas.algorithms.em.learnt import learn
from verglas.algorithms.em.local import Starts
from verglas.algorithms.em.map_step import MapGrid
from verglas.algorithms.em.mstep import Sums
from verglas.algorithms.em.plan import is_concentrated, is_local, next_radius, plan
from verglas.algorithms.em.prior import last_shell_above
from verglas.algorithms.em.references import Poses, References
from verglas.algorithms.em.refine_state import RefineConfig
from verglas.algorithms.em.step import KnownPoses
from verglas.algorithms.views import Views
from verglas.kernels.fourier import fourier_resize3
from verglas.kernels.slices import volume_to_half_volume
from verglas.kernels.symmetry import symmetry_operators

__all__ = [
    "ClassState",
    "ClassifyConfig",
    "classes_finished",
    "expect_classes",
    "focus_on",
    "kind_of_search",
    "map_grid",
    "next_class_radius",
    "update_classes",
]

_FEWEST_SHARE = 0.01  # of an even share, for the prior
_EMPTY = 0.02  # of an even share: too few to tell a resolution
_THRESHOLD = 0.143
_SETTLED = 0.01  # of the views
_WHOLE = ("radius", "shell", "iteration", "stalled", "n_polished")
_NUMBERS = ("step_deg", "effective_cells", "shift_prior_angst", "jumped", "changed", "loglik")

Kind = Literal["known", "grid", "all", "vicinity"]


@dataclass(frozen=True)
class ClassifyConfig:
    """What a classification is told.

    Attributes:
        refine: sizes, symmetry and limits, as of a refinement.
        n_classes: number of maps.
        align: poses are sought; otherwise those given are kept.
        tau: factor on the SNR of the differences between classes.
        limit_shell: never compare beyond; 0 for no limit.
    """

    refine: RefineConfig
    n_classes: int
    align: bool
    tau: float = 1.0
    limit_shell: int = 0


@dataclass(frozen=True)
class ClassState:
    """Where a classification stands.

    Attributes:
        maps: `[c, n, n, n]`, of the box's extent at a pixel that fits.
        share: `[c]`, of the views.
        noise_power: `[g, s]`.
        scale, b_factor_angst2: `[g]`, envelope of each group.
        class_shell: `[c]`, last shell of each class with FSC above 0.143; 0 for an empty one.
        radius, shell, step_deg, effective_cells, shift_prior_angst, iteration, stalled,
        n_polished, jumped: as in a refinement.
        changed: share of the views that changed their class.
        loglik: evidence per view.
    """

    maps: Tensor
    share: Tensor
    noise_power: Tensor
    scale: Tensor
    b_factor_angst2: Tensor
    class_shell: Tensor
    radius: int
    shell: int
    step_deg: float
    effective_cells: float
    shift_prior_angst: float
    iteration: int
    stalled: int
    n_polished: int
    jumped: float
    changed: float
    loglik: float

    def to_arrays(self) -> dict[str, Any]:
        """Return numpy arrays and plain numbers by name."""
        return {
            name: value.numpy() if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }

    @staticmethod
    def from_arrays(arrays: Mapping[str, Any]) -> "ClassState":
        """Rebuild from what `to_arrays` gave, numbers as arrays or not, among other things."""
        names = [field.name for field in fields(ClassState)]
        values: dict[str, Any] = {name: torch.as_tensor(arrays[name]) for name in names}
        values |= {name: int(arrays[name]) for name in _WHOLE}
        values |= {name: float(arrays[name]) for name in _NUMBERS}
        return ClassState(**values)


def map_grid(config: RefineConfig, radius: int) -> MapGrid:
    """Return the sizes that go with a radius."""
    return MapGrid(radius, config.extent_angst, config.diameter_angst, config.padding)


def focus_on(grid: MapGrid, mask: Tensor | None) -> Tensor | None:
    """Bring a mask `[n, n, n]` of the images' box onto that of a grid."""
    if mask is None:
        return None
    return fourier_resize3(mask[None].float(), shape=(grid.box,) * 3)[0].clamp(0, 1)


def kind_of_search(config: ClassifyConfig, state: ClassState) -> Kind:
    """Tell how poses are treated in the next iteration."""
    if not config.align:
        return "known"
    if not is_concentrated(state):
        return "grid"
    return "vicinity" if is_local(state) else "all"


def next_class_radius(config: ClassifyConfig, state: ClassState) -> int:
    """Return the last shell of the next iteration."""
    radius = next_radius(config.refine, state)
    return min(radius, config.limit_shell) if config.limit_shell else radius


def _search(config: ClassifyConfig, state: ClassState) -> Search:
    """Plan as a refinement does, with more starts for more maps, and within the limit."""
    search = plan(config.refine, state)
    limit = next_class_radius(config, state)
    levels = tuple(replace(level, radius=min(level.radius, limit)) for level in search.levels)
    polish = search.polish
    if polish is not None:
        polish = replace(
            polish,
            radius=limit,
            score_radius=min(polish.score_radius, limit),
            first_radius=min(polish.first_radius, limit),
            n_starts=polish.n_starts + len(state.maps) - 1,
        )
    return replace(search, levels=levels, polish=polish)


def expect_classes(
    config: ClassifyConfig, state: ClassState, views: Views, known: KnownPoses
) -> tuple[Poses, Sums]:
    """Compare views with the maps of all classes.

    Args:
        config: of the run.
        state: where it stands.
        views: up to `next_class_radius`.
        known: poses of these views; used where the state says that there are any.

    Returns:
        Poses and sums.
    """
    radius, padding = views.disc.radius, config.refine.padding
    references = References(
        half_volumes=volume_to_half_volume(state.maps, radius=radius, padding=padding),
        log_prior=state.share.clamp_min(_FEWEST_SHARE / len(state.share)).log(),
        padding=padding,
        planar=False,
    )
    n_groups = len(state.noise_power)
    kind = kind_of_search(config, state)
    if kind == "known":
        return expect_known(
            views,
            references,
            n_groups=n_groups,
            rotations_ref_to_img=known.rotations_ref_to_img,
            shifts_angst=known.shifts_angst,
            noise_radius_angst=0.5 * config.refine.diameter_angst,
        )
    starts = known.starts()
    starts = Starts.join(
        [
            replace(starts, reference=torch.full_like(starts.reference, c))
            for c in range(len(state.maps))
        ]
    ).by_view()
    search = to_device(_search(config, state), views.device)
    if kind == "vicinity":
        return expect_from(views, references, search, starts, n_groups=n_groups)
    return expect(
        views,
        references,
        search,
        n_groups=n_groups,
        shifts_angst=known.shifts_angst,
        known=starts if state.n_polished else None,
    )


def update_classes(
    config: ClassifyConfig,
    state: ClassState,
    sums: Mapping[int, Sums],
    *,
    effective_cells: float,
    jumped: float,
    changed: float,
    focus: Tensor | None = None,
) -> ClassState:
    """Reconstruct all classes and learn shares, noise, envelopes and shifts.

    Args:
        config: of the run.
        state: before the expectation step.
        sums: of the two halves.
        effective_cells: median over views of the orientations in their posterior.
        jumped: share of the views whose pose jumped.
        changed: share of the views that changed their class.
        focus: `[box, box, box]`: classes differ only here.

    Returns:
        The next state.
    """
    halves = [sums[h] for h in sorted(sums)]
    radius = halves[0].residual_power.shape[1] - 1
    grid = map_grid(config.refine, radius)
    pair = (
        torch.stack([torch.as_tensor(half.numerator) for half in halves]).to(torch.complex64),
        torch.stack([torch.as_tensor(half.denominator) for half in halves]).float(),
    )
    added = ClassSums.make(grid, *pair, symmetry_operators(config.refine.symmetry))
    differences = differences_of(added, tau=config.tau, focus=focus_on(grid, focus))
    weight = torch.stack([torch.as_tensor(half.class_weight) for half in halves]).sum(0)
    share = (weight / weight.sum().clamp_min(1e-30)).float()
    fsc = class_fsc(added)
    filled = share > _EMPTY / len(share)
    shells = torch.tensor([last_shell_above(one, _THRESHOLD) for one in fsc])
    class_shell = torch.where(filled, shells, 0)
    shell = max(2, min(int(class_shell.max()), config.limit_shell or radius))
    learnt = learn(
        halves,
        noise_power=state.noise_power,
        scale=state.scale,
        b_factor_angst2=state.b_factor_angst2,
        extent_angst=config.refine.extent_angst,
        shell=shell,
    )
    kind = kind_of_search(config, state)
    step_deg = plan(config.refine, state).levels[-1].step_deg if kind != "known" else 0.0
    improved = shell > state.shell or state.iteration == 0 or changed > _SETTLED
    evidence = sum(float(half.evidence_loglik) for half in halves)
    return ClassState(
        maps=mean_map(added) + differences.maps(),
        share=share,
        noise_power=learnt.noise_power,
        scale=learnt.scale,
        b_factor_angst2=learnt.b_factor_angst2,
        class_shell=class_shell,
        radius=radius,
        shell=shell,
        step_deg=step_deg,
        effective_cells=effective_cells,
        shift_prior_angst=learnt.shift_prior_angst,
        iteration=state.iteration + 1,
        stalled=0 if improved else state.stalled + 1,
        n_polished=state.n_polished + int(kind == "all"),
        jumped=jumped,
        changed=changed,
        loglik=evidence / max(float(weight.sum()), 1.0),
    )


def classes_finished(config: ClassifyConfig, state: ClassState) -> bool:
    """Tell whether to stop: classes and resolution are settled, or too many iterations."""
    kept = kind_of_search(config, state) in ("known", "vicinity")
    settled = kept and state.stalled >= 1 and state.iteration >= 2
    return settled or state.iteration >= config.refine.max_iterations
