"""CTF from averages of the logarithmic spectrum along equal phase.

The astigmatism is found without a model of the rings: it is the one that makes their average along
lines of equal phase strongest. The mean defocus and the phase shift then follow from this average
alone, in one dimension. Errors come from leaving out directions in turn (jackknife), and so do
not rest on a model of the noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.cells import N_SECTORS, radial_basis
from verglas.algorithms.ctf.matched import Match, Signal, match_rings, ring_curves, trusted
from verglas.algorithms.ctf.optics import Optics, pixel_phase
from verglas.algorithms.ctf.relative import (
    RelativeSpectrum,
    knot_distance,
    power_curves,
    relative_spectrum,
)
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.spectrum import TileSpectrum

__all__ = ["Estimate", "PolarLog", "equiphase_sums", "polar_log", "refine_equiphase"]

_STEPS_ANGST = (80.0, 40.0, 20.0)  # of astigmatism, from the search's grid downwards
_N_GROUPS = 10
_GOLDEN = 0.5 * (math.sqrt(5.0) - 1.0)
_GROUP_SECTORS = 2
_SQUARE = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 2)


@dataclass(frozen=True)
class PolarLog:
    """Logarithmic spectrum by direction and shell.

    Attributes:
        values: `[d, s]`, log power over the background.
        count: `[d, s]`, independent values.
        radius: `[s]`, evenly spaced frequencies from the first shell on, 1/Å; where the shells
            of a direction without offset by half a step lie.
        offset: `[d]`, shells by which a direction is ahead. All differ, so that interpolation
            takes as much noise away at no astigmatism as at any other.
        angle: `[d]`, twice the direction, radians.
    """

    values: Tensor
    count: Tensor
    radius: Tensor
    offset: Tensor
    angle: Tensor


@dataclass(frozen=True)
class Estimate:
    """Astigmatism `[2]`, the match of the average, and how far frequencies count `[s]`."""

    astigmatism: Tensor
    signal: Signal
    match: Match
    gain: Tensor


def polar_log(spectrum: TileSpectrum, relative: RelativeSpectrum) -> PolarLog:
    """Average a spectrum over directions and shells and take its logarithm.

    Args:
        spectrum: of one micrograph.
        relative: gives the background.
    """
    angle = torch.atan2(spectrum.y_per_angst, spectrum.x_per_angst)
    sector = (angle * N_SECTORS / math.pi).round().long() % N_SECTORS
    offset = torch.arange(N_SECTORS).to(angle) * _GOLDEN % 1.0
    shell = (spectrum.radius_per_angst / spectrum.step_per_angst + offset[sector]).round().long()
    first = int(shell.min())
    n = int(shell.max()) + 1 - first
    cell = sector * n + shell - first
    ratio = spectrum.power / relative.cells.spread(relative.level)[relative.cells.index]
    count = torch.bincount(cell, minlength=N_SECTORS * n).double()
    mean = torch.bincount(cell, weights=ratio, minlength=len(count)) / count.clamp(min=1.0)
    looks = (count * spectrum.n_independent).clamp(min=0.1)
    # the mean of the logarithm of an average of exponentials
    bias = torch.digamma(looks) - looks.log()
    values = torch.where(count > 0, mean.clamp(min=1e-9).log() - bias, 0.0)
    return PolarLog(
        values=values.view(N_SECTORS, n),
        count=spectrum.n_independent * count.view(N_SECTORS, n),
        radius=(torch.arange(n).to(mean) + first - 0.5).clamp(min=0.25) * spectrum.step_per_angst,
        offset=offset,
        angle=torch.arange(N_SECTORS).to(mean) * (2.0 * math.pi / N_SECTORS),
    )


def equiphase_sums(
    polar: PolarLog, optics: Optics, defocus_angst: float, astigmatism_angst: Tensor
) -> tuple[Tensor, Tensor]:
    """Add directions at equal phase, for several astigmatisms and by groups of directions.

    Args:
        polar: logarithmic spectrum.
        optics: constants.
        defocus_angst: mean.
        astigmatism_angst: `[a, 2]`, half the difference along x and at 45 degrees.

    Returns:
        Sums and their independent values, `[a, g, s]`, at the radii of the mean defocus.
    """
    linear = math.pi * optics.wavelength_angst
    square = polar.radius.square()
    phase = linear * defocus_angst * square + optics.quartic * square.square()
    axes = torch.stack([polar.angle.cos(), polar.angle.sin()])
    slope = linear * (defocus_angst + astigmatism_angst @ axes)
    root = (slope.square()[..., None] + 4.0 * optics.quartic * phase).clamp(min=0.0).sqrt()
    radius = (2.0 * phase / (slope[..., None] + root)).clamp(min=0.0).sqrt()
    step = float(polar.radius[1] - polar.radius[0])
    place = (radius - polar.radius[0]) / step + (polar.offset - 0.5)[:, None]
    n = len(polar.radius)
    low = place.floor().long()
    inside = (low >= 0) & (low < n - 1)
    low = low.clamp(0, n - 2)
    part = place - low
    row = torch.arange(len(polar.angle), device=low.device)[:, None] * n
    index = low + row
    count, product = polar.count.flatten(), (polar.count * polar.values).flatten()
    left, right = (1.0 - part) * inside, part * inside
    both = [left * flat[index] + right * flat[index + 1] for flat in (product, count)]
    group = torch.arange(N_SECTORS, device=low.device) // _GROUP_SECTORS % _N_GROUPS
    shape = (len(astigmatism_angst), _N_GROUPS, n)
    summed, total = (both[0].new_zeros(shape).index_add_(1, group, value) for value in both)
    return summed, total


def _strongest(
    sums: tuple[Tensor, Tensor], basis: Tensor, gain: Tensor, prior: Tensor
) -> tuple[Tensor, bool]:
    """Find the peak of the strength of averages at nine points of a square of side 2.

    Args:
        sums: `[9, s]` sums and independent values at the points of `_SQUARE`.
        basis: `[s, m]`, smooth curves that do not count.
        gain: `[s]`, how far each frequency is trusted.
        prior: `[9]`, log prior at the points.

    Returns:
        The peak `[2]`, and whether it is a maximum inside.
    """
    summed, total = sums
    root = total[4].clamp(min=1e-9).sqrt()
    smooth, _ = torch.linalg.qr(root[:, None] * basis)
    weighted = summed / total.clamp(min=1e-9) * root
    rest = weighted - (weighted @ smooth) @ smooth.T
    value = 0.5 * (rest.square() * gain).sum(dim=1) + prior
    square = _SQUARE.to(value)
    x, y = square.unbind(dim=1)
    design = torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y], dim=1)
    c = torch.linalg.lstsq(design, value[:, None]).solution[:, 0]
    hessian = torch.stack([2.0 * c[3], c[5], c[5], 2.0 * c[4]]).reshape(2, 2)
    if bool((torch.linalg.eigvalsh(hessian) < 0).all()):
        top = -torch.linalg.solve(hessian, c[1:3])
        if bool((top.abs() <= 1.5).all()):
            return top, True
    return square[value.argmax()], False


def _tried(point: Tensor, step: float, precision: float) -> tuple[Tensor, Tensor]:
    """Nine astigmatisms about a point, and their log prior."""
    tried = point + step * _SQUARE.to(point)
    return tried, -0.5 * precision * tried.square().sum(dim=1)


def _profile_signal(
    polar: PolarLog, optics: Optics, defocus: float, sums: tuple[Tensor, Tensor], n_terms: int
) -> Signal:
    """Average along equal phase `[s]` as a signal over frequency."""
    summed, total = sums
    square = polar.radius.square()
    terms = torch.stack([math.pi * optics.wavelength_angst * square, torch.ones_like(square)])
    return Signal(
        values=(summed / total.clamp(min=1e-9)).float(),
        weight=total.float(),
        shell_end=torch.arange(1, len(square) + 1, device=square.device),
        basis=radial_basis(polar.radius, knot_per_angst=knot_distance(defocus, optics)),
        phase_offset=optics.contrast_phase + optics.quartic * square.square(),
        phase_terms=terms[:n_terms],
        precision=torch.zeros(n_terms, n_terms).to(square),
        gain=torch.ones_like(square),
    )


def _line_fit(noise: Signal, line: Tensor) -> tuple[Signal, Match, Tensor]:
    """Fit mean defocus and phase shift to an average; also says how far frequencies count."""
    phase = noise.phase_offset + line @ noise.phase_terms
    smooth, height = ring_curves(noise, phase)
    signal = trusted(noise, phase, smooth, height)
    match = match_rings(signal, height + 0.02 * height.max() + 1e-9, line)
    noisy = 2.0 / noise.weight.clamp(min=1e-9)
    gain = height.square() / (height.square() + noisy)
    return signal, match, gain * signal.weight / noise.weight.clamp(min=1e-9)


def _estimate(
    polar: PolarLog, optics: Optics, start: Tensor, *, precision: float, n_rounds: int
) -> Estimate:
    """Alternate between the astigmatism and the one-dimensional fit.

    Args:
        polar: logarithmic spectrum.
        optics: constants.
        start: `[3]` or `[4]`, mean defocus, astigmatism along x and at 45 degrees, phase shift.
        precision: inverse variance of the prior of either astigmatism.
        n_rounds: of alternation.
    """
    astigmatism, line = start[1:3], torch.cat([start[:1], start[3:]])

    def sums(point: Tensor) -> tuple[Tensor, Tensor]:
        summed, total = equiphase_sums(polar, optics, float(line[0]), point)
        return summed.sum(dim=1), total.sum(dim=1)

    for number in range(n_rounds + 1):
        summed, total = sums(astigmatism[None])
        noise = _profile_signal(polar, optics, float(line[0]), (summed[0], total[0]), len(line))
        signal, match, gain = _line_fit(noise, line)
        line = match.point
        if number == n_rounds:
            break
        for step in _STEPS_ANGST:
            tried, prior = _tried(astigmatism, step, precision)
            top, _ = _strongest(sums(tried), noise.basis, gain, prior)
            astigmatism = astigmatism + step * top
    return Estimate(astigmatism, signal, match, gain)


def _jackknife(polar: PolarLog, optics: Optics, found: Estimate, precision: float) -> Tensor:
    """Covariance (defocus, two astigmatisms, phase) from leaving out directions in turn."""
    line, step = found.match.point, _STEPS_ANGST[-1]
    tried, prior = _tried(found.astigmatism, step, precision)
    summed, total = equiphase_sums(polar, optics, float(line[0]), tried)
    less = [whole.sum(dim=1, keepdim=True) - whole for whole in (summed, total)]
    points = []
    for group in range(_N_GROUPS):
        parts = less[0][:, group], less[1][:, group]
        top, _ = _strongest(parts, found.signal.basis, found.gain, prior)
        noise = _profile_signal(
            polar, optics, float(line[0]), (parts[0][4], parts[1][4]), len(line)
        )
        _, match, _ = _line_fit(noise, line)
        points.append(torch.cat([match.point[:1], found.astigmatism + step * top, match.point[1:]]))
    offset = torch.stack(points) - torch.stack(points).mean(dim=0)
    covariance: Tensor = offset.T @ offset * ((_N_GROUPS - 1) / _N_GROUPS)
    return covariance


def refine_equiphase(
    spectrum: TileSpectrum,
    *,
    optics: Optics,
    initial: Mapping[str, float],
    max_astigmatism_angst: float,
) -> RingFit:
    """Refine CTF parameters on averages along equal phase.

    Args:
        spectrum: of one micrograph.
        optics: constants.
        initial: start values, see `phase_terms`.
        max_astigmatism_angst: half of it is the width of the prior of each component.

    References:
        Zhang 2016, doi:10.1016/j.jsb.2015.11.003.
    """
    start = torch.tensor(list(initial.values()), dtype=torch.float64)
    precision = (0.5 * max(max_astigmatism_angst, 1.0)) ** -2
    values = dict(initial)
    for n_rounds in (2, 1):  # the background gains from knowing the rings
        relative = relative_spectrum(
            spectrum, optics=optics, initial=values, max_astigmatism_angst=max_astigmatism_angst
        )
        polar = polar_log(spectrum, relative)
        found = _estimate(
            polar, optics, start.to(polar.values), precision=precision, n_rounds=n_rounds
        )
        start = torch.cat([found.match.point[:1], found.astigmatism, found.match.point[1:]])
        values = dict(zip(initial, start.tolist(), strict=True))
    covariance = _jackknife(polar, optics, found, precision)
    return _as_fit(spectrum, relative, optics, values, found, covariance)


def _as_fit(
    spectrum: TileSpectrum,
    relative: RelativeSpectrum,
    optics: Optics,
    values: dict[str, float],
    found: Estimate,
    covariance: Tensor,
) -> RingFit:
    signal = relative.signal
    phase = signal.phase_offset + torch.tensor(list(values.values())).to(relative.level) @ (
        signal.phase_terms
    )
    smooth, height = ring_curves(signal, phase)
    weight = trusted(signal, phase, smooth, height).weight
    background, amplitude = power_curves(relative, smooth, height)
    index = relative.cells.index
    return RingFit(
        values=values,
        covariance=covariance,
        evidence=found.match.evidence,
        phase=pixel_phase(spectrum, optics, values),
        background=background,
        amplitude=amplitude,
        weight=(weight / relative.cells.count).double()[index],
        cell=index,
    )
