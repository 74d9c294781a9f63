"""Spectrum relative to its smooth background, the signal that rings are matched to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import Cells, make_cells, radial_basis, shell_sums
from verglas.algorithms.ctf.matched import Signal, ring_curves
from verglas.algorithms.ctf.optics import Optics, phase_terms, rings_per_step
from verglas.algorithms.ctf.spectrum import TileSpectrum, ring_gain

__all__ = [
    "RelativeSpectrum",
    "RingCells",
    "knot_distance",
    "log_level",
    "power_curves",
    "prior_precision",
    "relative_spectrum",
    "ring_cells",
]

_LEVEL_KNOT_PER_ANGST = 0.025
_FIRST_ZEROS = 0.7


@dataclass(frozen=True)
class RelativeSpectrum:
    """Amplitude spectrum over a background, by cells.

    Attributes:
        cells: grouping of pixels.
        signal: twice (amplitude over background, less 1): as relative power, for weak rings.
        level: `[s]`, mean power of the shells, rings included, that the signal is relative to.
    """

    cells: Cells
    signal: Signal
    level: Tensor


def knot_distance(defocus_angst: float, optics: Optics) -> float:
    """Distance of the knots of a background that cannot follow the rings, 1/Å."""
    first_zero = 1.0 / math.sqrt(optics.wavelength_angst * max(abs(defocus_angst), 1000.0))
    return max(_LEVEL_KNOT_PER_ANGST, _FIRST_ZEROS * first_zero)


def prior_precision(names: list[str], max_astigmatism_angst: float) -> Tensor:
    """Inverse covariance of the prior: half the largest astigmatism for either component."""
    wide = 0.5 * max(max_astigmatism_angst, 1.0)
    values = [wide**-2 if name.startswith("astigmatism") else 0.0 for name in names]
    return torch.diag(torch.tensor(values, dtype=torch.float64))


def log_level(
    mean_power: Tensor,
    count: Tensor,
    radius: Tensor,
    *,
    knot_per_angst: float = _LEVEL_KNOT_PER_ANGST,
) -> Tensor:
    """Smooth curve through the logarithm of the power of shells, as power: `[s]`."""
    basis = radial_basis(radius, knot_per_angst=knot_per_angst)
    root = count.sqrt()[:, None]
    target = mean_power.clamp(min=1e-9).log()[:, None] * root
    ridge = 1e-6 * float(count.mean()) * torch.eye(basis.shape[1]).to(basis)
    weighted = basis * root
    solution = torch.linalg.solve(weighted.T @ weighted + ridge, weighted.T @ target)
    level: Tensor = (basis @ solution)[:, 0].exp()
    return level


@dataclass(frozen=True)
class RingCells:
    """What every fit of rings by cells starts from.

    Attributes:
        cells: grouping of pixels.
        power: `[c]`, mean of the spectrum.
        gain: `[s]`, see `ring_gain`.
        phase_offset, phase_terms: `[c]`, `[parameters, c]`, see `phase_terms`.
    """

    cells: Cells
    power: Tensor
    gain: Tensor
    phase_offset: Tensor
    phase_terms: Tensor


def ring_cells(spectrum: TileSpectrum, optics: Optics, initial: Mapping[str, float]) -> RingCells:
    """Average a spectrum and the phases of its rings over cells.

    Args:
        spectrum: of one micrograph.
        optics: constants.
        initial: start values of the parameters, see `phase_terms`.
    """
    cells = make_cells(spectrum)
    offset, terms = phase_terms(spectrum.x_per_angst, spectrum.y_per_angst, optics, list(initial))
    rings = rings_per_step(
        cells.radius,
        optics,
        defocus_angst=initial["defocus"],
        step_per_angst=spectrum.step_per_angst,
    )
    return RingCells(
        cells, cells.mean(spectrum.power), ring_gain(rings), cells.mean(offset), cells.mean(terms)
    )


def relative_spectrum(
    spectrum: TileSpectrum,
    *,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
) -> RelativeSpectrum:
    """Divide a spectrum by a background that is fitted together with the expected rings.

    Args:
        spectrum: of one micrograph.
        optics: constants.
        initial: start values of the parameters, see `phase_terms`.
        max_astigmatism_angst: half of it is the width of the prior of each component.
    """
    known = ring_cells(spectrum, optics, initial)
    cells, power, gain, names = known.cells, known.power, known.gain, list(initial)
    signal = Signal(
        values=power.float(),
        weight=cells.count * spectrum.n_independent * cells.spread(gain),
        shell_end=cells.shell_end,
        basis=radial_basis(cells.radius, knot_per_angst=knot_distance(initial["defocus"], optics)),
        phase_offset=known.phase_offset,
        phase_terms=known.phase_terms,
        precision=prior_precision(names, max_astigmatism_angst).to(power.device),
        gain=gain,
    )
    start = torch.tensor(list(initial.values())).to(known.phase_offset)
    phase = signal.phase_offset + start @ signal.phase_terms
    wide = knot_distance(initial["defocus"], optics)
    level = _level(cells, power, torch.ones_like(power), wide)
    for knots in (wide, 0.5 * (wide + _LEVEL_KNOT_PER_ANGST), _LEVEL_KNOT_PER_ANGST):
        signal = replace(signal, values=_excess(power, cells, level))
        _, height = ring_curves(signal, phase)
        rings = 1.0 - 0.5 * cells.spread(height).clamp(max=1.5) * torch.cos(2.0 * phase)
        level = _level(cells, power, rings.square(), knots)
    return RelativeSpectrum(cells, replace(signal, values=_excess(power, cells, level)), level)


def _level(cells: Cells, power: Tensor, rings: Tensor, knot_per_angst: float) -> Tensor:
    """Smooth power of the shells once the expected rings are divided out: `[s]`."""
    total = shell_sums(cells.count, cells.shell_end)
    mean = shell_sums(power / rings * cells.count, cells.shell_end) / total
    return log_level(mean, total, cells.radius, knot_per_angst=knot_per_angst)


def _excess(power: Tensor, cells: Cells, level: Tensor) -> Tensor:
    ratio = power / cells.spread(level)
    return (2.0 * (ratio.clamp(min=0.0).sqrt() - 1.0)).float()


def power_curves(
    relative: RelativeSpectrum, background: Tensor, height: Tensor
) -> tuple[Tensor, Tensor]:
    """Turn a background and a height of the signal into power below the rings and their height.

    Args:
        relative: that they were fitted to.
        background, height: `[s]`, in `background - height cos(2 chi)`.

    Returns:
        Power of every pixel below the rings, and what the whole rings add, `[n]`.
    """
    floor = (1.0 + background - height).clamp(min=0.05) * relative.level
    cells = relative.cells
    spread = cells.spread(torch.stack([floor, 2.0 * height * relative.level])).double()
    return spread[0][cells.index], spread[1][cells.index]
