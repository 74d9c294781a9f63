"""Exhaustive search for defocus, astigmatism and phase shift on a polar spectrum.

Each sector of direction sees one defocus. The correlation of every sector with every defocus is
one matrix product; any astigmatic CTF is then a sum over a table, so that the whole grid is tried.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.optics import Optics
from verglas.algorithms.ctf.spectrum import TileSpectrum, polar_average

__all__ = ["CtfGuess", "flatten_background", "ring_signal", "search_ctf"]


@dataclass(frozen=True)
class CtfGuess:
    """Grid point of a search: defocus in Å along x and the two axes of astigmatism."""

    defocus_angst: float
    astigmatism_cos_angst: float
    astigmatism_sin_angst: float
    phase_shift_deg: float
    score: float


def _moving_mean(values: Tensor, half_width: int) -> Tensor:
    """Mean over `2 half_width + 1` neighbours along the last axis, borders mirrored."""
    padded = torch.nn.functional.pad(values[:, None], (half_width, half_width), mode="reflect")
    kernel = torch.full((1, 1, 2 * half_width + 1), 1.0 / (2 * half_width + 1)).to(values)
    return torch.nn.functional.conv1d(padded, kernel)[:, 0]


def flatten_background(profile: Tensor, weight: Tensor, radius: Tensor, n_terms: int) -> Tensor:
    """Fit log power by a polynomial in log frequency and return the background.

    Args:
        profile: `[n_shells]`, power by shell.
        weight: `[n_shells]`, number of pixels; shells with none are ignored.
        radius: `[n_shells]`, frequency in 1/Å.
        n_terms: polynomial terms, few enough not to follow the rings.
    """
    used = (weight > 0) & (profile > 0)
    position = torch.log(radius[used])
    position = 2.0 * (position - position.min()) / (position.max() - position.min()) - 1.0
    angle = torch.acos(position.clamp(-1.0, 1.0))
    basis = torch.cos(angle[:, None] * torch.arange(n_terms, device=angle.device))
    root = weight[used].sqrt()[:, None]
    target = profile[used].log()[:, None] * root
    coefficients = torch.linalg.lstsq(basis * root, target).solution
    background = torch.ones_like(profile)
    background[used] = (basis @ coefficients)[:, 0].exp()
    return background


def ring_signal(spectrum: TileSpectrum, n_sectors: int) -> tuple[Tensor, Tensor, Tensor]:
    """Turn a spectrum into rings of about equal height around zero, by sector and shell.

    The background is divided out, then each shell by the local height of the rings with a floor at
    the noise of a shell, so that bright low frequencies do not outvote the many rings beyond.

    Returns:
        Rings `[n_sectors, n_shells]`, weights of the same shape, radius `[n_shells]` in 1/Å.
    """
    mean, count = polar_average(spectrum.power, spectrum, n_sectors=n_sectors)
    total = count.sum(dim=0)
    radius = torch.arange(len(total)).to(total) * spectrum.step_per_angst
    used = total > 0
    mean, count, total, radius = mean[:, used], count[:, used], total[used], radius[used]
    profile = (mean * count).sum(dim=0) / total
    background = flatten_background(profile, total, radius, 7)
    width = max(2, round(0.008 / spectrum.step_per_angst))
    ratio = profile / background
    smooth = _moving_mean(_moving_mean(ratio[None], width), width)[0]
    rings = mean / (background * smooth) - 1.0
    average = ratio / smooth - 1.0
    height = _moving_mean(average.square()[None], 2 * width)[0]
    floor = 9.0 / (total * spectrum.n_independent)
    return rings / (height + floor).sqrt(), count, radius


def _sector_table(
    rings: Tensor,
    weight: Tensor,
    radius: Tensor,
    *,
    optics: Optics,
    defocus_angst: Tensor,
    phase_shift_deg: Tensor,
    step_per_angst: float,
) -> Tensor:
    """Correlate each sector with the rings of each defocus: `[n_phase, n_sectors, n_defocus]`."""
    square = radius.square()
    aberration = (
        -0.5
        * math.pi
        * optics.spherical_aberration_angst
        * (optics.wavelength_angst**3)
        * square.square()
    )
    chi = math.pi * optics.wavelength_angst * defocus_angst[:, None] * square + aberration
    slope = 2.0 * math.pi * optics.wavelength_angst * defocus_angst[:, None] * radius
    blur = torch.sinc(slope * step_per_angst * 2.0 / math.pi).clamp(min=0.0)
    weighted = rings * weight
    tables = []
    for shift in phase_shift_deg.deg2rad() + optics.contrast_phase:
        model = -torch.cos(2.0 * (chi + shift)) * blur
        mean = (model * weight.sum(dim=0)).sum(dim=1, keepdim=True) / weight.sum()
        model = model - mean
        norm = (model.square() * weight.sum(dim=0)).sum(dim=1).sqrt()
        tables.append(weighted @ (model / norm[:, None]).T)
    norm = (rings.square() * weight).sum().sqrt()
    return torch.stack(tables) / norm


def _astigmatisms(max_astigmatism_angst: float, step_angst: float) -> Tensor:
    """Grid of (cos, sin) components of half the defocus difference, Å: `[a, 2]`."""
    half = 0.5 * max_astigmatism_angst
    n = math.ceil(half / step_angst)
    axis = torch.arange(-n, n + 1, dtype=torch.float64) * step_angst
    grid = torch.cartesian_prod(axis, axis)
    return grid[grid.norm(dim=1) <= half + 1e-6]


def _best_astigmatism(
    table: Tensor, astigmatisms: Tensor, *, margin: int, step_angst: float
) -> tuple[Tensor, Tensor]:
    """Greatest sum over sectors for each phase and defocus, and which astigmatism gives it."""
    n_phase, n_sectors, n_columns = table.shape
    n_defocus = n_columns - 2 * margin
    angle = torch.arange(n_sectors, dtype=torch.float64) * (2.0 * math.pi / n_sectors)
    offset = astigmatisms[:, :1] * angle.cos() + astigmatisms[:, 1:] * angle.sin()
    start = (offset / step_angst).round().long().to(table.device) + margin
    windows = table.unfold(2, n_defocus, 1)
    sectors = torch.arange(n_sectors, device=table.device)
    best = torch.full((n_phase, n_defocus), -math.inf).to(table)
    which = torch.zeros(n_phase, n_defocus, dtype=torch.long, device=table.device)
    for index, shifts in enumerate(start):
        score = windows[:, sectors, shifts].sum(dim=1)
        better = score > best
        best = torch.where(better, score, best)
        which[better] = index
    return best, which


def search_ctf(
    spectrum: TileSpectrum,
    *,
    optics: Optics,
    defocus_range_angst: tuple[float, float],
    max_astigmatism_angst: float,
    phase_shift_range_deg: tuple[float, float],
    defocus_step_angst: float = 50.0,
    n_sectors: int = 36,
    n_candidates: int = 3,
) -> list[CtfGuess]:
    """Find the CTFs whose rings correlate best with the spectrum over a complete grid.

    Args:
        spectrum: of one micrograph, in the band where rings are trusted.
        optics: wavelength, spherical aberration, amplitude contrast.
        defocus_range_angst: least and greatest mean defocus.
        max_astigmatism_angst: greatest difference of the two defoci.
        phase_shift_range_deg: least and greatest phase shift; equal when it is known.
        defocus_step_angst: step of the defocus grid.
        n_sectors: sectors of direction over 180 degrees.
        n_candidates: most that are returned.

    Returns:
        The best point and others, at least 400 Å of defocus apart, that score at least 0.7 of
        it; best first.
    """
    rings, weight, radius = ring_signal(spectrum, n_sectors)
    margin = math.ceil(0.5 * max_astigmatism_angst / defocus_step_angst) + 1
    low, high = defocus_range_angst
    n_defocus = max(1, round((high - low) / defocus_step_angst) + 1)
    offsets = torch.arange(-margin, n_defocus + margin).to(rings)
    low_deg, high_deg = phase_shift_range_deg
    phases = torch.linspace(low_deg, high_deg, 1 + math.ceil((high_deg - low_deg) / 10.0))
    table = _sector_table(
        rings,
        weight,
        radius,
        optics=optics,
        defocus_angst=low + offsets * defocus_step_angst,
        phase_shift_deg=phases.to(rings),
        step_per_angst=spectrum.step_per_angst,
    )
    astigmatisms = _astigmatisms(max_astigmatism_angst, 2.0 * defocus_step_angst)
    score, which = _best_astigmatism(
        table, astigmatisms, margin=margin, step_angst=defocus_step_angst
    )
    guesses: list[CtfGuess] = []
    reach = max(1, round(400.0 / defocus_step_angst))
    while len(guesses) < n_candidates:
        value, index = score.flatten().max(dim=0)
        if guesses and float(value) < 0.7 * guesses[0].score:
            break
        phase, defocus = divmod(int(index), n_defocus)
        cosine, sine = astigmatisms[int(which[phase, defocus])].tolist()
        guesses.append(
            CtfGuess(
                low + defocus * defocus_step_angst, cosine, sine, float(phases[phase]), float(value)
            )
        )
        score[:, max(0, defocus - reach) : defocus + reach + 1] = -math.inf
    return guesses
