"""Describe a refined CTF: columns, errors, agreement along frequency, picture."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from verglas.algorithms.ctf.config import CtfFitConfig
from verglas.algorithms.ctf.correlation import refine_correlation
from verglas.algorithms.ctf.gradient import Gradient, fit_gradient
from verglas.algorithms.ctf.ice import IceSigns, find_ice
from verglas.algorithms.ctf.optics import Optics
from verglas.algorithms.ctf.picture import spectrum_picture
from verglas.algorithms.ctf.ring_fit import RingFit
from verglas.algorithms.ctf.rings import (
    RingProfile,
    equivalent_radius,
    fit_resolution,
    mean_quality,
    ring_profile,
)
from verglas.algorithms.ctf.spectrum import TileSpectrum, polar_average
from verglas.algorithms.ctf.whittle import refine_likelihood

__all__ = ["CtfFit", "summarise"]

# Rings are believed when their log-likelihood exceeds what a search finds in noise of any colour:
# at most 30 nats in 160 fits of benchmarks/ctf_noise.py. (The best of some 1e6 grid points alone
# gives 14, half a dozen fitted parameters 3 to 6, a background of imperfect form the rest.)
_LEAST_EVIDENCE_NATS = 32.0
_SCORE_RESOLUTION_ANGST = 5.0


@dataclass(frozen=True)
class CtfFit:
    """Fitted CTF with errors and measures of quality.

    Attributes:
        defocus_u_angst, defocus_v_angst, defocus_angle_deg: `u >= v`, angle in [0, 180).
        phase_shift_deg: the searched one, or the fixed one.
        defocus_error_angst: standard error of the mean defocus.
        astigmatism_error_angst: standard error of the difference of the defoci.
        phase_shift_error_deg: standard error of the phase shift, 0 where it was fixed.
        fit_res_angst: where the rings stop agreeing; the low end of the band if they never do.
        fit_score: mean agreement to 5 Å, 0 to 1.
        evidence: log-likelihood of the rings against none, nats.
        has_rings: whether the evidence exceeds what a search finds in noise.
        drift_angst, drift_angle_deg: uniform motion that explains weaker rings in one direction;
            NaN where the method does not measure it.
        aberration_fit_mm, aberration_error_mm: spherical aberration that the rings ask for, NaN
            without rings. A wrong pixel size or voltage shows here too.
        slope: change of the mean defocus across the image (a tilted specimen).
        thickness_angst, thickness_error_angst: of the ice, NaN where no node tells it.
        envelope_b_angst2: B factor of the rings' power, NaN where it is not fitted.
        ice: signs of crystals.
        profile: equi-phase average and its agreement with the model.
        ctf2, background: `[s]`, squared CTF and power below the rings along the profile.
        picture: `[p, p]` uint8, measured spectrum beside the fitted rings.
    """

    defocus_u_angst: float
    defocus_v_angst: float
    defocus_angle_deg: float
    phase_shift_deg: float
    defocus_error_angst: float
    astigmatism_error_angst: float
    phase_shift_error_deg: float
    fit_res_angst: float
    fit_score: float
    evidence: float
    has_rings: bool
    drift_angst: float
    drift_angle_deg: float
    aberration_fit_mm: float
    aberration_error_mm: float
    slope: Gradient
    thickness_angst: float
    thickness_error_angst: float
    envelope_b_angst2: float
    ice: IceSigns
    profile: RingProfile
    ctf2: Tensor
    background: Tensor
    picture: Tensor


def _fit_aberration(
    spectrum: TileSpectrum, fit: RingFit, *, optics: Optics, config: CtfFitConfig
) -> tuple[float, float]:
    """Spherical aberration in mm that the rings ask for, and its error."""
    name = "spherical_aberration"
    refine = refine_likelihood if config.method == "likelihood" else refine_correlation
    test = refine(
        spectrum,
        optics=optics,
        initial=fit.values | {name: optics.spherical_aberration_angst * 1e-7},
        max_astigmatism_angst=config.max_astigmatism_angst,
    )
    return test.values[name], test.error(name)


def _polar(cosine: float, sine: float) -> tuple[float, float]:
    """Length and axis (degrees in [0, 180)) of a doubled-angle vector."""
    return math.hypot(cosine, sine), math.degrees(0.5 * math.atan2(sine, cosine)) % 180.0


def _profile(
    spectrum: TileSpectrum, fit: RingFit, *, optics: Optics, ring_per_angst2: float
) -> RingProfile:
    """Equi-phase average of the spectrum and of the fit."""
    radius = equivalent_radius(
        fit.phase,
        optics=optics,
        defocus_angst=fit.values["defocus"],
        phase_shift=fit.values.get("phase_shift", 0.0),
    )
    return ring_profile(
        radius,
        spectrum.power / fit.background - 1.0,
        fit.amplitude / fit.background * fit.rings,
        step_per_angst=spectrum.step_per_angst,
        ring_per_angst2=ring_per_angst2,
    )


def _drift(values: dict[str, float]) -> tuple[float, float]:
    """Length and direction of a uniform motion, from the loss that was fitted."""
    if "motion_cos" not in values:
        return math.nan, math.nan
    motion, angle_deg = _polar(values["motion_cos"], values["motion_sin"])
    return math.sqrt(3.0 * motion) / math.pi, angle_deg


def summarise(
    spectrum: TileSpectrum,
    fit: RingFit,
    *,
    optics: Optics,
    fixed_phase: float,
    config: CtfFitConfig,
) -> CtfFit:
    """Turn parameters into columns and measure the agreement.

    Args:
        spectrum: that was fitted.
        fit: by any method.
        optics: constants; a fixed phase shift is part of them.
        fixed_phase: that shift, radians.
        config: of the fit.
    """
    values = fit.values
    ring = 1.0 / (optics.wavelength_angst * max(abs(values["defocus"]), 100.0))
    profile = _profile(spectrum, fit, optics=optics, ring_per_angst2=ring)
    has_rings = fit.evidence >= _LEAST_EVIDENCE_NATS
    limit_angst = fit_resolution(profile, ring_per_angst2=ring) if has_rings else math.inf
    limit_angst = min(limit_angst, config.min_res_angst)
    aberration, slope = (math.nan, math.nan), Gradient(0.0, 0.0, math.inf)
    if has_rings:
        aberration = _fit_aberration(spectrum, fit, optics=optics, config=config)
        slope = fit_gradient(spectrum, fit, optics=optics)
    half, angle_deg = _polar(values["astigmatism_cos"], values["astigmatism_sin"])
    drift_angst, drift_angle_deg = _drift(values)
    errors = fit.error("astigmatism_cos"), fit.error("astigmatism_sin")
    free_phase = "phase_shift" in values
    return CtfFit(
        defocus_u_angst=values["defocus"] + half,
        defocus_v_angst=values["defocus"] - half,
        defocus_angle_deg=angle_deg,
        phase_shift_deg=math.degrees(values.get("phase_shift", fixed_phase)),
        defocus_error_angst=fit.error("defocus"),
        astigmatism_error_angst=math.sqrt(2.0) * math.hypot(*errors),
        phase_shift_error_deg=math.degrees(fit.error("phase_shift")) if free_phase else 0.0,
        fit_res_angst=limit_angst,
        fit_score=mean_quality(profile, max_per_angst=1.0 / _SCORE_RESOLUTION_ANGST),
        evidence=fit.evidence,
        has_rings=has_rings,
        drift_angst=drift_angst,
        drift_angle_deg=drift_angle_deg,
        aberration_fit_mm=aberration[0],
        aberration_error_mm=aberration[1],
        slope=slope,
        thickness_angst=fit.thickness_angst if has_rings else math.nan,
        thickness_error_angst=fit.thickness_error_angst if has_rings else math.nan,
        envelope_b_angst2=fit.envelope_b_angst2 if has_rings else math.nan,
        ice=find_ice(spectrum, fit),
        profile=profile,
        ctf2=_ctf2_along(profile.radius_per_angst, values, optics),
        background=_background_along(spectrum, fit, profile),
        picture=spectrum_picture(
            spectrum,
            relative_power=spectrum.power / fit.background - 1.0,
            ctf2=fit.rings,
            fit_res_angst=limit_angst,
        ),
    )


def _background_along(spectrum: TileSpectrum, fit: RingFit, profile: RingProfile) -> Tensor:
    """Power below the rings at the frequencies of a profile."""
    shell = (spectrum.radius_per_angst / spectrum.step_per_angst).round().long()
    background = polar_average(fit.background, spectrum, n_sectors=1)[0][0]
    nearest = (profile.radius_per_angst / spectrum.step_per_angst).round().long()
    return background[nearest.clamp(int(shell.min()), int(shell.max()))]


def _ctf2_along(radius: Tensor, values: dict[str, float], optics: Optics) -> Tensor:
    """Squared CTF at the mean defocus."""
    square = radius.square()
    chi = math.pi * optics.wavelength_angst * square * values["defocus"]
    chi = chi + optics.quartic * square.square()
    return torch.sin(chi + optics.contrast_phase + values.get("phase_shift", 0.0)).square()
