"""Defocus, astigmatism and aberrations from particles of known pose, by maximum likelihood.

An image X has projection P of its half's map: `X = exp(i odd) sin(gamma + even) P + noise`. Each
function takes such pairs (`Pairs`) and gives what is wanted of them: the defocus of each image,
the normal equations of its micrograph's astigmatism, or sums by coefficient for what all images
of an optics group share. Sums are arrays that add up over chunks; `aberration_fit` solves them.

References:
    Zivanov et al. 2018, doi:10.7554/eLife.42166 (defocus of each particle, beam tilt);
    Zivanov et al. 2020, doi:10.1107/S2052252520000081 (higher orders, magnification).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.aberrations import Aberrations
from verglas.algorithms.views import Optics, shift_phases
from verglas.kernels.ctf import ctf_phase
from verglas.kernels.disc import HalfDisc, gather_disc, shell_sums
from verglas.kernels.electron import electron_wavelength_angst
from verglas.kernels.fourier import rfft2
from verglas.kernels.slices import extract_slices

__all__ = [
    "DefocusFit",
    "Given",
    "Pairs",
    "Reference",
    "astigmatism_equations",
    "calibration_sums",
    "fit_defocus",
    "make_pairs",
    "phase_sums",
]

_STEP_RAD = 0.7  # of phase at the finest frequency, between points of the defocus search
_BIN_RAD = 0.04  # of phase at the largest defocus change, across a bin of squared frequency
_MOST_BINS = 4096
_NEWTON_STEPS = 3


@dataclass(frozen=True)
class Reference:
    """A half map ready for slicing, and how far it is to be believed.

    Attributes:
        half_volume: `[m, m, m // 2 + 1]`, complex.
        padding: of the half volume.
        factor: `[radius + 1]`, what the map must be multiplied by, shell by shell, to predict
            images best: its grey scale, and less than that where it is noisy.
        noise_power: `[radius + 1]`, variance of one real component; infinite for shells that
            are not to be used.
        own_part: `[radius + 1]`, how much of an image is in the map at its own place: the map
            less this times the CTF times the image is what the others say.
    """

    half_volume: Tensor
    padding: int
    factor: Tensor
    noise_power: Tensor
    own_part: Tensor


@dataclass(frozen=True)
class Given:
    """What is taken for true of some images of one optics group: CTF and aberrations."""

    optics: Optics
    aberrations: Aberrations


@dataclass(frozen=True)
class Pairs:
    """Images of one optics group and their projections, on the half-disc.

    Attributes:
        data: `[b, k]`, images moved to their centre and freed of known odd phases.
        model: `[b, k]`, projections without CTF.
        phase: `[b, k]`, argument of the CTF's sine.
        inverse_noise: `[k]`.
        frequencies_per_angst: `[k, 2]`, those of the map.
        wavelength_angst: of the group.
        disc: the coefficients.
    """

    data: Tensor
    model: Tensor
    phase: Tensor
    inverse_noise: Tensor
    frequencies_per_angst: Tensor
    wavelength_angst: float
    disc: HalfDisc

    @property
    def cross(self) -> Tensor:
        """`[b, k]`, conj(P) X over the noise variance."""
        return self.model.conj() * self.data * self.inverse_noise

    @property
    def power(self) -> Tensor:
        """`[b, k]`, |P|^2 over the noise variance."""
        return self.model.abs().square() * self.inverse_noise

    @property
    def per_defocus(self) -> Tensor:
        """`[k]`, radians of phase for an Å of defocus."""
        return math.pi * self.wavelength_angst * self.frequencies_per_angst.square().sum(-1)


@dataclass(frozen=True)
class DefocusFit:
    """Change of defocus of each image, `[b]` each.

    Attributes:
        offset_angst: to be added to both defoci.
        std_angst: standard deviation, from the curvature of the likelihood.
        gain_loglik: what the change gains.
    """

    offset_angst: Tensor
    std_angst: Tensor
    gain_loglik: Tensor


def make_pairs(
    images: Tensor,
    *,
    given: Given,
    of_map: Given,
    rotations_ref_to_img: Tensor,
    shifts_angst: Tensor,
    reference: Reference,
    disc: HalfDisc,
    pixel_size_angst: float,
) -> Pairs:
    """Transform images of one optics group and project their reference at their poses.

    Each image's own part is taken out of its projection. Left in, its noise would agree best
    with the CTF that it was put in with: at 5,000 images of 96 px that is more than what the
    others say of its defocus.

    Args:
        images: `[b, n, n]`, protein bright.
        given: known so far.
        of_map: what the map was made with.
        rotations_ref_to_img: `[b, 3, 3]`.
        shifts_angst: `[b, 2]`.
        reference: of the images' half.
        disc: the coefficients.
        pixel_size_angst: of the images.
    """
    moved = gather_disc(rfft2(images), disc) * shift_phases(shifts_angst, disc, pixel_size_angst)
    pixels, frequencies, odd, phase = _phases(given, disc, pixel_size_angst)
    _, _, odd_of_map, phase_of_map = _phases(of_map, disc, pixel_size_angst)
    model = extract_slices(
        reference.half_volume, rotations_ref_to_img, pixels, padding=reference.padding
    )
    own = reference.own_part.float()[disc.shell] * phase_of_map.sin()
    model = model - own * moved * _turned_back(odd_of_map)
    return Pairs(
        data=moved * _turned_back(odd),
        model=model * reference.factor.float()[disc.shell],
        phase=phase,
        inverse_noise=reference.noise_power.reciprocal().float()[disc.shell],
        frequencies_per_angst=frequencies,
        wavelength_angst=electron_wavelength_angst(float(given.optics.voltage_kv[0])),
        disc=disc,
    )


def _phases(
    given: Given, disc: HalfDisc, pixel_size_angst: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return frequencies of the map in pixels and 1/Å, odd phase `[k]` and the CTF's argument."""
    optics, aberrations = given.optics, given.aberrations
    pixels = disc.frequencies_px.double() @ torch.from_numpy(aberrations.matrix).T
    frequencies = pixels / (disc.box * pixel_size_angst)
    odd = torch.from_numpy(aberrations.odd_phase_rad(frequencies.numpy()))
    even = torch.from_numpy(aberrations.even_phase_rad(frequencies.numpy()))
    phase = ctf_phase(
        frequencies.float(),
        defocus_u_angst=optics.defocus_u_angst,
        defocus_v_angst=optics.defocus_v_angst,
        defocus_angle_deg=optics.defocus_angle_deg,
        phase_shift_deg=optics.phase_shift_deg,
        voltage_kv=optics.voltage_kv,
        spherical_aberration_mm=optics.spherical_aberration_mm,
        amplitude_contrast=optics.amplitude_contrast,
        phase_offset_rad=even[None],
    )
    return pixels.float(), frequencies.float(), odd, phase


