"""Contrast transfer function and the delocalisation it causes.

Astigmatism is a symmetric 2x2 form in (kx, ky), so nothing is singular at zero
frequency or zero astigmatism. Coefficients are worked out in float64 and cast once.
"""

import math

import torch
from torch import Tensor

from verglas.kernels._checks import check_tail
from verglas.kernels.electron import PLANCK_KEV_ANGST, REST_KEV, electron_wavelength_angst

__all__ = [
    "ctf_phase",
    "electron_wavelength_angst",
    "equivalent_frequencies",
    "evaluate_ctf",
    "point_spread_angst",
]

_ANGST_PER_MM = 1e7


def ctf_phase(
    frequencies_per_angst: Tensor,
    *,
    defocus_u_angst: Tensor,
    defocus_v_angst: Tensor,
    defocus_angle_deg: Tensor,
    phase_shift_deg: Tensor,
    voltage_kv: float | Tensor,
    spherical_aberration_mm: float | Tensor,
    amplitude_contrast: float | Tensor,
    phase_offset_rad: Tensor | None = None,
) -> Tensor:
    """Argument of the CTF's sine, in radians.

    Convention: `chi + phase_shift + asin(w)` with
    `chi = pi lambda dz k^2 - pi/2 Cs lambda^3 k^4`; underfocus is positive and the
    defocus angle runs from +x to the u axis towards +y.

    Args:
        frequencies_per_angst: `[..., 2]` (kx, ky), shared by the batch.
        defocus_u_angst: `[b]`, along the u axis.
        defocus_v_angst: `[b]`, across it.
        defocus_angle_deg: `[b]`, of the u axis.
        phase_shift_deg: `[b]`, of a phase plate.
        voltage_kv: number or `[b]`.
        spherical_aberration_mm: number or `[b]`.
        amplitude_contrast: number or `[b]`, the w above.
        phase_offset_rad: `[b, ...]` or `[1, ...]`, what even aberrations add.

    Returns:
        `[b, ...]`, dtype and device of the frequencies.

    References:
        Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008, eq. 2-5.
    """
    check_tail("frequencies_per_angst", frequencies_per_angst, (2,))
    mean, cosine, sine, quartic, constant = _phase_coefficients(
        defocus_u_angst,
        defocus_v_angst,
        defocus_angle_deg,
        phase_shift_deg,
        voltage_kv,
        spherical_aberration_mm,
        amplitude_contrast,
    )
    kx, ky = frequencies_per_angst.to(torch.float64).unbind(-1)
    k2 = kx * kx + ky * ky
    view = (-1, *[1] * kx.ndim)

    def cast(tensor: Tensor) -> Tensor:
        return tensor.to(frequencies_per_angst)

    def per_item(tensor: Tensor) -> Tensor:
        return cast(tensor).reshape(view)

    phase = per_item(constant) + per_item(mean) * cast(k2)
    phase = torch.addcmul(phase, per_item(cosine), cast(kx * kx - ky * ky))
    phase = torch.addcmul(phase, per_item(sine), cast(2 * kx * ky))
    phase = torch.addcmul(phase, per_item(quartic), cast(k2 * k2))
    return phase if phase_offset_rad is None else phase + cast(phase_offset_rad)


def evaluate_ctf(
    frequencies_per_angst: Tensor,
    *,
    defocus_u_angst: Tensor,
    defocus_v_angst: Tensor,
    defocus_angle_deg: Tensor,
    phase_shift_deg: Tensor,
    voltage_kv: float | Tensor,
    spherical_aberration_mm: float | Tensor,
    amplitude_contrast: float | Tensor,
    b_factor_angst2: Tensor | None = None,
    phase_offset_rad: Tensor | None = None,
) -> Tensor:
    """Contrast transfer function of each item at the given frequencies.

    Convention: `sin(chi + phase_shift + asin(w))`: the value at the origin is `w` and the
    first lobe is positive, for particles with bright protein (see `ctf_phase`).

    Args:
        frequencies_per_angst: `[..., 2]` (kx, ky), shared by the batch.
        defocus_u_angst: `[b]`, along the u axis.
        defocus_v_angst: `[b]`, across it.
        defocus_angle_deg: `[b]`, of the u axis.
        phase_shift_deg: `[b]`, of a phase plate.
        voltage_kv: number or `[b]`.
        spherical_aberration_mm: number or `[b]`.
        amplitude_contrast: number or `[b]`, the w above.
        b_factor_angst2: `[b]`, envelope `exp(-B k^2 / 4)`; none without it.
        phase_offset_rad: `[b, ...]` or `[1, ...]`, what even aberrations add to the argument.

    Returns:
        `[b, ...]` in [-1, 1], dtype and device of the frequencies.

    References:
        Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008, eq. 2-5.
    """
    phase = ctf_phase(
        frequencies_per_angst,
        defocus_u_angst=defocus_u_angst,
        defocus_v_angst=defocus_v_angst,
        defocus_angle_deg=defocus_angle_deg,
        phase_shift_deg=phase_shift_deg,
        voltage_kv=voltage_kv,
        spherical_aberration_mm=spherical_aberration_mm,
        amplitude_contrast=amplitude_contrast,
        phase_offset_rad=phase_offset_rad,
    )
    ctf = torch.sin(phase)
    if b_factor_angst2 is None:
        return ctf
    k2 = frequencies_per_angst.square().sum(-1)
    decay = b_factor_angst2.to(ctf).reshape(-1, *[1] * k2.ndim) / 4
    return ctf * torch.exp(-decay * k2)


