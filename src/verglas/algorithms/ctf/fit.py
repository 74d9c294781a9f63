"""Estimate the CTF of a micrograph and say how far it can be trusted.

Tile periodogram, exhaustive search over defocus, astigmatism and phase shift, then a
maximum-likelihood refinement that also gives standard errors, the motion that blurs the rings in
one direction and a check of the microscope's constants. The steps are the other files here.
"""

import math
from dataclasses import dataclass

from torch import Tensor

from verglas.algorithms.ctf.gradient import Gradient, fit_gradient
from verglas.algorithms.ctf.picture import spectrum_picture
from verglas.algorithms.ctf.rings import (
    RingProfile,
    equivalent_radius,
    fit_resolution,
    mean_quality,
    ring_profile,
)
from verglas.algorithms.ctf.search import CtfGuess, Optics, search_ctf
from verglas.algorithms.ctf.spectrum import TileSpectrum, polar_average, tile_spectrum
from verglas.algorithms.ctf.whittle import WhittleFit, refine_ctf
from verglas.kernels.ctf import electron_wavelength_angst

__all__ = ["CtfFit", "CtfFitConfig", "fit_ctf"]

# Rings are believed when their log-likelihood exceeds what the best of some 1e6 distinct grid
# points (14 nats) and half a dozen fitted parameters (3 to 6) reach on noise.
_LEAST_EVIDENCE_NATS = 20.0
_SCORE_RESOLUTION_ANGST = 5.0


@dataclass(frozen=True)
class CtfFitConfig:
    """What to search.

    Attributes:
        tile_angst: edge of the tiles of the periodogram.
        min_res_angst: low-frequency end of the fitted band.
        search_res_angst: high-frequency end for the search.
        max_res_angst: high-frequency end for the refinement; never beyond 95 % of Nyquist.
        min_defocus_angst, max_defocus_angst: range of the mean defocus.
        max_astigmatism_angst: greatest difference of the two defoci.
        min_phase_shift_deg, max_phase_shift_deg: searched if they differ.
    """

    tile_angst: float = 768.0
    min_res_angst: float = 30.0
    search_res_angst: float = 4.0
    max_res_angst: float = 3.0
    min_defocus_angst: float = 5000.0
    max_defocus_angst: float = 50000.0
    max_astigmatism_angst: float = 2000.0
    min_phase_shift_deg: float = 0.0
    max_phase_shift_deg: float = 0.0

    @property
    def searches_phase(self) -> bool:
        """Whether the phase shift is a free parameter."""
        return self.max_phase_shift_deg > self.min_phase_shift_deg