def _turned_back(odd: Tensor) -> Tensor:
    return torch.polar(torch.ones_like(odd), -odd).to(torch.complex64)


def calibration_sums(pairs: Pairs) -> dict[str, Tensor]:
    """Add up by shell what tells the map's factor and the noise.

    The pairs must be made with a factor of 1.

    Returns:
        `cross`, `power`, `data`, `count`, and `own` (the power of the images times the square
        of their CTF), `[radius + 1]` each, float64.
    """
    ctf = torch.sin(pairs.phase)
    parts = {
        "cross": ctf * (pairs.model.conj() * pairs.data).real,
        "power": (ctf * pairs.model.abs()).square(),
        "data": pairs.data.abs().square(),
        "count": torch.ones_like(ctf),
        "own": (ctf * pairs.data.abs()).square(),
    }
    return {name: shell_sums(value, pairs.disc).sum(0) for name, value in parts.items()}


def fit_defocus(pairs: Pairs, *, range_angst: float, spread_angst: float) -> DefocusFit:
    """Find the defocus of each image: the best point of a grid, polished by Newton steps.

    The defocus moves the phase by a multiple of k^2 alone, so that four sums over bins of k^2
    hold the whole likelihood: searching is one matrix product.

    Args:
        pairs: of the images.
        range_angst: how far the defocus may change, either way.
        spread_angst: standard deviation of the defocus within a micrograph, a Gaussian prior.
    """
    rate, sums = _binned(pairs, range_angst)
    step = _STEP_RAD / float(rate.max())
    n = math.ceil(range_angst / step)
    grid = torch.linspace(-range_angst, range_angst, 2 * n + 1, dtype=torch.float64)
    turn = grid[:, None] * rate
    waves = torch.cat([turn.cos(), turn.sin(), (2 * turn).cos(), -(2 * turn).sin()], dim=1)
    loglik = sums.flatten(1) @ waves.float().T
    prior = -(grid / spread_angst).square() / 2
    best = grid[(loglik.double() + prior).argmax(1)]
    for _ in range(_NEWTON_STEPS):
        slope, curvature = _slopes(best, rate, sums, spread_angst)
        change = (slope / curvature).clamp(-step, step)
        best = (best + change).clamp(-range_angst, range_angst)
    _, curvature = _slopes(best, rate, sums, spread_angst)
    gain = _value(best, rate, sums) - _value(torch.zeros_like(best), rate, sums)
    return DefocusFit(best, curvature.rsqrt(), gain)