def equivalent_frequencies(
    frequencies_per_angst: Tensor,
    *,
    defocus_u_angst: Tensor,
    defocus_v_angst: Tensor,
    defocus_angle_deg: Tensor,
    voltage_kv: float | Tensor,
    spherical_aberration_mm: float | Tensor,
) -> Tensor:
    """Moduli at which a CTF of the mean defocus has the phase that each frequency has.

    Averaging power over equal moduli of this kind (equi-phase averaging) keeps the rings of
    an astigmatic spectrum apart, where a plain radial average blurs them.

    Args:
        frequencies_per_angst: `[..., 2]` (kx, ky), shared by the batch.
        defocus_u_angst: `[b]`, along the u axis; the mean defocus must not be 0.
        defocus_v_angst: `[b]`, across it.
        defocus_angle_deg: `[b]`, of the u axis.
        voltage_kv: number or `[b]`.
        spherical_aberration_mm: number or `[b]`.

    Returns:
        `[b, ...]`, 1/Å; not a number where the mean defocus never reaches the phase, which
        is beyond the turning point `k^2 = dz / (Cs lambda^2)`.

    References:
        Zhang 2016, doi:10.1016/j.jsb.2015.11.003, section 2.3.
    """
    check_tail("frequencies_per_angst", frequencies_per_angst, (2,))
    coefficients = _phase_coefficients(
        defocus_u_angst,
        defocus_v_angst,
        defocus_angle_deg,
        torch.zeros_like(defocus_u_angst),
        voltage_kv,
        spherical_aberration_mm,
        0.0,
    )
    view = (-1, *[1] * (frequencies_per_angst.ndim - 1))
    kx, ky = frequencies_per_angst.to(torch.float64).unbind(-1)
    mean, cosine, sine, quartic = (c.to(kx.device).reshape(view) for c in coefficients[:4])
    k2 = kx * kx + ky * ky
    chi = mean * k2 + cosine * (kx * kx - ky * ky) + sine * (2 * kx * ky) + quartic * k2 * k2
    # the root of mean x + quartic x^2 = chi that is chi / mean without Cs
    root = torch.sqrt(mean.square() + 4 * quartic * chi)
    square = 2 * chi / (mean + torch.copysign(root, mean))
    is_before_turn = k2 * torch.abs(2 * quartic) <= torch.abs(mean)
    return torch.where(is_before_turn, torch.sqrt(square), torch.nan).to(frequencies_per_angst)


def point_spread_angst(
    frequencies_per_angst: Tensor,
    *,
    defocus_angst: float | Tensor,
    voltage_kv: float,
    spherical_aberration_mm: float,
) -> Tensor:
    """Distance by which the CTF moves information of a spatial frequency.

    A box must exceed the particle's diameter by twice the largest value up to the wanted
    resolution, or the CTF is aliased.

    Args:
        frequencies_per_angst: `[...]`, moduli.
        defocus_angst: number or `[...]`.
        voltage_kv: acceleration voltage.
        spherical_aberration_mm: of the objective lens.

    Returns:
        `[...]`, `|lambda dz k - Cs lambda^3 k^3|` in Å.

    References:
        Otten et al. 1992, gradient of the wave aberration over 2 pi.
    """
    wavelength = electron_wavelength_angst(voltage_kv)
    k = frequencies_per_angst
    cubic = spherical_aberration_mm * _ANGST_PER_MM * wavelength**3
    return torch.abs(wavelength * defocus_angst * k - cubic * k**3)


def _phase_coefficients(
    defocus_u_angst: Tensor,
    defocus_v_angst: Tensor,
    defocus_angle_deg: Tensor,
    phase_shift_deg: Tensor,
    voltage_kv: float | Tensor,
    spherical_aberration_mm: float | Tensor,
    amplitude_contrast: float | Tensor,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Factors of k^2, kx^2 - ky^2, 2 kx ky and k^4, and the constant; float64 `[b]` or `[]`."""
    defocus_u = defocus_u_angst.to(torch.float64)
    device = defocus_u.device

    def float64(value: float | Tensor) -> Tensor:
        return torch.as_tensor(value, dtype=torch.float64, device=device)

    defocus_v, angle = float64(defocus_v_angst), torch.deg2rad(float64(defocus_angle_deg))
    wavelength = _wavelengths_angst(float64(voltage_kv))
    mean = math.pi * wavelength * (defocus_u + defocus_v) / 2
    astigmatism = math.pi * wavelength * (defocus_u - defocus_v) / 2
    cs_angst = float64(spherical_aberration_mm) * _ANGST_PER_MM
    quartic = -math.pi / 2 * cs_angst * wavelength**3
    constant = torch.deg2rad(float64(phase_shift_deg)) + torch.asin(float64(amplitude_contrast))
    cosine, sine = astigmatism * torch.cos(2 * angle), astigmatism * torch.sin(2 * angle)
    return mean, cosine, sine, quartic, constant


def _wavelengths_angst(voltage_kv: Tensor) -> Tensor:
    """Return what `electron_wavelength_angst` gives for each."""
    return PLANCK_KEV_ANGST * (voltage_kv * (voltage_kv + 2 * REST_KEV)).rsqrt()
