"""CTF by correlation with the amplitude spectrum.

The square root of the spectrum, over its smooth background, is correlated with the rings in two
dimensions. The amplitude of weak rings on a strong background follows the squared CTF rather
than its modulus, so that is what it is compared with; frequencies count by the height that the
rings have there. Thick ice is seen as a node, beyond which the rings are reversed; so is a steep
tilt, which the tiles tell apart.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import repeat_shells
from verglas.algorithms.ctf.gradient import tilt_visibility
from verglas.algorithms.ctf.matched import Match, Signal, match_rings, ring_curves, trusted
from verglas.algorithms.ctf.optics import Optics, pixel_phase
from verglas.algorithms.ctf.relative import RelativeSpectrum, power_curves, relative_spectrum
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.spectrum import TileSpectrum
from verglas.algorithms.ctf.thickness import Thickness, find_thickness, slab_visibility

__all__ = ["refine_correlation"]

_NO_THICKNESS = Thickness(math.nan, math.nan)
_N_ROUNDS = 2
_FLOOR = 0.02  # of the greatest height, so that no frequency is lost for good


def refine_correlation(
    spectrum: TileSpectrum,
    *,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
    max_thickness_angst: float = 0.0,
) -> RingFit:
    """Refine CTF parameters to the greatest correlation with the amplitude spectrum.

    Args:
        spectrum: of one micrograph.
        optics: constants.
        initial: start values, see `phase_terms`.
        max_astigmatism_angst: half of it is the width of the prior of each component.
        max_thickness_angst: thickest ice that a node is looked for; 0 looks for none.

    References:
        Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008; Elferich et al. 2024,
        doi:10.7554/eLife.97227.
    """
    values = dict(initial)
    for _ in range(2):  # the background gains from knowing the rings
        relative = relative_spectrum(
            spectrum, optics=optics, initial=values, max_astigmatism_angst=max_astigmatism_angst
        )
        start = torch.tensor(list(values.values())).to(relative.level)
        signal, match = _climb(relative.signal, start, None)
        values = dict(zip(initial, match.point.tolist(), strict=True))
    names, radius = list(initial), relative.cells.radius
    plain = _as_fit(spectrum, relative, signal, match, None, _NO_THICKNESS, optics, names)
    seen = tilt_visibility(spectrum, plain, radius, optics=optics)
    thickness = find_thickness(
        signal,
        _phase(signal, match.point),
        radius,
        wavelength_angst=optics.wavelength_angst,
        max_thickness_angst=max_thickness_angst,
        tilt=seen,
    )
    if thickness.value_angst > 0:
        value = torch.tensor([thickness.value_angst]).to(relative.level)
        slab = slab_visibility(radius, value, optics.wavelength_angst)[0]
        seen = slab if seen is None else seen * slab
    if seen is None:
        return plain
    signal, match = _climb(relative.signal, match.point, seen)
    return _as_fit(spectrum, relative, signal, match, seen, thickness, optics, names)


def _phase(signal: Signal, point: Tensor) -> Tensor:
    return signal.phase_offset + point @ signal.phase_terms


def _climb(signal: Signal, start: Tensor, seen: Tensor | None) -> tuple[Signal, Match]:
    """Alternate between the height of the rings and the parameters."""
    point, noise = start, signal
    match = None
    for _ in range(_N_ROUNDS):
        smooth, height = ring_curves(signal, _phase(signal, point), seen)
        height = height.clamp(min=_FLOOR * float(height.max()) + 1e-9)
        visible = height if seen is None else height * seen
        if match is not None:
            signal = trusted(noise, _phase(noise, point), smooth, visible)
        match = match_rings(signal, visible, point)
        point = match.point
    assert match is not None
    return signal, match


def _as_fit(
    spectrum: TileSpectrum,
    relative: RelativeSpectrum,
    signal: Signal,
    match: Match,
    seen: Tensor | None,
    thickness: Thickness,
    optics: Optics,
    names: list[str],
) -> RingFit:
    smooth, height = ring_curves(signal, _phase(signal, match.point), seen)
    background, amplitude = power_curves(relative, smooth, height)
    values = dict(zip(names, match.point.tolist(), strict=True))
    index = relative.cells.index
    visible = None if seen is None else repeat_shells(seen, signal.shell_end).double()[index]
    return RingFit(
        values=values,
        covariance=match.covariance,
        evidence=match.evidence,
        phase=pixel_phase(spectrum, optics, values),
        background=background,
        amplitude=amplitude,
        weight=(signal.weight / relative.cells.count).double()[index],
        cell=index,
        visibility=visible,
        thickness_angst=thickness.value_angst,
        thickness_error_angst=thickness.error_angst,
    )