def _binned(pairs: Pairs, range_angst: float) -> tuple[Tensor, Tensor]:
    """Return phase per Å of bins of k^2 `[n]`, and the sums of the likelihood `[b, 4, n]`.

    `A sin(g + t) - B/2 sin^2(g + t)` is, up to a constant, a sum of cos t, sin t, cos 2t and
    -sin 2t with factors A sin g, A cos g, B/4 cos 2g and B/4 sin 2g.
    """
    rate = pairs.per_defocus.double()
    wanted = float(rate.max()) * range_angst / _BIN_RAD
    n_bins = max(16, min(_MOST_BINS, math.ceil(wanted)))
    index = (rate / rate.max() * (n_bins - 1)).round().long()
    centre = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, index, rate)
    count = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, index, torch.ones_like(rate))
    agreement, power = pairs.cross.real, pairs.power / 4
    parts = torch.stack(
        [
            agreement * pairs.phase.sin(),
            agreement * pairs.phase.cos(),
            power * (2 * pairs.phase).cos(),
            power * (2 * pairs.phase).sin(),
        ],
        dim=1,
    )
    sums = torch.zeros(len(parts), 4, n_bins).index_add_(2, index, parts)
    return centre / count.clamp_min(1), sums


def _value(offset: Tensor, rate: Tensor, sums: Tensor) -> Tensor:
    turn = offset[:, None] * rate
    a, b, c, d = sums.double().unbind(1)
    one = a * turn.cos() + b * turn.sin()
    return (one + c * (2 * turn).cos() - d * (2 * turn).sin()).sum(1)


def _slopes(
    offset: Tensor, rate: Tensor, sums: Tensor, spread_angst: float
) -> tuple[Tensor, Tensor]:
    """Return slope and negative curvature of the log-posterior, the latter kept positive."""
    turn = offset[:, None] * rate
    a, b, c, d = sums.double().unbind(1)
    first = -a * turn.sin() + b * turn.cos()
    first = first - 2 * (c * (2 * turn).sin() + d * (2 * turn).cos())
    second = -a * turn.cos() - b * turn.sin()
    second = second - 4 * (c * (2 * turn).cos() - d * (2 * turn).sin())
    stiffness = 1 / spread_angst**2
    slope = (first * rate).sum(1) - offset * stiffness
    curvature = -(second * rate.square()).sum(1) + stiffness
    return slope, curvature.clamp_min(stiffness)


def astigmatism_equations(pairs: Pairs) -> tuple[Tensor, Tensor]:
    """Linearise the likelihood of each image in mean defocus and astigmatism.

    The parameters are changes of the mean defocus and of half the astigmatism times the
    cosine and sine of twice its angle, in Å.

    Returns:
        Slope `[b, 3]` and Fisher information `[b, 3, 3]`, float64.
    """
    kx, ky = pairs.frequencies_per_angst.unbind(-1)
    forms = torch.stack([kx * kx + ky * ky, kx * kx - ky * ky, 2 * kx * ky])
    forms = forms * math.pi * pairs.wavelength_angst
    ctf, cosine = pairs.phase.sin(), pairs.phase.cos()
    power = pairs.power
    pull = cosine * (pairs.cross.real - ctf * power)
    slope = pull.double() @ forms.T.double()
    weight = (cosine.square() * power).double()
    products = (forms[:, None] * forms).flatten(0, 1).double()
    return slope, (weight @ products.T).reshape(-1, 3, 3)


def phase_sums(pairs: Pairs) -> dict[str, Tensor]:
    """Add up over images, coefficient by coefficient, what tells the group's phases.

    Returns:
        `odd_real`, `odd_imag`: of `CTF conj(P) X`; `odd_power`: of `CTF^2 |P|^2`; and `even_sin`,
        `even_cos`, `even_cos2`, `even_sin2`, `even_power`: sums of A sin g, A cos g,
        B cos 2g, B sin 2g and B, where A is the real part of `conj(P) X`, B `|P|^2`, g the CTF's
        argument; all over the noise variance, `[k]`, float64.
    """
    cross, power = pairs.cross, pairs.power
    ctf, cosine = pairs.phase.sin(), pairs.phase.cos()
    parts = {
        "odd_real": ctf * cross.real,
        "odd_imag": ctf * cross.imag,
        "odd_power": ctf.square() * power,
        "even_sin": ctf * cross.real,
        "even_cos": cosine * cross.real,
        "even_cos2": power * (2 * pairs.phase).cos(),
        "even_sin2": power * (2 * pairs.phase).sin(),
        "even_power": power,
    }
    return {name: value.sum(0, dtype=torch.float64) for name, value in parts.items()}
