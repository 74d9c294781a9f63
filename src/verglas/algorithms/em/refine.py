"""Gold-standard refinement: two half sets, each with its own reference, until nothing improves.

`initial_state -> (plan, references, expect, update) -> finished`: this module prepares the
half maps for slicing and makes the new ones; `refine_state` holds configuration and state,
`refine_start` the start, `plan` and `step` the search. The halves meet only in the FSC, which
sets the prior of both, and below the resolution at which they were joined at the start.
Follows Scheres 2012 (doi:10.1016/j.jsb.2012.09.006) in the statistics.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from verglas.algorithms.devices import to_device
from verglas.algorithms.em.learnt import learn
from verglas.algorithms.em.mstep import Sums, reconstruct, symmetrise_sums
from verglas.algorithms.em.non_uniform import regularise_locally
from verglas.algorithms.em.prior import (
    fsc_threshold,
    half_map_fsc,
    inverse_snr_of_fsc,
    last_shell_above,
    smoothed_fsc,
)
from verglas.algorithms.em.references import References
from verglas.algorithms.em.refine_state import RefineConfig, RefineState, map_box, map_sphere
from verglas.kernels.fourier import fourier_resize3
from verglas.kernels.slices import volume_to_half_volume
from verglas.kernels.symmetry import symmetry_operators

__all__ = ["half_maps", "references", "update"]


def references(config: RefineConfig, state: RefineState, half: int, radius: int) -> References:
    """Prepare one half map for slicing.

    Args:
        config: of the run.
        state: where it stands.
        half: 0 or 1.
        radius: of the search's last level.

    Returns:
        One reference.
    """
    volume = state.half_maps[half][None]
    return References(
        half_volumes=volume_to_half_volume(volume, radius=radius, padding=config.padding),
        log_prior=torch.zeros(1, device=volume.device),
        padding=config.padding,
        planar=False,
    )


def _raw_halves(
    config: RefineConfig, sums: Mapping[int, Sums]
) -> tuple[list[tuple[Tensor, Tensor]], int]:
    operators = symmetry_operators(config.symmetry)
    pairs = [
        symmetrise_sums(
            torch.as_tensor(sums[h].numerator[0]).to(torch.complex64),
            torch.as_tensor(sums[h].denominator[0]).float(),
            operators,
        )
        for h in sorted(sums)
    ]
    return pairs, sums[min(sums)].residual_power.shape[1] - 1


def update(
    config: RefineConfig,
    state: RefineState,
    sums: Mapping[int, Sums],
    *,
    step_deg: float,
    effective_cells: float,
    searched: bool = False,
    jumped: float = 1.0,
    solvent: Tensor | None = None,
) -> RefineState:
    """Reconstruct both halves, measure their FSC and learn noise, scale and shifts.

    Args:
        config: of the run.
        state: before the expectation step.
        sums: of the two half sets.
        step_deg: finest step of the search.
        effective_cells: median over views of the orientations in their posterior.
        searched: all orientations were searched, with a continuous stage.
        jumped: share of the particles whose pose jumped.
        solvent: `[box, box, box]` in [0, 1]: density is kept here only; the FSC does not see it.

    Returns:
        The next state, on the device of the sums.
    """
    pairs, radius = _raw_halves(config, sums)
    box = map_box(radius)
    mask = map_sphere(box, config)
    device = pairs[0][0].device
    mask_there = mask.to(device)

    def filtered(inverse_snr: Tensor | None) -> Tensor:
        return torch.stack(
            [
                reconstruct(
                    *pair, radius=radius, box=box, padding=config.padding, inverse_snr=inverse_snr
                )
                for pair in pairs
            ]
        )

    fsc = half_map_fsc(filtered(None), mask_there, n_shells=radius + 1).cpu()
    shell, inverse_snr = _believed(config, fsc, mask)
    if config.regularisation == "non_uniform":
        maps = regularise_locally(filtered, inverse_snr, resolution_px=box / shell)
    else:
        maps = filtered(inverse_snr)
    learnt = learn(
        list(sums.values()),
        noise_power=state.noise_power.cpu(),
        scale=state.scale.cpu(),
        b_factor_angst2=state.b_factor_angst2.cpu(),
        extent_angst=config.extent_angst,
        shell=shell,
    )
    improved = shell > state.shell or state.iteration == 0
    if solvent is not None:
        mask_there = mask_there * _resized(solvent, box).to(device)
    new = RefineState(
        half_maps=maps * mask_there,
        noise_power=learnt.noise_power,
        scale=learnt.scale,
        b_factor_angst2=learnt.b_factor_angst2,
        fsc=fsc,
        radius=radius,
        shell=shell,
        step_deg=step_deg,
        effective_cells=effective_cells,
        shift_prior_angst=learnt.shift_prior_angst,
        iteration=state.iteration + 1,
        stalled=0 if improved or step_deg < state.step_deg else state.stalled + 1,
        n_polished=state.n_polished + int(searched),
        jumped=jumped,
        width=state.width,
    )
    return to_device(new, device)


def _resized(mask: Tensor, box: int) -> Tensor:
    return fourier_resize3(mask[None].float(), shape=(box,) * 3)[0].clamp(0, 1)


def _believed(config: RefineConfig, fsc: Tensor, mask: Tensor) -> tuple[int, Tensor]:
    """Return the last shell with signal and the 1 / SNR of each half, by shell.

    What the halves share from the start, or what leaks from there by the mask, proves
    nothing: without correlation farther out the resolution stays where they were joined.
    """
    n_operators = len(symmetry_operators(config.symmetry))
    mean, deviation = smoothed_fsc(fsc, mask=mask, n_operators=n_operators)
    shell = last_shell_above(mean, fsc_threshold(deviation))
    if shell <= config.first_shell + config.leaking_shells:
        shell = min(shell, config.first_shell)
    shell = max(2, shell)
    inverse_snr = inverse_snr_of_fsc(mean, radius=len(fsc) - 1)
    inverse_snr[shell + 1 :] = torch.inf
    return shell, inverse_snr


def half_maps(config: RefineConfig, sums: Mapping[int, Sums]) -> Tensor:
    """Reconstruct the final, unregularised half maps at the images' own pixel.

    Args:
        config: of the run.
        sums: of the two half sets.

    Returns:
        `[2, box, box, box]`, not masked.
    """
    pairs, radius = _raw_halves(config, sums)
    return torch.stack(
        [reconstruct(n, d, radius=radius, box=config.box, padding=config.padding) for n, d in pairs]
    )