@dataclass(frozen=True)
class CtfFit:
    """Fitted CTF with errors and measures of quality.

    Attributes:
        defocus_u_angst, defocus_v_angst, defocus_angle_deg: `u >= v`, angle in [0, 180).
        phase_shift_deg: the searched one, or the fixed one.
        defocus_error_angst: standard error of the mean defocus.
        astigmatism_error_angst: standard error of the difference of the defoci.
        fit_res_angst: where the rings stop agreeing; the low end of the band if they never do.
        fit_score: mean agreement to 5 Å, 0 to 1.
        evidence: log-likelihood of the rings against none, nats.
        has_rings: whether the evidence exceeds what a search finds in noise.
        drift_angst, drift_angle_deg: uniform motion that explains weaker rings in one direction.
        aberration_fit_mm, aberration_error_mm: spherical aberration that the rings ask for, NaN
            without rings. A wrong pixel size or voltage shows here too.
        slope_x, slope_y: change of the mean defocus per Å along x and y (a tilted specimen); at
            a point it is the mean plus slope times distance from the centre of the image.
        slope_error: standard error of either.
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
    fit_res_angst: float
    fit_score: float
    evidence: float
    has_rings: bool
    drift_angst: float
    drift_angle_deg: float
    aberration_fit_mm: float
    aberration_error_mm: float
    slope_x: float
    slope_y: float
    slope_error: float
    profile: RingProfile
    ctf2: Tensor
    background: Tensor
    picture: Tensor


def fit_ctf(
    image: Tensor,
    *,
    pixel_size_angst: float,
    voltage_kv: float,
    spherical_aberration_mm: float,
    amplitude_contrast: float,
    config: CtfFitConfig | None = None,
) -> CtfFit:
    """Estimate defocus, astigmatism, phase shift and their reliability from one image.

    Convention: as `kernels.ctf.evaluate_ctf`; underfocus positive, angle from +x to the u axis
    towards +y (increasing row).

    Args:
        image: `[h, w]`, at least 128 pixels in each direction, any grey scale.
        pixel_size_angst: of the image.
        voltage_kv: of the microscope.
        spherical_aberration_mm: of the microscope.
        amplitude_contrast: fraction.
        config: search ranges; the default suits most data.

    References:
        Rohou & Grigorieff 2015, doi:10.1016/j.jsb.2015.08.008; Zhang 2016,
        doi:10.1016/j.jsb.2015.11.003; Whittle 1953, doi:10.1007/BF02590998.
    """
    if image.ndim != 2 or min(image.shape) < 128:
        raise ValueError(f"image must be [h, w] of at least 128 pixels: got {tuple(image.shape)}")
    config = config or CtfFitConfig()
    fixed_phase = 0.0 if config.searches_phase else math.radians(config.min_phase_shift_deg)
    optics = Optics(
        wavelength_angst=electron_wavelength_angst(voltage_kv),
        spherical_aberration_angst=spherical_aberration_mm * 1e7,
        contrast_phase=math.asin(amplitude_contrast) + fixed_phase,
    )
    spectrum = tile_spectrum(
        image,
        pixel_size_angst=pixel_size_angst,
        tile_angst=config.tile_angst,
        min_per_angst=1.0 / config.min_res_angst,
        max_per_angst=min(1.0 / config.max_res_angst, 0.475 / pixel_size_angst),
    )
    fit = _search_and_refine(spectrum, optics=optics, config=config)
    return _summarise(spectrum, fit, optics=optics, fixed_phase=fixed_phase, config=config)


def _start_values(guess: CtfGuess, *, with_phase: bool) -> dict[str, float]:
    """Start of a refinement from a grid point."""
    values = {
        "defocus": guess.defocus_angst,
        "astigmatism_cos": guess.astigmatism_cos_angst,
        "astigmatism_sin": guess.astigmatism_sin_angst,
        "motion_cos": 0.0,
        "motion_sin": 0.0,
    }
    return values | ({"phase_shift": math.radians(guess.phase_shift_deg)} if with_phase else {})


def _search_and_refine(
    spectrum: TileSpectrum, *, optics: Optics, config: CtfFitConfig
) -> WhittleFit:
    """Refine the candidates of the search and keep the one with the most evidence."""
    searched = (config.min_phase_shift_deg, config.max_phase_shift_deg)
    guesses = search_ctf(
        spectrum.within(1.0 / config.search_res_angst),
        optics=optics,
        defocus_range_angst=(config.min_defocus_angst, config.max_defocus_angst),
        max_astigmatism_angst=config.max_astigmatism_angst,
        phase_shift_range_deg=searched if config.searches_phase else (0.0, 0.0),
    )
    fits = [
        refine_ctf(
            spectrum,
            optics=optics,
            initial=_start_values(guess, with_phase=config.searches_phase),
            max_astigmatism_angst=config.max_astigmatism_angst,
        )
        for guess in guesses
    ]
    return max(fits, key=lambda fit: fit.evidence)


def _fit_aberration(
    spectrum: TileSpectrum, fit: WhittleFit, *, optics: Optics, config: CtfFitConfig
) -> tuple[float, float]:
    """Spherical aberration in mm that the rings ask for, and its error."""
    name = "spherical_aberration"
    test = refine_ctf(
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
    spectrum: TileSpectrum, fit: WhittleFit, *, optics: Optics, ring_per_angst2: float
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
        fit.amplitude / fit.background * fit.phase.sin().square(),
        step_per_angst=spectrum.step_per_angst,
        ring_per_angst2=ring_per_angst2,
    )


def _summarise(
    spectrum: TileSpectrum,
    fit: WhittleFit,
    *,
    optics: Optics,
    fixed_phase: float,
    config: CtfFitConfig,
) -> CtfFit:
    """Turn parameters into columns and measure the agreement."""
    values = fit.values
    ring = 1.0 / (optics.wavelength_angst * max(abs(values["defocus"]), 100.0))
    profile = _profile(spectrum, fit, optics=optics, ring_per_angst2=ring)
    has_rings = fit.evidence >= _LEAST_EVIDENCE_NATS
    limit_angst = fit_resolution(profile, ring_per_angst2=ring) if has_rings else math.inf
    limit_angst = min(limit_angst, config.min_res_angst)
    aberration = (
        _fit_aberration(spectrum, fit, optics=optics, config=config)
        if has_rings
        else (math.nan, math.nan)
    )
    slope = (
        fit_gradient(spectrum, fit, optics=optics) if has_rings else Gradient(0.0, 0.0, math.inf)
    )
    half, angle_deg = _polar(values["astigmatism_cos"], values["astigmatism_sin"])
    motion, drift_angle_deg = _polar(values["motion_cos"], values["motion_sin"])
    shell = (spectrum.radius_per_angst / spectrum.step_per_angst).round().long()
    background = polar_average(fit.background, spectrum, n_sectors=1)[0][0]
    nearest = (profile.radius_per_angst / spectrum.step_per_angst).round().long()
    astigmatism_errors = fit.error("astigmatism_cos"), fit.error("astigmatism_sin")
    return CtfFit(
        defocus_u_angst=values["defocus"] + half,
        defocus_v_angst=values["defocus"] - half,
        defocus_angle_deg=angle_deg,
        phase_shift_deg=math.degrees(values.get("phase_shift", fixed_phase)),
        defocus_error_angst=fit.error("defocus"),
        astigmatism_error_angst=math.sqrt(2.0) * math.hypot(*astigmatism_errors),
        fit_res_angst=limit_angst,
        fit_score=mean_quality(profile, max_per_angst=1.0 / _SCORE_RESOLUTION_ANGST),
        evidence=fit.evidence,
        has_rings=has_rings,
        drift_angst=math.sqrt(3.0 * motion) / math.pi,
        drift_angle_deg=drift_angle_deg,
        aberration_fit_mm=aberration[0],
        aberration_error_mm=aberration[1],
        slope_x=slope.slope_x,
        slope_y=slope.slope_y,
        slope_error=slope.error,
        profile=profile,
        ctf2=_ctf2_along(profile.radius_per_angst, values, optics),
        background=background[nearest.clamp(int(shell.min()), int(shell.max()))],
        picture=spectrum_picture(
            spectrum,
            relative_power=spectrum.power / fit.background - 1.0,
            ctf2=fit.phase.sin().square(),
            fit_res_angst=limit_angst,
        ),
    )


def _ctf2_along(radius: Tensor, values: dict[str, float], optics: Optics) -> Tensor:
    """Squared CTF at the mean defocus."""
    square = radius.square()
    aberration = 0.5 * optics.spherical_aberration_angst * optics.wavelength_angst**2 * square
    chi = math.pi * optics.wavelength_angst * square * (values["defocus"] - aberration)
    return (chi + optics.contrast_phase + values.get("phase_shift", 0.0)).sin().square()
